"""The master key takes the place of another: everything that is sealed in the database is sealed anew with the first key given.

In: the database and the keys that are given here. Out: how much was sealed anew, and what only other keys open. Called by
`reconciler keys`. Each batch is a transaction, and what was renewed meanwhile stays as it is, so this may be interrupted, be
repeated, and run beside daemons that know both keys. An embedded daemon's own key file gets a new key here; then no daemon may
work on it.
"""

import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reconciler.app.lasting import place
from reconciler.app.vault import Vault, given_keys, key_id, new_key, own_key_file, read_keys, written
from reconciler.model.secret import Secret
from reconciler.settings import Settings, SettingsError
from reconciler.store import inventory, sealed_keys
from reconciler.store.database import Session, Tx
from reconciler.store.inventory import SealedElsewhere
from reconciler.store.location import Location, backend, open_readonly
from reconciler.store.migrations import check_version
from reconciler.store.sealed_keys import SealedKey
from reconciler.store.state_directory import StateDirectory

BATCH = 100


@dataclass(frozen=True, slots=True)
class Keys:
    """`given` are those at hand, the first of which seals; `sealed`: key -> credentials that only it opens."""

    given: tuple[str, ...]
    sealed: Mapping[str, int]
    lasting: frozenset[str]

    @property
    def unknown(self) -> tuple[str, ...]:
        return tuple(sorted({*self.sealed, *self.lasting} - {*self.given}))


@dataclass(frozen=True, slots=True)
class Rotated:
    """`retired` is where the key was put that an embedded daemon used until now."""

    key_id: str
    count: int
    keys: Keys
    retired: tuple[Path, ...] = ()


def keys_at(location: Location, settings: Settings, env: Mapping[str, str]) -> Keys:
    """What is sealed with which key. Raises StoreError, SettingsError."""
    given = tuple(key_id(key) for key in _at_hand(location, settings, env))
    with open_readonly(location) as tx:
        check_version(tx, "the store")
        return _keys(tx, given)


def rotate(location: Location, settings: Settings, env: Mapping[str, str]) -> Rotated:
    """Raises StoreError, SettingsError; StateLockedError where a daemon works on the key file that would change."""
    keys = given_keys(settings, env)
    if keys:
        return _sealed_anew(location, keys)
    if not isinstance(location, Path):
        raise SettingsError(
            "give the keys that the daemons have, the new one first: RECONCILER_MASTER_KEY or RECONCILER_MASTER_KEY_FILE"
        )
    with StateDirectory(location.parent) as state:
        return _rotate_own(location, own_key_file(state.keys))


def forget(location: Location, settings: Settings, env: Mapping[str, str], lost: str) -> int:
    """Drop what only a lost key opens; returns how many credentials. They have to be obtained again."""
    known = keys_at(location, settings, env)
    if lost not in known.unknown:
        raise SettingsError(f"nothing that would be lost is sealed with {lost}; see: reconciler keys list")

    def drop(tx: Tx) -> int:
        sealed_keys.forget(tx, lost)
        return inventory.forget_sealed_with(tx, lost)

    with closing(backend(location).visit(is_reader=False)) as session:
        return session.run(drop, "durable")


def _at_hand(location: Location, settings: Settings, env: Mapping[str, str]) -> tuple[bytes, ...]:
    keys = given_keys(settings, env)
    own = own_key_file(location.parent / "keys") if isinstance(location, Path) else None
    return read_keys(own) if not keys and own is not None and own.is_file() else keys


def _keys(tx: Tx, given: tuple[str, ...]) -> Keys:
    lasting = frozenset(key.key_id for key in sealed_keys.every(tx).values())
    return Keys(given, inventory.sealed_with(tx), lasting)


def _rotate_own(location: Path, file: Path) -> Rotated:
    """The new key is on disk before anything is sealed with it, the old one until nothing is any more, and then beside it.

    After an interruption the file holds both: then that rotation is brought to its end instead.
    """
    before = read_keys(file)
    keys = before if len(before) > 1 else (new_key(), *before)
    _replace(file, written(*keys))
    done = _sealed_anew(location, keys)
    retired = tuple(file.with_name(f"retired-{key_id(key)}.key") for key in keys[1:])
    for path, key in zip(retired, keys[1:], strict=True):
        _replace(path, written(key))
    _replace(file, written(keys[0]))
    return Rotated(done.key_id, done.count, done.keys, retired)


def _replace(path: Path, content: bytes) -> None:
    """As a whole or not at all, for its owner only, and safe from a power cut."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sealed_anew(location: Location, keys: tuple[bytes, ...]) -> Rotated:
    vault = Vault(*keys)
    with closing(backend(location).visit(is_reader=False)) as session:
        session.run(lambda tx: check_version(tx, "the store"), "read")
        session.run(lambda tx: _reseal_lasting(tx, vault), "durable")
        count = _reseal_credentials(session, vault)
        return Rotated(vault.key_id, count, session.run(lambda tx: _keys(tx, vault.key_ids[::-1]), "read"))


def _reseal_lasting(tx: Tx, vault: Vault) -> None:
    for key in sealed_keys.every(tx).values():
        if key.key_id != vault.key_id and vault.opens(key.key_id):
            where = place(key.purpose)
            clear = vault.open(key.ciphertext, where, key.key_id)
            sealed_keys.put(tx, SealedKey(key.purpose, vault.key_id, vault.seal(clear, where), key.public))


def _reseal_credentials(session: Session, vault: Vault) -> int:
    def batch(tx: Tx) -> int:
        found = inventory.sealed_otherwise(tx, vault.key_id, vault.key_ids, BATCH)
        for one in found:
            inventory.seal_anew(tx, one, vault.seal(_opened(vault, one), _where(one)), vault.key_id)
        return len(found)

    total = 0
    while count := session.run(batch, "durable"):
        total += count
    return total


def _opened(vault: Vault, one: SealedElsewhere) -> Secret:
    return vault.open(one.ciphertext, _where(one), one.key_id)


def _where(one: SealedElsewhere) -> str:
    return f"{one.integration_id}/{one.name}"
