"""Deliveries: look at them, retry or cancel one; and send one message."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import ValidationError
from starlette.responses import Response

from reconciler.api.events import (
    DeliveryCancelled,
    DeliveryDetail,
    DeliveryList,
    DeliveryQuery,
    DeliveryRetried,
    SendRequest,
    Sent,
)
from reconciler.api.problem import problems
from reconciler.control import event_orders
from reconciler.control.event_orders import Parcel
from reconciler.model.access import Grant, Operation
from reconciler.model.tree import json_pointer
from reconciler.sdk import registry
from reconciler.sdk.registry import UnknownTypeError
from reconciler.serve.event_forms import delivery_form, told_form
from reconciler.serve.forms import to_json
from reconciler.serve.once import Acts, Done, Mutation, Retries, order
from reconciler.serve.paging import answer, cut, number_of
from reconciler.serve.parts import EventViewer, Parts, RefPath, TheParts, entry_for, until
from reconciler.serve.problem import ProblemError, faulty
from reconciler.serve.routes.events import told
from reconciler.serve.snapshot import Entry
from reconciler.store import deliveries, delivery_list, event_list, integrations, shown
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery

router = APIRouter(prefix="/v1", tags=["deliveries"])
DeliveryId = Annotated[str, Path(max_length=100, examples=["dlv_7xKpQ2mR4wVb"])]
LONGEST_WAIT = 30
_OPEN = frozenset({"pending", "sending"})


def no_such_delivery(delivery_id: str) -> ProblemError:
    return ProblemError(404, "delivery-not-found", f"no delivery {delivery_id!r}; /v1/deliveries lists them")


@router.get(
    "/deliveries",
    summary="List deliveries",
    responses={200: {"model": DeliveryList}, **problems(400, 404)},
    response_class=Response,
)
async def list_deliveries(parts: TheParts, caller: EventViewer, query: Annotated[DeliveryQuery, Query()]) -> Response:
    """Newest first."""
    wanted = [(await entry_for(parts, caller, ref)).id for ref in dict.fromkeys(query.integration)]
    before = number_of(query.cursor)

    def read(tx: Tx) -> Response:
        targets = wanted or delivery_list.targets(tx, caller.workspace)
        found = delivery_list.newest(tx, targets, query.status, before, query.limit + 1)
        listed = cut(found, query.limit, lambda one: (one.id,))
        names = integrations.names_of(tx, {one.integration_id for one in listed.rows})
        firsts = {one.retry_of for one in listed.rows if one.retry_of is not None}
        originals = {i: first.public_id for i in firsts if (first := deliveries.get(tx, i)) is not None}
        return answer(
            [delivery_form(one, originals.get(one.retry_of or 0), names) for one in listed.rows], listed.place
        )

    return await parts.database.read(read)


@router.get(
    "/deliveries/{delivery_id}",
    summary="One delivery and its attempts",
    responses={200: {"model": DeliveryDetail}, **problems(404)},
    response_class=Response,
)
async def get_delivery(parts: TheParts, caller: EventViewer, delivery_id: DeliveryId) -> Response:
    """What was sent and answered is data: for whoever has the grant `read` on its source, or published or sent it."""
    entries = {entry.id: entry for entry in (await parts.board.current()).entries}

    def read(tx: Tx) -> dict[str, Any] | None:
        delivery = deliveries.find(tx, delivery_id)
        names = integrations.names_of(tx, {delivery.integration_id}) if delivery else {}
        if delivery is None or not caller.sees(names[delivery.integration_id].workspace):
            return None
        event = event_list.find(tx, delivery.event_id)
        is_own = event is not None and event.source != "record" and event.published_by == caller.known_as
        is_seen = is_own or parts.admission.has_grant(caller, entries.get(delivery.source_id or 0), Grant.READ)
        return told_form(told(tx, delivery), names, with_content=is_seen)

    found = await parts.database.read(read)
    if found is None:
        raise no_such_delivery(delivery_id)
    return Response(to_json(parts.redactor.value(found)), media_type="application/json")


@router.post(
    "/deliveries/{delivery_id}/retry",
    summary="Send one again",
    status_code=202,
    responses={202: {"model": DeliveryRetried}, **problems(404, 409, 422)},
    response_class=Response,
)
async def retry_delivery(mutation: Retries, delivery_id: DeliveryId) -> Response:
    """One that has ended is sent again as a new delivery, linked to it; one that is to be tried again is tried now."""
    return await _ordered(mutation, "retry-delivery", delivery_id)


@router.post(
    "/deliveries/{delivery_id}/cancel",
    summary="Take one back",
    responses={200: {"model": DeliveryCancelled}, **problems(404, 409, 422)},
    response_class=Response,
)
async def cancel_delivery(mutation: Retries, delivery_id: DeliveryId) -> Response:
    """One that is pending, failed, or stuck: sending beyond its deadline."""
    return await _ordered(mutation, "cancel-delivery", delivery_id)


async def _ordered(mutation: Mutation, kind: str, delivery_id: str) -> Response:
    mutation.refuse_operation(Operation.RETRY if kind == "retry-delivery" else Operation.CANCEL)

    def do(tx: Tx) -> Done:
        delivery = deliveries.find(tx, delivery_id)
        target = integrations.names_of(tx, {delivery.integration_id})[delivery.integration_id] if delivery else None
        if delivery is None or target is None or not mutation.caller.sees(target.workspace):
            raise no_such_delivery(delivery_id)
        carried = order(tx, mutation, kind, target.id, {"delivery": delivery_id})
        is_retry = kind == "retry-delivery"
        return Done(
            body={"retry_of": None, **carried.result} if is_retry else carried.result,
            status=202 if is_retry else 200,
            workspace=target.workspace,
            target=delivery_id,
            detail=carried.result,
            carried=carried,
        )

    return await mutation.in_store(do)


@router.post(
    "/integrations/{ref}/send",
    summary="Send one message",
    status_code=202,
    responses={202: {"model": Sent}, **problems(403, 404, 409, 422)},
    response_class=Response,
)
async def send_message(
    mutation: Acts,
    ref: RefPath,
    body: SendRequest,
    wait: Annotated[int, Query(ge=0, le=LONGEST_WAIT, description="Seconds to wait for the outcome.")] = 0,
) -> Response:
    """Through a channel of the integration, as a delivery with retries, under the grant `send`."""
    entry = await entry_for(mutation.parts, mutation.caller, ref)
    mutation.parts.admission.granted(mutation.caller, entry, Grant.SEND)
    mutation.refuse_operation(Operation.SEND)
    parcel = _parcel(entry, body)

    def do(tx: Tx) -> Done:
        if shown.desired_tree(tx, entry.id).get("sync_direction") == "inbound":
            raise ProblemError(409, "inbound-only", f"{entry.name} has sync_direction inbound: it takes no deliveries")
        if shown.is_observed(tx):
            raise ProblemError(409, "refused", "this daemon only observes (--observe): it sends nothing")
        carried = event_orders.send(tx, parcel, mutation.caller.known_as, mutation.parts.clock.now())
        found = deliveries.find(tx, str(carried.result["delivery"]))
        assert found is not None  # noqa: S101 - it was put there just now
        said = {"channel": parcel.channel, **carried.result}
        return Done(
            body=_sent(found),
            status=202,
            workspace=entry.workspace,
            target=entry.public_id,
            detail=said,
            carried=carried,
        )

    answer = await mutation.in_store(do)
    return await _outcome(mutation.parts, answer, wait) if wait else answer


def _parcel(entry: Entry, body: SendRequest) -> Parcel:
    try:
        connector = registry.load(entry.type)
    except UnknownTypeError:
        raise ProblemError(409, "refused", f"no connector for {entry.type} is installed") from None
    channel = connector.channel(body.channel)
    if channel is None:
        known = ", ".join(one.name for one in connector.channels) or "none"
        message = f"{entry.type} has no channel of that name; it has: {known}"
        raise faulty(422, "invalid-body", [{"pointer": "/channel", "code": "unknown-channel", "detail": message}])
    try:
        checked = channel.fields.model_validate(body.fields, strict=False)
    except ValidationError as error:
        errors = [_fault(one) for one in error.errors(include_input=False, include_url=False)]
        raise faulty(422, "invalid-body", errors) from None
    fields = json.loads(checked.model_dump_json(exclude_none=True))
    return Parcel(entry.id, entry.workspace, channel.name, fields)


def _fault(one: Any) -> dict[str, str]:
    pointer = json_pointer(("fields", *one["loc"]))
    return {"pointer": pointer, "code": one["type"], "detail": one["msg"].removeprefix("Value error, ")}


def _sent(found: Delivery) -> dict[str, Any]:
    return {
        "delivery": found.public_id,
        "event": found.event_id,
        "status": found.status,
        "receipt": dict(found.receipt),
        "reason": found.reason or None,
        "error": found.error or None,
    }


async def _outcome(parts: Parts, answer: Response, seconds: int) -> Response:
    """The same answer as it stands when the first attempt is over, or the time is. What is kept for the key is the first one."""
    delivery_id = str(json.loads(bytes(answer.body))["delivery"])
    await until(parts, lambda tx: _ended(tx, delivery_id), seconds)
    found = await parts.database.read(lambda tx: deliveries.find(tx, delivery_id))
    if found is None:
        return answer
    kept = {n: v for n, v in answer.headers.items() if n not in {"content-length", "content-type"}}
    return Response(to_json(_sent(found)), answer.status_code, kept, "application/json")


def _ended(tx: Tx, delivery_id: str) -> bool | None:
    """Whether the first attempt is over; None until then."""
    found = deliveries.find(tx, delivery_id)
    return True if found is None or found.status not in _OPEN else None
