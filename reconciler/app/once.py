"""One pass and out: what `reconciler apply` does with a daemon that it starts and stops itself.

In: settings that name sources and a state directory nobody else works on. Out: the plan, and how each integration stands
when nothing is left to wait for. Syncs that become due are started like in any daemon; only on request are they waited
for, otherwise they get the stop timeout and go on at the next start.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from reconciler.app.daemon import Daemon
from reconciler.control.standing import Standing, standings
from reconciler.control.view import IntegrationView
from reconciler.model.clock import rfc3339
from reconciler.model.finding import Severity
from reconciler.model.plan import Plan
from reconciler.model.record import RunResult
from reconciler.plan.keys import with_dues
from reconciler.store import ingest_keys, journal, runs
from reconciler.store.database import Tx
from reconciler.store.runs import Run

LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Pass:
    """How the pass is to be done. `approve` is the digest of a prune that may happen in it."""

    timeout: timedelta
    approve: str = ""
    with_syncs: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `trouble` is what kept the pass itself from ending well, for a person."""

    plan: Plan | None = None
    stands: Sequence[tuple[IntegrationView, Standing]] = ()
    bad_runs: Sequence[Run] = ()
    trouble: str = ""

    @property
    def exit_code(self) -> int:
        """1 something failed, else 3 blocked, else 0."""
        plan = self.plan
        if (
            plan is None
            or self.trouble
            or self.bad_runs
            or not all(s.is_good or s is Standing.BLOCKED for _, s in self.stands)
        ):
            return 1
        if any(f.severity is Severity.ERROR for f in plan.findings):
            return 1
        return 3 if plan.blocks else 0


async def apply_once(daemon: Daemon, wanted: Pass, planned: Callable[[Plan], None]) -> Outcome:
    """Start, fetch, plan (`planned` is told), apply, wait, stop. Raises what `Daemon.start` raises."""
    await daemon.start()
    try:
        return await _Watch(daemon, wanted).through(planned)
    finally:
        await daemon.stop()


class _Watch:
    def __init__(self, daemon: Daemon, wanted: Pass) -> None:
        self._daemon = daemon
        self._wanted = wanted
        self._started_at = rfc3339(daemon.clock.now())
        self._end = daemon.clock.monotonic() + wanted.timeout.total_seconds()

    async def through(self, planned: Callable[[Plan], None]) -> Outcome:
        if not await self._until(self._is_fetched):
            return Outcome(trouble="the sources could not be read in time")
        trouble = self._unreadable()
        taken = self._daemon.leading.intaken if self._daemon.leading else None
        if trouble or taken is None:
            return Outcome(trouble=trouble)
        plan = await self._with_dues(await self._approved(taken.plan))
        planned(plan)
        is_done = await self._until(self._is_settled)
        stands, bad_runs = await self._daemon.database.read(self._result)
        return Outcome(plan, stands, bad_runs, "" if is_done else "not everything was done in time")

    async def _until(self, holds: Callable[[], Awaitable[bool]]) -> bool:
        while not await holds():
            if self._daemon.clock.monotonic() > self._end:
                return False
            await self._daemon.clock.sleep(LOOK_SECONDS)
        return True

    async def _is_fetched(self) -> bool:
        """Every source was asked, and what it gave was planned; an error is an answer, too."""
        states = [(name, source.state) for name, source in self._daemon.following.sources.items()]
        if any(state.error for _, state in states):
            return True
        planned = self._daemon.following.planned
        return all(state.fetched_at and planned.get(name) == state.revision for name, state in states)

    def _unreadable(self) -> str:
        errors = [(name, s.state.error) for name, s in self._daemon.following.sources.items()]
        return "; ".join(f"source {name}: {error.message}" for name, error in errors if error)

    async def _approved(self, plan: Plan) -> Plan:
        """The plan after the approval that was given for it, if any."""
        digest, at = self._wanted.approve, rfc3339(self._daemon.clock.now())
        if not plan.blocks or not digest:
            return plan
        await self._daemon.database.write(lambda tx: journal.approve(tx, digest, self._wanted.by, at))
        taken = await self._daemon.settle()
        return taken.plan if taken else plan

    async def _with_dues(self, plan: Plan) -> Plan:
        wished = self._daemon.book.wished
        return with_dues(plan, wished, await self._daemon.database.read(ingest_keys.seen)) if wished else plan

    async def _is_settled(self) -> bool:
        now = self._daemon.clock.now()
        return await self._daemon.database.read(
            lambda tx: (
                all(stands.is_settled for _, stands in standings(tx, now))
                and not (self._wanted.with_syncs and runs.unfinished(tx))
            )
        )

    def _result(self, tx: Tx) -> tuple[Sequence[tuple[IntegrationView, Standing]], Sequence[Run]]:
        found = standings(tx, self._daemon.clock.now())
        ended = [run for view, _ in found for run in runs.history(tx, view.row.id, 1)]
        bad = [run for run in ended if (run.finished_at or "") >= self._started_at and run.result in _BAD]
        return found, bad if self._wanted.with_syncs else ()


_BAD = frozenset({RunResult.FAILED, RunResult.PARTIAL})
