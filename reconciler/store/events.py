"""The log of events: what integrations tell of themselves, what is published, and which changes of records were told to whom.

The router reads the first two behind its cursor, so their numbers commit in order. A record's change is an event by being in the
version log; a row here, which the router passes over, makes it found in lists once it has made a delivery. So does one for a
message that was sent without an event. Lists go by time and public id, newest first; they read a bounded stretch at a time.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any, Literal

from reconciler.model.event import plurals
from reconciler.model.ids import new_id
from reconciler.store.database import Row, Tx
from reconciler.store.notices import tell
from reconciler.store.several import among, many

Source = Literal["lifecycle", "published", "record", "sent"]
Place = tuple[str, str]
"""Where a list stands: time and public id of an event."""
STRETCH = 250


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """`integration_id` None: it is about none. `payload` is JSON, empty for what is kept elsewhere."""

    id: int
    public_id: str
    workspace: str
    integration_id: int | None
    type: str
    at: str
    detail: Mapping[str, Any]
    source: Source
    payload: str
    subject: str
    occurred_at: str | None
    published_by: str
    dedupe: str | None

    @property
    def place(self) -> Place:
        return self.at, self.public_id


_COLUMNS = ", ".join(StoredEvent.__slots__)


def _event(row: Row) -> StoredEvent:
    values = dict(zip(StoredEvent.__slots__, row, strict=True))
    return StoredEvent(**{**values, "detail": json.loads(values["detail"])})


def in_order(tx: Tx) -> None:
    """Numbers commit in order, also from several processes: the router's cursor passes no event that is still to appear."""
    if tx.dialect == "postgresql":
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('reconciler events'))")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """`dedupe`: within its workspace an event is published once under it."""

    workspace: str
    type: str
    payload: str
    published_by: str
    integration_id: int | None = None
    subject: str = ""
    occurred_at: str | None = None
    dedupe: str | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """`is_new` is false where an event with this `dedupe` was there already: it is that one."""

    public_id: str
    type: str
    is_new: bool


def publish(tx: Tx, new: Sequence[NewEvent], at: str) -> list[Published]:
    """In their order. What is published twice within the same call counts once, too."""
    in_order(tx)
    tell(tx, "event")
    named = [(new_id("evt"), one) for one in new]
    tx.executemany(
        "INSERT INTO event (public_id, workspace, integration_id, type, at, source, payload, subject, occurred_at,"
        " published_by, dedupe) VALUES (:public, :w, :i, :type, :at, 'published', :payload, :subject, :occurred, :by, :dedupe)"
        " ON CONFLICT (workspace, dedupe) WHERE dedupe IS NOT NULL DO NOTHING",
        [_values(public, one, at) for public, one in named],
    )
    kept = _kept(tx, [public for public, one in named if one.dedupe is not None])
    return [_published(tx, public, one, is_new=one.dedupe is None or public in kept) for public, one in named]


def _values(public_id: str, new: NewEvent, at: str) -> dict[str, Any]:
    return {
        "public": public_id,
        "w": new.workspace,
        "i": new.integration_id,
        "type": new.type,
        "at": at,
        "payload": new.payload,
        "subject": new.subject,
        "occurred": new.occurred_at,
        "by": new.published_by,
        "dedupe": new.dedupe,
    }


def _kept(tx: Tx, public_ids: Sequence[str]) -> frozenset[str]:
    if not public_ids:
        return frozenset()
    rows = tx.all(f"SELECT public_id FROM event WHERE public_id {among(tx)}", names=many(tx, public_ids))
    return frozenset(public for (public,) in rows)


def _published(tx: Tx, public_id: str, new: NewEvent, *, is_new: bool) -> Published:
    if is_new:
        return Published(public_id, new.type, is_new=True)
    sql = "SELECT public_id, type FROM event WHERE workspace = :w AND dedupe = :d"
    there = tx.one(sql, w=new.workspace, d=new.dedupe)
    assert there is not None  # noqa: S101 - it was in the way of the new one
    return Published(there[0], there[1], is_new=False)


@dataclass(frozen=True, slots=True)
class Told:
    """An event that is not routed from here: a record's change that made a delivery, or a message sent without an event."""

    public_id: str
    workspace: str
    integration_id: int | None
    type: str
    at: str
    source: Literal["record", "sent"] = "record"
    published_by: str = ""


def note(tx: Tx, told: Iterable[Told]) -> None:
    """Make them found in lists; those that are there already stay as they are."""
    tx.executemany(
        "INSERT INTO event (public_id, workspace, integration_id, type, at, source, published_by)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (public_id) DO NOTHING",
        [(t.public_id, t.workspace, t.integration_id, t.type, t.at, t.source, t.published_by) for t in told],
    )


def to_route(tx: Tx, position: int, limit: int, ceiling: int | None = None) -> list[StoredEvent]:
    """What was told by integrations and published behind `position`, in order."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM event WHERE source IN ('lifecycle', 'published') AND id > :p"
        f"{'' if ceiling is None else ' AND id <= :ceiling'} ORDER BY id LIMIT :n",
        **{"p": position, "n": limit} | ({} if ceiling is None else {"ceiling": ceiling}),
    )
    return [_event(row) for row in rows]


def last_before(tx: Tx, at: str) -> int:
    """The number before the first event from that time on that is routed from here."""
    first = tx.value(
        "SELECT id FROM event WHERE source IN ('lifecycle', 'published') AND at >= :at ORDER BY id LIMIT 1", at=at
    )
    return int(first) - 1 if first is not None else int(tx.value("SELECT coalesce(max(id), 0) FROM event"))


def find(tx: Tx, public_id: str) -> StoredEvent | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM event WHERE public_id = :p", p=public_id)
    return _event(row) if row else None


def is_record_subject(tx: Tx, workspace: str, subject: str) -> bool:
    """Whether an integration of the workspace reads records whose events begin with that word."""
    sql = (
        "SELECT 1 FROM entity e JOIN integration i ON i.id = e.integration_id"
        " WHERE e.name = :n AND i.workspace = :w AND i.removed_at IS NULL LIMIT 1"
    )
    return any(tx.value(sql, n=name, w=workspace) for name in plurals(subject))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sieve:
    """Which events a list shows. `workspace` None: of all. `is_notable`: only those with a delivery that did not arrive."""

    workspace: str | None = None
    integrations: Sequence[int] = ()
    since: str = ""
    until: str = ""
    is_notable: bool = field(default=False)


def newest(tx: Tx, sieve: Sieve, before: Place | None) -> Iterator[StoredEvent]:
    """Newest first, read in stretches as far as the caller goes."""
    if sieve.is_notable:
        found = _notable(tx, sieve, before)
        return (e for e in found if _fits(e, sieve))
    if not sieve.integrations:
        return _walk(tx, sieve, "workspace = :who" if sieve.workspace is not None else "", sieve.workspace, before)
    each = [_walk(tx, sieve, "integration_id = :who", i, before) for i in sorted(set(sieve.integrations))]
    return (e for e in merge(*each, key=lambda e: e.place, reverse=True) if _fits(e, sieve))


def _fits(event: StoredEvent, sieve: Sieve) -> bool:
    return (sieve.workspace is None or event.workspace == sieve.workspace) and (
        not sieve.integrations or event.integration_id in sieve.integrations
    )


def _bounds(sieve: Sieve, time: str, key: str, before: Place | None) -> tuple[str, dict[str, Any]]:
    """Conditions on the columns of a list's order."""
    parts, params = [], dict[str, Any]()
    if sieve.since:
        parts.append(f"{time} >= :since")
        params["since"] = sieve.since
    if sieve.until:
        parts.append(f"{time} < :until")
        params["until"] = sieve.until
    if before is not None:
        parts.append(f"({time}, {key}) < (:at, :key)")
        params |= {"at": before[0], "key": before[1]}
    return " AND ".join(parts), params


def _walk(tx: Tx, sieve: Sieve, whose: str, who: object, before: Place | None) -> Iterator[StoredEvent]:
    while True:
        bounds, params = _bounds(sieve, "at", "public_id", before)
        where = " AND ".join(part for part in (whose, bounds) if part)
        rows = tx.all(
            f"SELECT {_COLUMNS} FROM event{f' WHERE {where}' if where else ''} ORDER BY at DESC, public_id DESC LIMIT :n",
            **params | ({"who": who} if whose else {}),
            n=STRETCH,
        )
        found = [_event(row) for row in rows]
        yield from found
        if len(found) < STRETCH:
            return
        before = found[-1].place


_NOTABLE = "status IN ('pending', 'sending', 'failed', 'dead', 'unknown', 'cancelled')"


def _notable(tx: Tx, sieve: Sieve, before: Place | None) -> Iterator[StoredEvent]:
    """Found by their deliveries, which are few: most arrive."""
    while True:
        bounds, params = _bounds(sieve, "event_at", "event_id", before)
        rows = tx.all(
            f"SELECT DISTINCT event_at, event_id FROM delivery WHERE {_NOTABLE}{f' AND {bounds}' if bounds else ''}"
            " ORDER BY event_at DESC, event_id DESC LIMIT :n",
            **params,
            n=STRETCH,
        )
        for _, public_id in rows:
            event = find(tx, public_id)
            if event is not None:
                yield event
        if len(rows) < STRETCH:
            return
        before = rows[-1][0], rows[-1][1]
