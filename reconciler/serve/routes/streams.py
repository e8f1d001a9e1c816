"""Server-sent events: what a sync tells while it goes on, and state changes for dashboards."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from reconciler.api.problem import problems
from reconciler.api.streams import CHANGE_EVENTS, NOTHING_MORE, SYNC_EVENTS, StreamQuery, stream_of
from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.serve.parts import Parts, Syncer, TheParts, Viewer, no_such_sync
from reconciler.serve.problem import ProblemError
from reconciler.serve.run_events import read_event_id
from reconciler.serve.state_changes import Wish
from reconciler.store import progress
from reconciler.store.database import Tx
from reconciler.store.progress import Place

router = APIRouter(prefix="/v1", tags=["streams"])
LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=100, description="Go on behind this event.")
]


@router.get(
    "/syncs/{sync_id}/events",
    summary="What a sync tells, while it goes on and afterwards",
    responses={200: stream_of(SYNC_EVENTS), 204: NOTHING_MORE, **problems(400, 404)},
    response_class=Response,
)
async def stream_sync(
    request: Request,
    parts: TheParts,
    caller: Syncer,
    sync_id: Annotated[str, Path(max_length=100)],
    last_event_id: LastEventId = None,
) -> Response:
    """Cut anywhere and asked again with `Last-Event-ID` it goes on without a gap and without telling anything twice."""
    parts.streams.open.demand_room()
    after = 0
    if last_event_id:
        told_by, after = read_event_id(last_event_id)
        if told_by != sync_id:
            raise ProblemError(400, "invalid-event-id", f"Last-Event-ID is not of an event of {sync_id[:50]!r}")
    place = await parts.database.read(lambda tx: progress.find(tx, sync_id))
    if place is None or not caller.sees(place.workspace):
        raise no_such_sync(sync_id)
    return await told_by_run(request, parts, place, after)


@router.get(
    "/stream",
    summary="State changes, as they happen",
    responses={200: stream_of(CHANGE_EVENTS), **problems(400)},
    response_class=Response,
)
async def stream_changes(
    request: Request,
    parts: TheParts,
    caller: Viewer,
    query: Annotated[StreamQuery, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """For dashboards. A client that is too slow, or comes back late, is told `resync` and hears what is new from then on."""
    parts.streams.open.demand_room()
    wish = Wish(caller, query.workspace, query.type)
    listener = await parts.streams.changes.join(wish, last_event_id, wants_snapshot=query.snapshot)
    return parts.streams.answer(request, Permission.INTEGRATION_VIEW, listener)


async def told_by_run(
    request: Request, parts: Parts, place: Place, after: int, headers: dict[str, str] | None = None
) -> Response:
    """The stream of a run that the caller may see, which tells from now on, if it did not before."""
    if place.told is None:
        await parts.database.write(lambda tx: _watch(tx, place, rfc3339(parts.clock.now())))
    elif place.is_done and after >= place.told:
        return Response(None, 204, headers)
    source = parts.streams.runs.follow(place.run_id, place.public_id, after)
    return parts.streams.answer(request, None, source, headers)


def _watch(tx: Tx, place: Place, at: str) -> None:
    progress.watch(tx, place.run_id, at)
