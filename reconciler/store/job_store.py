"""Job rows for the engine seam: each call is one transaction, with the store's own time.

Fulfils `reconciler.work.ports.JobStore` (the composition root hands it over; neither room knows the other).
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from reconciler.model.job import Claim, Job, JobCount, Pulse, QueueName, Window
from reconciler.store import jobs
from reconciler.store.database import Database, Tx


class StoredJobs:
    """The job table of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def take_due(self, queue: QueueName, window: Window, ttl: timedelta) -> list[Job]:
        """Takes no write lock unless there is something to take and room for it."""
        room = await self._db.read(lambda tx: jobs.room(tx, tx.now(), queue, window, ttl))
        if room is None:
            return []
        return await self._db.write(lambda tx: jobs.take_due(tx, tx.now(), room, queue), guarded=True)

    async def ask(self, kind: str, ref: str) -> bool:
        return await self._db.write(lambda tx: jobs.ask(tx, kind, ref, tx.now()), guarded=True)

    async def drop(self, kind: str, ref: str) -> Job | None:
        return await self._db.write(lambda tx: jobs.drop(tx, kind, ref), guarded=True)

    async def give_back(self, taken: Sequence[Job]) -> None:
        await self._db.write(lambda tx: jobs.give_back(tx, taken), guarded=True)

    async def start(self, job_id: int, attempt: int, owner: str, lease: timedelta) -> tuple[Job, Claim] | None:
        return await self._db.write(lambda tx: _start(tx, job_id, attempt, owner, lease), guarded=True)

    async def finish(self, claim: Claim, again_at: datetime | None, *, failed: bool) -> bool:
        return await self._db.write(lambda tx: jobs.finish(tx, claim, again_at, failed=failed), guarded=True)

    async def beat(self, owner: str, claims: Sequence[Claim], lease: timedelta) -> Pulse:
        return await self._db.write(lambda tx: _beat(tx, owner, claims, lease), guarded=True)

    async def dead(self, ttl: timedelta) -> list[str]:
        """Processes that are gone; what they were running is due again."""
        gone = await self._db.read(lambda tx: jobs.dead(tx, tx.now(), ttl))
        return await self._db.write(lambda tx: _bury(tx, ttl), guarded=True) if gone else []

    async def forget(self, owner: str) -> None:
        await self._db.write(lambda tx: jobs.forget(tx, owner), guarded=True)

    async def stranded(self) -> list[Job]:
        return await self._db.write(lambda tx: jobs.stranded(tx, tx.now()), guarded=True)

    async def waiting(self, age: timedelta) -> list[Job]:
        return await self._db.read(lambda tx: jobs.waiting(tx, tx.now() - age))

    async def reset(self) -> list[Job]:
        return await self._db.write(jobs.reset, guarded=True)

    async def counts(self) -> list[JobCount]:
        return await self._db.read(jobs.counts)


def _start(tx: Tx, job_id: int, attempt: int, owner: str, lease: timedelta) -> tuple[Job, Claim] | None:
    claim = jobs.start(tx, job_id, attempt, owner, tx.now(), lease)
    return None if claim is None else (jobs.get(tx, job_id), claim)


def _beat(tx: Tx, owner: str, claims: Sequence[Claim], lease: timedelta) -> Pulse:
    now = tx.now()
    jobs.beat(tx, owner, now)
    return Pulse(now, tuple(jobs.renew(tx, claims, now + lease)))


def _bury(tx: Tx, ttl: timedelta) -> list[str]:
    gone = jobs.dead(tx, tx.now(), ttl)
    for owner in gone:
        jobs.release(tx, owner)
    return gone
