"""Keys with which others push to an integration, two at most that open. Only hashes are stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.ids import Ref
from reconciler.model.state import ActiveKey, KeysSeen
from reconciler.store.database import Row, Tx

USED_EVERY = timedelta(minutes=1)
_COLUMNS = (
    "key_id, integration_id, sha256, hint, label, created_at, created_by, expires_at, valid_until, revoked_at,"
    " last_used_at"
)
State = Literal["active", "retiring", "expired", "revoked"]
Operation = Literal["create", "regenerate", "revoke"]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """`valid_until`: a newer key has taken its place, and then it ends."""

    key_id: str
    integration_id: int
    sha256: str
    hint: str
    label: str
    created_at: str
    created_by: str
    expires_at: str | None = None
    valid_until: str | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None

    def state(self, now: datetime) -> State:
        at = rfc3339(now)
        if self.revoked_at is not None or (self.valid_until is not None and self.valid_until <= at):
            return "revoked"
        if self.expires_at is not None and self.expires_at <= at:
            return "expired"
        return "active" if self.valid_until is None else "retiring"

    def opens(self, now: datetime) -> bool:
        return self.state(now) in {"active", "retiring"}


def put(tx: Tx, key: KeyRow) -> None:
    tx.execute(
        f"INSERT INTO ingest_key ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key.key_id, key.integration_id, key.sha256, key.hint, key.label, key.created_at, key.created_by,
            key.expires_at, key.valid_until, key.revoked_at, key.last_used_at,
        ),
    )  # fmt: skip


def find(tx: Tx, key_id: str) -> KeyRow | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM ingest_key WHERE key_id = :k", k=key_id)
    return _row(row) if row else None


def of_integration(tx: Tx, integration_id: int) -> list[KeyRow]:
    """The newest first, also those that count no more."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM ingest_key WHERE integration_id = :i ORDER BY id DESC", i=integration_id)
    return [_row(row) for row in rows]


def page(tx: Tx, integration_id: int, before: int | None, limit: int) -> list[tuple[int, KeyRow]]:
    """The same, each with its place in that order; those after the place `before`."""
    sql = f"SELECT {_COLUMNS}, id FROM ingest_key WHERE integration_id = :i AND id < :b ORDER BY id DESC LIMIT :n"
    rows = tx.all(sql, i=integration_id, b=before if before is not None else 2**62, n=limit)
    return [(int(row[-1]), KeyRow(*row[:-1])) for row in rows]


def opening(tx: Tx, integration_id: int, now: datetime) -> list[KeyRow]:
    """Those that open; the row of their integration is locked, so that of two who change them one is second."""
    tx.execute("UPDATE integration SET updated_at = updated_at WHERE id = :i", {"i": integration_id})
    return [key for key in of_integration(tx, integration_id) if key.opens(now)]


def retire(tx: Tx, key_id: str, valid_until: str) -> None:
    tx.execute("UPDATE ingest_key SET valid_until = :u WHERE key_id = :k", {"u": valid_until, "k": key_id})


def count(tx: Tx, integration_id: int, op: Operation) -> None:
    tx.execute(
        "INSERT INTO ingest_key_operation (integration_id, op, count) VALUES (:i, :o, 1)"
        " ON CONFLICT (integration_id, op) DO UPDATE SET count = ingest_key_operation.count + 1",
        {"i": integration_id, "o": op},
    )


def operations(tx: Tx) -> list[tuple[str, str, Operation, int]]:
    """Workspace, name, operation, how often since the integration is known."""
    rows = tx.all(
        "SELECT i.workspace, i.name, o.op, o.count FROM ingest_key_operation o JOIN integration i ON i.id = o.integration_id"
        " WHERE i.removed_at IS NULL ORDER BY i.workspace, i.name, o.op"
    )
    return [(row[0], row[1], row[2], int(row[3])) for row in rows]


def seen(tx: Tx) -> KeysSeen:
    """The active ones of all integrations, as a plan looks at them."""
    now, found = tx.now(), dict[Ref, list[ActiveKey]]()
    columns = ", ".join(f"k.{name.strip()}" for name in _COLUMNS.split(","))
    rows = tx.all(
        f"SELECT {columns}, i.workspace, i.name FROM ingest_key k JOIN integration i ON i.id = k.integration_id"
        " WHERE k.revoked_at IS NULL AND k.valid_until IS NULL AND i.removed_at IS NULL ORDER BY k.id"
    )
    for *values, workspace, name in rows:
        key = KeyRow(*values)
        if key.state(now) == "active":
            found.setdefault(Ref(workspace, name), []).append(ActiveKey(key.key_id, from_rfc3339(key.created_at)))
    return KeysSeen(now, {ref: tuple(keys) for ref, keys in found.items()})


def revoke(tx: Tx, integration_id: int, key_id: str, at: str) -> bool:
    """Whether it counted until now."""
    sql = (
        "UPDATE ingest_key SET revoked_at = :at WHERE key_id = :k AND integration_id = :i AND revoked_at IS NULL"
        " AND (valid_until IS NULL OR valid_until > :at)"
    )
    return tx.rowcount(sql, at=at, k=key_id, i=integration_id) == 1


def revoke_all(tx: Tx, integration_id: int, at: str) -> None:
    sql = "UPDATE ingest_key SET revoked_at = :at WHERE integration_id = :i AND revoked_at IS NULL"
    tx.execute(sql, {"at": at, "i": integration_id})


def note_used(tx: Tx, key_ids: Iterable[str], at: str) -> None:
    tx.executemany("UPDATE ingest_key SET last_used_at = ? WHERE key_id = ?", [(at, key_id) for key_id in key_ids])


def is_use_due(key: KeyRow, now: datetime) -> bool:
    """When it was used is noted by the minute."""
    return key.last_used_at is None or from_rfc3339(key.last_used_at) + USED_EVERY <= now


def _row(row: Row) -> KeyRow:
    return KeyRow(*row)
