"""Stretches of the logs, matched and rendered: versions of records and stored events in, deliveries out, put down by `create`.

Called by the router for what is new, and by replays for what was. Made in a reader's thread: a batch of five hundred renders
thousands of templates.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from reconciler.events.standing import state_delivering
from reconciler.events.subscriptions import RenderError, Subscription, context_of
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import EVENT_OF, Event, Operation, singular
from reconciler.model.ids import Ref
from reconciler.store import dataset, deliveries, events, integrations, jobs
from reconciler.store.database import Tx
from reconciler.store.dataset import Version
from reconciler.store.deliveries import NewDelivery
from reconciler.store.events import StoredEvent, Told
from reconciler.store.notices import tell

PRIO = 30


def create(tx: Tx, new: Sequence[NewDelivery], now: datetime, prio: int = PRIO) -> list[int]:
    """The deliveries that did not exist yet, with a job for each that is to be sent; their ids."""
    made = deliveries.create(tx, new, rfc3339(now))
    for stillborn in {d.integration_id: d for d in new if d.error}.values():
        state_delivering(
            tx, stillborn.integration_id, stillborn.status, stillborn.reason, stillborn.error, rfc3339(now)
        )
    jobs.put_all(tx, "deliver", [(str(delivery_id), str(target)) for delivery_id, target in made], prio, now)
    if made:
        tell(tx, "due")
    return [delivery_id for delivery_id, _ in made]


class Batch(msgspec.Struct, frozen=True):
    """Deliveries of a stretch of a log and the number of its last entry; 0 where the log ends.

    `told` are the changes of records among the events they are of. `events` is how many events they are of.
    """

    last: int
    deliveries: list[NewDelivery]
    told: Sequence[Told] = ()

    @property
    def events(self) -> int:
        return len({made.event_id for made in self.deliveries})


def record_batch(
    tx: Tx,
    integration_id: int,
    ref: Ref,
    after: int,
    most: int,
    wanted: Sequence[Subscription],
    since: str = "",
    ceiling: int | None = None,
) -> Batch:
    """Changes of records behind `after` and up to `ceiling`, those from before `since` left out."""
    end = None if ceiling is None else (integration_id << dataset.SHIFT) + ceiling
    versions = [v for v in dataset.log_after(tx, integration_id, after, most) if end is None or v.number <= end]
    if not versions:
        return Batch(0, [])
    made: list[NewDelivery] = []
    chosen: dict[str, list[Subscription]] = {}  # asked once for each type: there may be thousands of both
    for version in versions:
        told_as = _told_as(tx, version) if version.at >= since else None
        if told_as is None:
            continue
        event_type = f"{singular(version.entity)}.{EVENT_OF[told_as]}"
        if event_type not in chosen:
            chosen[event_type] = _chosen(wanted, ref.workspace, ref.name, event_type)
        if chosen[event_type]:
            made += _deliveries(_record_event(tx, ref, version, told_as), integration_id, chosen[event_type])
    told = {d.event_id: Told(d.event_id, ref.workspace, integration_id, d.event_type, d.event_at) for d in made}
    return Batch(versions[-1].number - (integration_id << dataset.SHIFT), made, list(told.values()))


def _told_as(tx: Tx, version: Version) -> Operation | None:
    """What subscribers see of it: a record that a rollback brought back was created again, any other updated."""
    if version.is_silent:
        return None
    if version.op is not Operation.RESTORE:
        return version.op
    return Operation.UPDATE if dataset.payload_of(tx, version.prev) is not None else Operation.CREATE


def _record_event(tx: Tx, ref: Ref, version: Version, told_as: Operation) -> Event:
    before = dataset.payload_of(tx, version.prev)
    previous = msgspec.json.decode(before) if before else {}
    record = msgspec.json.decode(version.payload) if version.payload else previous
    previous, record = _object(previous), _object(record)
    fields = record.keys() | previous.keys() if told_as is Operation.UPDATE else ()
    return Event(
        id=f"evt_{version.number:x}",
        type=f"{singular(version.entity)}.{EVENT_OF[told_as]}",
        at=from_rfc3339(version.at),
        workspace=ref.workspace,
        integration=ref.name,
        entity=version.entity,
        key=version.key,
        record=record,
        previous=previous,
        changed=tuple(sorted(f for f in fields if record.get(f) != previous.get(f))),
    )


def _object(payload: Any) -> dict[str, Any]:
    """Templates look at fields; what has none is one."""
    return payload if isinstance(payload, dict) else {"value": payload}


def told_batch(
    tx: Tx, after: int, most: int, wanted: Sequence[Subscription], since: str = "", ceiling: int | None = None
) -> Batch:
    """What integrations told of themselves and what was published, behind `after` and up to `ceiling`."""
    found = events.to_route(tx, after, most, ceiling)
    names: dict[int | None, str] = {None: ""}
    made: list[NewDelivery] = []
    for event in found:
        if event.integration_id not in names:
            row = integrations.get(tx, event.integration_id or 0)
            names[event.integration_id] = row.name if row else ""
        name = names[event.integration_id]
        chosen = _chosen(wanted, event.workspace, name, event.type) if event.at >= since else []
        if chosen:
            made += _deliveries(_stored_event(name, event), event.integration_id, chosen)
    return Batch(found[-1].id if found else 0, made)


def _stored_event(name: str, event: StoredEvent) -> Event:
    return Event(
        id=event.public_id,
        type=event.type,
        at=from_rfc3339(event.at),
        workspace=event.workspace,
        integration=name,
        record=json.loads(event.payload) if event.payload else {},
        detail=event.detail,
        source=event.source,
        subject=event.subject,
        occurred_at=from_rfc3339(event.occurred_at) if event.occurred_at else None,
    )


def _chosen(wanted: Sequence[Subscription], workspace: str, source: str, event_type: str) -> list[Subscription]:
    """The first of one name: an event that several types of a list fit is told once."""
    fitting = [s for s in wanted if s.wants_type(workspace, source, event_type)]
    return list({(s.target_id, s.name): s for s in reversed(fitting)}.values())[::-1]


def _deliveries(event: Event, source_id: int | None, chosen: Sequence[Subscription]) -> list[NewDelivery]:
    context = context_of(event)
    return [d for s in chosen if (d := _delivery(event, source_id, s, context)) is not None]


def _delivery(
    event: Event, source_id: int | None, subscription: Subscription, context: dict[str, object]
) -> NewDelivery | None:
    reason = error = ""
    fields: dict[str, object] = {}
    try:
        if not subscription.wants(context):
            return None
        fields = subscription.render(context)
    except RenderError as failure:
        reason, error = failure.reason, failure.message
    except Exception as fault:  # noqa: BLE001 - one message that cannot be made must not keep all others waiting
        reason, error = Reason.INTERNAL_ERROR, f"the message could not be made: {type(fault).__name__}"
    return NewDelivery(
        dedupe=f"{event.id}:{subscription.target_id}:{subscription.name}",
        event_id=event.id,
        event_type=event.type,
        event_at=rfc3339(event.at),
        source_id=source_id,
        entity=event.entity,
        key=event.key,
        integration_id=subscription.target_id,
        synchronization=subscription.name,
        channel=subscription.channel,
        fields=fields,
        reason=reason,
        error=error,
    )
