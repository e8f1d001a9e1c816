"""Integrations: the list, which never touches the store, and everything about one."""

from datetime import datetime

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from reconciler.api.integrations import IntegrationDetail, IntegrationList, ListQuery
from reconciler.api.problem import problems
from reconciler.control.credentials import credentials
from reconciler.control.view import views
from reconciler.model.access import Permission
from reconciler.serve.forms import Detail, detail, etag_of, to_json
from reconciler.serve.listing import page, parse_query
from reconciler.serve.openapi import query_parameters
from reconciler.serve.parts import TheParts, ViewedEntry, no_such_integration, parts_of
from reconciler.store import deliveries, runs, shown
from reconciler.store.database import Tx

router = APIRouter(prefix="/v1/integrations", tags=["integrations"])
RECENT_RUNS = 10


@router.get(
    "",
    summary="List integrations",
    responses={200: {"model": IntegrationList}, **problems(400)},
    openapi_extra={"parameters": query_parameters(ListQuery)},
    response_class=Response,
)
async def list_integrations(request: Request) -> Response:
    """By workspace and name. A cursor stays good while integrations come and go."""
    # Without declared parameters: see `listing`.
    parts = await parts_of(request)
    caller = await parts.admission.enter(request.scope, Permission.INTEGRATION_VIEW)
    query = parse_query(request.query_params.multi_items())
    found = page(await parts.board.current(), query, caller)
    body = b'{"data":[%b],"has_more":%b,"next_cursor":%b}' % (
        b",".join([entry.json for entry in found.entries]),
        b"true" if found.next_cursor else b"false",
        to_json(found.next_cursor),
    )
    return Response(body, media_type="application/json")


@router.get(
    "/{ref}",
    summary="Everything about one",
    responses={200: {"model": IntegrationDetail}, **problems(404, 409)},
    response_class=Response,
)
async def get_integration(parts: TheParts, entry: ViewedEntry) -> Response:
    """Its manifest with secrets masked, its conditions, and its recent syncs."""
    now = parts.clock.now()
    found = await parts.database.read(lambda tx: _detail(tx, entry.id, now))
    if found is None:
        raise no_such_integration(entry.public_id)
    row = found.view.row
    headers = {"etag": f'"{etag_of(row.desired_hash, row.labels)}"'}
    return Response(to_json(detail(found, parts.redactor)), headers=headers, media_type="application/json")


def _detail(tx: Tx, integration_id: int, now: datetime) -> Detail | None:
    counts = {integration_id: deliveries.counts_of(tx, integration_id)}
    view = next(views(tx, now, [integration_id], counts), None)
    if view is None:
        return None
    tree = shown.desired_tree(tx, integration_id)
    granted = {scope for one in credentials(tx, integration_id) for scope in one.scopes or ()}
    return Detail(now, view, tree, runs.history(tx, integration_id, RECENT_RUNS), sorted(granted))
