"""Replays: events of the past that are told once more to one integration, in bounded batches that are each done once.

A replay has a part for each log that may hold such events, with the place it got to and the place it ends: what was not routed
when it was asked for is still to be told anyway. `events.replay` moves the parts, each move being one transaction with the
deliveries that came of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.model.ids import new_id
from reconciler.store import events
from reconciler.store.database import Row, Tx
from reconciler.store.dataset import SHIFT

EVENTS = 0
LIFECYCLE = "lifecycle"


@dataclass(frozen=True, slots=True)
class Replay:
    id: int
    public_id: str
    integration_id: int
    since: str
    until: str
    types: tuple[str, ...]
    synchronizations: tuple[str, ...]
    state: str
    events: int
    deliveries: int
    requested_by: str
    requested_at: str
    finished_at: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the log of the integration `source`, or of the table of events."""

    source: int
    position: int
    ceiling: int


_COLUMNS = ", ".join(Replay.__slots__)


def _replay(row: Row) -> Replay:
    values = dict(zip(Replay.__slots__, row, strict=True))
    for name in ("types", "synchronizations"):
        values[name] = tuple(json.loads(values[name]))
    return Replay(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReplay:
    """No types and no synchronizations: all of them."""

    integration_id: int
    workspace: str
    since: str
    until: str
    types: Sequence[str] = ()
    synchronizations: Sequence[str] = ()
    requested_by: str


def create(tx: Tx, new: NewReplay, at: str) -> Replay:
    row = tx.one(
        "INSERT INTO replay (public_id, integration_id, since, until, types, synchronizations, state, requested_by,"
        f" requested_at) VALUES (:p, :i, :since, :until, :types, :syncs, 'running', :by, :at) RETURNING {_COLUMNS}",
        p=new_id("rpl"),
        i=new.integration_id,
        since=new.since,
        until=new.until,
        types=json.dumps(list(new.types)),
        syncs=json.dumps(list(new.synchronizations)),
        by=new.requested_by,
        at=at,
    )
    assert row is not None  # noqa: S101 - it was put there just now
    made = _replay(row)
    tx.executemany(
        "INSERT INTO replay_part (replay_id, source, position, ceiling) VALUES (?, ?, ?, ?)",
        [(made.id, part.source, part.position, part.ceiling) for part in _parts(tx, new)],
    )
    return made


def _parts(tx: Tx, new: NewReplay) -> list[Part]:
    routed = int(tx.value("SELECT position FROM route_cursor WHERE name = :n", n=LIFECYCLE) or 0)
    parts = [Part(EVENTS, events.last_before(tx, new.since), routed)]
    rows = tx.all("SELECT id, routed_seq FROM integration WHERE workspace = :w AND routed_seq > 0", w=new.workspace)
    parts += [Part(i, _first_seq(tx, i, new.since), routed_seq) for i, routed_seq in rows]
    return [part for part in parts if part.position < part.ceiling]


def _first_seq(tx: Tx, integration_id: int, since: str) -> int:
    """The end of the last dataset version from before: what came after may be younger, what came earlier is not."""
    last = tx.value(
        "SELECT max(last_number) FROM dataset_version WHERE integration_id = :i AND at < :since",
        i=integration_id,
        since=since,
    )
    return 0 if last is None else int(last) - (integration_id << SHIFT)


def find(tx: Tx, public_id: str) -> Replay | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM replay WHERE public_id = :p", p=public_id)
    return _replay(row) if row else None


def running(tx: Tx) -> list[Replay]:
    return [_replay(row) for row in tx.all(f"SELECT {_COLUMNS} FROM replay WHERE state = 'running' ORDER BY id")]


def newest(tx: Tx, limit: int) -> list[Replay]:
    return [_replay(row) for row in tx.all(f"SELECT {_COLUMNS} FROM replay ORDER BY id DESC LIMIT :n", n=limit)]


def parts(tx: Tx, replay_id: int) -> list[Part]:
    rows = tx.all(
        "SELECT source, position, ceiling FROM replay_part WHERE replay_id = :r AND position < ceiling ORDER BY source",
        r=replay_id,
    )
    return [Part(*row) for row in rows]


def move(tx: Tx, replay_id: int, part: Part, to: int, *, events: int, deliveries: int) -> bool:
    """False where another was faster, or it was cancelled: then nothing of this transaction may stay."""
    moved = tx.rowcount(
        "UPDATE replay_part SET position = :to WHERE replay_id = :r AND source = :s AND position = :before"
        " AND EXISTS (SELECT 1 FROM replay WHERE id = :r AND state = 'running')",
        to=to,
        r=replay_id,
        s=part.source,
        before=part.position,
    )
    tx.execute(
        "UPDATE replay SET events = events + :e, deliveries = deliveries + :d WHERE id = :r",
        {"e": events, "d": deliveries, "r": replay_id},
    )
    return bool(moved)


def end(tx: Tx, replay_id: int, state: str, at: str) -> bool:
    """`done` or `cancelled`."""
    return bool(
        tx.rowcount(
            "UPDATE replay SET state = :s, finished_at = :at WHERE id = :r AND state = 'running'",
            s=state,
            at=at,
            r=replay_id,
        )
    )


def on_their_way(tx: Tx, event_ids: Sequence[str], integration_id: int) -> set[tuple[str, str]]:
    """(event id, synchronization) of deliveries to the integration that have not ended: they will still arrive."""
    open_ones = (
        "SELECT event_id, synchronization FROM delivery WHERE event_id = :e AND integration_id = :i"
        " AND status IN ('pending', 'sending', 'failed')"
    )
    return {(e, s) for event_id in event_ids for e, s in tx.all(open_ones, e=event_id, i=integration_id)}
