"""Replays: events since a time become deliveries anew, to one integration, by what its synchronizations want now.

Called by the router after each of its rounds. One batch is one transaction with the place it got to: interrupted anywhere, it
goes on there, and nothing is made twice. Left alone is what is still on its way to the target for the same event; what was
erased or is no longer kept is not there to be told. A target that is let go ends its replays.
"""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

from reconciler.events.making import Batch, create, record_batch, told_batch
from reconciler.events.subscriptions import Subscription
from reconciler.model.clock import Clock, rfc3339
from reconciler.store import events, integrations, replays
from reconciler.store.database import Database, Tx
from reconciler.store.deliveries import NewDelivery
from reconciler.store.replays import Part, Replay

BATCH = 200
PRIO = 60
ROUND = 5
"""Batches of one replay in a row: what happens now does not wait for what happened once, nor do its deliveries."""


class _MovedError(Exception):
    """Another process was faster, or it was cancelled: this transaction must leave nothing."""


class Replayer:
    """`tick` moves each replay on by a few batches; how many deliveries were made, and whether there is more to do."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def tick(self, wanted: Sequence[Subscription]) -> tuple[int, bool]:
        made, is_more = 0, False
        for replay in await self._database.read(replays.running):
            count, is_done = await self._go_on(replay, wanted)
            made, is_more = made + count, is_more or not is_done
        return made, is_more

    async def _go_on(self, replay: Replay, wanted: Sequence[Subscription]) -> tuple[int, bool]:
        target = await self._database.read(lambda tx: integrations.get(tx, replay.integration_id))
        if target is None or target.removed_at is not None:
            await self._end(replay, "cancelled")
            return 0, True
        mine, made = _chosen(replay, wanted), 0
        for _ in range(ROUND):
            left = await self._database.read(lambda tx: replays.parts(tx, replay.id))
            if not left:
                await self._end(replay, "done")
                return made, True
            made += await self._move(replay, left[0], mine)
        return made, False

    async def _move(self, replay: Replay, part: Part, mine: Sequence[Subscription]) -> int:
        batch = await self._database.read(partial(_batch, replay=replay, part=part, wanted=mine))
        to = min(batch.last, part.ceiling) if batch.last else part.ceiling
        now = self._clock.now()

        def move(tx: Tx) -> int:
            new = _anew(tx, replay, batch)
            events.note(tx, [told for told in batch.told if told.public_id in {one.event_id for one in new}])
            made = len(create(tx, new, now, PRIO))
            if not replays.move(tx, replay.id, part, to, events=len({one.event_id for one in new}), deliveries=made):
                raise _MovedError
            return made

        try:
            return await self._database.write(move)
        except _MovedError:
            return 0

    async def _end(self, replay: Replay, state: str) -> None:
        at = rfc3339(self._clock.now())
        await self._database.write(lambda tx: replays.end(tx, replay.id, state, at))


def _chosen(replay: Replay, wanted: Sequence[Subscription]) -> list[Subscription]:
    return [
        one
        for one in wanted
        if one.target_id == replay.integration_id
        and (not replay.synchronizations or one.name in replay.synchronizations)
    ]


def _batch(tx: Tx, replay: Replay, part: Part, wanted: Sequence[Subscription]) -> Batch:
    """Up to the ceiling, between the two times, of the types asked for."""
    if part.source == replays.EVENTS:
        found = told_batch(tx, part.position, BATCH, wanted, replay.since, part.ceiling)
    else:
        row = integrations.get(tx, part.source)
        if row is None or not wanted:
            return Batch(0, [])
        found = record_batch(tx, row.id, row.ref, part.position, BATCH, wanted, replay.since, part.ceiling)
    return Batch(found.last, [one for one in found.deliveries if _fits(one, replay)], found.told)


def _fits(made: NewDelivery, replay: Replay) -> bool:
    is_wanted = not replay.types or any(fnmatchcase(made.event_type, pattern) for pattern in replay.types)
    return is_wanted and (not replay.until or made.event_at < replay.until)


def _anew(tx: Tx, replay: Replay, batch: Batch) -> list[NewDelivery]:
    """Each under a name of its own, so that the first one does not stand in its way."""
    waiting = replays.on_their_way(tx, [one.event_id for one in batch.deliveries], replay.integration_id)
    return [
        replace(one, dedupe=f"{replay.public_id}:{one.dedupe}")
        for one in batch.deliveries
        if (one.event_id, one.synchronization) not in waiting
    ]
