"""API tokens: who holds one, for how long, and when it was last used. Only hashes are stored.

Names are unique among the tokens of a workspace that still count. What a workspace's manifest declares replaces what it
declared before; what a command made, only a command revokes.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from reconciler.model.access import Caller, permissions_of
from reconciler.model.clock import rfc3339
from reconciler.store.database import Row, Tx

Origin = Literal["command", "git"]
USED_EVERY = timedelta(minutes=1)
_COLUMNS = "public_id, workspace, name, sha256, permissions, origin, created_at, created_by, expires_at, revoked_at, last_used_at"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    public_id: str
    workspace: str | None
    name: str
    sha256: str
    permissions: tuple[str, ...]
    origin: Origin
    created_at: str
    created_by: str
    expires_at: str | None = None
    revoked_at: str | None = None
    last_used_at: str | None = None

    def state(self, now: datetime) -> Literal["active", "expired", "revoked"]:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= rfc3339(now) else "active"

    @property
    def terms(self) -> tuple[object, ...]:
        """What was agreed; the rest is history."""
        return self.workspace, self.name, self.permissions, self.expires_at

    @property
    def caller(self) -> Caller:
        return Caller(self.name, self.workspace, permissions_of(self.permissions), identity=self.public_id)


def put(tx: Tx, token: TokenRow) -> None:
    tx.execute(
        f"INSERT INTO api_token ({_COLUMNS}) VALUES (:public_id, :workspace, :name, :sha256, :permissions, :origin,"
        " :created_at, :created_by, :expires_at, :revoked_at, :last_used_at)",
        {
            "public_id": token.public_id,
            "workspace": token.workspace,
            "name": token.name,
            "sha256": token.sha256,
            "permissions": json.dumps(token.permissions),
            "origin": token.origin,
            "created_at": token.created_at,
            "created_by": token.created_by,
            "expires_at": token.expires_at,
            "revoked_at": token.revoked_at,
            "last_used_at": token.last_used_at,
        },
    )


def every(tx: Tx) -> list[TokenRow]:
    """Also those that count no more; by workspace and name, those of the whole installation first."""
    rows = tx.all(f"SELECT {_COLUMNS} FROM api_token ORDER BY coalesce(workspace, ''), name, id")
    return [_row(row) for row in rows]


def standing(tx: Tx, now: datetime) -> list[TokenRow]:
    """Those that open a door now."""
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM api_token WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)",
        now=rfc3339(now),
    )
    return [_row(row) for row in rows]


def revoke(tx: Tx, public_id: str, at: str) -> bool:
    """Whether it counted until now."""
    sql = "UPDATE api_token SET revoked_at = :at WHERE public_id = :id AND revoked_at IS NULL"
    return tx.rowcount(sql, at=at, id=public_id) == 1


def note_used(tx: Tx, used: Iterable[str], at: str) -> None:
    tx.executemany("UPDATE api_token SET last_used_at = ? WHERE public_id = ?", [(at, public_id) for public_id in used])


def declared(tx: Tx) -> list[TokenRow]:
    """What manifests say, as it was taken over."""
    return [_row(row) for row in tx.all(f"SELECT {_COLUMNS} FROM api_token WHERE origin = 'git'")]


@dataclass(frozen=True, slots=True)
class Declared:
    """What is new in manifests: hashes that went, or go to come again with other terms, and rows that come."""

    gone: tuple[str, ...]
    new: tuple[TokenRow, ...]


def declare(tx: Tx, changes: Declared) -> None:
    """A hash that a command's token has stays the command's."""
    for sha256 in changes.gone:
        tx.execute("DELETE FROM api_token WHERE sha256 = :hash AND origin = 'git'", {"hash": sha256})
    for token in changes.new:
        if tx.value("SELECT 1 FROM api_token WHERE sha256 = :hash", hash=token.sha256) is None:
            put(tx, token)


def _row(row: Row) -> TokenRow:
    public_id, workspace, name, sha256, permissions, origin, created_at, created_by, expires_at, revoked_at, used_at = (
        row
    )
    return TokenRow(
        public_id=public_id,
        workspace=workspace,
        name=name,
        sha256=sha256,
        permissions=tuple(json.loads(permissions)),
        origin=origin,
        created_at=created_at,
        created_by=created_by,
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=used_at,
    )
