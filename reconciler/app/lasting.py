"""The vault of an installation: master keys as they are given, and the keys sealed with them that outlive them.

In: master keys and the store. Out: a `Vault`. Called by the daemon at its start, which makes what is missing, and by commands,
which only read. Where the stored keys are sealed with a master key that is not given, nothing is overwritten: the vault works
without them, so fingerprints differ and nobody can be authorized, until that key is given or forgotten (`reconciler keys`).
"""

from collections.abc import Mapping

import structlog

from reconciler.app.vault import Lasting, Vault, first_fingerprint_key
from reconciler.model.secret import Secret
from reconciler.store import sealed_keys
from reconciler.store.database import Database, Tx
from reconciler.store.sealed_keys import SealedKey

FINGERPRINTS, TRANSIT = "fingerprints", "transit"


async def open_vault(database: Database, *keys: bytes) -> Vault:
    """With the lasting keys of the store, made now where it has none yet."""
    plain = Vault(*keys)
    found = await database.read(sealed_keys.every)
    if not {FINGERPRINTS, TRANSIT} <= found.keys():
        made = _made(plain, keys)
        found = await database.write(lambda tx: _add_missing(tx, made))
    if unknown := sorted({key.key_id for key in found.values() if not plain.opens(key.key_id)}):
        structlog.get_logger("daemon").warning(
            "what is sealed in the database was sealed with a master key that is not given here; "
            "give it as well, or, where it is lost: reconciler keys rotate --forget KEY",
            sealed_with=unknown,
            given=list(plain.key_ids),
        )
    return with_lasting(found, *keys)


def with_lasting(found: Mapping[str, SealedKey], *keys: bytes) -> Vault:
    """As far as the given keys open what was found."""
    vault = Vault(*keys)
    fingerprints, transit = (_opened(vault, found.get(purpose)) for purpose in (FINGERPRINTS, TRANSIT))
    mark = bytes.fromhex(fingerprints.reveal()) if fingerprints else first_fingerprint_key(keys)
    return Vault(*keys, lasting=Lasting(mark, transit))


def place(purpose: str) -> str:
    """What a lasting key's seal is bound to."""
    return f"sealed_key/{purpose}"


def _opened(vault: Vault, key: SealedKey | None) -> Secret | None:
    if key is None or not vault.opens(key.key_id):
        return None
    return vault.open(key.ciphertext, place(key.purpose), key.key_id)


def _made(vault: Vault, keys: tuple[bytes, ...]) -> list[SealedKey]:
    import pyrage

    pair = pyrage.x25519.Identity.generate()
    values = {FINGERPRINTS: first_fingerprint_key(keys).hex(), TRANSIT: str(pair)}
    public = {TRANSIT: str(pair.to_public())}
    return [
        SealedKey(purpose, vault.key_id, vault.seal(Secret(value), place(purpose)), public.get(purpose, ""))
        for purpose, value in values.items()
    ]


def _add_missing(tx: Tx, made: list[SealedKey]) -> dict[str, SealedKey]:
    """Another process may have been faster."""
    found = sealed_keys.every(tx)
    for key in made:
        if key.purpose not in found:
            sealed_keys.put(tx, key)
    return sealed_keys.every(tx)
