"""Record versions and lifecycle events -> deliveries. The version log is the queue; a cursor per integration walks it.

A batch is read, matched and rendered, then committed with its cursor in one transaction: routing a batch twice after a
crash makes no second delivery. Versions of a first sync are silent and make no event. Called after every sync and by a
timer; several routers at once are harmless because the cursor moves by compare-and-swap.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from reconciler.events.standing import state_delivering
from reconciler.events.subscriptions import RenderError, Subscription, Subscriptions, context_of
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import EVENT_OF, Event, Operation, singular
from reconciler.model.ids import Ref
from reconciler.store import dataset, deliveries, integrations, jobs, journal
from reconciler.store.database import Database, Tx
from reconciler.store.dataset import Version
from reconciler.store.deliveries import NewDelivery
from reconciler.store.journal import LifecycleEvent

BATCH = 500
LIFECYCLE = "lifecycle"
PRIO = 30


class _MovedError(Exception):
    """Another router was faster: this transaction must leave nothing."""


class Router:
    """`route` brings every cursor to the end of its log; `made` is told how many deliveries came of it."""

    def __init__(
        self, database: Database, subscriptions: Subscriptions, clock: Clock, made: Callable[[int], None]
    ) -> None:
        self._database = database
        self._subscriptions = subscriptions
        self._clock = clock
        self._made = made

    async def route(self) -> int:
        """How many deliveries were made. Does nothing before desired state is known."""
        wanted = self._subscriptions.every()
        if wanted is None:
            return 0
        total = await self._lifecycle(wanted)
        for integration_id, routed in await self._database.read(deliveries.unrouted):
            total += await self._records(integration_id, routed, wanted)
        if total:
            self._made(total)
        return total

    async def _records(self, integration_id: int, routed: int, wanted: Sequence[Subscription]) -> int:
        row = await self._database.read(lambda tx: integrations.get(tx, integration_id))
        if row is None:
            return 0
        total, at = 0, routed
        while True:
            position = at
            batch = await self._database.read(
                partial(_batch, integration_id=integration_id, ref=row.ref, after=position, wanted=wanted)
            )
            if not batch.last:
                return total
            made = await self._commit_records(integration_id, position, batch.last, batch.deliveries)
            if made is None:
                return total
            total, at = total + made, batch.last

    async def _commit_records(
        self, integration_id: int, before: int, after: int, new: Sequence[NewDelivery]
    ) -> int | None:
        now = self._clock.now()

        def commit(tx: Tx) -> int:
            if not deliveries.set_routed(tx, integration_id, before, after):
                raise _MovedError
            return _create(tx, new, now)

        try:
            return await self._database.write(commit)
        except _MovedError:
            return None

    async def _lifecycle(self, wanted: Sequence[Subscription]) -> int:
        total = 0
        while True:
            position = await self._database.read(lambda tx: deliveries.position(tx, LIFECYCLE))
            batch = await self._database.read(partial(_lifecycle_batch, after=position, wanted=wanted))
            if not batch.last:
                return total
            total += await self._commit_lifecycle(position, batch.last, batch.deliveries)

    async def _commit_lifecycle(self, before: int, after: int, new: Sequence[NewDelivery]) -> int:
        now = self._clock.now()

        def commit(tx: Tx) -> int:
            if deliveries.position(tx, LIFECYCLE) != before:
                return 0
            deliveries.set_position(tx, LIFECYCLE, after)
            return _create(tx, new, now)

        return await self._database.write(commit)


def _create(tx: Tx, new: Sequence[NewDelivery], now: datetime) -> int:
    made = deliveries.create(tx, new, rfc3339(now))
    for stillborn in {d.integration_id: d for d in new if d.error}.values():
        state_delivering(
            tx, stillborn.integration_id, stillborn.status, stillborn.reason, stillborn.error, rfc3339(now)
        )
    for delivery_id, target in made:
        jobs.put(tx, kind="deliver", ref=str(delivery_id), key=str(target), prio=PRIO, due_at=now)
    return len(made)


class _Batch(msgspec.Struct, frozen=True):
    """Deliveries of a stretch of a log and the number of its last entry; 0 where the log ends. Made in a reader's thread."""

    last: int
    deliveries: list[NewDelivery]


def _batch(tx: Tx, integration_id: int, ref: Ref, after: int, wanted: Sequence[Subscription]) -> _Batch:
    versions = dataset.log_after(tx, integration_id, after, BATCH)
    if not versions:
        return _Batch(0, [])
    made: list[NewDelivery] = []
    chosen: dict[str, list[Subscription]] = {}  # asked once for each type: there may be thousands of both
    for version in versions:
        told_as = _told_as(tx, version)
        if told_as is None:
            continue
        event_type = f"{singular(version.entity)}.{EVENT_OF[told_as]}"
        if event_type not in chosen:
            chosen[event_type] = _chosen(wanted, ref.workspace, ref.name, event_type)
        if chosen[event_type]:
            made += _deliveries(_record_event(tx, ref, version, told_as), integration_id, chosen[event_type])
    return _Batch(versions[-1].number - (integration_id << dataset.SHIFT), made)


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


def _lifecycle_batch(tx: Tx, after: int, wanted: Sequence[Subscription]) -> _Batch:
    events = journal.events_after(tx, after, BATCH)
    names: dict[int, str] = {}
    made: list[NewDelivery] = []
    for event in events:
        if event.integration_id not in names:
            row = integrations.get(tx, event.integration_id)
            names[event.integration_id] = row.name if row else ""
        name = names[event.integration_id]
        if chosen := _chosen(wanted, event.workspace, name, event.type):
            made += _deliveries(_lifecycle_event(name, event), event.integration_id, chosen)
    return _Batch(events[-1].id if events else 0, made)


def _lifecycle_event(name: str, event: LifecycleEvent) -> Event:
    return Event(
        id=event.public_id,
        type=event.type,
        at=from_rfc3339(event.at),
        workspace=event.workspace,
        integration=name,
        detail=event.detail,
    )


def _chosen(wanted: Sequence[Subscription], workspace: str, source: str, event_type: str) -> list[Subscription]:
    return [s for s in wanted if s.wants_type(workspace, source, event_type)]


def _deliveries(event: Event, source_id: int, chosen: Sequence[Subscription]) -> list[NewDelivery]:
    context = context_of(event)
    return [d for s in chosen if (d := _delivery(event, source_id, s, context)) is not None]


def _delivery(
    event: Event, source_id: int, subscription: Subscription, context: dict[str, object]
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
