"""Runs that must not go on: their tasks are stopped, their rows closed, and it is told. Called for orders and by ways out.

What a run stored before stays. One that its own worker closes meanwhile is told by that worker, so each is told once.
"""

from collections.abc import Sequence
from typing import Protocol

from reconciler.model.clock import Clock, rfc3339
from reconciler.model.record import LogLevel
from reconciler.sdk.live import Journal, current_run
from reconciler.store import runs
from reconciler.store.database import Database, Tx
from reconciler.store.runs import Run


class Halt(Protocol):
    """Stops the tasks of runs under way, wherever they are."""

    async def __call__(self, run_ids: Sequence[int]) -> None: ...


class Stopper:
    """`end` takes runs that were cancelled in the store to their end."""

    def __init__(self, database: Database, journal: Journal, clock: Clock, halt: Halt) -> None:
        self._database = database
        self._journal = journal
        self._clock = clock
        self._halt = halt

    async def end(self, run_ids: Sequence[int]) -> None:
        """Stop their tasks first: a page that is still on its way cannot commit any more."""
        if not run_ids:
            return
        await self._halt(run_ids)
        at = rfc3339(self._clock.now())
        for run in await self._database.write(lambda tx: _close(tx, run_ids, at)):
            self._tell(run)

    def _tell(self, run: Run) -> None:
        token = current_run.set(run.id)
        try:
            self._journal(run.integration_id, LogLevel.INFO, f"{run.title} cancelled", reason=run.reason, **run.told)
        finally:
            current_run.reset(token)


def _close(tx: Tx, run_ids: Sequence[int], at: str) -> list[Run]:
    closed = (runs.get(tx, run_id) for run_id in runs.close_cancelled(tx, run_ids, at))
    return [run for run in closed if run is not None]
