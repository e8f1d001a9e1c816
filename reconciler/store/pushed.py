"""Pushed records as they were accepted: the newest version of each, and what the pages of a snapshot named so far.

Whether a push is new, changed or stale is decided here at once, before it is in the dataset: a run takes it there.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.sdk.pushed import Pushed, is_older
from reconciler.store.database import Row, Tx

State = Literal["new", "changed", "unchanged", "stale"]
_UNSURE = "?"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`version` is the one that counts now."""

    state: State
    version: str


def accept(tx: Tx, integration_id: int, entity: str, one: Pushed, now: datetime) -> Verdict:
    """What the push is; what is not stale counts from now on."""
    row = tx.one(
        "SELECT version, updated_at, digest, is_deleted FROM pushed WHERE integration_id = :i AND entity = :e AND key = :k"
        " FOR UPDATE",
        i=integration_id,
        e=entity,
        k=one.key,
    )
    digest = _digest(one)
    if row is not None:
        before = from_rfc3339(row["updated_at"]) if row["updated_at"] else None
        if is_older(one, row["version"], before):
            return Verdict("stale", row["version"])
    version = one.version or (row["version"] if row else "")
    at = min(one.updated_at, now) if one.updated_at else None
    tx.execute(
        "INSERT INTO pushed (integration_id, entity, key, version, updated_at, digest, is_deleted)"
        " VALUES (:i, :e, :k, :v, :at, :d, :gone) ON CONFLICT (integration_id, entity, key) DO UPDATE SET"
        " version = excluded.version, updated_at = coalesce(excluded.updated_at, pushed.updated_at),"
        " digest = excluded.digest, is_deleted = excluded.is_deleted",
        {
            "i": integration_id,
            "e": entity,
            "k": one.key,
            "v": version,
            "at": rfc3339(at) if at else None,
            "d": digest,
            "gone": int(one.payload is None),
        },
    )
    if row is None or (row["is_deleted"] and one.payload is not None):
        return Verdict("new", version)
    return Verdict("unchanged" if _is_same(row, one) else "changed", version)


def _digest(one: Pushed) -> str:
    return "" if one.payload is None else blake2b(one.payload, digest_size=16).hexdigest()


def compared(tx: Tx, integration_id: int, entity: str, one: Pushed) -> Verdict:
    """Whether it says what counts already; nothing is taken."""
    row = tx.one(
        "SELECT version, digest, is_deleted FROM pushed WHERE integration_id = :i AND entity = :e AND key = :k",
        i=integration_id,
        e=entity,
        k=one.key,
    )
    return Verdict("unchanged" if row and _is_same(row, one) else "stale", row["version"] if row else "")


def _is_same(row: Row, one: Pushed) -> bool:
    return (row["digest"], bool(row["is_deleted"])) == (_digest(one), one.payload is None)


def forget_contents(tx: Tx, integration_id: int) -> None:
    """The dataset is to be another than what was pushed: the same content again is a change, the same deletion too."""
    tx.execute("UPDATE pushed SET digest = :unsure WHERE integration_id = :i", {"i": integration_id, "unsure": _UNSURE})


def forget_waiting(tx: Tx, integration_id: int, entity: str, upto: int) -> None:
    """The same of what waits for this entity until then, and will not come into the dataset."""
    tx.execute(
        "UPDATE pushed SET digest = :unsure WHERE integration_id = :i AND entity = :e AND key IN"
        " (SELECT key FROM inbox_item WHERE integration_id = :i AND entity = :e AND state = 'queued' AND id <= :upto)",
        {"i": integration_id, "e": entity, "upto": upto, "unsure": _UNSURE},
    )


def note_snapshot(tx: Tx, integration_id: int, entity: str, snapshot: str, keys: list[str], at: str) -> None:
    tx.executemany(
        "INSERT INTO pushed_snapshot (integration_id, entity, snapshot, key, at) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (integration_id, entity, snapshot, key) DO NOTHING",
        [(integration_id, entity, snapshot, key, at) for key in keys],
    )


def has_pages(tx: Tx, integration_id: int, entity: str, snapshot: str) -> bool:
    """Whether pages named anything since the snapshot began."""
    sql = "SELECT 1 FROM pushed_snapshot WHERE integration_id = :i AND entity = :e AND snapshot = :s LIMIT 1"
    return tx.value(sql, i=integration_id, e=entity, s=snapshot) is not None


def missing(tx: Tx, integration_id: int, entity: str, snapshot: str) -> tuple[list[str], int]:
    """The records that no page of the snapshot named, and how many there are in all."""
    known = tx.value(
        "SELECT count(*) FROM pushed WHERE integration_id = :i AND entity = :e AND is_deleted = 0",
        i=integration_id,
        e=entity,
    )
    rows = tx.all(
        "SELECT p.key FROM pushed p WHERE p.integration_id = :i AND p.entity = :e AND p.is_deleted = 0 AND NOT EXISTS"
        " (SELECT 1 FROM pushed_snapshot s WHERE s.integration_id = p.integration_id AND s.entity = p.entity"
        " AND s.snapshot = :s AND s.key = p.key) ORDER BY p.key",
        i=integration_id,
        e=entity,
        s=snapshot,
    )
    return [str(key) for (key,) in rows], int(known)


def end_snapshot(tx: Tx, integration_id: int, entity: str, snapshot: str) -> None:
    tx.execute(
        "DELETE FROM pushed_snapshot WHERE integration_id = :i AND entity = :e AND snapshot = :s",
        {"i": integration_id, "e": entity, "s": snapshot},
    )


def note_taken(tx: Tx, entity_id: int, at: str) -> None:
    """Nothing is ever read to an end; what comes from now on is no first read."""
    tx.execute("UPDATE entity SET completed_at = :at WHERE id = :e", {"at": at, "e": entity_id})


def is_first(tx: Tx, integration_id: int, entity: str) -> bool:
    """Nothing of the entity was ever taken."""
    return tx.value(
        "SELECT 1 FROM entity WHERE integration_id = :i AND name = :e AND completed_at IS NOT NULL",
        i=integration_id,
        e=entity,
    ) is None  # fmt: skip
