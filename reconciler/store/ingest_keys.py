"""Keys with which others push to an integration: at most one active and one on its way out. Only hashes are stored."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.store.database import Row, Tx

USED_EVERY = timedelta(minutes=1)
_COLUMNS = (
    "key_id, integration_id, sha256, hint, label, created_at, created_by, expires_at, valid_until, revoked_at,"
    " last_used_at"
)
State = Literal["active", "retiring", "expired", "revoked"]


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


def current(tx: Tx, integration_id: int, now: datetime) -> KeyRow | None:
    """The one that is active; the row of its integration is locked, so that of two who replace it one is second."""
    tx.execute("UPDATE integration SET updated_at = updated_at WHERE id = :i", {"i": integration_id})
    return next((k for k in of_integration(tx, integration_id) if k.state(now) == "active"), None)


def replace_all(tx: Tx, new: KeyRow, valid_until: str | None) -> None:
    """`new` from now on; the active one ends at `valid_until`, or now; what was on its way out ends now."""
    at = new.created_at
    tx.execute(
        "UPDATE ingest_key SET revoked_at = :at WHERE integration_id = :i AND revoked_at IS NULL"
        " AND (valid_until IS NOT NULL OR CAST(:until AS TEXT) IS NULL)",
        {"at": at, "i": new.integration_id, "until": valid_until},
    )
    tx.execute(
        "UPDATE ingest_key SET valid_until = :until WHERE integration_id = :i AND revoked_at IS NULL",
        {"until": valid_until, "i": new.integration_id},
    )
    put(tx, new)


def revoke(tx: Tx, integration_id: int, key_id: str, at: str) -> bool:
    """Whether it counted until now."""
    sql = "UPDATE ingest_key SET revoked_at = :at WHERE key_id = :k AND integration_id = :i AND revoked_at IS NULL"
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
