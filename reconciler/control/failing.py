"""A reconcile that failed: what the conditions say, whether and when it is tried again.

What may pass by itself is tried again with full jitter up to five minutes, never before the remote allows. What cannot
(a refused credential, a rejected spec) stops until Git, a secret or a person changes something; nothing is sent meanwhile.
"""

from collections.abc import Sequence
from datetime import timedelta
from random import Random

from reconciler.control.book import SECRET_REASONS
from reconciler.control.visit import Visit, tell_bad
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.job import Outcome
from reconciler.model.record import LogLevel
from reconciler.sdk.errors import place_of
from reconciler.sdk.live import Journal
from reconciler.store import agenda, conditions, integrations, probes
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx

FIRST_BACKOFF = timedelta(seconds=1)
MOST_BACKOFF = timedelta(minutes=5)


class Failures:
    """Records each kind of failure and says when the job is to be called again."""

    def __init__(self, database: Database, journal: Journal, clock: Clock, random: Random) -> None:
        self._database = database
        self._journal = journal
        self._clock = clock
        self._random = random

    async def stop(self, visit: Visit, reason: Reason, message: str, *more: Say) -> Outcome:
        """No retry will help. Waiting for a person's consent is no failure of ours, and not stalled."""
        broken = ConditionType.SECRETS_DECRYPTED if reason in SECRET_REASONS else ConditionType.CONNECTED
        is_waiting = reason is Reason.AWAITING_AUTHORIZATION
        statements = [
            *more,
            Say(broken, Truth.FALSE, reason, message),
            Say(ConditionType.STALLED, None if is_waiting else Truth.TRUE, reason, message),
            Say(ConditionType.RECONCILING, None),
        ]
        await self._record(visit, statements, reason, message, None)
        return Outcome()

    async def retry(
        self, visit: Visit, reason: Reason, message: str, *more: Say, retry_after: timedelta | None = None
    ) -> Outcome:
        most = min(MOST_BACKOFF, FIRST_BACKOFF * 2 ** min(visit.row.retries, 20))
        pause = max(most * self._random.random(), retry_after or timedelta())
        again_at = self._clock.now() + pause
        next_try = f"next try {rfc3339(again_at)}"
        statements = [
            *more,
            Say(ConditionType.CONNECTED, Truth.FALSE, reason, message),
            Say(ConditionType.RECONCILING, Truth.TRUE, Reason.PROGRESSING_WITH_RETRY, next_try),
            Say(ConditionType.STALLED, None),
        ]
        await self._record(visit, statements, reason, message, rfc3339(again_at))
        return Outcome(again_at)

    async def internal(self, visit: Visit, error: Exception) -> Outcome:
        """A fault of ours or of the connector. Its text may hold anything, so it goes to the redacted log alone."""
        where = place_of(error)
        self._journal(visit.row.id, LogLevel.ERROR, f"{where}: {error}")
        message = f"unexpected {where}; the log has more: reconciler logs {visit.row.ref}"
        return await self.retry(visit, Reason.INTERNAL_ERROR, message)

    async def _record(
        self, visit: Visit, statements: Sequence[Say], reason: Reason, message: str, next_at: str | None
    ) -> None:
        row, at = visit.row, rfc3339(self._clock.now())

        def record(tx: Tx) -> bool:
            if not visit.is_current(tx):
                return False
            conditions.say(tx, row.id, row.generation, statements, at)
            if next_at is None:
                agenda.rest(tx, row.id)
            integrations.record_failure(tx, row.id, next_at)
            if reason is not Reason.AWAITING_AUTHORIZATION:  # nothing was asked of the remote
                probes.count_probe(tx, row.id, at, is_good=False)
            tell_bad(tx, visit, at, {"reason": reason, "message": message})
            return True

        if await self._database.write(record):
            level = LogLevel.WARN if reason is Reason.AWAITING_AUTHORIZATION else LogLevel.ERROR
            self._journal(row.id, level, message, reason=reason, retry_attempt=row.retries + 1)
