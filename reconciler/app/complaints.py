"""What work complains of, in the daemon's log. A store that fails is no fault of ours: one line, and not twice a second.

In: reports of the job engine's seam. Out: log lines. A full disk may well be the one that the log is on, too.
"""

from datetime import timedelta
from typing import Any

from reconciler.model.clock import Clock
from reconciler.model.job import Job
from reconciler.store.errors import StoreConflictError, StoreError
from reconciler.work.ports import EngineError

SAY_AGAIN = timedelta(minutes=5)


class Complaints:
    """`logger` is structlog's. The same trouble of the store is told again only after a while."""

    def __init__(self, clock: Clock, logger: Any) -> None:
        self._clock = clock
        self._logger = logger
        self._said: dict[str, float] = {}

    def __call__(self, message: str, error: BaseException, job: Job | None) -> None:
        about = {"job": job.workflow_id} if job else {}
        if not isinstance(error, StoreError | EngineError) or isinstance(error, StoreConflictError):
            self._logger.error(message, **about, exc_info=error)
        elif self._is_new(str(error)):
            self._logger.error(message, **about, error=str(error))

    def _is_new(self, text: str) -> bool:
        now, last = self._clock.monotonic(), self._said.get(text)
        if last is not None and now < last + SAY_AGAIN.total_seconds():
            return False
        self._said[text] = now
        return True
