"""Deliveries that wait longer than their objective: `Delivering` says so, though no attempt has failed.

Called by the daemon about every quarter of a minute; `events` states the rest of the condition as attempts end.
"""

from collections.abc import Collection
from datetime import datetime

from reconciler.control.book import Book
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.duration import render_duration
from reconciler.store import agenda, conditions, deliveries, integrations
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx


class DeliveryLateness:
    """`tick` states what has become late, and takes it back where nothing waits any more."""

    def __init__(self, database: Database, book: Book, clock: Clock) -> None:
        self._database = database
        self._book = book
        self._clock = clock

    async def tick(self) -> None:
        now = self._clock.now()
        oldest = await self._database.read(deliveries.oldest_open)
        late = {i: text for i, since in oldest.items() if (text := await self._late(i, since, now))}
        over = await self._database.read(lambda tx: _no_longer(tx, late.keys()))
        if late or over:
            await self._database.write(lambda tx: _state(tx, late, over, rfc3339(now)))

    async def _late(self, integration_id: int, since: str, now: datetime) -> str:
        row = await self._database.read(lambda tx: integrations.get(tx, integration_id))
        desired = self._book.get(row.ref) if row else None
        objective = desired.manifest.spec.objectives.delivery if desired else None
        if objective is None or now - from_rfc3339(since) <= objective:
            return ""
        return f"a delivery has waited for longer than {render_duration(objective)}"


def _no_longer(tx: Tx, late: Collection[int]) -> list[int]:
    """Said to be late, and not late now."""
    said = agenda.with_condition(tx, ConditionType.DELIVERING, Reason.LATE)
    return [i for i in said if i not in late]


def _state(tx: Tx, late: dict[int, str], over: list[int], at: str) -> None:
    for integration_id, message in late.items():
        row = integrations.get(tx, integration_id)
        before = conditions.conditions(tx, integration_id).get(ConditionType.DELIVERING)
        if row is None or (before is not None and before.truth is Truth.FALSE and before.reason is not Reason.LATE):
            continue  # that an attempt failed says more than that it is late
        say = Say(ConditionType.DELIVERING, Truth.FALSE, Reason.LATE, message)
        conditions.say(tx, integration_id, row.generation, [say], at)
    for integration_id in over:
        row = integrations.get(tx, integration_id)
        if row is not None:
            say = Say(ConditionType.DELIVERING, Truth.TRUE, Reason.SUCCEEDED, "deliveries arrive")
            conditions.say(tx, integration_id, row.generation, [say], at)
