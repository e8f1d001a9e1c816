"""How an integration fares, and what it did."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from reconciler.api.integrations import IntegrationStatus
from reconciler.api.observing import LogKind, LogPage, LogQuery
from reconciler.api.problem import problems
from reconciler.control.view import IntegrationView, views
from reconciler.model.condition import Reason
from reconciler.serve.forms import status_form, to_json
from reconciler.serve.paging import answer, as_text, cut, number_of
from reconciler.serve.parts import TheParts, ViewedEntry, no_such_integration
from reconciler.serve.problem import ProblemError
from reconciler.store import deliveries, journal, run_history
from reconciler.store.database import Tx
from reconciler.store.journal import LogLine

router = APIRouter(prefix="/v1/integrations", tags=["integrations"])
_SIGNING_IN = frozenset(
    {
        Reason.AUTHENTICATION_FAILED,
        Reason.PERMISSION_DENIED,
        Reason.AWAITING_AUTHORIZATION,
        Reason.SECRET_MISSING,
        Reason.DECRYPTION_FAILED,
        Reason.KEY_MISSING,
        Reason.MAC_MISMATCH,
    }
)


@router.get(
    "/{ref}/status",
    summary="How it fares",
    responses={200: {"model": IntegrationStatus}, **problems(400, 404, 409)},
    response_class=Response,
)
async def get_status(parts: TheParts, entry: ViewedEntry) -> Response:
    """As in the list, with conditions, uptime, syncs, freshness against its objective, drift and deliveries."""
    now = parts.clock.now()
    view = await parts.database.read(lambda tx: _view(tx, entry.id, now))
    if view is None:
        raise no_such_integration(entry.public_id)
    return Response(to_json(status_form(now, view, entry.facts)), media_type="application/json")


def _view(tx: Tx, integration_id: int, now: datetime) -> IntegrationView | None:
    counts = {integration_id: deliveries.counts_of(tx, integration_id)}
    return next(views(tx, now, [integration_id], counts), None)


@router.get(
    "/{ref}/logs",
    summary="What it did",
    responses={200: {"model": LogPage}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_logs(parts: TheParts, entry: ViewedEntry, query: Annotated[LogQuery, Query()]) -> Response:
    """Lines about syncs, signing in, deliveries and errors, with details; the newest first."""
    before = number_of(query.cursor)
    lines, names = await parts.database.read(lambda tx: _lines(tx, entry.id, query, before))
    listed = cut(lines, query.limit, lambda line: (line.id,))
    return answer([_line_form(line, names) for line in listed.rows], listed.place)


def _lines(
    tx: Tx, integration_id: int, query: LogQuery, before: int | None
) -> tuple[Sequence[LogLine], Mapping[int, str]]:
    """With the public ids of the runs that are named."""
    run_id = None
    if query.sync_job_id is not None:
        run_id = run_history.number_of(tx, integration_id, query.sync_job_id)
        if run_id is None:
            message = f"sync_job_id: this integration has no run {query.sync_job_id!r}; its syncs are at .../syncs"
            raise ProblemError(400, "invalid-parameter", message)
    newest = journal.logs(
        tx,
        integration_id,
        level=query.level,
        run_id=run_id,
        since=as_text(query.since),
        before_id=before,
        limit=query.limit + 1,
    )
    return newest[::-1], run_history.names(tx, {line.run_id for line in newest if line.run_id is not None})


def _line_form(line: LogLine, names: Mapping[int, str]) -> dict[str, Any]:
    return {
        "at": line.at,
        "level": line.level,
        "kind": _kind(line),
        "message": line.message,
        "sync_job_id": names.get(line.run_id) if line.run_id is not None else None,
        "detail": line.detail,
    }


def _kind(line: LogLine) -> LogKind:
    """The first that fits: what a refused credential stopped is a matter of signing in."""
    if line.detail.get("reason") in _SIGNING_IN:
        return "auth"
    if "delivery" in line.detail:
        return "delivery"
    return "lifecycle" if line.run_id is None else "sync"
