"""Leases on both databases: who leads, who may be expected to, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest

from reconciler.store import leases
from reconciler.store.database import Tx
from reconciler.store.leases import CONTROLLER

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LENGTH = timedelta(seconds=8)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_nobody_takes_a_lease_that_has_not_run_out(tx: Tx) -> None:
    first = leases.take(tx, CONTROLLER, "first", NOW, LENGTH)
    assert leases.take(tx, CONTROLLER, "second", after(7), LENGTH) is None
    second = leases.take(tx, CONTROLLER, "second", after(9), LENGTH)
    assert first is not None
    assert second is not None
    assert second.term == first.term + 1
    with pytest.raises(leases.NotLeadingError):
        leases.check(tx, first)


def test_who_died_leading_is_expected_to_have_a_successor_for_a_while(tx: Tx) -> None:
    """Orders given in these seconds wait for it; refused, a person would look for a daemon that is there."""
    assert not leases.is_expected(tx, CONTROLLER, NOW)
    leases.take(tx, CONTROLLER, "first", NOW, LENGTH)
    assert leases.holder(tx, CONTROLLER, after(9)) is None
    assert leases.is_expected(tx, CONTROLLER, after(9))
    assert not leases.is_expected(tx, CONTROLLER, after(60))


def test_who_says_goodbye_is_not_expected_back(tx: Tx) -> None:
    lease = leases.take(tx, CONTROLLER, "first", NOW, LENGTH)
    assert lease is not None
    leases.release(tx, lease)
    assert not leases.is_expected(tx, CONTROLLER, after(1))
