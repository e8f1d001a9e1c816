"""A source whose every look is noted, so that `status` says when Git was last asked and a command can wait for it.

Wraps a `Source` for the daemon; `poll` alone tells what is new, and nothing when nothing is.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

from reconciler.desired.snapshot import Snapshot
from reconciler.desired.source import Source, SourceState
from reconciler.desired.source_error import SourceError
from reconciler.desired.source_settings import SourceSettings
from reconciler.model.clock import Clock
from reconciler.serve.metrics import Metrics


class Attended:
    """Implements `Source`. `note` is called after each fetch that failed or brought nothing new, with when that fetch began:
    what came to Git later may not be in it.

    What is new is noted by whoever takes it over, when that is done: until then it is not what counts. `asked` is when the
    last fetch that succeeded began, `taken_as_of` the same of the last one whose result is taken over (monotonic seconds).
    """

    def __init__(
        self,
        source: Source,
        note: Callable[[Source, datetime | None], Awaitable[None]],
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._source = source
        self._note = note
        self.asked = self.taken_as_of = -math.inf
        self._asked_at: datetime | None = None
        self._metrics = metrics
        self._clock = clock

    @property
    def settings(self) -> SourceSettings:
        return self._source.settings

    @property
    def state(self) -> SourceState:
        return self._source.state

    @property
    def last_good(self) -> Snapshot | None:
        return self._source.last_good

    async def note(self) -> None:
        await self._note(self._source, self._asked_at)

    async def restore(self) -> Snapshot | None:
        return await self._source.restore()

    async def fetch(self) -> Snapshot:
        before, result = self._source.last_good, "error"
        started, self._asked_at = self._clock.monotonic(), self._clock.now()
        try:
            found = await self._source.fetch()
            result = "success"
        except SourceError as error:
            result = str(error.reason)
            await self.note()
            raise
        finally:
            self._metrics.observe_git(self.settings.name, result, self._clock.monotonic() - started)
        self.asked = started
        if found is before:
            self.taken_as_of = started
            await self.note()
        return found

    def watch(self) -> AsyncIterator[None]:
        return self._source.watch()
