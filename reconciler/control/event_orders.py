"""Orders about events and deliveries: publish, retry, cancel, replay, send.

Called by `orders` for the command line, by routes of the API through it, each in a transaction of its own. What is sent again is
a new delivery, linked to the first; the one before it stays as it ended. Nothing is sent here: deliveries get jobs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.control import publishing
from reconciler.control.carried import (
    ASKED_PRIO,
    Asked,
    Carried,
    OrderError,
    integration_of,
    lift_gone,
    state_delivering,
)
from reconciler.control.publishing import Draft
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import DeliveryStatus
from reconciler.model.ids import Ref, new_id
from reconciler.store import deliveries, delivery_list, events, integrations, jobs, replays
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery, NewDelivery
from reconciler.store.journal import OperatorRequest
from reconciler.store.replays import NewReplay

_RETRYABLE = (DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN, DeliveryStatus.CANCELLED, DeliveryStatus.DELIVERED)
_IN_NEED = (DeliveryStatus.FAILED, DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN)
_OPEN = (DeliveryStatus.PENDING, DeliveryStatus.FAILED, DeliveryStatus.SENDING)
GIVEN_UP = "given up while it was being sent; it may have arrived"
SENT = "message.sent"


def _delivery(tx: Tx, order: OperatorRequest) -> Delivery:
    delivery_id = str(order.params.get("delivery", ""))
    found = deliveries.find(tx, delivery_id)
    if found is None:
        raise OrderError(f"no delivery {delivery_id}; list them: reconciler deliveries")
    return found


def retry_delivery(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`delivery`. One that is to be tried again anyway is tried now; any other that has ended is sent again as a new one."""
    delivery = _delivery(tx, order)
    if delivery.status is DeliveryStatus.FAILED:
        key = str(delivery.integration_id)
        lift_gone(tx, delivery.integration_id, rfc3339(now))
        jobs.put(tx, kind="deliver", ref=str(delivery.id), key=key, prio=ASKED_PRIO, due_at=now)
        return Carried({"delivery": delivery.public_id}, start=(Asked("deliver", str(delivery.id)),))
    if delivery.status not in _RETRYABLE:
        raise OrderError(f"{delivery.public_id} is {delivery.status}; only an ended delivery can be sent again")
    hindrance = _hindrance(tx, delivery)
    if hindrance:
        raise OrderError(hindrance)
    made = _send_again(tx, delivery, now)
    result = {"delivery": made.public_id, "retry_of": delivery.public_id}
    return Carried(result, start=(Asked("deliver", str(made.id)),))


def _hindrance(tx: Tx, delivery: Delivery) -> str:
    """Why it cannot be sent again; empty where it can."""
    if delivery.reason == Reason.ERASED:
        return f"{delivery.public_id} cannot be sent again: {delivery.error}"
    if not delivery.fields and delivery.error:
        return f"{delivery.public_id} could not be rendered: {delivery.error}; mend the template first"
    target = integrations.get(tx, delivery.integration_id)
    if target is None or target.removed_at is not None:
        return f"{delivery.public_id} was for an integration that is gone"
    return ""


def _send_again(tx: Tx, delivery: Delivery, now: datetime) -> Delivery:
    lift_gone(tx, delivery.integration_id, rfc3339(now))
    delivery_id = deliveries.retry(tx, delivery, rfc3339(now))
    jobs.put(tx, kind="deliver", ref=str(delivery_id), key=str(delivery.integration_id), prio=ASKED_PRIO, due_at=now)
    made = deliveries.get(tx, delivery_id)
    assert made is not None  # noqa: S101 - it was put there just now
    return made


def cancel_delivery(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`delivery`."""
    delivery = _delivery(tx, order)
    if not _cancel(tx, delivery, now):
        raise OrderError(f"{delivery.public_id} is {delivery.status}; {_ONLY}")
    return Carried({"delivery": delivery.public_id})


_ONLY = "only one that is pending, failed, or stuck (sending beyond its deadline) can be cancelled"


def _cancel(tx: Tx, delivery: Delivery, now: datetime) -> bool:
    """Whoever still works on one that is stuck finds its status gone, and can record nothing any more."""
    at = rfc3339(now)
    is_ended = deliveries.cancel(tx, delivery.id, Reason.CANCELLED, at) or deliveries.cancel_stuck(
        tx, delivery.id, Reason.CANCELLED, GIVEN_UP, at
    )
    if is_ended:
        jobs.drop(tx, kind="deliver", ref=str(delivery.id))
        state_delivering(tx, delivery.integration_id, at)
    return is_ended


def _of_event(tx: Tx, order: OperatorRequest) -> list[Delivery]:
    """The current delivery to each target."""
    event_id = str(order.params.get("event", ""))
    found = {one.id: one for one in delivery_list.of_event(tx, event_id)}
    if not found and events.find(tx, event_id) is None:
        raise OrderError(f"no event {event_id}; list them: reconciler events")
    standing = delivery_list.standing(tx, [event_id]).get(event_id, [])
    return [found[one.id] for one in delivery_list.current(standing)]


def retry_event(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`event`. New deliveries for those that failed, are dead or unknown, and for no other; refused where there is none."""
    wanted = [one for one in _of_event(tx, order) if one.status in _IN_NEED]
    hindrances = {one.id: _hindrance(tx, one) for one in wanted}
    able = [one for one in wanted if not hindrances[one.id]]
    if not able:
        said = "; ".join(why for why in hindrances.values() if why)
        raise OrderError(said or f"no delivery of {order.params.get('event')} has failed, is dead or unknown")
    made = [(one, _retry_instead(tx, one, now)) for one in able]
    result = {
        "event": order.params["event"],
        "deliveries": [{"delivery": new.public_id, "retry_of": old.public_id} for old, new in made],
        "skipped": [why for why in hindrances.values() if why],
    }
    return Carried(result, start=tuple(Asked("deliver", str(new.id)) for _, new in made))


def _retry_instead(tx: Tx, delivery: Delivery, now: datetime) -> Delivery:
    """One that would be tried again is taken back: the new one is sent in its place."""
    if delivery.status is DeliveryStatus.FAILED:
        deliveries.cancel(tx, delivery.id, Reason.CANCELLED, rfc3339(now))
        jobs.drop(tx, kind="deliver", ref=str(delivery.id))
        state_delivering(tx, delivery.integration_id, rfc3339(now))
    return _send_again(tx, delivery, now)


def cancel_event(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`event`. What has not been sent yet, and what is stuck; refused where there is nothing like that."""
    found = _of_event(tx, order)
    ended = [one.public_id for one in found if one.status in _OPEN and _cancel(tx, one, now)]
    if not ended:
        raise OrderError(f"no delivery of {order.params.get('event')} can be cancelled; {_ONLY}")
    return Carried({"event": order.params["event"], "deliveries": ended})


def replay(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`since`, and optionally `until`, `types`, `synchronizations`; the order is about the integration that is told."""
    row, p = integration_of(tx, order), order.params
    since, until = _time(p["since"]), _time(p["until"]) if p.get("until") else None
    if since > now or (until is not None and until <= since):
        raise OrderError("since lies in the past, and until after it")
    new = NewReplay(
        integration_id=row.id,
        workspace=row.workspace,
        since=rfc3339(since),
        until=rfc3339(until) if until else "",
        types=tuple(p.get("types") or ()),
        synchronizations=tuple(p.get("synchronizations") or ()),
        requested_by=order.requested_by,
    )
    lift_gone(tx, row.id, rfc3339(now))
    made = replays.create(tx, new, rfc3339(now))
    return Carried({"replay": made.public_id, "integration": str(row.ref)}, has_events=True)


def _time(text: str) -> datetime:
    try:
        return from_rfc3339(text)
    except ValueError:
        raise OrderError(f"{text!r} is no time; expected one with a zone, such as 2026-03-01T00:00:00Z") from None


def cancel_replay(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`replay`. What it has made stays."""
    replay_id = str(order.params.get("replay", ""))
    found = replays.find(tx, replay_id)
    if found is None:
        raise OrderError(f"no replay {replay_id}")
    if not replays.end(tx, found.id, "cancelled", rfc3339(now)):
        raise OrderError(f"{replay_id} is {found.state} already")
    return Carried({"replay": replay_id})


def publish_events(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`workspace` and `events`, each as the API takes them."""
    workspace, drafts = str(order.params["workspace"]), []
    for number, one in enumerate(order.params["events"]):
        name = one.get("integration")
        row = integrations.find(tx, Ref(workspace, name)) if name else None
        if name and (row is None or row.removed_at is not None):
            raise OrderError(f"event {number + 1}: no integration {name} in {workspace}")
        drafts.append(
            Draft(
                workspace=workspace,
                type=str(one.get("type", "")),
                payload=one.get("data", {}),
                dedupe=one.get("id"),
                subject=str(one.get("subject", "")),
                occurred_at=one.get("occurred_at"),
                integration_id=row.id if row else None,
            )
        )
    made = publishing.publish(tx, drafts, order.requested_by, now)
    told = [{"id": one.public_id, "type": one.type, "is_new": one.is_new} for one in made]
    return Carried({"events": told}, has_events=True)


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message for a channel, its fields checked by the channel's model already."""

    integration_id: int
    workspace: str
    channel: str
    fields: Mapping[str, Any]


def send(tx: Tx, parcel: Parcel, by: str, now: datetime) -> Carried:
    """A delivery that no event made; it is found among events as `message.sent`, with its sender."""
    at, event_id = rfc3339(now), new_id("evt")
    events.note(tx, [events.Told(event_id, parcel.workspace, parcel.integration_id, SENT, at, "sent", by)])
    new = NewDelivery(
        dedupe=f"send:{event_id}",
        event_id=event_id,
        event_type=SENT,
        event_at=at,
        source_id=None,
        entity="",
        key="",
        integration_id=parcel.integration_id,
        synchronization="",
        channel=parcel.channel,
        fields=parcel.fields,
    )
    ((delivery_id, target),) = deliveries.create(tx, [new], at)
    jobs.put(tx, kind="deliver", ref=str(delivery_id), key=str(target), prio=ASKED_PRIO, due_at=now)
    made = deliveries.get(tx, delivery_id)
    assert made is not None  # noqa: S101 - it was put there just now
    return Carried({"delivery": made.public_id, "event": event_id}, start=(Asked("deliver", str(delivery_id)),))


Order = Callable[[Tx, OperatorRequest, datetime], Carried]
KNOWN: Mapping[str, Order] = {
    "retry-delivery": retry_delivery,
    "cancel-delivery": cancel_delivery,
    "retry-event": retry_event,
    "cancel-event": cancel_event,
    "replay-events": replay,
    "cancel-replay": cancel_replay,
    "publish-events": publish_events,
}
SENDING: Sequence[str] = ("retry-delivery", "retry-event", "replay-events")
"""A daemon that only observes refuses these."""
