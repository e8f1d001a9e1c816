"""A moment in a table that grows in order of time, by its primary key alone; also with gaps and with rows that come late."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.model.clock import rfc3339
from reconciler.store.database import Backend, Tx
from reconciler.store.migrations import apply, migrations
from reconciler.store.seeking import first_since

START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def tx(backend: Backend) -> Iterator[Tx]:
    with closing(backend.connect(is_reader=False)) as session, session.transaction("guarded") as opened:
        apply(opened, migrations(), backend.where)
        yield opened


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 300), st.integers(0, 59)), max_size=30),
    st.integers(-300, 3000),
)
def test_nothing_that_is_wanted_comes_before_it(tx: Tx, steps: list[tuple[int, int, int]], wanted: int) -> None:
    """Steps: how much further the id is, how many minutes passed, how many of them the row comes late."""
    tx.execute("DELETE FROM revision")
    number = minutes = 0
    rows = []
    for gap, passed, late in steps:
        number, minutes = number + gap, minutes + passed
        rows.append((number, rfc3339(START + timedelta(minutes=minutes - late))))
    tx.executemany("INSERT INTO revision (id, source, revision, at, outcome) VALUES (?, '', 'r', ?, 'applied')", rows)
    at = rfc3339(START + timedelta(minutes=wanted))
    first = first_since(tx, "revision", "at", at)
    assert all(i >= first for i, written in rows if written >= at)
    early = rfc3339(START + timedelta(minutes=wanted - 121))
    assert all(i < first for i, written in rows if written < early)
