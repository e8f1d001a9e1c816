"""Inventory: remote objects we created, so that they are repaired, removed and never made twice. And run-time credentials."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.store.database import Tx


@dataclass(frozen=True, slots=True)
class InventoryItem:
    id: int
    kind: str
    marker: str
    remote_id: str
    state: str
    spec: Mapping[str, Any]
    secret_fingerprint: str
    is_adopted: bool


def items(tx: Tx, integration_id: int) -> list[InventoryItem]:
    rows = tx.all(
        "SELECT id, kind, marker, remote_id, state, spec, secret_fingerprint, is_adopted FROM inventory"
        " WHERE integration_id = :i ORDER BY kind, marker",
        i=integration_id,
    )
    return [InventoryItem(i, k, m, r, s, json.loads(spec), fp, bool(a)) for i, k, m, r, s, spec, fp, a in rows]


def intend(tx: Tx, integration_id: int, kind: str, marker: str, at: str) -> int:
    """Commit that we are about to create the object: after a crash a listing by marker tells whether it exists."""
    return int(
        tx.value(
            "INSERT INTO inventory (integration_id, kind, marker, state, updated_at) VALUES (:i, :k, :m, 'creating', :at)"
            " ON CONFLICT (integration_id, kind, marker) DO UPDATE SET updated_at = excluded.updated_at RETURNING id",
            i=integration_id,
            k=kind,
            m=marker,
            at=at,
        )
    )


@dataclass(frozen=True, slots=True)
class Present:
    remote_id: str
    spec: Mapping[str, Any]
    secret_fingerprint: str
    is_adopted: bool = False


def record_present(tx: Tx, item_id: int, present: Present, at: str) -> None:
    tx.execute(
        "UPDATE inventory SET remote_id = :r, state = 'present', spec = :s, secret_fingerprint = :fp,"
        " is_adopted = CASE WHEN :a = 1 THEN 1 ELSE is_adopted END, updated_at = :at WHERE id = :id",
        {
            "r": present.remote_id,
            "s": json.dumps(dict(present.spec)),
            "fp": present.secret_fingerprint,
            "a": int(present.is_adopted),
            "at": at,
            "id": item_id,
        },
    )


def record_deleting(tx: Tx, item_id: int, at: str) -> None:
    tx.execute("UPDATE inventory SET state = 'deleting', updated_at = :at WHERE id = :id", {"at": at, "id": item_id})


def forget(tx: Tx, item_id: int) -> None:
    tx.execute("DELETE FROM inventory WHERE id = :id", {"id": item_id})


@dataclass(frozen=True, slots=True)
class Sealed:
    """A credential obtained at run time, encrypted; opening it needs the master key `key_id`."""

    ciphertext: bytes
    key_id: str
    expires_at: str | None


def credential(tx: Tx, integration_id: int, name: str) -> Sealed | None:
    row = tx.one(
        "SELECT ciphertext, key_id, expires_at FROM credential WHERE integration_id = :i AND name = :n",
        i=integration_id,
        n=name,
    )
    return Sealed(bytes(row[0]), row[1], row[2]) if row else None


def credentials(tx: Tx, integration_id: int) -> dict[str, Sealed]:
    """All of an integration, by name."""
    rows = tx.all(
        "SELECT name, ciphertext, key_id, expires_at FROM credential WHERE integration_id = :i", i=integration_id
    )
    return {name: Sealed(bytes(text), key_id, expires_at) for name, text, key_id, expires_at in rows}


def sealed_with(tx: Tx) -> dict[str, int]:
    """Key id -> how many credentials only that master key opens, of all integrations."""
    return dict(tx.tuples("SELECT key_id, count(*) FROM credential GROUP BY key_id ORDER BY key_id"))


def put_credential(tx: Tx, integration_id: int, name: str, sealed: Sealed, at: str) -> None:
    tx.execute(
        "INSERT INTO credential (integration_id, name, ciphertext, key_id, expires_at, updated_at)"
        " VALUES (:i, :n, :c, :k, :e, :at) ON CONFLICT (integration_id, name) DO UPDATE SET"
        " ciphertext = excluded.ciphertext, key_id = excluded.key_id, expires_at = excluded.expires_at,"
        " updated_at = excluded.updated_at",
        {
            "i": integration_id,
            "n": name,
            "c": sealed.ciphertext,
            "k": sealed.key_id,
            "e": sealed.expires_at,
            "at": at,
        },
    )


def drop_credentials(tx: Tx, integration_id: int, name: str | None = None) -> int:
    """Forget one credential, or all of the integration."""
    if name is None:
        return tx.rowcount("DELETE FROM credential WHERE integration_id = :i", i=integration_id)
    return tx.rowcount("DELETE FROM credential WHERE integration_id = :i AND name = :n", i=integration_id, n=name)
