"""Lists of events and deliveries are read from indexes on both databases, however many are kept."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from reconciler.model.clock import rfc3339
from reconciler.sdk.testing.room import VirtualClock
from reconciler.store import delivery_list, event_list, events, integrations, lanes
from reconciler.store.database import Backend, Session, Tx
from reconciler.store.events import Sieve
from reconciler.store.integrations import DesiredChange
from reconciler.store.migrations import apply, migrations
from tests.desk import desired

AT = rfc3339(VirtualClock().now())
MANY = 20_000


@pytest.fixture
def full(backend: Backend) -> Iterator[Session]:
    with closing(backend.connect(is_reader=False)) as opened:
        opened.run(lambda tx: apply(tx, migrations(), "the store"), "guarded")
        opened.run(_fill, "write")
        yield opened


def _fill(tx: Tx) -> None:
    wishes = [desired(f"i{n}") for n in range(5)]
    ids = list(integrations.want(tx, [DesiredChange(w, "") for w in wishes], AT).values())
    told = [
        events.Told(f"evt_{n:06}", f"w{n % 50}", ids[n % 5], "a.b", f"2026-01-01T{n:08}", "record") for n in range(MANY)
    ]
    events.note(tx, told)
    tx.executemany(
        "INSERT INTO delivery (public_id, dedupe, event_id, event_type, event_at, integration_id, synchronization, channel,"
        " status, fields, created_at) VALUES (?, ?, ?, 'a.b', ?, ?, 's', 'c', ?, '{}', '')",
        [
            (f"dlv_{n}", f"d{n}", t.public_id, t.at, ids[n % 5], "dead" if n % 997 == 0 else "delivered")
            for n, t in enumerate(told)
        ],
    )
    tx.execute("INSERT INTO attempt (delivery_id, number, at, outcome) SELECT id, 1, '', status FROM delivery")
    tx.execute(
        "INSERT INTO job (kind, queue, key, ref, prio, due_at, state) SELECT 'deliver', 'deliver',"
        " CAST(integration_id AS TEXT), CAST(id AS TEXT), 30, '2026', 'due' FROM delivery"
    )
    if tx.dialect == "postgresql":
        for table in ("event", "delivery", "integration", "job", "attempt", "condition"):
            tx.execute(f"ANALYZE {table}")


class Watched:
    """Passes everything on, and keeps how each question is answered."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.dialect = tx.dialect
        self.plans: list[str] = []

    def all(self, sql: str, /, **params: object) -> object:
        how = "EXPLAIN QUERY PLAN" if self.dialect == "sqlite" else "EXPLAIN"
        self.plans.append("\n".join(str(tuple(row)) for row in self._tx.all(f"{how} {sql}", **params)))
        return self._tx.all(sql, **params)

    def one(self, sql: str, /, **params: object) -> object:
        return next(iter(self.all(sql, **params)), None)  # type: ignore[call-overload]

    def value(self, sql: str, /, **params: object) -> object:
        row = self.one(sql, **params)
        return None if row is None else row[0]  # type: ignore[index]


def test_no_list_reads_a_whole_table(full: Session) -> None:
    def ask(tx: Tx) -> list[str]:
        watched = Watched(tx)
        seen: Tx = watched  # type: ignore[assignment]
        for sieve in (Sieve(), Sieve(workspace="w7"), Sieve(integrations=(2,)), Sieve(since="2026", until="2027")):
            for before in (None, ("2026-01-01T00009000", "evt_009000")):
                assert len(event_list.page(seen, sieve, (), (), before, 20).found) == 20
        assert len(event_list.page(seen, Sieve(), (), ("dead",), None, 20).found) == 20
        targets = delivery_list.targets(seen, None)
        assert len(targets) == 5
        assert len(delivery_list.newest(seen, targets, (), 15_000, 20)) == 20
        assert len(delivery_list.newest(seen, targets, ("dead",), None, 20)) == 20
        delivery_list.of_event(seen, "evt_000017")
        watched.one(lanes._NEXT, queue="deliver", key="1", now=AT, target=1, generation=1)
        return watched.plans

    found = full.run(ask, "read")
    assert [plan for plan in found for line in plan.splitlines() if _reads_all(line)] == []
    sorts = [
        plan for plan in found if "TEMP B-TREE FOR ORDER" in plan and not re.search("delivery_of_event|leap", plan)
    ]
    assert sorts == [], "only the few deliveries of a page, and targets, are sorted"


def _reads_all(line: str) -> bool:
    return bool(re.search(r"SCAN (event|delivery|d|job)\b(?! USING)|Seq Scan on (event|delivery|job|attempt)", line))


def test_a_page_stops_though_nothing_fits(full: Session) -> None:
    page = full.run(lambda tx: event_list.page(tx, Sieve(), ["no.such"], (), None, 20), "read")
    assert page.found == []
    assert page.after is not None
    since = page.after[0]
    walked = full.run(lambda tx: tx.value("SELECT count(*) FROM event WHERE at >= :a", a=since), "read")
    assert walked == event_list.MOST_WALKED
