"""What waits in the inbox and no run takes: after a crash, a resume, or a failure that passed. Called by the leader.

Each integration gets a run where nothing stands in its way; a record to be read again waits for as long as the inbox keeps.
"""

from datetime import timedelta

from reconciler.control import holdup
from reconciler.model.clock import Clock, rfc3339
from reconciler.store import inbox, integrations
from reconciler.store.database import Database, Tx

PAUSE = timedelta(minutes=1)
"""After a run that did not get through, until the next one tries."""


class Stranded:
    """`tick` now and then; returns how many runs it made."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def tick(self) -> int:
        now = self._clock.now()
        before = rfc3339(now - PAUSE)
        found = await self._database.read(lambda tx: [i for i in inbox.stranded(tx, before) if _is_free(tx, i)])
        if not found:
            return 0

        def make(tx: Tx) -> int:
            return len([inbox.ask_run(tx, i, now) for i in inbox.stranded(tx, before) if _is_free(tx, i)])

        return await self._database.write(make)


def _is_free(tx: Tx, integration_id: int) -> bool:
    row = integrations.get(tx, integration_id)
    return row is not None and row.removed_at is None and holdup.of_integration(tx, row) is None
