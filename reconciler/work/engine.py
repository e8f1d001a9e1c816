"""The seam: due rows come in from the store, coroutines of the domain run, rows are settled. Called by the daemon.

A scan takes due rows in due order through a small window; a few at once start right here, more go through the
engine's queues so that other processes may take them. Rows decide, the engine's own are disposable: losing them all,
a killed process or a jumping clock costs seconds. Not here: what a kind does, and when anything is due.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

from reconciler.model.clock import Clock
from reconciler.model.job import QUEUES, Job, QueueName, Window, queue_of
from reconciler.work.hand import Hand
from reconciler.work.ports import JobStore, Kinds, Report
from reconciler.work.settings import WorkSettings
from reconciler.work.tend import Tending
from reconciler.work.transact import Transact

T = TypeVar("T")
ONLY_ASKED = Window(queued=0, running=0, least=1)
SETTLE = timedelta(seconds=2)
SETTLE_POLL = 0.02


class Work:
    """Implements `Dispatch`. One for a process, because the engine is. `launch` and `stop` inside the running loop."""

    def __init__(
        self,
        store: JobStore,
        kinds: Kinds,
        settings: WorkSettings,
        clock: Clock,
        report: Report,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._report = report
        self._engine = Transact(settings)
        self._blocking = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._hand = Hand(store, kinds, settings, clock, report, random)
        self._hand.on_end = self._on_end
        self._tending = Tending(store, self._engine, self._hand, settings, clock, self._blocking)
        self._awake = asyncio.Event()
        self._alert = asyncio.Event()
        self._is_stopping = False
        self._busy_until = 0.0
        self._is_busy = False
        self._scanning: asyncio.Task[None] | None = None
        self._caring: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Jobs in hand now."""
        return len(self._hand)

    async def launch(self) -> None:
        """Engine up, rows of a former life due again, loops running."""
        if self._settings.is_alone:
            await self._store.reset()
        await self._tending.beat()
        await self._in_thread(self._engine.prepare)
        self._engine.launch(self._hand.run)
        self._scanning = asyncio.create_task(self._repeat("scan", self._scan_and_rest), name="work-scan")
        self._caring = asyncio.create_task(self._repeat("tend", self._tend_and_rest), name="work-tend")
        self._looking = asyncio.create_task(self._repeat("look", self._look_and_rest), name="work-look")

    async def ask(self, kind: str, ref: str) -> bool:
        found = await self._store.ask(kind, ref)
        await self._take(queue_of(kind), ONLY_ASKED)
        return found

    def wake(self) -> None:
        self._awake.set()

    def look(self) -> None:
        """Another process may have cancelled what runs here: see now."""
        self._alert.set()

    async def cancel(self, kind: str, ref: str) -> bool:
        job = await self._store.drop(kind, ref)
        if job is None:
            return False
        self._hand.cancel(job.attempt)
        await self._in_thread(lambda: self._engine.cancel([job]))
        return True

    async def stop(self, patience: timedelta) -> None:
        """Start nothing more, wait that long for what runs, then cancel it: those rows are due for the next process."""
        self._is_stopping = True
        self._hand.leave()
        self.wake()
        await self._end(self._scanning, self._settings.lease)
        await self._empty_hand(patience)
        await self._end(self._looking, timedelta(0))
        await self._end(self._caring, timedelta(0))
        await self._quietly("leave", lambda: self._store.forget(self._settings.owner))
        await self._quietly("settle", self._settled)
        loop = asyncio.get_running_loop()
        await self._in_thread(lambda: self._engine.close(loop))
        self._blocking.shutdown()

    async def scan(self) -> int:
        """Take what is due and has room, and see that it starts; gives how many."""
        return sum([await self._take(queue, self._settings.window) for queue in QUEUES])

    async def _take(self, queue: QueueName, window: Window) -> int:
        taken = await self._store.take_due(queue, window, self._settings.dead_after)
        urgent = [job for job in taken if job.is_asked]
        rest = [job for job in taken if not job.is_asked]
        if self._tending.is_alone or len(rest) <= self._settings.share_above:
            urgent, rest = urgent + rest, []
        await self._hand_over(urgent, self._start_here)
        await self._hand_over(rest, self._enqueue)
        return len(taken)

    async def _hand_over(self, jobs: Sequence[Job], to_engine: Callable[[Sequence[Job]], Awaitable[None]]) -> None:
        """Rows are marked first and handed over then; what the engine does not take is due again."""
        try:
            if jobs:
                await to_engine(jobs)
        except Exception:
            await self._store.give_back(jobs)
            raise

    async def _start_here(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            await self._engine.start(job)

    async def _enqueue(self, jobs: Sequence[Job]) -> None:
        await self._in_thread(lambda: self._engine.enqueue(jobs))
        self._busy_until = self._clock.monotonic() + self._settings.calm_after.total_seconds()

    async def _scan_and_rest(self) -> None:
        self._awake.clear()
        await self.scan()
        await self._adapt()
        rest = self._settings.busy_poll if self._is_busy else self._settings.idle_poll
        await _until(self._awake, rest)

    async def _adapt(self) -> None:
        """The engine's polling is most of the cost of being idle: often only while its queues are in use."""
        is_busy = self._clock.monotonic() < self._busy_until
        if is_busy != self._is_busy:
            poll = self._settings.busy_poll if is_busy else self._settings.idle_engine_poll
            await self._in_thread(lambda: self._engine.poll_every(poll.total_seconds()))
            self._is_busy = is_busy

    async def _tend_and_rest(self) -> None:
        await self._tending.tend()
        await self._clock.sleep(self._settings.beat.total_seconds())

    async def _look_and_rest(self) -> None:
        self._alert.clear()
        await self._tending.look()
        await _until(self._alert, self._settings.look)

    def _on_end(self) -> None:
        """Its lane is free: the next one in it need not wait for the idle round. Busy rounds come soon anyway."""
        if not self._is_busy:
            self.wake()

    async def _repeat(self, name: str, once: Callable[[], Awaitable[None]]) -> None:
        while not self._is_stopping:
            if not await self._quietly(name, once):
                await self._clock.sleep(self._settings.idle_poll.total_seconds())

    async def _quietly(self, name: str, call: Callable[[], Awaitable[None]]) -> bool:
        """A store or engine that fails now is tried again by the next round; the loops outlive it."""
        try:
            await call()
        except Exception as error:  # noqa: BLE001 reported, and the next round tries again
            self._report(f"work {name} failed", error, None)
            return False
        return True

    async def _empty_hand(self, patience: timedelta) -> None:
        if await self._hand.emptied(patience):
            return
        self._hand.cancel_all()
        if not await self._hand.emptied(self._settings.lease):
            self._hand.abandon()
            await self._hand.emptied(SETTLE)

    async def _end(self, loop: asyncio.Task[None] | None, patience: timedelta) -> None:
        """Between taking rows and handing them over nobody should be interrupted, unless it takes too long."""
        if loop is None:
            return
        await asyncio.wait({loop}, timeout=patience.total_seconds())
        loop.cancel()
        with suppress(asyncio.CancelledError):
            await loop

    async def _settled(self) -> None:
        """The engine writes outcomes a moment after our rows; closing before that would only make it complain."""
        deadline = self._clock.monotonic() + SETTLE.total_seconds()
        while await self._in_thread(self._engine.unsettled) and self._clock.monotonic() < deadline:
            await self._clock.sleep(SETTLE_POLL)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._blocking, call)


async def _until(event: asyncio.Event, most: timedelta) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(most.total_seconds()):
            await event.wait()
