"""Keys with which others push to an integration: make the next one, end one, tell when one is due. For routes and commands.

Each call is made in a transaction of its caller's. There is one active key, and for the time of grace the one before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.control.carried import OrderError
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.duration import parse_duration
from reconciler.model.ingest_key import NewKey, new_key
from reconciler.model.record import LogLevel
from reconciler.sdk.registry import UnknownTypeError, load
from reconciler.store import agenda, ingest_keys, journal, shown
from reconciler.store.database import Tx
from reconciler.store.ingest_keys import KeyRow
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import LogLine

LONGEST_GRACE = timedelta(days=7)


class OtherKeyError(Exception):
    """The key is not the one that whoever asked had in mind: somebody else made a new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    """`grace` None: as the manifest says. `instead_of`: only where this key is the active one."""

    by: str
    grace: timedelta | None = None
    label: str = ""
    expires_at: datetime | None = None
    instead_of: str | None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """`previous` is the key until now, as it stands from here on."""

    new: NewKey
    row: KeyRow
    previous: KeyRow | None
    valid_until: str


@dataclass(frozen=True, slots=True)
class Rotation:
    grace: timedelta = timedelta()
    max_age: timedelta | None = None

    def due_at(self, key: KeyRow) -> str | None:
        return rfc3339(from_rfc3339(key.created_at) + self.max_age) if self.max_age is not None else None


def demand_pushes(row: IntegrationRow) -> None:
    """Raises OrderError where nobody pushes to such an integration."""
    try:
        takes = callable(getattr(load(row.type), "pushed_entity", None))
    except UnknownTypeError:
        takes = False
    if not takes:
        raise OrderError(f"{row.ref} is of type {row.type}: only integrations that are pushed to (custom) have keys")


def regenerate(tx: Tx, row: IntegrationRow, wish: KeyWish, now: datetime) -> MadeKey:
    """Raises OrderError and OtherKeyError."""
    demand_pushes(row)
    before = ingest_keys.current(tx, row.id, now)
    if wish.instead_of is not None and wish.instead_of != (before.key_id if before else ""):
        raise OtherKeyError("the active key is another one by now: look at the keys before you replace it")
    grace = wish.grace if wish.grace is not None else rotation_of(tx, row.id).grace
    if not timedelta() <= grace <= LONGEST_GRACE:
        raise OrderError("the grace is at most seven days")
    new, at, until = new_key(), rfc3339(now), rfc3339(now + grace)
    made = KeyRow(
        key_id=new.key_id,
        integration_id=row.id,
        sha256=new.sha256,
        hint=new.hint,
        label=wish.label,
        created_at=at,
        created_by=wish.by,
        expires_at=rfc3339(wish.expires_at) if wish.expires_at else None,
    )
    ingest_keys.replace_all(tx, made, until if grace else None)
    agenda.set_next_probe(tx, row.id, at)  # which tells whose key counts, and when the next is due
    _note(tx, row, now, "key made", {"key_id": new.key_id, "by": wish.by, "replaces": before.key_id if before else ""})
    return MadeKey(new, made, before, until)


def revoke(tx: Tx, row: IntegrationRow, key_id: str, by: str, now: datetime) -> bool:
    """Whether it counted until now."""
    is_gone = ingest_keys.revoke(tx, row.id, key_id, rfc3339(now))
    if is_gone:
        _note(tx, row, now, "key revoked", {"key_id": key_id, "by": by})
    return is_gone


def _note(tx: Tx, row: IntegrationRow, now: datetime, what: str, detail: Mapping[str, Any]) -> None:
    journal.write_logs(tx, [LogLine(row.id, rfc3339(now), LogLevel.INFO, what, detail)])


def rotation_of(tx: Tx, integration_id: int) -> Rotation:
    """What the manifest says, where it can be read."""
    auth = shown.desired_tree(tx, integration_id).get("auth")
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
