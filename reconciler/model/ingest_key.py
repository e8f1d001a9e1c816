"""Keys with which others push to us: `rck_<id>_<secret>`, 56 characters.

The fixed prefix lets scanners find leaks, the id may be shown and logged, the secret has 256 bits, so a plain SHA-256 of the
whole is stored. Pure; `store.ingest_keys` keeps them.
"""

import re
import secrets
import string
from dataclasses import dataclass

from reconciler.model.access import hash_of
from reconciler.model.secret import Secret

_ALPHABET = string.ascii_letters + string.digits
_SHAPE = re.compile(r"rck_([A-Za-z0-9]{8})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class NewKey:
    """`clear` is shown once, to whoever asked for it."""

    key_id: str
    clear: Secret

    @property
    def sha256(self) -> str:
        return hash_of(self.clear.reveal())

    @property
    def hint(self) -> str:
        """What may be shown for good: the id and the last three characters."""
        return f"rck_{self.key_id}_...{self.clear.reveal()[-3:]}"


def new_key() -> NewKey:
    key_id = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    return NewKey(key_id, Secret(f"rck_{key_id}_{secrets.token_urlsafe(32)}"))


def key_id_of(clear: str) -> str:
    """Empty for what cannot be a key."""
    found = _SHAPE.fullmatch(clear)
    return found[1] if found else ""
