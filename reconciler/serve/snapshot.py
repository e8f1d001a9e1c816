"""The board: everything lists and metrics show, kept in memory in finished form and brought up to date as rows change.

In: the store. Out: a `Snapshot`, replaced as a whole, never changed. The daemon calls `refresh` every second; readers call
`current`, which waits only where the board is older than they may be told. A refresh reads one short mark per integration,
then only those whose mark changed, in a thread of the store's; it takes at most a twentieth of the time, and while nobody
has asked for a while it is left out. Deliveries that ended are counted over all history kept, therefore more seldom.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reconciler.control.view import IntegrationView, views
from reconciler.model.clock import Clock, from_rfc3339
from reconciler.model.condition import Status
from reconciler.model.finding import Severity
from reconciler.model.job import JobCount
from reconciler.serve.exposition import integration_lines
from reconciler.serve.forms import SpecFacts, spec_facts, summary, to_json
from reconciler.store import deliveries, ingest_keys, jobs, journal, runs, shown
from reconciler.store.database import Database, Tx
from reconciler.store.journal import SourceRow

OPEN = frozenset({"pending", "sending", "failed"})
Counts = Mapping[int, Mapping[str, int]]
Key = tuple[str, str]
"""Workspace and name: the order of lists."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fresh the board is while it is looked at, and after how long without a look it rests."""

    at_most: timedelta = timedelta(seconds=1)
    stale: timedelta = timedelta(seconds=2)
    missed: timedelta = timedelta(seconds=0.1)
    resting: timedelta = timedelta(seconds=60)
    rest_after: timedelta = timedelta(seconds=3)
    share: float = 0.05
    ended_share: float = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One integration in finished form. `turns_at` is when its state changes by time alone (freshness)."""

    id: int
    public_id: str
    workspace: str
    name: str
    type: str
    status: Status
    labels: Mapping[str, str]
    search: str
    facts: SpecFacts
    desired_hash: str
    turns_at: datetime | None
    json: bytes
    lines: tuple[bytes, ...]
    deliveries: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.workspace, self.name


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment: integrations by workspace and name, `keys` being those, and what else `/metrics` shows of the store."""

    at: datetime
    version: int = 0
    entries: tuple[Entry, ...] = ()
    keys: Sequence[Key] = ()
    sources: Sequence[SourceRow] = ()
    findings: Mapping[Severity, int] = field(default_factory=dict)
    queue: Sequence[JobCount] = ()
    workers: int = 0
    key_operations: Sequence[tuple[str, str, str, int]] = ()


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a refresh compares with and goes on from."""

    marks: Mapping[int, str] = field(default_factory=dict)
    entries: Mapping[int, Entry] = field(default_factory=dict)
    ended: Counts = field(default_factory=dict)
    ended_at: float = -1e9
    ended_cost: float = 0.0


class Board:
    """Made once by the daemon; `current` and `refresh` from its loop."""

    def __init__(self, database: Database, clock: Clock, pace: Pace | None = None) -> None:
        self._database = database
        self._clock = clock
        self._pace = pace or Pace()
        self._kept = _Kept()
        self._loading = asyncio.Lock()
        self._loaded_at: float | None = None
        self._asked_at = clock.monotonic()
        self._cost = 0.0
        self.snapshot = Snapshot(clock.now())

    async def refresh(self) -> None:
        """Bring the board up to date where that is due; call it about every second. Raises StoreError."""
        if self._clock.monotonic() >= self._due():
            await self.reload()

    async def current(self) -> Snapshot:
        """For readers: not older than `Pace.stale`, as far as the size of the installation permits. Raises StoreError."""
        now = self._asked_at = self._clock.monotonic()
        # Twice what a refresh is spared: readers wait only where the daemon's own refresh failed to come.
        if self._loaded_at is None or now > self._loaded_at + max(self._pace.stale.total_seconds(), 2 * self._spared()):
            await self.reload(asked_at=now)
        return self.snapshot

    async def newer(self) -> Snapshot:
        """For a reader who misses what may just have come: bounded by half of the time. Raises StoreError."""
        now = self._clock.monotonic()
        if self._loaded_at is None or now > self._loaded_at + max(self._pace.missed.total_seconds(), 2 * self._cost):
            await self.reload(asked_at=now)
        return self.snapshot

    async def reload(self, asked_at: float | None = None) -> None:
        """Read now. With `asked_at`, one that began later counts: many who wait at once cause one reading."""
        async with self._loading:
            started = self._clock.monotonic()
            if asked_at is not None and self._loaded_at is not None and self._loaded_at >= asked_at:
                return
            before, kept = self.snapshot, self._kept
            self.snapshot, self._kept = await self._database.read(lambda tx: self._read(tx, before, kept))
            self._loaded_at = started
            self._cost = self._clock.monotonic() - started

    def _spared(self) -> float:
        return self._cost / self._pace.share

    def _due(self) -> float:
        if self._loaded_at is None:
            return 0.0
        is_resting = self._clock.monotonic() > self._asked_at + self._pace.rest_after.total_seconds()
        pause = self._pace.resting if is_resting else self._pace.at_most
        return self._loaded_at + max(pause.total_seconds(), self._spared())

    def _read(self, tx: Tx, before: Snapshot, kept: _Kept) -> tuple[Snapshot, _Kept]:
        """In a thread of the store's."""
        now = self._clock.now()
        kept = self._with_ended(tx, kept)
        counts = _counts(kept.ended, deliveries.open_counts(tx))
        marks = _marks(tx, counts)
        entries = _entries(tx, now, marks, kept, counts)
        snapshot = _snapshot(tx, now, before, entries)
        return snapshot, _Kept(marks, entries, kept.ended, kept.ended_at, kept.ended_cost)

    def _with_ended(self, tx: Tx, kept: _Kept) -> _Kept:
        started = self._clock.monotonic()
        if started < kept.ended_at + kept.ended_cost / self._pace.ended_share:
            return kept
        ended: dict[int, dict[str, int]] = {}
        for (integration_id, status), count in deliveries.counts(tx).items():
            if status not in OPEN:
                ended.setdefault(integration_id, {})[status] = count
        return _Kept(kept.marks, kept.entries, ended, started, self._clock.monotonic() - started)


def _counts(ended: Counts, still_open: Counts) -> Counts:
    if not still_open:
        return ended
    return {i: {**ended.get(i, {}), **still_open.get(i, {})} for i in ended.keys() | still_open.keys()}


def _marks(tx: Tx, counts: Counts) -> dict[int, str]:
    """Texts, because ten thousand small containers a second would wake the garbage collector, which holds the loop."""
    marks = shown.marks(tx)
    oldest, running = deliveries.oldest_open(tx), runs.every_running(tx)
    for i in counts.keys() | oldest.keys() | running.keys():
        if i in marks:
            marks[i] += f"|{i in running}|{oldest.get(i)}|{sorted(counts.get(i, {}).items())}"
    return marks


def _entries(tx: Tx, now: datetime, marks: Mapping[int, str], kept: _Kept, counts: Counts) -> Mapping[int, Entry]:
    """The same mapping where nothing changed, so that what was derived from it stays."""
    changed = [i for i, mark in marks.items() if kept.marks.get(i) != mark or _turned(kept.entries[i], now)]
    if not changed and len(marks) == len(kept.entries):
        return kept.entries
    fresh = {v.row.id: _entry(tx, v, kept.entries.get(v.row.id), now) for v in views(tx, now, changed, counts)}
    return {i: fresh.get(i) or kept.entries[i] for i in marks}


def _turned(entry: Entry, now: datetime) -> bool:
    return entry.turns_at is not None and entry.turns_at <= now


def _entry(tx: Tx, view: IntegrationView, before: Entry | None, now: datetime) -> Entry:
    row = view.row
    is_same = before is not None and before.desired_hash == row.desired_hash
    facts = before.facts if before and is_same else spec_facts(shown.desired_tree(tx, row.id))
    return Entry(
        id=row.id,
        public_id=row.public_id,
        workspace=row.workspace,
        name=row.name,
        type=row.type,
        status=view.status,
        labels=row.labels,
        search=f"{row.name} {row.display_name} {row.workspace} {row.type} {row.public_id}".casefold(),
        facts=facts,
        desired_hash=row.desired_hash,
        turns_at=_turns_at(view, now),
        deliveries=view.deliveries,
        json=to_json(summary(view, facts)),
        lines=integration_lines(view),
    )


def _turns_at(view: IntegrationView, now: datetime) -> datetime | None:
    """Late after the objective, failed after twice that."""
    if view.objective is None or view.row.last_sync_at is None:
        return None
    last = from_rfc3339(view.row.last_sync_at)
    return next((at for n in (1, 2) if (at := last + n * view.objective + timedelta(microseconds=1)) > now), None)


def _snapshot(tx: Tx, now: datetime, before: Snapshot, entries: Mapping[int, Entry]) -> Snapshot:
    ordered = _ordered(before.entries, entries)
    is_same = ordered == before.entries
    findings: dict[Severity, int] = dict.fromkeys(Severity, 0)
    for finding in journal.findings(tx):
        findings[finding.severity] += 1
    return Snapshot(
        at=now,
        version=before.version if is_same else before.version + 1,
        entries=before.entries if is_same else ordered,
        keys=before.keys if is_same else tuple(entry.key for entry in ordered),
        sources=journal.sources(tx),
        findings=findings,
        queue=jobs.counts(tx),
        workers=jobs.workers(tx),
        key_operations=ingest_keys.operations(tx),
    )


def _ordered(before: tuple[Entry, ...], entries: Mapping[int, Entry]) -> tuple[Entry, ...]:
    if entries.keys() == {entry.id for entry in before}:
        return tuple(entries[entry.id] for entry in before)
    return tuple(sorted(entries.values(), key=lambda entry: entry.key))
