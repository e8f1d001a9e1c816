"""Syncs, and the other runs of an integration: start one, list them, look at one and its progress, cancel one."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from reconciler.api.problem import problems
from reconciler.api.streams import NOTHING_MORE, SYNC_EVENTS, stream_of
from reconciler.api.syncs import SyncCancelled, SyncDetail, SyncList, SyncQuery, SyncQueued, SyncRequest
from reconciler.model.access import Grant, Operation
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.record import Scope
from reconciler.serve.forms import named, run_form, to_json
from reconciler.serve.once import Acts, Done, Mutation, Syncs, order
from reconciler.serve.paging import answer, as_text, cut, number_of
from reconciler.serve.parts import RefPath, TheParts, ViewedEntry, Viewer, entry_for, no_such_sync
from reconciler.serve.problem import ProblemError
from reconciler.serve.routes.streams import LastEventId, told_by_run
from reconciler.serve.run_events import read_event_id
from reconciler.serve.snapshot import Entry
from reconciler.serve.streaming import refusal, wants_stream
from reconciler.store import progress, run_history, runs
from reconciler.store.database import Tx
from reconciler.store.progress import Place
from reconciler.store.run_history import EntityRead, RunSeen, RunsWanted
from reconciler.store.runs import Run

router = APIRouter(prefix="/v1", tags=["syncs"])
SyncPath = Annotated[str, Path(description="`sync_job_id`, such as run_7xKpQ2mR4wVb.")]


@router.post(
    "/integrations/{ref}/sync",
    summary="Start a sync",
    status_code=202,
    responses={
        202: {"model": SyncQueued},
        200: stream_of(f"With `Accept: text/event-stream`. {SYNC_EVENTS}"),
        204: NOTHING_MORE,
        **problems(404, 409, 422),
    },
    response_class=Response,
)
async def start_sync(
    request: Request,
    mutation: Acts,
    ref: RefPath,
    body: SyncRequest | None = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Queued at once, before all that is due by schedule; one of an integration runs at a time.

    With `Accept: text/event-stream` it is streamed, and so is why it was refused: as the event `error`, unless the token or the
    form of the request is at fault. Cut and sent again with `Last-Event-ID` it goes on with the same run.
    """
    wanted = body or SyncRequest()
    if not wants_stream(request.headers.get("accept")):
        entry = await _granted(mutation, ref)
        return await _queue(mutation, entry, wanted, is_watched=False)
    mutation.parts.streams.open.demand_room()
    try:
        entry = await _granted(mutation, ref)
        if last_event_id:
            place, after, headers = *await _resumed(mutation, entry, last_event_id), None
        else:
            place, headers = await _begun(mutation, entry, wanted)
            after = 0
        return await told_by_run(request, mutation.parts, place, after, headers)
    except ProblemError as problem:
        await mutation.denied(problem)
        return refusal(problem)


async def _granted(mutation: Mutation, ref: str) -> Entry:
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.parts.admission.granted(mutation.caller, entry, Grant.SYNC)
    mutation.refuse_operation(Operation.SYNC)
    return entry


async def _queue(mutation: Mutation, entry: Entry, wanted: SyncRequest, *, is_watched: bool) -> Response:
    if wanted.since is not None and wanted.scope not in {Scope.INCREMENTAL, Scope.DELTA}:
        raise ProblemError(422, "invalid-body", f"since is not for scope {wanted.scope}, which reads everything")
    params = wanted.model_dump(mode="json", exclude_none=True)

    def do(tx: Tx) -> Done:
        carried = order(tx, mutation, "sync", entry.id, params)
        at = rfc3339(mutation.parts.clock.now())
        if is_watched and (made := progress.find(tx, carried.result["run"])):
            progress.watch(tx, made.run_id, at)
        queued = {
            "sync_job_id": carried.result["run"],
            "status": "queued",
            "queued_at": at,
            "estimated_records": runs.last_estimate(tx, entry.id),
        }
        return Done(
            body=queued,
            status=202,
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"sync_job_id": carried.result["run"], **params},
            carried=carried,
        )

    return await mutation.in_store(do)


async def _begun(mutation: Mutation, entry: Entry, wanted: SyncRequest) -> tuple[Place, dict[str, str]]:
    """A new run, or the one that the Idempotency-Key stands for; with the headers of the answer that says so."""
    queued = await _queue(mutation, entry, wanted, is_watched=True)
    sync_id = msgspec.json.decode(queued.body)["sync_job_id"]
    place = await mutation.parts.database.read(lambda tx: progress.find(tx, sync_id))
    if place is None:
        raise no_such_sync(sync_id)
    return place, {name: value for name, value in queued.headers.items() if name == "idempotent-replayed"}


async def _resumed(mutation: Mutation, entry: Entry, last_event_id: str) -> tuple[Place, int]:
    sync_id, after = read_event_id(last_event_id)
    place = await mutation.parts.database.read(lambda tx: progress.find(tx, sync_id))
    if place is None or place.integration_id != entry.id:
        raise no_such_sync(sync_id)
    return place, after


@router.get(
    "/integrations/{ref}/syncs",
    summary="List syncs",
    responses={200: {"model": SyncList}, **problems(400, 404, 409)},
    response_class=Response,
)
async def list_syncs(parts: TheParts, entry: ViewedEntry, query: Annotated[SyncQuery, Query()]) -> Response:
    """Runs under way, waiting and done; kept for 90 days unless the workspace says otherwise."""
    wanted = RunsWanted(frozenset(query.status), frozenset(query.scope), as_text(query.since))
    before = number_of(query.cursor)
    found = await parts.database.read(lambda tx: run_history.page(tx, entry.id, wanted, before, query.limit + 1))
    listed = cut(found, query.limit, lambda run: (run.id,))
    return answer([run_form(run) for run in listed.rows], listed.place)


@router.get(
    "/syncs/{id}",
    summary="One sync and its progress",
    responses={200: {"model": SyncDetail}, **problems(400, 404)},
    response_class=Response,
)
async def get_sync(parts: TheParts, caller: Viewer, id: SyncPath) -> Response:  # noqa: A002
    """How far it is in each entity, what it changed, how long it took, and why it failed."""
    seen = await parts.database.read(lambda tx: run_history.find(tx, id, caller.workspace))
    if seen is None:
        raise no_such_sync(id)
    return Response(to_json(_detail(seen, parts.clock.now())), media_type="application/json")


@router.post(
    "/syncs/{id}/cancel",
    summary="Cancel a sync",
    status_code=202,
    responses={202: {"model": SyncCancelled}, **problems(400, 404, 409, 422)},
    response_class=Response,
)
async def cancel_sync(mutation: Syncs, id: SyncPath) -> Response:  # noqa: A002
    """It stores no further page. What it stored before stays, in a dataset version of its own."""
    mutation.refuse_operation(Operation.CANCEL)

    def do(tx: Tx) -> Done:
        seen = run_history.find(tx, id, mutation.caller.workspace)
        if seen is None:
            raise no_such_sync(id)
        carried = order(tx, mutation, "cancel-sync", seen.integration.id, {"run": seen.run.public_id})
        return Done(
            body={"sync_job_id": seen.run.public_id, "status": "cancelling"},
            status=202,
            workspace=seen.integration.workspace,
            target=seen.integration.public_id,
            detail={"sync_job_id": seen.run.public_id},
            carried=carried,
        )

    return await mutation.in_store(do)


def _detail(seen: RunSeen, now: datetime) -> dict[str, Any]:
    run = seen.run
    return {
        **run_form(run),
        "integration": named(seen.integration),
        "requested_entities": run.entities,
        "since": run.since,
        "attempts": run.attempts,
        "is_cancelling": run.is_cancelling,
        "progressed_at": seen.progressed_at,
        "duration_seconds": _duration(run, now),
        "estimated_records": run.counts.estimated,
        "pages": run.counts.pages,
        "revision": seen.revision or None,
        "entities": [_progress(one) for one in seen.entities],
    }


def _duration(run: Run, now: datetime) -> float | None:
    if run.started_at is None:
        return None
    end = from_rfc3339(run.finished_at) if run.finished_at else now
    return max(0.0, round((end - from_rfc3339(run.started_at)).total_seconds(), 3))


def _progress(one: EntityRead) -> dict[str, Any]:
    return {
        "entity": one.name,
        "state": one.state,
        "pages": one.pages,
        "records": one.records,
        "total": one.total,
        "reason": one.reason or None,
        "error": one.error or None,
    }
