"""Keys with which others push to us: `rck_<id>_<secret>`, 56 characters.

The fixed prefix lets scanners find leaks, the id may be shown and logged, the secret has 256 bits, so a plain SHA-256 of the
whole is stored. Pure; `store.ingest_keys` keeps them.
"""

import re
import secrets
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.model.access import hash_of
from reconciler.model.duration import parse_duration
from reconciler.model.secret import Secret

AUTH_TYPE = "generated_api_key"
"""`spec.auth.type` of an integration that is pushed to with such keys."""
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


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a manifest says of its keys in `spec.auth.rotation`. They are made and replaced by people."""

    grace: timedelta = timedelta()
    max_age: timedelta | None = None

    def due_at(self, created_at: datetime) -> datetime | None:
        return created_at + self.max_age if self.max_age is not None else None


def rotation_in(tree: Mapping[str, Any]) -> Rotation:
    """Of a spec as written; what cannot be read counts as not said."""
    auth = tree.get("auth")
    said = auth.get("rotation") if isinstance(auth, Mapping) else None
    if not isinstance(said, Mapping):
        return Rotation()
    return Rotation(_duration(said.get("grace")) or timedelta(), _duration(said.get("max_age")))


def _duration(text: Any) -> timedelta | None:
    try:
        found = parse_duration(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return found if isinstance(found, timedelta) else None
