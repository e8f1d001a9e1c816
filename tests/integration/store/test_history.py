"""The past of a dataset against a plain model of it, over random histories, on both databases."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.model.record import Page, RunResult, Scope
from reconciler.store import dataset, erasure, history, retention, rollback, runs
from reconciler.store.database import Backend, Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.history import Cut, NotKeptError
from reconciler.store.migrations import apply, migrations
from reconciler.store.retention import Tenants
from reconciler.store.runs import Lineage, NewRun, Run

ENTITIES = ("people", "tickets")
KEYS = "abcdefg"
Records = dict[tuple[str, str], bytes]


@pytest.fixture(scope="module")
def small_stretches() -> Iterator[None]:
    """So that a handful of records is many stretches, and a few log entries are too many to be looked through."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollback, "STRETCH", 2)
        patch.setattr(history, "TALLY_STRETCH", 3)
        patch.setattr(history, "NARROW", 6)
        yield


@pytest.fixture
def tx(backend: Backend, small_stretches: None) -> Iterator[Tx]:
    with closing(backend.connect(is_reader=False)) as session, session.transaction("guarded") as opened:
        apply(opened, migrations(), backend.where)
        yield opened


@dataclass
class Past:
    """One integration, and beside it what everybody can understand: copies of a dictionary."""

    tx: Tx
    integration_id: int
    now: Records = field(default_factory=dict)
    versions: list[Records] = field(default_factory=list)
    moments: dict[str, Records] = field(default_factory=dict)
    fence: int = 0
    seconds: int = 0
    oldest: int = 1

    def at(self) -> str:
        self.seconds += 1
        return f"2026-05-04T{self.seconds // 3600:02}:{self.seconds // 60 % 60:02}:{self.seconds % 60:02}.000000Z"

    def sync(self, pages: list[tuple[str, dict[str, int], set[str]]]) -> None:
        """Pages of (entity, what it holds, what is gone)."""
        run = runs.create(self.tx, NewRun(self.integration_id, Scope.INCREMENTAL, "person"), self.at())
        self.fence += 1
        started = runs.start(self.tx, run.id, self.fence, Lineage(1, "r1", "h", "1.0"), self.at())
        assert started is not None
        before = dict(self.now)
        for number, (entity, held, gone) in enumerate(pages):
            progress = runs.open_entity(self.tx, started, entity, False)
            at = self.at()
            commit = PageCommit(
                run.id, self.fence, self.integration_id, progress.entity_id, number, False, False, at
            )  # fmt: skip
            kept = {k: f'{{"v":{v}}}'.encode() for k, v in held.items() if k not in gone}
            dataset.commit_page(self.tx, commit, Page(tuple(kept), tuple(kept.values()), deleted=tuple(gone)))
            self.now |= {(entity, k): payload for k, payload in kept.items()}
            self.now = {place: p for place, p in self.now.items() if place not in {(entity, k) for k in gone}}
            self.moments[at] = dict(self.now)
        counts = self._counts(run.id)
        assert runs.finish(self.tx, started, RunResult.SUCCESS, "", "", self.at())
        assert bool(counts) or before == self.now
        if counts:
            self.versions.append(dict(self.now))

    def _counts(self, run_id: int) -> int:
        found = runs.get(self.tx, run_id)
        assert found is not None
        return found.counts.changed

    def roll_back(self, number: int, kill_after: int) -> None:
        """Killed once after so many stretches, and gone on with by somebody else."""
        made = rollback.begin(self.tx, self.integration_id, number, self.at(), emits_events=False)
        differs = self.now != self.versions[number - 1]
        self._restore(made, kill_after)
        run = self._restore(made, 1000)
        assert runs.finish(self.tx, run, RunResult.SUCCESS, "", "", self.at())
        self.now = dict(self.versions[number - 1])
        done = runs.get(self.tx, run.id)
        assert done is not None
        assert (done.dataset_version is not None) is differs
        if differs:
            self.versions.append(dict(self.now))

    def _restore(self, made: Run, stretches: int) -> Run:
        self.fence += 1
        run = rollback.take(self.tx, made, self.fence, self.at())
        assert run is not None
        for place in rollback.places(self.tx, run):
            at: rollback.Place | None = place
            while at is not None and stretches:
                at = rollback.restore_next(self.tx, run, at, self.at())
                stretches -= 1
        return run

    def erase(self, key: str) -> None:
        at = self.at()
        erasure.erase(self.tx, self.integration_id, [key], None, at)
        for state in (self.now, *self.versions, *self.moments.values()):
            for entity in ENTITIES:
                state.pop((entity, key), None)

    def retain(self, keep: int, bite: int, routed: float) -> None:
        """At most so many versions, first while events are still to be made of a part of the log."""
        i = self.integration_id
        (row,) = self.tx.all("SELECT seq, routed_seq FROM integration WHERE id = :i", i=i)
        seq, already = row
        for position in (max(already, int(seq * routed)), seq):
            self.tx.execute("UPDATE integration SET routed_seq = :r WHERE id = :i", {"r": position, "i": i})
            for one in retention.surplus(self.tx, Tenants(), keep, None):
                while one.integration_id == i and retention.cut_versions(self.tx, one, bite):
                    pass
            unrouted = [v for v in dataset.log_after(self.tx, i, position, 1000) if v.prev is not None]
            assert all(self.tx.value("SELECT 1 FROM version WHERE number = :n", n=v.prev) for v in unrouted)
        self.oldest = max(self.oldest, len(self.versions) - keep + 1)

    def read(self, cut: Cut, limit: int) -> Records:
        found: Records = {}
        for entity in history.entities(self.tx, self.integration_id):
            after: str | None = ""
            while after is not None:
                entries, after = history.records(self.tx, cut, entity.id, after, limit)
                assert [e.key for e in entries] == sorted(e.key for e in entries)
                found |= {(entity.name, e.key): e.payload for e in entries}
                assert all(history.record(self.tx, cut, entity.id, e.key) == e for e in entries)
        return found

    def differ(self, before: Cut, after: Cut, limit: int) -> dict[tuple[str, str], tuple[bytes | None, bytes | None]]:
        found: dict[tuple[str, str], tuple[bytes | None, bytes | None]] = {}
        for entity in history.entities(self.tx, self.integration_id):
            behind: str | None = ""
            while behind is not None:
                some, behind = history.differences(self.tx, before, after, entity.id, behind, limit)
                found |= {(entity.name, d.key): (d.before, d.after) for d in some}
        return found


def _page() -> st.SearchStrategy[Any]:
    keys = st.sampled_from(KEYS)
    return st.tuples(
        st.sampled_from(ENTITIES), st.dictionaries(keys, st.integers(0, 2), max_size=5), st.sets(keys, max_size=3)
    )


_STEP = st.one_of(
    st.tuples(st.just("sync"), st.lists(_page(), max_size=3)),
    st.tuples(st.just("sync"), st.lists(_page(), max_size=3)),
    st.tuples(st.just("rollback"), st.tuples(st.integers(0, 30), st.integers(0, 4))),
    st.tuples(st.just("erase"), st.sampled_from(KEYS)),
)


def _past(tx: Tx) -> Past:
    name = f"i{tx.value('SELECT count(*) FROM integration')}"
    i = tx.value(
        "INSERT INTO integration (public_id, workspace, name, type, created_at, updated_at)"
        " VALUES (:n, 'w', :n, 'desk', '', '') RETURNING id",
        n=name,
    )
    return Past(tx, i)


def _happen(past: Past, steps: list[tuple[str, Any]]) -> None:
    for kind, what in steps:
        if kind == "sync":
            past.sync(what)
        elif kind == "erase":
            past.erase(what)
        elif past.versions:
            past.roll_back(past.oldest + what[0] % (len(past.versions) + 1 - past.oldest), what[1])


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(_STEP, max_size=12), st.integers(1, 4))
def test_every_cut_shows_what_a_plain_model_remembers(tx: Tx, steps: list[tuple[str, Any]], limit: int) -> None:
    past = _past(tx)
    _happen(past, steps)
    cuts = [history.at_version(tx, past.integration_id, n + 1) for n in range(len(past.versions))]
    states = list(past.versions)
    for at, state in past.moments.items():
        cuts.append(history.at_moment(tx, past.integration_id, at))
        states.append(state)
    cuts.append(history.at_present(tx, past.integration_id, past.at()))
    states.append(past.now)
    assert [past.read(cut, limit) for cut in cuts] == states
    counted = {e.name: e.records for e in history.entities(tx, past.integration_id)}
    assert counted == {e: sum(1 for name, _ in past.now if name == e) for e in counted}


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(_STEP, max_size=8), st.lists(_STEP, max_size=4), st.integers(1, 4), st.integers(1, 3), st.floats(0, 1))
def test_what_retention_keeps_is_as_it_was(
    tx: Tx, steps: list[tuple[str, Any]], more: list[tuple[str, Any]], keep: int, bite: int, routed: float
) -> None:
    past = _past(tx)
    i = past.integration_id
    for happened in (steps, more):
        _happen(past, happened)
        past.retain(keep, bite, routed)
        kept = range(past.oldest, len(past.versions) + 1)
        assert [v.number for v in reversed(history.versions(tx, i, 100))] == [*kept]
        for number in kept:
            cut, state = history.at_version(tx, i, number), past.versions[number - 1]
            assert past.read(cut, 2) == state
            since = {k: (state.get(k), past.now.get(k)) for k in state | past.now if state.get(k) != past.now.get(k)}
            assert past.differ(cut, history.at_present(tx, i, past.at()), 2) == since
        assert past.read(history.at_present(tx, i, past.at()), 2) == past.now
        if past.oldest > 1:
            first = history.version(tx, i, past.oldest)
            in_force = "SELECT count(*) FROM version WHERE number > :base AND number <= :last AND op <> 3"
            assert tx.value(in_force, base=i << dataset.SHIFT, last=first.last_number) == len(
                past.versions[past.oldest - 1]
            )
            for at, state in past.moments.items():
                if at >= first.at:
                    assert past.read(history.at_moment(tx, i, at), 2) == state


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(_STEP, min_size=2, max_size=10), st.integers(1, 4))
def test_differences_between_any_two_versions(tx: Tx, steps: list[tuple[str, Any]], limit: int) -> None:
    past = _past(tx)
    _happen(past, steps)
    for i, old in enumerate(past.versions):
        for j, new in enumerate(past.versions):
            before, after = (history.at_version(tx, past.integration_id, n + 1) for n in (i, j))
            expected = {k: (old.get(k), new.get(k)) for k in old | new if old.get(k) != new.get(k)}
            assert past.differ(before, after, limit) == expected
            total = [history.tally(tx, before, after, e.id) for e in history.entities(tx, past.integration_id)]
            assert sum(c.added for c in total) == sum(b is None for b, _ in expected.values())
            assert sum(c.deleted for c in total) == sum(a is None for _, a in expected.values())
            assert sum(c.changed for c in total) == len(expected)


def test_what_is_not_kept_is_said(tx: Tx) -> None:
    past = _past(tx)
    with pytest.raises(NotKeptError, match="no dataset version yet"):
        history.at_version(tx, past.integration_id, 1)
    for value in range(4):
        past.sync([("tickets", {"a": value, "b": 0}, set())])
    with pytest.raises(NotKeptError, match="there is no version 9; the newest is 4 of 2026-"):
        history.at_version(tx, past.integration_id, 9)
    old = history.at_version(tx, past.integration_id, 1)
    cut = history.at_version(tx, past.integration_id, 3)
    (tickets,) = history.entities(tx, past.integration_id)
    tx.execute("DELETE FROM dataset_version WHERE integration_id = :i AND number < 3", {"i": past.integration_id})
    tx.execute("DELETE FROM version WHERE number <= :n AND key = 'a'", {"n": old.last})
    with pytest.raises(NotKeptError, match="version 2 is older than kept; the oldest is 3 of 2026-"):
        history.at_version(tx, past.integration_id, 2)
    with pytest.raises(NotKeptError, match="older than kept; the oldest version is 3"):
        history.at_moment(tx, past.integration_id, "2026-05-04T00:00:03.000000Z")
    with pytest.raises(NotKeptError, match="record a: its version at that time is older than kept"):
        history.records(tx, old, tickets.id)
    assert {e.key: e.payload for e in history.records(tx, cut, tickets.id)[0]} == {"a": b'{"v":2}', "b": b'{"v":0}'}


def test_the_lineage_of_a_record(tx: Tx) -> None:
    past = _past(tx)
    past.sync([("tickets", {"a": 1}, set())])
    past.sync([("tickets", {}, {"a"})])
    past.roll_back(1, 0)
    (tickets,) = history.entities(tx, past.integration_id)
    found = history.lineage(tx, past.integration_id, tickets.id, "a", 10)
    assert [(s.op, s.version, s.has_older) for s in found] == [
        ("restore", 3, False),
        ("delete", 2, False),
        ("create", 1, False),
    ]
    assert [s.has_older for s in history.lineage(tx, past.integration_id, tickets.id, "a", 2)] == [False, True]
    assert history.lineage(tx, past.integration_id, tickets.id, "nobody", 10) == []


def test_a_version_says_what_it_was_made_with(tx: Tx) -> None:
    past = _past(tx)
    past.sync([("tickets", {"a": 1, "b": 1}, set())])
    past.sync([("tickets", {"a": 2}, {"b"})])
    past.roll_back(1, 1)
    newest, second, first = history.versions(tx, past.integration_id, 10)
    assert (first.counts.added, second.counts.updated, second.counts.deleted) == (2, 1, 1)
    assert (first.revision, first.spec_hash, first.connector, first.connector_version) == ("r1", "h", "desk", "1.0")
    assert (newest.restores, newest.revision, newest.connector_version) == (1, "r1", "1.0")
    assert (newest.counts.added, newest.counts.updated, second.restores) == (1, 1, None)
    assert (newest.run or "").startswith("run_")
