"""The jobs this process runs now: claim, run the kind, settle the row. Called by the engine for every start.

Whatever happens, the row ends up done or due: an exception makes it due later, a lost claim stops the task, and a
store that cannot answer is asked again until it can. What a kind does is not known here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from reconciler.model.clock import Clock
from reconciler.model.job import Claim, Job, Outcome
from reconciler.work.ports import JobStore, Kinds, Report
from reconciler.work.settings import WorkSettings

T = TypeVar("T")
ASK_AGAIN = timedelta(seconds=0.2)
ASK_AGAIN_MOST = timedelta(seconds=5)


class UnknownKindError(Exception):
    """A row of a kind this process does not run."""


@dataclass(frozen=True, slots=True)
class Held:
    """A claim and the task that works under it."""

    job: Job
    claim: Claim
    task: asyncio.Task[Outcome]


class Hand:
    """At most one task for each attempt."""

    def __init__(
        self,
        store: JobStore,
        kinds: Kinds,
        settings: WorkSettings,
        clock: Clock,
        report: Report,
        random: Callable[[], float],
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._settings = settings
        self._clock = clock
        self._report = report
        self._random = random
        self._held: dict[int, Held] = {}
        self._given_up: set[int] = set()
        self._inside: set[asyncio.Task[object]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._is_leaving = False
        self.on_end: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._held)

    @property
    def claims(self) -> list[Claim]:
        """What to renew: not what was cancelled and cannot be settled, so its lane opens when the lease ends."""
        return [held.claim for attempt, held in self._held.items() if attempt not in self._given_up]

    async def run(self, kind: str, job_id: int, attempt: int) -> None:
        """The body of the engine's one workflow."""
        me = asyncio.current_task()
        assert me is not None  # noqa: S101
        self._inside.add(me)
        self._empty.clear()
        try:
            await self._run(job_id, attempt)
        finally:
            self._inside.discard(me)
            if not self._inside:
                self._empty.set()
            self.on_end()

    async def _run(self, job_id: int, attempt: int) -> None:
        if attempt in self._held:
            return
        started = await self._insist(
            lambda: self._store.start(job_id, attempt, self._settings.owner, self._settings.lease)
        )
        if started is None:
            return
        job, claim = started
        await self._end_predecessor(claim)
        task = asyncio.create_task(self._call(job, claim), name=job.workflow_id)
        self._held[attempt] = Held(job, claim, task)
        try:
            await asyncio.wait({task})
        finally:
            try:
                await self._stop(task)  # only where we are cancelled ourselves while the task was running
                await self._settle(job, claim, task)
            finally:  # also where we are cancelled now: what is not held is not renewed, so its lane opens when the lease ends
                del self._held[attempt]
                self._given_up.discard(attempt)

    async def _end_predecessor(self, claim: Claim) -> None:
        """Our claim outdid one that we ourselves still work under: that one stops first."""
        for held in list(self._held.values()):
            if (held.claim.queue, held.claim.key) == (claim.queue, claim.key):
                await self._stop(held.task)

    async def _call(self, job: Job, claim: Claim) -> Outcome:
        kind = self._kinds.get(job.kind)
        if kind is None:
            raise UnknownKindError(f"no code for jobs of kind {job.kind}; run one release on all processes")
        return await kind(job, claim)

    async def _stop(self, task: asyncio.Task[Outcome]) -> None:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})

    async def _settle(self, job: Job, claim: Claim, task: asyncio.Task[Outcome]) -> None:
        again_at, failed = self._verdict(job, task)
        await self._insist(lambda: self._store.finish(claim, again_at, failed=failed))

    def _verdict(self, job: Job, task: asyncio.Task[Outcome]) -> tuple[datetime | None, bool]:
        if task.cancelled():  # a dropped row stays dropped; any other is to be done again
            return self._clock.now(), False
        error = task.exception()
        if error is None:
            return task.result().again_at, False
        self._report("job failed", error, job)
        return self._clock.now() + self._backoff(job.failures), True

    def _backoff(self, failures: int) -> timedelta:
        """Full jitter: many that failed together do not come back together."""
        most = min(self._settings.retry_most, self._settings.retry_first * (1 << min(failures + 1, 16)))
        return max(self._settings.retry_first, most * self._random())

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """A full disk or a locked database ends some day; our lease is renewed until then, or somebody else takes over.

        A process that is leaving does not wait for that day: the row is found stranded later.
        """
        pause = ASK_AGAIN
        while True:
            try:
                return await call()
            except Exception as error:  # noqa: BLE001 whatever the store throws, the job must be settled
                self._report("store does not answer", error, None)
                if self._is_leaving:
                    return None
                await self._clock.sleep(pause.total_seconds())
                pause = min(pause * 2, ASK_AGAIN_MOST)

    def leave(self) -> None:
        """From now on a store that does not answer is asked once."""
        self._is_leaving = True

    def cancel(self, attempt: int) -> bool:
        """Stop one at once; its row decides what becomes of it."""
        held = self._held.get(attempt)
        if held is None:
            return False
        if held.task.done():
            self._given_up.add(attempt)
        return held.task.cancel()

    def cancel_all(self) -> None:
        for held in list(self._held.values()):
            held.task.cancel()

    def abandon(self) -> None:
        """Give up on a store that does not answer; the rows are found stranded later."""
        for task in list(self._inside):
            task.cancel()

    async def emptied(self, patience: timedelta) -> bool:
        """Whether all have ended within that time."""
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True
