"""What keeps work going when something dies: our own beat, dead peers, stranded rows, lost engine rows, retention.

Called by the engine seam every few seconds. Judges nobody right after the clock has jumped: every lease looks expired then.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import TypeVar

from reconciler.model.clock import Clock
from reconciler.work.hand import Hand
from reconciler.work.ports import JobStore
from reconciler.work.settings import WorkSettings
from reconciler.work.transact import Transact

T = TypeVar("T")


class Tending:
    """One round of care is `tend`; the order in it matters: renew first, judge afterwards.

    `is_alone`: no other process runs jobs, as far as the last beat knows.
    """

    def __init__(
        self, store: JobStore, engine: Transact, hand: Hand, settings: WorkSettings, clock: Clock, blocking: Executor
    ) -> None:
        self._store = store
        self._engine = engine
        self._hand = hand
        self._settings = settings
        self._clock = clock
        self._blocking = blocking
        self._last: tuple[datetime, float] | None = None
        self._trust_from = 0.0
        self._prune_from = 0.0
        self.is_alone = True

    async def beat(self) -> datetime:
        """Renew what is in hand; stop what is no longer ours."""
        pulse = await self._store.beat(self._settings.owner, self._hand.claims, self._settings.lease)
        for claim in pulse.lost:
            self._hand.cancel(claim.attempt)
        self.is_alone = pulse.workers <= 1
        return pulse.now

    async def look(self) -> None:
        """Stop what another process cancelled; the beat, which finds the rest, comes too seldom for who waits for it."""
        claims = self._hand.claims
        if claims:
            for claim in await self._store.lost(self._settings.owner, claims):
                self._hand.cancel(claim.attempt)

    async def tend(self) -> None:
        now = await self.beat()
        if self._has_jumped(now) or self._clock.monotonic() < self._trust_from:
            return
        await self.sweep()
        await self.watch()
        await self.prune(now)

    def _has_jumped(self, now: datetime) -> bool:
        monotonic = self._clock.monotonic()
        last, self._last = self._last, (now, monotonic)
        if last is None:
            return False
        has_jumped = self._drift(now, monotonic, last) > self._settings.jump
        if has_jumped:
            self._trust_from = monotonic + self._settings.distrust.total_seconds()
        return has_jumped

    def _is_steady(self, now: datetime) -> bool:
        """Asked in the transaction that judges: the clock may jump between our beat and it, too."""
        last = self._last
        return last is not None and self._drift(now, self._clock.monotonic(), last) <= self._settings.jump

    def _drift(self, now: datetime, monotonic: float, last: tuple[datetime, float]) -> timedelta:
        return abs((now - last[0]) - timedelta(seconds=monotonic - last[1]))

    async def sweep(self) -> None:
        """Dead processes: their rows first, then what the engine still holds for them."""
        for owner in await self._store.dead(self._settings.dead_after, self._is_steady):
            if owner != self._settings.owner:
                await self._take_over(owner)

    async def _take_over(self, owner: str) -> None:
        if not await self._in_thread(lambda: self._engine.recover(owner)):
            await self._store.forget(owner)

    async def watch(self) -> None:
        """Rows that nobody works on, or that the engine has lost."""
        stranded = await self._store.stranded(self._is_steady)
        await self._in_thread(lambda: self._engine.cancel(stranded))
        waiting = await self._store.waiting(self._settings.missing_after)
        if waiting:
            await self._store.give_back(await self._in_thread(lambda: self._engine.unknown(waiting)))

    async def prune(self, now: datetime) -> None:
        """Ended workflows of the engine; our own rows keep the history."""
        if self._clock.monotonic() < self._prune_from:
            return
        self._prune_from = self._clock.monotonic() + self._settings.prune_every.total_seconds()
        while await self._in_thread(lambda: self._engine.prune(now - self._settings.keep_finished)):
            pass

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._blocking, call)
