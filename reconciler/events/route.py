"""Record versions, lifecycle and published events -> deliveries. The logs are the queue; a cursor for each walks it.

A batch is read, matched and rendered, then committed with its cursor in one transaction: routing a batch twice after a
crash makes no second delivery. Versions of a first sync are silent and make no event. Called after every sync and by a
timer; several routers at once are harmless because the cursor moves by compare-and-swap.
"""

from collections.abc import Callable, Sequence
from functools import partial

from reconciler.events.making import Batch, create, record_batch, told_batch
from reconciler.events.replay import Replayer
from reconciler.events.subscriptions import Subscription, Subscriptions
from reconciler.model.clock import Clock
from reconciler.store import deliveries, events, integrations
from reconciler.store.database import Database, Tx

BATCH = 500
LIFECYCLE = "lifecycle"


class _MovedError(Exception):
    """Another router was faster: this transaction must leave nothing."""


class Router:
    """`route` brings every cursor to the end of its log; `made` is told how many deliveries came of it.

    `has_more`: a replay is not done, so the next round is not to be waited for.
    """

    def __init__(
        self, database: Database, subscriptions: Subscriptions, clock: Clock, made: Callable[[int], None]
    ) -> None:
        self._database = database
        self._subscriptions = subscriptions
        self._clock = clock
        self._made = made
        self._replayer = Replayer(database, clock)
        self.has_more = False

    async def route(self) -> int:
        """How many deliveries were made. Does nothing before desired state is known."""
        wanted = self._subscriptions.every()
        if wanted is None:
            return 0
        total = await self._lifecycle(wanted)
        for integration_id, routed in await self._database.read(deliveries.unrouted):
            total += await self._records(integration_id, routed, wanted)
        replayed, self.has_more = await self._replayer.tick(wanted)
        total += replayed
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
                partial(
                    record_batch, integration_id=integration_id, ref=row.ref, after=position, most=BATCH, wanted=wanted
                )
            )
            if not batch.last:
                return total
            made = await self._commit_records(integration_id, position, batch)
            if made is None:
                return total
            total, at = total + made, batch.last

    async def _commit_records(self, integration_id: int, before: int, batch: Batch) -> int | None:
        now = self._clock.now()

        def commit(tx: Tx) -> int:
            if not deliveries.set_routed(tx, integration_id, before, batch.last):
                raise _MovedError
            events.note(tx, batch.told)
            return len(create(tx, batch.deliveries, now))

        try:
            return await self._database.write(commit)
        except _MovedError:
            return None

    async def _lifecycle(self, wanted: Sequence[Subscription]) -> int:
        total = 0
        while True:
            position = await self._database.read(lambda tx: deliveries.position(tx, LIFECYCLE))
            batch = await self._database.read(partial(told_batch, after=position, most=BATCH, wanted=wanted))
            if not batch.last:
                return total
            total += await self._commit_lifecycle(position, batch)

    async def _commit_lifecycle(self, before: int, batch: Batch) -> int:
        now = self._clock.now()

        def commit(tx: Tx) -> int:
            if deliveries.position(tx, LIFECYCLE) != before:
                return 0
            deliveries.set_position(tx, LIFECYCLE, batch.last)
            return len(create(tx, batch.deliveries, now))

        return await self._database.write(commit)
