"""Events: publish one's own, look at those of all sources, retry, cancel and replay them."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from reconciler.api.events import (
    EventCancelled,
    EventDetail,
    EventFilter,
    EventList,
    EventQuery,
    EventRetried,
    NewEvent,
    NewEvents,
    PublishedEvents,
    ReplayRequest,
    ReplayShown,
)
from reconciler.api.problem import problems
from reconciler.control import publishing
from reconciler.control.carried import Carried
from reconciler.control.publishing import Draft, PublishError
from reconciler.model.access import Caller, Grant, Operation
from reconciler.serve.event_forms import Told, event_form, payload_form, replay_form, told_form
from reconciler.serve.forms import to_json
from reconciler.serve.once import Done, Mutation, Publishes, Retries, order
from reconciler.serve.paging import answer, as_text, decode
from reconciler.serve.parts import EventViewer, Parts, TheParts, entry_for
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry
from reconciler.store import deliveries, delivery_list, event_list, integrations, replays
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery
from reconciler.store.events import Sieve, StoredEvent

router = APIRouter(prefix="/v1/events", tags=["events"])
EventId = Annotated[str, Path(max_length=100, examples=["evt_7xKpQ2mR4wVb"])]


def no_such_event(event_id: str) -> ProblemError:
    return ProblemError(404, "event-not-found", f"no event {event_id!r}; /v1/events lists them")


@router.post(
    "",
    summary="Publish events of your own",
    status_code=202,
    responses={202: {"model": PublishedEvents}, **problems(404, 409, 422)},
    response_class=Response,
)
async def publish_events(mutation: Publishes, body: NewEvents) -> Response:
    """One, or a list of at most 500; kept all together, or none. Routed at once to the synchronizations that want them."""
    mutation.refuse_operation(Operation.PUBLISH)
    entries = {ref: await entry_for(mutation.parts, mutation.caller, ref) for ref in _named(body)}
    drafts = [_draft(one, mutation.caller, entries) for one in body]

    def do(tx: Tx) -> Done:
        who = mutation.caller.known_as
        try:
            made = publishing.publish(tx, drafts, who, mutation.parts.clock.now())
        except PublishError as error:
            raise _misfit(error, is_one=len(drafts) == 1) from None
        told = [{"id": one.public_id, "type": one.type, "is_new": one.is_new} for one in made]
        counted = {"events": len(made), "new": sum(one.is_new for one in made)}
        carried = Carried(counted, has_events=True, kind="publish-events", by=mutation.caller.name)
        return Done(body={"data": told}, status=202, workspace=drafts[0].workspace, detail=counted, carried=carried)

    return await mutation.in_store(do)


def _named(body: Sequence[NewEvent]) -> set[str]:
    return {one.integration for one in body if one.integration is not None}


def _draft(one: NewEvent, caller: Caller, entries: dict[str, Entry]) -> Draft:
    about = entries[one.integration] if one.integration is not None else None
    workspace = about.workspace if about else one.workspace or caller.workspace or "default"
    if not caller.sees(workspace) or one.workspace not in (None, workspace):
        raise ProblemError(422, "invalid-body", "workspace: it is not that of the caller, or of the integration")
    return Draft(
        workspace=workspace,
        type=one.type,
        payload=one.data,
        dedupe=one.id,
        subject=one.subject or "",
        occurred_at=as_text(one.occurred_at),
        integration_id=about.id if about else None,
    )


def _misfit(error: PublishError, *, is_one: bool) -> ProblemError:
    """A body that is one event has no number in its pointers; nor does a list of one need any."""
    errors = [
        {
            "pointer": f"/{fault.field}" if is_one else f"/{fault.place}/{fault.field}",
            "code": "reserved-type",
            "detail": fault.message,
        }
        for fault in error.faults
    ]
    return ProblemError(422, "invalid-body", str(error), {"errors": errors})


@router.get(
    "", summary="List events", responses={200: {"model": EventList}, **problems(400, 404)}, response_class=Response
)
async def list_events(parts: TheParts, caller: EventViewer, query: Annotated[EventQuery, Query()]) -> Response:
    """All sources as one, newest first: what was published, what integrations told of themselves, changes of records that made a
    delivery, and messages that were sent.
    """
    asked = EventFilter.model_construct(
        integrations=query.integration,
        types=query.type,
        statuses=query.status,
        from_=query.from_,
        to=query.to,
        limit=query.limit,
        cursor=query.cursor,
    )
    return await _listed(parts, caller, asked)


@router.post(
    "/filter",
    summary="List events, by a filter in the body",
    responses={200: {"model": EventList}, **problems(400, 404, 422)},
    response_class=Response,
)
async def filter_events(parts: TheParts, caller: EventViewer, body: EventFilter) -> Response:
    """Changes nothing."""
    return await _listed(parts, caller, body)


async def _listed(parts: Parts, caller: Caller, asked: EventFilter) -> Response:
    about = [(await entry_for(parts, caller, ref)).id for ref in dict.fromkeys(asked.integrations)]
    before = decode(asked.cursor, tuple[str, str]) if asked.cursor else None
    sieve = Sieve(
        workspace=caller.workspace,
        integrations=about,
        since=as_text(asked.from_) or "",
        until=as_text(asked.to) or "",
    )

    def read(tx: Tx) -> Response:
        page = event_list.page(tx, sieve, asked.types, asked.statuses, before, asked.limit)
        names = integrations.names_of(tx, {e.integration_id for e, _ in page.found if e.integration_id is not None})
        return answer([event_form(event, standing, names) for event, standing in page.found], page.after)

    return await parts.database.read(read)


@router.post(
    "/replay",
    summary="Tell an integration once more",
    status_code=202,
    responses={202: {"model": ReplayShown}, **problems(404, 409, 422)},
    response_class=Response,
)
async def replay_events(mutation: Retries, body: ReplayRequest) -> Response:
    """Makes deliveries anew of what happened since a time, in the background. What is still on its way is left alone."""
    entry = await entry_for(mutation.parts, mutation.caller, body.integration)
    mutation.refuse_operation(Operation.REPLAY)
    if body.since > mutation.parts.clock.now() or (body.until is not None and body.until <= body.since):
        raise ProblemError(422, "invalid-body", "since lies in the past, and until after it")
    params = body.model_dump(mode="json", exclude={"integration"}, exclude_none=True)

    def do(tx: Tx) -> Done:
        carried = order(tx, mutation, "replay-events", entry.id, params)
        made = replays.find(tx, str(carried.result["replay"]))
        assert made is not None  # noqa: S101 - it was put there just now
        shown = replay_form(made, replays.parts(tx, made.id), integrations.names_of(tx, {entry.id}))
        return Done(
            body=shown,
            status=202,
            workspace=entry.workspace,
            target=entry.public_id,
            detail={"replay": made.public_id, **params},
            carried=carried,
        )

    return await mutation.in_store(do)


@router.get(
    "/replays/{replay_id}",
    summary="How far a replay is",
    responses={200: {"model": ReplayShown}, **problems(404)},
    response_class=Response,
)
async def get_replay(parts: TheParts, caller: EventViewer, replay_id: Annotated[str, Path(max_length=100)]) -> Response:
    def read(tx: Tx) -> dict[str, Any] | None:
        found = replays.find(tx, replay_id)
        names = integrations.names_of(tx, {found.integration_id}) if found else {}
        if found is None or not caller.sees(names[found.integration_id].workspace):
            return None
        return replay_form(found, replays.parts(tx, found.id), names)

    shown = await parts.database.read(read)
    if shown is None:
        raise ProblemError(404, "replay-not-found", f"no replay {replay_id!r}")
    return Response(to_json(shown), media_type="application/json")


@router.get(
    "/{event_id}",
    summary="One event, its deliveries and their attempts",
    responses={200: {"model": EventDetail}, **problems(404)},
    response_class=Response,
)
async def get_event(parts: TheParts, caller: EventViewer, event_id: EventId) -> Response:
    """Its payload, what was sent and what was answered are data: for whoever has the grant `read`, or published it."""
    snapshot = await parts.board.current()
    entries = {entry.id: entry for entry in snapshot.entries}

    def read(tx: Tx) -> dict[str, Any] | None:
        event = event_list.find(tx, event_id)
        if event is None or not caller.sees(event.workspace):
            return None
        about = entries.get(event.integration_id or 0)
        is_own = event.published_by == caller.known_as and event.source != "record"
        return _detail(tx, event, is_seen=is_own or parts.admission.has_grant(caller, about, Grant.READ))

    shown = await parts.database.read(read)
    if shown is None:
        raise no_such_event(event_id)
    return Response(to_json(parts.redactor.value(shown)), media_type="application/json")


def _detail(tx: Tx, event: StoredEvent, *, is_seen: bool) -> dict[str, Any]:
    made = delivery_list.of_event(tx, event.public_id)
    known = {one.id for one in made} | {event.integration_id or 0}
    names = integrations.names_of(tx, {one.integration_id for one in made} | known)
    payload = _payload(tx, event)
    standing = delivery_list.standing(tx, [event.public_id]).get(event.public_id, [])
    return event_form(event, standing, names) | {
        "payload": payload if is_seen or event.source == "lifecycle" else None,
        "has_payload": payload is not None,
        "attempts": [told_form(told(tx, one), names, with_content=is_seen) for one in made],
    }


def _payload(tx: Tx, event: StoredEvent) -> Any:
    if event.source == "record":
        return payload_form(event_list.payload_of(tx, event.public_id))
    return dict(event.detail) if event.source == "lifecycle" else payload_form(event.payload)


def told(tx: Tx, delivery: Delivery) -> Told:
    first = deliveries.get(tx, delivery.retry_of) if delivery.retry_of is not None else None
    again = [one.public_id for one in deliveries.resent(tx, delivery.id)]
    return Told(delivery, deliveries.attempts(tx, delivery.id), first.public_id if first else None, again)


@router.post(
    "/{event_id}/retry",
    summary="Send again what did not arrive",
    status_code=202,
    responses={202: {"model": EventRetried}, **problems(404, 409, 422)},
    response_class=Response,
)
async def retry_event(mutation: Retries, event_id: EventId) -> Response:
    """New deliveries, linked to the originals, for its failed, dead or unknown ones only."""
    return await _ordered(mutation, "retry-event", event_id)


@router.post(
    "/{event_id}/cancel",
    summary="Take back what has not arrived",
    responses={200: {"model": EventCancelled}, **problems(404, 409, 422)},
    response_class=Response,
)
async def cancel_event(mutation: Retries, event_id: EventId) -> Response:
    """What is pending, failed, or stuck: sending beyond its deadline. What is stuck may have arrived."""
    return await _ordered(mutation, "cancel-event", event_id)


async def _ordered(mutation: Mutation, kind: str, event_id: str) -> Response:
    mutation.refuse_operation(Operation.RETRY if kind == "retry-event" else Operation.CANCEL)

    def do(tx: Tx) -> Done:
        event = event_list.find(tx, event_id)
        if event is None or not mutation.caller.sees(event.workspace):
            raise no_such_event(event_id)
        carried = order(tx, mutation, kind, event.integration_id, {"event": event_id})
        return Done(
            body=carried.result,
            status=202 if kind == "retry-event" else 200,
            workspace=event.workspace,
            target=event_id,
            detail=carried.result,
            carried=carried,
        )

    return await mutation.in_store(do)
