"""Who the caller is, and who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from reconciler.api.access import AuditPage, AuditQuery, Whoami
from reconciler.api.problem import problems
from reconciler.serve.forms import audit_form, to_json
from reconciler.serve.paging import answer, as_text, cut, number_of
from reconciler.serve.parts import Administrator, AnyCaller, TheParts
from reconciler.store import requests

router = APIRouter(prefix="/v1", tags=["access"])


@router.get(
    "/whoami",
    summary="Who is asking",
    responses={200: {"model": Whoami}, **problems(400)},
    response_class=Response,
)
async def whoami(caller: AnyCaller) -> Response:
    """What the token opens. Any token may ask."""
    shown = {"name": caller.name, "workspace": caller.workspace, "permissions": sorted(caller.permissions)}
    return Response(to_json(shown), media_type="application/json")


@router.get(
    "/audit",
    summary="Who changed what",
    responses={200: {"model": AuditPage}, **problems(400)},
    response_class=Response,
)
async def list_audit(parts: TheParts, caller: Administrator, query: Annotated[AuditQuery, Query()]) -> Response:
    """Every change that was asked for in the caller's workspace, also those that were refused, and orders of commands."""
    before, since = number_of(query.cursor), as_text(query.since)
    found = await parts.database.read(
        lambda tx: requests.audit(tx, caller.workspace, before=before, since=since, limit=query.limit + 1)
    )
    listed = cut(found, query.limit, lambda line: (line.id,))
    return answer([audit_form(line) for line in listed.rows], listed.place)
