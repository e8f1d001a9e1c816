"""Keys with which others push to an integration: make one more, replace one, end one. For routes and commands.

Each call is made in a transaction of its caller's, who also writes the audit. Two keys open at most: both active, or one of them
on its way out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from reconciler.control.carried import OrderError
from reconciler.model.clock import rfc3339
from reconciler.model.ingest_key import NewKey, Rotation, new_key, rotation_in
from reconciler.model.record import LogLevel
from reconciler.sdk.registry import UnknownTypeError, load
from reconciler.store import agenda, ingest_keys, journal, shown
from reconciler.store.database import Tx
from reconciler.store.ingest_keys import KeyRow, Operation
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import LogLine

LONGEST_GRACE = timedelta(days=7)
MOST_OPEN = 2
ANY = "*"
"""Instead of whichever is active, as long as one is (RFC 9110, If-Match)."""


class OtherKeyError(Exception):
    """The key is not the one that whoever asked had in mind: somebody else made a new one."""


class KeyLimitError(Exception):
    """More keys would open than may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyWish:
    by: str
    label: str = ""
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MadeKey:
    """`previous` is the key that it replaces, as it stood until then; it opens until `valid_until`."""

    new: NewKey
    row: KeyRow
    previous: KeyRow | None = None
    valid_until: str = ""


def demand_pushes(row: IntegrationRow) -> None:
    """Raises OrderError where nobody pushes to such an integration."""
    try:
        takes = callable(getattr(load(row.type), "pushed_entity", None))
    except UnknownTypeError:
        takes = False
    if not takes:
        raise OrderError(f"{row.ref} is of type {row.type}: only integrations that are pushed to (custom) have keys")


def create(tx: Tx, row: IntegrationRow, wish: KeyWish, now: datetime) -> MadeKey:
    """One more. Raises OrderError and KeyLimitError."""
    demand_pushes(row)
    if len(ingest_keys.opening(tx, row.id, now)) >= MOST_OPEN:
        raise KeyLimitError(f"{MOST_OPEN} keys open {row.ref} already: regenerate one, or revoke one before")
    made = _made(row, wish, now)
    _put(tx, row, made, now, "create", {"by": wish.by})
    return made


def regenerate(
    tx: Tx,
    row: IntegrationRow,
    wish: KeyWish,
    now: datetime,
    *,
    grace: timedelta | None = None,
    instead_of: str | None = None,
) -> MadeKey:
    """In place of the active key, or of the one that is named where there are two; what was on its way out ends.

    `grace` None: as the manifest says; without a label it has that of the one before. Raises OrderError, OtherKeyError and
    KeyLimitError.
    """
    demand_pushes(row)
    opening = ingest_keys.opening(tx, row.id, now)
    before = _replaced([key for key in opening if key.state(now) == "active"], instead_of)
    grace = grace if grace is not None else rotation_of(tx, row.id).grace
    if not timedelta() <= grace <= LONGEST_GRACE:
        raise OrderError("the grace is at most seven days")
    others = [key for key in opening if before is None or key.key_id != before.key_id]
    stays = [key for key in others if key.state(now) == "active"]
    if grace and len(stays) + 2 > MOST_OPEN:
        raise KeyLimitError(
            f"with a grace three keys would open {row.ref}: replace it without one, or revoke another before"
        )
    at, until = rfc3339(now), rfc3339(now + grace)
    for key in others:
        if key not in stays:
            ingest_keys.revoke(tx, row.id, key.key_id, at)
    made = _made(row, replace(wish, label=wish.label or (before.label if before else "")), now)
    _put(tx, row, made, now, "regenerate", {"by": wish.by, "replaces": before.key_id if before else ""})
    if before is None:
        return made
    if grace:
        ingest_keys.retire(tx, before.key_id, until)
    else:
        ingest_keys.revoke(tx, row.id, before.key_id, at)
    return MadeKey(made.new, made.row, before, until)


def _replaced(active: list[KeyRow], instead_of: str | None) -> KeyRow | None:
    is_any = instead_of in {None, ANY}
    if is_any and len(active) > 1:
        ids = " or ".join(key.key_id for key in active)
        raise OrderError(f"two keys are active: say which is to be replaced, {ids} (If-Match, --instead-of)")
    found = next((key for key in active if is_any or key.key_id == instead_of), None)
    if instead_of is not None and found is None:
        raise OtherKeyError("that is no active key (any more): look at the keys before you replace one")
    return found


def revoke(tx: Tx, row: IntegrationRow, key_id: str, by: str, now: datetime) -> bool:
    """Whether it counted until now."""
    is_gone = ingest_keys.revoke(tx, row.id, key_id, rfc3339(now))
    if is_gone:
        ingest_keys.count(tx, row.id, "revoke")
        _note(tx, row, now, "key revoked", {"key_id": key_id, "by": by})
    return is_gone


def _made(row: IntegrationRow, wish: KeyWish, now: datetime) -> MadeKey:
    if wish.expires_at is not None and wish.expires_at <= now:
        raise OrderError("expires_at is over: such a key would open nothing")
    new = new_key()
    key = KeyRow(
        key_id=new.key_id,
        integration_id=row.id,
        sha256=new.sha256,
        hint=new.hint,
        label=wish.label,
        created_at=rfc3339(now),
        created_by=wish.by,
        expires_at=rfc3339(wish.expires_at) if wish.expires_at else None,
    )
    return MadeKey(new, key)


def _put(tx: Tx, row: IntegrationRow, made: MadeKey, now: datetime, op: Operation, detail: Mapping[str, Any]) -> None:
    ingest_keys.put(tx, made.row)
    ingest_keys.count(tx, row.id, op)
    agenda.set_next_probe(tx, row.id, rfc3339(now))  # which tells whose key counts, and when the next is due
    _note(tx, row, now, "key made", {"key_id": made.row.key_id, **detail})


def _note(tx: Tx, row: IntegrationRow, now: datetime, what: str, detail: Mapping[str, Any]) -> None:
    journal.write_logs(tx, [LogLine(row.id, rfc3339(now), LogLevel.INFO, what, detail)])


def rotation_of(tx: Tx, integration_id: int) -> Rotation:
    """What the manifest says, where it can be read."""
    return rotation_in(shown.desired_tree(tx, integration_id))
