"""When the next sync, and the next listing of keys, is due, and the ticks that make runs of what is due.

Times in UTC from the clock handed in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from zoneinfo import ZoneInfo

from cronsim import CronSim

from reconciler.control.book import Book
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.duration import render_duration
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration, Sync
from reconciler.model.record import Scope
from reconciler.model.state import DesiredIntegration
from reconciler.store import agenda, conditions, integrations, jobs, listings, runs
from reconciler.store.agenda import Ageing
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.runs import NewRun, Run

SYNC_PRIO = 50
LISTING_EVERY = timedelta(hours=24)
BATCH = 200
MOST_JITTER = timedelta(seconds=30)
MOST_SHARE = 0.9
UNKNOWN_PAUSE = timedelta(minutes=1)
_LATENESS = (Reason.LATE, Reason.STALE)


def next_due(sync: Sync, after: datetime, random: Random) -> datetime | None:
    """The next start behind `after`, with jitter; None where only a person starts syncs.

    Cron is read in the manifest's zone: a local time that does not exist on a day of clock change moves on, one that
    exists twice runs once.
    """
    if sync.schedule is not None:
        return _next_tick(sync, sync.schedule, after, random)
    if sync.every is not None:
        return after + sync.every - _jitter(sync, sync.every, random)
    return None


def next_listing(sync: Sync, after: datetime, random: Random) -> datetime | None:
    """When keys are listed next to find what is gone; None where only a person or a full run does that.

    An interval is spread by a tenth of it: listings are long, and many integrations come with one commit.
    """
    wanted = sync.deletions
    if not wanted.enabled:
        return None
    if wanted.schedule is not None:
        return _next_tick(sync, wanted.schedule, after, random)
    reads_changes = sync.scope == "incremental" and (sync.schedule or sync.every)
    every = wanted.every or (LISTING_EVERY if reads_changes else None)
    return None if every is None else after + every * (1 - random.random() / 10)


def _next_tick(sync: Sync, schedule: str, after: datetime, random: Random) -> datetime:
    ticks = CronSim(schedule, after.astimezone(ZoneInfo(sync.time_zone)))
    first, second = next(ticks).astimezone(UTC), next(ticks).astimezone(UTC)
    return first + _jitter(sync, second - first, random)


def _jitter(sync: Sync, interval: timedelta, random: Random) -> timedelta:
    """Less than an interval whatever was asked for: a tick is spread, never skipped and never due at once again."""
    most = sync.jitter if sync.jitter is not None else min(interval / 10, MOST_JITTER)
    return min(most, interval * MOST_SHARE) * random.random()


def plan_listing(tx: Tx, row: IntegrationRow, sync: Sync, now: datetime, random: Random) -> None:
    """Counted from the last one: what changes or comes back every day would put it off for ever.

    What is overdue is spread, too: after an upgrade that is all of them.
    """
    following = next_listing(sync, now, random)
    last = listings.last(tx, row.id) if following else None
    counted = next_listing(sync, from_rfc3339(last), random) if last else None
    if following and counted:
        following = counted if counted > now else now + (following - now) / 10 * random.random()
    listings.set_next(tx, row.id, rfc3339(following) if following else None)


def reads(manifest: Integration) -> bool:
    """Whether the integration syncs at all."""
    return manifest.spec.sync_direction != "outbound" and manifest.spec.enabled and not manifest.spec.suspend


def make_run(tx: Tx, new: NewRun, prio: int, now: datetime) -> str:
    """A due run and its job; returns the run's public id.

    A scheduled one joins a run that is still open: missed ticks coalesce, and a pause that the remote asked for holds.
    """
    open_runs = runs.open_runs(tx, new.integration_id) if new.cause == "schedule" else []
    waiting = next((run for run in open_runs if _stands_for(run, new)), None)
    if waiting is not None:
        return waiting.public_id
    run = runs.create(tx, new, rfc3339(now))
    jobs.put(tx, kind="sync", ref=str(run.id), key=str(new.integration_id), prio=prio, due_at=now)
    return run.public_id


def _stands_for(run: Run, new: NewRun) -> bool:
    """A replay reads nothing of the remote, a run for what was sent to us only that, a listing of keys no record, and only a
    full run finds what that would.
    """
    if new.scope is Scope.KEYS:
        return run.is_sync and run.scope in (Scope.KEYS, Scope.FULL) and run.entities is None
    return not (run.is_replay or run.is_inbound) and run.scope is not Scope.KEYS


class Scheduler:
    """`tick` makes runs of what is due and states what has become late; call it about once a second."""

    def __init__(self, database: Database, book: Book, clock: Clock, random: Random, due: Callable[[], None]) -> None:
        self._database = database
        self._book = book
        self._clock = clock
        self._random = random
        self._due = due

    async def tick(self) -> int:
        """How many were due. Missed ticks coalesce: the next due time is counted from now. Waits for desired state."""
        if self._book.state is None:
            return 0
        return await self._drain(_SYNCS) + await self._drain(_LISTINGS)

    async def _drain(self, timed: "_Timed") -> int:
        total = 0
        while True:
            now = self._clock.now()
            made = await self._database.read(partial(timed.due, now=rfc3339(now), limit=BATCH))
            if not made:
                return total
            await self._database.write(partial(self._make, timed=timed, ids=[i for i, _ in made], now=now))
            total += len(made)
            self._due()

    def _make(self, tx: Tx, timed: "_Timed", ids: list[int], now: datetime) -> None:
        for integration_id in ids:
            row = integrations.get(tx, integration_id)
            desired = self._in_force(row.ref) if row else None
            if desired is None:
                # its file, or its secret, is broken since before this process began: looked at again, never forgotten
                timed.put(tx, integration_id, rfc3339(now + UNKNOWN_PAUSE))
                continue
            sync = desired.manifest.spec.sync
            make_run(tx, NewRun(integration_id, timed.scope or Scope(sync.scope), "schedule"), SYNC_PRIO, now)
            following = timed.following(sync, now, self._random)
            timed.put(tx, integration_id, rfc3339(following) if following else None)

    def _in_force(self, ref: Ref) -> DesiredIntegration | None:
        """None also where not even a last good spec can be read: a run of it would only fail."""
        unread = self._book.unread.get(ref)
        return self._book.get(ref) if unread is None or unread.kept else None

    async def state_freshness(self) -> None:
        """`Fresh` turns false when the last success is older than the objective, though no run failed, and back."""
        now = self._clock.now()
        found = [(a, self._freshness(a, now)) for a in await self._database.read(partial(agenda.ageing, now=now))]
        changed = [(a, say) for a, say in found if say is not None]
        if changed:
            at = rfc3339(now)
            await self._database.write(
                lambda tx: [conditions.say(tx, a.id, a.generation, [say], at) for a, say in changed]
            )

    def _freshness(self, found: Ageing, now: datetime) -> Say | None:
        """None where what `Fresh` says may stand: also that the last run failed, which says more than late."""
        desired = self._book.get(found.ref)
        if desired is None or not reads(desired.manifest) or not found.since:
            return None
        age = now - from_rfc3339(found.since)
        if found.objective is None or age <= found.objective:
            return _fresh_again(found)
        if found.truth is Truth.FALSE and found.reason not in _LATENESS:
            return None
        reason = Reason.STALE if age > 2 * found.objective else Reason.LATE
        if reason is found.reason:
            return None
        message = f"no successful sync for longer than {render_duration(found.objective)}"
        return Say(ConditionType.FRESH, Truth.FALSE, reason, message)


@dataclass(frozen=True, slots=True)
class _Timed:
    """One of the two schedules of an integration. `scope` is that of its runs, None: the manifest's."""

    due: Callable[..., list[tuple[int, str]]]
    put: Callable[[Tx, int, str | None], None]
    following: Callable[[Sync, datetime, Random], datetime | None]
    scope: Scope | None = None


_SYNCS = _Timed(agenda.due_syncs, integrations.set_next_sync, next_due)
_LISTINGS = _Timed(agenda.due_listings, listings.set_next, next_listing, Scope.KEYS)


def _fresh_again(found: Ageing) -> Say | None:
    if found.reason not in _LATENESS:
        return None
    if found.last_result != "success":
        return Say(ConditionType.FRESH, None)
    return Say(ConditionType.FRESH, Truth.TRUE, Reason.SUCCEEDED, "the last sync succeeded")
