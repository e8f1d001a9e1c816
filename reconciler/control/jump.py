"""A wall clock that is set back: due times were written by the old clock and come forward with it, else all would wait.

Called about once a second. A clock that is set forward needs nothing: what it skips is due at once, and missed ticks are one.
"""

from datetime import datetime, timedelta

from reconciler.model.clock import Clock, rfc3339
from reconciler.store.database import Database
from reconciler.store.times import bring_forward

SMALLEST = timedelta(seconds=30)


class JumpWatch:
    """Compares the wall clock with time that passes; `tick` says how far the wall clock was set back, or None."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._last = self._look()

    async def tick(self) -> timedelta | None:
        before, now = self._last, self._look()
        expected = before[0] + timedelta(seconds=now[1] - before[1])
        back = expected - now[0]
        if back < SMALLEST:
            self._last = now
            return None
        # `_last` moves only when that is done: a store that fails now is asked again.
        await self._database.write(lambda tx: bring_forward(tx, rfc3339(now[0]), back))
        self._last = now
        return back

    def _look(self) -> tuple[datetime, float]:
        return self._clock.now(), self._clock.monotonic()
