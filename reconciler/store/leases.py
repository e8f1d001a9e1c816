"""Leases: which process leads, for how long, and proof of it inside other transactions."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.model.clock import rfc3339
from reconciler.store.database import Tx

CONTROLLER = "controller"
# A time further ahead than any lease was written before the clock was set back: as good as expired.
IMPOSSIBLE = timedelta(seconds=90)
# Who stands by asks every 2 s; the rest is room for a busy machine.
HANDOVER = timedelta(seconds=15)


class NotLeadingError(Exception):
    """Another process leads by now: whatever this one was about to write is not to be written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead during one `term`; a later holder has a higher one."""

    name: str
    owner: str
    term: int


def take(tx: Tx, name: str, owner: str, now: datetime, length: timedelta) -> Lease | None:
    """Take or renew it until `now + length`; None while somebody else holds it."""
    term = tx.value(
        "INSERT INTO lease (name, owner, term, until) VALUES (:name, :owner, 1, :until)"
        " ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until,"
        " term = CASE WHEN lease.owner = excluded.owner THEN lease.term ELSE lease.term + 1 END"
        " WHERE lease.owner = excluded.owner OR lease.until < :now OR lease.until > :impossible RETURNING term",
        name=name,
        owner=owner,
        until=rfc3339(now + length),
        now=rfc3339(now),
        impossible=rfc3339(now + IMPOSSIBLE),
    )
    return None if term is None else Lease(name, owner, int(term))


def release(tx: Tx, lease: Lease) -> None:
    """A clean hand-over: the next one need not wait until it runs out."""
    tx.execute(
        "UPDATE lease SET until = '' WHERE name = :name AND owner = :owner AND term = :term",
        {"name": lease.name, "owner": lease.owner, "term": lease.term},
    )


def check(tx: Tx, lease: Lease) -> None:
    """Raises NotLeadingError unless it still is ours; nobody takes it before this transaction has ended."""
    held = tx.value(
        "SELECT 1 FROM lease WHERE name = :name AND owner = :owner AND term = :term FOR SHARE",
        name=lease.name,
        owner=lease.owner,
        term=lease.term,
    )
    if held is None:
        raise NotLeadingError("another process leads by now")


def holder(tx: Tx, name: str, now: datetime) -> str | None:
    """Who leads at this moment."""
    at = rfc3339(now)
    owner = tx.value("SELECT owner FROM lease WHERE name = :name AND until >= :now", name=name, now=at)
    return None if owner is None else str(owner)


def is_expected(tx: Tx, name: str, now: datetime) -> bool:
    """Somebody leads, or did until just now and has not said goodbye: who stands by, if anybody does, takes over."""
    since = rfc3339(now - HANDOVER)
    return tx.value("SELECT 1 FROM lease WHERE name = :name AND until >= :since", name=name, since=since) is not None
