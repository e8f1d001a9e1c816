"""Keys that outlive a master key, each sealed with it: they are the same before and after the master key is another one.

Query functions for `Database.read` and `Database.write`. What they are for is `app/vault`'s to know.
"""

from dataclasses import dataclass

from reconciler.store.database import Tx


@dataclass(frozen=True, slots=True)
class SealedKey:
    """`public` is the half of a pair that anybody may seal with; empty for a key that has none."""

    purpose: str
    key_id: str
    ciphertext: bytes
    public: str = ""


def every(tx: Tx) -> dict[str, SealedKey]:
    """By purpose."""
    rows = tx.all("SELECT purpose, key_id, ciphertext, public FROM sealed_key ORDER BY purpose")
    return {purpose: SealedKey(purpose, key_id, bytes(text), public) for purpose, key_id, text, public in rows}


def put(tx: Tx, key: SealedKey) -> None:
    tx.execute(
        "INSERT INTO sealed_key (purpose, key_id, ciphertext, public) VALUES (:purpose, :key, :text, :public)"
        " ON CONFLICT (purpose) DO UPDATE SET key_id = excluded.key_id, ciphertext = excluded.ciphertext,"
        " public = excluded.public",
        {"purpose": key.purpose, "key": key.key_id, "text": key.ciphertext, "public": key.public},
    )


def public_of(tx: Tx, purpose: str) -> str | None:
    """None where no daemon has made it yet."""
    found = tx.value("SELECT public FROM sealed_key WHERE purpose = :p", p=purpose)
    return None if found is None else str(found)


def forget(tx: Tx, key_id: str) -> None:
    """Those that only a lost master key opened are made anew by the next daemon that starts."""
    tx.execute("DELETE FROM sealed_key WHERE key_id = :k", {"k": key_id})
