"""Job rows for the engine seam: each call is one transaction, with the store's own time; starts and ends share theirs.

Fulfils `reconciler.work.ports.JobStore` (the composition root hands it over; neither room knows the other).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from reconciler.model.job import Claim, Job, JobCount, Pulse, QueueName, Window
from reconciler.store import jobs, notices
from reconciler.store.database import Database, Tx
from reconciler.store.together import Together

A = TypeVar("A")
B = TypeVar("B")
TOGETHER = 32
"""Jobs that begin or end in one transaction at most: a start that has to wait for its lane holds up no more than these."""


@dataclass(frozen=True, slots=True)
class _Start:
    job_id: int
    attempt: int
    owner: str
    lease: timedelta


@dataclass(frozen=True, slots=True)
class _End:
    claim: Claim
    again_at: datetime | None
    failed: bool


class StoredJobs:
    """The job table of one database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._starts = Together(self._start_all, TOGETHER)
        self._ends = Together(self._end_all, TOGETHER)

    async def take_due(self, queue: QueueName, window: Window, ttl: timedelta) -> list[Job]:
        """Takes no write lock unless there is something to take and room for it."""
        room = await self._db.read(lambda tx: jobs.room(tx, tx.now(), queue, window, ttl))
        if room is None:
            return []
        return await self._db.write(lambda tx: jobs.take_due(tx, tx.now(), room, queue), guarded=True)

    async def ask(self, kind: str, ref: str) -> bool:
        return await self._db.write(lambda tx: _ask(tx, kind, ref), guarded=True)

    async def drop(self, kind: str, ref: str) -> Job | None:
        return await self._db.write(lambda tx: _drop(tx, kind, ref), guarded=True)

    async def give_back(self, taken: Sequence[Job]) -> None:
        await self._db.write(lambda tx: jobs.give_back(tx, taken), guarded=True)

    async def start(self, job_id: int, attempt: int, owner: str, lease: timedelta) -> tuple[Job, Claim] | None:
        return await self._starts(_Start(job_id, attempt, owner, lease))

    async def finish(self, claim: Claim, again_at: datetime | None, *, failed: bool) -> bool:
        return await self._ends(_End(claim, again_at, failed))

    async def _start_all(self, starts: Sequence[_Start]) -> Sequence[tuple[Job, Claim] | None]:
        return await self._db.write(lambda tx: _start_each(tx, starts), guarded=True)

    async def _end_all(self, ends: Sequence[_End]) -> Sequence[bool]:
        return await self._db.write(lambda tx: _end_each(tx, ends), guarded=True)

    async def beat(self, owner: str, claims: Sequence[Claim], lease: timedelta) -> Pulse:
        return await self._db.write(lambda tx: _beat(tx, owner, claims, lease), guarded=True)

    async def lost(self, owner: str, claims: Sequence[Claim]) -> list[Claim]:
        held = await self._db.read(lambda tx: jobs.running(tx, owner))
        return [claim for claim in claims if (claim.job_id, claim.attempt) not in held]

    async def dead(self, ttl: timedelta, is_steady: Callable[[datetime], bool]) -> list[str]:
        """Processes that are gone; what they were running is due again."""
        gone = await self._db.read(lambda tx: jobs.dead(tx, tx.now(), ttl))
        return await self._db.write(lambda tx: _bury(tx, ttl, is_steady), guarded=True) if gone else []

    async def forget(self, owner: str) -> None:
        await self._db.write(lambda tx: jobs.forget(tx, owner), guarded=True)

    async def stranded(self, is_steady: Callable[[datetime], bool]) -> list[Job]:
        return await self._db.write(lambda tx: _free(tx, is_steady), guarded=True)

    async def waiting(self, age: timedelta) -> list[Job]:
        return await self._db.read(lambda tx: jobs.waiting(tx, tx.now() - age))

    async def reset(self) -> list[Job]:
        return await self._db.write(jobs.reset, guarded=True)

    async def counts(self) -> list[JobCount]:
        return await self._db.read(jobs.counts)


def _ask(tx: Tx, kind: str, ref: str) -> bool:
    found = jobs.ask(tx, kind, ref, tx.now())
    if found:
        notices.tell(tx, "asked")
    return found


def _drop(tx: Tx, kind: str, ref: str) -> Job | None:
    dropped = jobs.drop(tx, kind, ref)
    if dropped is not None:
        notices.tell(tx, "dropped")
    return dropped


def _start_each(tx: Tx, starts: Sequence[_Start]) -> list[tuple[Job, Claim] | None]:
    now = tx.now()
    return _in_row_order(
        starts,
        lambda one: one.job_id,
        lambda one: jobs.start(tx, one.job_id, one.attempt, one.owner, now, one.lease),
    )


def _end_each(tx: Tx, ends: Sequence[_End]) -> list[bool]:
    return _in_row_order(
        ends, lambda one: one.claim.job_id, lambda one: jobs.finish(tx, one.claim, one.again_at, failed=one.failed)
    )


def _in_row_order(those: Sequence[A], job_id: Callable[[A], int], call: Callable[[A], B]) -> list[B]:
    """As everybody takes rows: two transactions that want the same ones do not wait for each other in a circle."""
    made = {place: call(those[place]) for place in sorted(range(len(those)), key=lambda place: job_id(those[place]))}
    return [made[place] for place in range(len(those))]


def _beat(tx: Tx, owner: str, claims: Sequence[Claim], lease: timedelta) -> Pulse:
    now = tx.now()
    jobs.beat(tx, owner, now)
    return Pulse(now, tuple(jobs.renew(tx, claims, now + lease)), jobs.workers(tx))


def _free(tx: Tx, is_steady: Callable[[datetime], bool]) -> list[Job]:
    now = tx.now()
    return jobs.stranded(tx, now) if is_steady(now) else []


def _bury(tx: Tx, ttl: timedelta, is_steady: Callable[[datetime], bool]) -> list[str]:
    now = tx.now()
    gone = jobs.dead(tx, now, ttl) if is_steady(now) else []
    for owner in gone:
        jobs.release(tx, owner)
    return gone
