"""Inventory: remote objects we created, so that they are repaired, removed and never made twice. And run-time credentials."""

import json
from collections.abc import Iterable, Mapping, Sequence
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
    scopes: tuple[str, ...] | None = None
    fingerprint: str = ""
    updated_at: str = ""


_SEALED = "ciphertext, key_id, expires_at, scopes, fingerprint, updated_at"


def credential(tx: Tx, integration_id: int, name: str) -> Sealed | None:
    row = tx.one(f"SELECT {_SEALED} FROM credential WHERE integration_id = :i AND name = :n", i=integration_id, n=name)
    return _sealed(*row) if row else None


def credentials(tx: Tx, integration_id: int) -> dict[str, Sealed]:
    """All of an integration, by name."""
    rows = tx.all(f"SELECT name, {_SEALED} FROM credential WHERE integration_id = :i ORDER BY name", i=integration_id)
    return {name: _sealed(*values) for name, *values in rows}


def _sealed(text: bytes, key_id: str, expires_at: str | None, scopes: str | None, mark: str, at: str) -> Sealed:
    return Sealed(bytes(text), key_id, expires_at, None if scopes is None else tuple(json.loads(scopes)), mark, at)


def sealed_with(tx: Tx) -> dict[str, int]:
    """Key id -> how many credentials only that master key opens, of all integrations."""
    return dict(tx.tuples("SELECT key_id, count(*) FROM credential GROUP BY key_id ORDER BY key_id"))


def put_credential(tx: Tx, integration_id: int, name: str, sealed: Sealed, at: str) -> None:
    tx.execute(
        "INSERT INTO credential (integration_id, name, ciphertext, key_id, expires_at, scopes, fingerprint, updated_at)"
        " VALUES (:i, :n, :c, :k, :e, :s, :f, :at) ON CONFLICT (integration_id, name) DO UPDATE SET"
        " ciphertext = excluded.ciphertext, key_id = excluded.key_id, expires_at = excluded.expires_at,"
        " scopes = excluded.scopes, fingerprint = excluded.fingerprint, updated_at = excluded.updated_at",
        {
            "i": integration_id,
            "n": name,
            "c": sealed.ciphertext,
            "k": sealed.key_id,
            "e": sealed.expires_at,
            "s": None if sealed.scopes is None else json.dumps(sealed.scopes),
            "f": sealed.fingerprint,
            "at": at,
        },
    )


def expire_credentials(tx: Tx, integration_id: int, names: Iterable[str], at: str) -> None:
    """Whoever uses one of them next has to renew it."""
    sql = "UPDATE credential SET expires_at = ? WHERE integration_id = ? AND name = ?"
    tx.executemany(sql, [(at, integration_id, name) for name in names])


@dataclass(frozen=True, slots=True)
class SealedElsewhere:
    """A credential of any integration that another master key opens than the one in use."""

    integration_id: int
    name: str
    ciphertext: bytes
    key_id: str


def sealed_otherwise(tx: Tx, key_id: str, known: Sequence[str], limit: int) -> list[SealedElsewhere]:
    """Those that `known` keys open, and `key_id` does not."""
    others = [one for one in known if one != key_id]
    if not others:
        return []
    rows = tx.execute(
        "SELECT integration_id, name, ciphertext, key_id FROM credential"
        f" WHERE key_id IN ({', '.join('?' * len(others))}) ORDER BY integration_id, name LIMIT ? FOR UPDATE",
        [*others, limit],
    ).fetchall()
    return [SealedElsewhere(i, name, bytes(text), by) for i, name, text, by in rows]


def seal_anew(tx: Tx, found: SealedElsewhere, ciphertext: bytes, key_id: str) -> None:
    """Nothing where it was renewed meanwhile: what is newer stays."""
    tx.execute(
        "UPDATE credential SET ciphertext = :new, key_id = :k WHERE integration_id = :i AND name = :n AND ciphertext = :old",
        {"new": ciphertext, "k": key_id, "i": found.integration_id, "n": found.name, "old": found.ciphertext},
    )


def forget_sealed_with(tx: Tx, key_id: str) -> int:
    """The master key is lost, and with it what only it opened."""
    return tx.rowcount("DELETE FROM credential WHERE key_id = :k", k=key_id)


def drop_credentials(tx: Tx, integration_id: int, name: str | None = None) -> int:
    """Forget one credential, or all of the integration."""
    if name is None:
        return tx.rowcount("DELETE FROM credential WHERE integration_id = :i", i=integration_id)
    return tx.rowcount("DELETE FROM credential WHERE integration_id = :i AND name = :n", i=integration_id, n=name)
