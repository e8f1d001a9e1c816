"""The time of the database server, for processes on machines whose clocks differ: what one writes is due, another reads.

In: the machine's own clock. Out: a `Clock` that runs by the machine's monotonic time and is set by the server's. Called by the
daemon: once before anything is written, then every few seconds.
"""

from datetime import datetime, timedelta

from reconciler.model.clock import Clock
from reconciler.store.database import Database

ALIGN_SECONDS = 10.0
_NOISE = timedelta(milliseconds=20)


class ServerClock:
    """Implements `Clock`; before the first `align` it tells the machine's own time."""

    def __init__(self, machine: Clock) -> None:
        self._machine = machine
        self._set_to, self._set_at = machine.now(), machine.monotonic()

    async def align(self, database: Database) -> None:
        """Set it where it is off by more than the question took. Raises StoreError."""
        asked = self._machine.monotonic()
        told = await database.read(lambda tx: tx.now())
        answered = self._machine.monotonic()
        doubt = timedelta(seconds=answered - asked)
        if abs(self.now() - told) > doubt + _NOISE:
            self._set_to, self._set_at = told, (asked + answered) / 2

    def now(self) -> datetime:
        return self._set_to + timedelta(seconds=self._machine.monotonic() - self._set_at)

    def monotonic(self) -> float:
        return self._machine.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._machine.sleep(seconds)
