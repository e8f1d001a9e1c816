"""The past of a dataset: its versions, records as they stood at one of them or at a moment, and how two moments differ.

A `Cut` names a moment: everything up to one number of the integration's log. Because the log only grows, a cut shows the same
records in every later transaction, so long reads go stretch by stretch and keep no snapshot open. Each stretch walks
from the heads back along `prev`. What retention has cut off is a NotKeptError, never a guess. Only reads; who brings
a version back is `rollback`, what forgets for good is `erasure`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.model.event import Operation
from reconciler.model.record import Counts
from reconciler.store.database import Row, Tx
from reconciler.store.dataset import GONE, OPS, SHIFT
from reconciler.store.errors import StoreError

STRETCH = 200
TALLY_STRETCH = 5000
NARROW = 20_000  # log entries between two cuts, up to which those are looked through rather than all records


class NotKeptError(StoreError):
    """What was asked for is not there: never was, or is older than kept. The message says what is."""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """What one run made of the dataset. `run` is its public id while the run is kept; `restores` what a rollback brought back."""

    number: int
    at: str
    last_number: int
    run: str | None
    revision: str
    spec_hash: str
    connector: str
    connector_version: str
    counts: Counts
    restores: int | None


@dataclass(frozen=True, slots=True)
class Cut:
    """The log of one integration up to and including number `last`. `version`: the newest dataset version in it."""

    integration_id: int
    last: int
    version: int | None
    at: str


@dataclass(frozen=True, slots=True)
class EntityOf:
    """An entity whose records are kept; `records` are those that are not deleted now."""

    id: int
    name: str
    records: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One record at a cut: the number, time and content of the version that held then."""

    key: str
    number: int
    at: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Difference:
    """One record at two cuts; None where it did not exist or was deleted."""

    key: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True)
class LineageStep:
    """One version of one record. `version` is the dataset version that its run made, None while it goes on."""

    number: int
    op: Operation
    at: str
    run: str | None
    version: int | None
    has_older: bool


_VERSION = (
    "SELECT d.number, d.at, d.last_number, r.public_id, d.revision, d.spec_hash, d.connector, d.connector_version,"
    " d.added, d.updated, d.deleted, d.restores FROM dataset_version d LEFT JOIN run r ON r.id = d.run_id"
    " WHERE d.integration_id = :i"
)


def _version(row: Row) -> DatasetVersion:
    return DatasetVersion(
        number=row["number"],
        at=row["at"],
        last_number=row["last_number"],
        run=row["public_id"],
        revision=row["revision"],
        spec_hash=row["spec_hash"],
        connector=row["connector"],
        connector_version=row["connector_version"],
        counts=Counts(row["added"], row["updated"], deleted=row["deleted"]),
        restores=row["restores"],
    )


def versions(tx: Tx, integration_id: int, limit: int, before: int | None = None) -> list[DatasetVersion]:
    """The newest first, of those before number `before`."""
    rows = tx.all(
        f"{_VERSION} AND d.number < :before ORDER BY d.number DESC LIMIT :n",
        i=integration_id,
        before=before if before is not None else 1 << 31,
        n=limit,
    )
    return [_version(r) for r in rows]


def version(tx: Tx, integration_id: int, number: int) -> DatasetVersion:
    """Raises NotKeptError with what there is."""
    row = tx.one(f"{_VERSION} AND d.number = :n", i=integration_id, n=number)
    if row is not None:
        return _version(row)
    oldest, newest = _kept(tx, integration_id)
    if oldest is None or newest is None:
        raise NotKeptError("there is no dataset version yet; the first sync that brings records makes one")
    if number < oldest.number and number > 0:
        raise NotKeptError(f"version {number} is older than kept; the oldest is {oldest.number} of {oldest.at}")
    raise NotKeptError(f"there is no version {number}; the newest is {newest.number} of {newest.at}")


def _kept(tx: Tx, integration_id: int) -> tuple[DatasetVersion | None, DatasetVersion | None]:
    oldest = tx.one(f"{_VERSION} ORDER BY d.number LIMIT 1", i=integration_id)
    newest = tx.one(f"{_VERSION} ORDER BY d.number DESC LIMIT 1", i=integration_id)
    return _version(oldest) if oldest else None, _version(newest) if newest else None


def entities(tx: Tx, integration_id: int) -> list[EntityOf]:
    """By name."""
    rows = tx.all("SELECT id, name, records FROM entity WHERE integration_id = :i ORDER BY name", i=integration_id)
    return [EntityOf(i, name, records) for i, name, records in rows]


def at_version(tx: Tx, integration_id: int, number: int) -> Cut:
    """As the run that made this version left it. Raises NotKeptError."""
    found = version(tx, integration_id, number)
    return Cut(integration_id, found.last_number, found.number, found.at)


def at_present(tx: Tx, integration_id: int, at: str) -> Cut:
    """Everything stored by now, also what a run under way has stored; `at` is what the moment is called."""
    seq = tx.value("SELECT seq FROM integration WHERE id = :i", i=integration_id)
    _, newest = _kept(tx, integration_id)
    return Cut(integration_id, (integration_id << SHIFT) + int(seq), newest.number if newest else None, at)


def at_moment(tx: Tx, integration_id: int, at: str) -> Cut:
    """What was stored at that time, to the page, also in the middle of a run. Raises NotKeptError."""
    oldest, _ = _kept(tx, integration_id)
    if oldest is not None and oldest.number > 1 and at < oldest.at:
        raise NotKeptError(f"{at} is older than kept; the oldest version is {oldest.number} of {oldest.at}")
    before = tx.one(f"{_VERSION} AND d.at <= :at ORDER BY d.number DESC LIMIT 1", i=integration_id, at=at)
    made = _version(before) if before else None
    low = made.last_number if made else integration_id << SHIFT
    # between two dataset versions only the pages of one run have to be looked through
    following = tx.value(
        "SELECT min(last_number) FROM dataset_version WHERE integration_id = :i AND last_number > :low",
        i=integration_id,
        low=low,
    )
    last = tx.value(
        "SELECT max(number) FROM version WHERE number > :low AND number <= :high AND at <= :at",
        low=low,
        high=following or (integration_id + 1 << SHIFT) - 1,
        at=at,
    )
    return Cut(integration_id, last or low, made.number if made else None, at)


def records(tx: Tx, cut: Cut, entity_id: int, after: str = "", limit: int = STRETCH) -> tuple[list[Entry], str | None]:
    """The next records in key order, and the key to go on after; None where that was all."""
    upto = _upto(tx, entity_id, after, limit, 0)
    return _entries(tx, _walk(tx, cut.last, entity_id, after, upto, 0)), upto


def record(tx: Tx, cut: Cut, entity_id: int, key: str) -> Entry | None:
    """One record at the cut; None where it did not exist or was deleted."""
    found = _entries(tx, _walk_one(tx, cut.last, entity_id, key))
    return found[0] if found else None


def differences(
    tx: Tx, before: Cut, after: Cut, entity_id: int, behind: str = "", limit: int = STRETCH
) -> tuple[list[Difference], str | None]:
    """Records that differ, in key order among the next `limit` that changed since the older cut; and where to go on."""
    changed, upto = _differing(tx, before, after, entity_id, behind, limit)
    old = _fetch(tx, {key: b for key, (b, _) in changed.items() if b})
    new = _fetch(tx, {key: a for key, (_, a) in changed.items() if a})
    return [Difference(key, _payload(old, key), _payload(new, key)) for key in changed], upto


def returning(tx: Tx, cut: Cut, entity_id: int, behind: str, limit: int) -> tuple[dict[str, bytes | None], str | None]:
    """What differs now from the cut, as it was there: None where there was nothing. And where to go on."""
    present = at_present(tx, cut.integration_id, "")
    changed, upto = _differing(tx, present, cut, entity_id, behind, limit)
    found = _fetch(tx, {key: then for key, (_, then) in changed.items() if then})
    return {key: _payload(found, key) for key in changed}, upto


def tally(tx: Tx, before: Cut, after: Cut, entity_id: int) -> Counts:
    """How many records are added, updated and deleted on the way from one cut to the other; reads no payload."""
    added = updated = deleted = 0
    behind: str | None = ""
    while behind is not None:
        changed, behind = _differing(tx, before, after, entity_id, behind, TALLY_STRETCH)
        pairs = [(b is not None, a is not None) for b, a in changed.values()]
        added += pairs.count((False, True))
        updated += pairs.count((True, True))
        deleted += pairs.count((True, False))
    return Counts(added, updated, deleted=deleted)


def lineage(tx: Tx, integration_id: int, entity_id: int, key: str, limit: int) -> list[LineageStep]:
    """The versions of one record, newest first. `has_older` at the last one: beyond `limit`, or not kept any more."""
    rows = tx.all(_LINEAGE, i=integration_id, e=entity_id, k=key, n=limit)
    return [
        LineageStep(number, OPS[op], at, run, made, has_older=row is rows[-1] and row["prev"] is not None)
        for row in rows
        for number, _, op, at, run, made in (row,)
    ]


_LINEAGE = """
WITH RECURSIVE walk (number, depth) AS (
  SELECT h.version_id, 1 FROM head h WHERE h.entity_id = :e AND h.key = :k
  UNION ALL
  SELECT (SELECT v.prev FROM version v WHERE v.number = w.number), w.depth + 1 FROM walk w
  WHERE w.number IS NOT NULL AND w.depth < :n
)
SELECT v.number, v.prev, v.op, v.at, r.public_id, d.number AS made FROM walk w
JOIN version v ON v.number = w.number
LEFT JOIN run r ON r.id = v.run_id
LEFT JOIN dataset_version d ON d.integration_id = :i AND d.run_id = v.run_id
ORDER BY v.number DESC
"""

# A probe of the primary key for each step: as a join, PostgreSQL may read the whole log for it.
_WALK = """
WITH RECURSIVE walk (key, number, hash) AS (
  SELECT h.key, h.version_id, h.hash FROM head h WHERE {where}
  UNION ALL
  SELECT w.key, (SELECT v.prev FROM version v WHERE v.number = w.number), NULL FROM walk w WHERE w.number > :last
)
SELECT w.key, w.number,
  CASE WHEN w.number <= :last THEN coalesce(w.hash, (SELECT v.hash FROM version v WHERE v.number = w.number)) END AS hash
FROM walk w
WHERE w.number <= :last OR (w.number > :last AND (SELECT 1 FROM version v WHERE v.number = w.number) IS NULL)
ORDER BY w.key
"""
_BETWEEN = "h.entity_id = :e AND h.key > :after AND h.version_id > :since"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the log a record stood at a cut."""

    number: int
    hash: bytes


def _upto(tx: Tx, entity_id: int, after: str, limit: int, since: int) -> str | None:
    """The key at which a stretch of `limit` records ends; None where fewer are left."""
    sql = f"SELECT h.key FROM head h WHERE {_BETWEEN} ORDER BY h.key LIMIT 1 OFFSET :skip"
    key: str | None = tx.value(sql, e=entity_id, after=after, since=since, skip=limit - 1)
    return key


def _walk(tx: Tx, last: int, entity_id: int, after: str, upto: str | None, since: int) -> dict[str, _Place]:
    """key -> its version at `last`, of the records in the stretch whose head is newer than `since`; not what was deleted."""
    params = {"e": entity_id, "after": after, "since": since, "last": last}
    if upto is None:
        return _places(tx.all(_WALK.format(where=_BETWEEN), **params))
    return _places(tx.all(_WALK.format(where=f"{_BETWEEN} AND h.key <= :upto"), **params, upto=upto))


def _walk_one(tx: Tx, last: int, entity_id: int, key: str) -> dict[str, _Place]:
    return _places(tx.all(_WALK.format(where="h.entity_id = :e AND h.key = :k"), e=entity_id, k=key, last=last))


def _places(rows: Iterable[Row]) -> dict[str, _Place]:
    found = {}
    for key, number, digest in rows:
        if digest is None:
            raise _not_kept(key)
        if bytes(digest) != GONE:
            found[key] = _Place(number, bytes(digest))
    return found


def _differing(
    tx: Tx, before: Cut, after: Cut, entity_id: int, behind: str, limit: int
) -> tuple[dict[str, tuple[_Place | None, _Place | None]], str | None]:
    """key -> where it stood at both cuts, if its content differs. What did not change since the older is not walked."""
    since = min(before.last, after.last)
    if _is_narrow(tx, before, after):
        keys, upto = _written_between(tx, before, after, entity_id, behind, limit)
        old, new = (_walk_keys(tx, cut.last, entity_id, keys) for cut in (before, after))
    else:
        upto = _upto(tx, entity_id, behind, limit, since)
        old = _walk(tx, before.last, entity_id, behind, upto, since)
        new = _walk(tx, after.last, entity_id, behind, upto, since)
    pairs = ((key, old.get(key), new.get(key)) for key in sorted(old | new))
    return {key: (b, a) for key, b, a in pairs if b is None or a is None or b.hash != a.hash}, upto


def _is_narrow(tx: Tx, before: Cut, after: Cut) -> bool:
    """Whether little was written between them, and all of it is still there."""
    low, high = sorted((before.last, after.last))
    cut = tx.value("SELECT cut_number FROM integration WHERE id = :i", i=before.integration_id)
    return high - low <= NARROW and cut is not None and int(cut) <= low


def _written_between(
    tx: Tx, before: Cut, after: Cut, entity_id: int, behind: str, limit: int, /
) -> tuple[list[str], str | None]:
    """The next keys that the log names between two cuts, and the key to go on behind."""
    low, high = sorted((before.last, after.last))
    rows = tx.all(
        "SELECT DISTINCT v.key FROM version v WHERE v.number > :low AND v.number <= :high AND v.entity_id = :e"
        " AND v.key > :behind ORDER BY v.key LIMIT :n",
        low=low,
        high=high,
        e=entity_id,
        behind=behind,
        n=limit,
    )
    keys = [key for (key,) in rows]
    return keys, keys[-1] if len(keys) == limit else None


def _walk_keys(tx: Tx, last: int, entity_id: int, keys: Sequence[str]) -> dict[str, _Place]:
    is_file = tx.dialect == "sqlite"
    among = "h.key IN (SELECT value FROM json_each(:keys))" if is_file else "h.key = any(:keys)"
    given = json.dumps(keys) if is_file else list(keys)
    return _places(tx.all(_WALK.format(where=f"h.entity_id = :e AND {among}"), e=entity_id, keys=given, last=last))


def _entries(tx: Tx, places: Mapping[str, _Place]) -> list[Entry]:
    found = _fetch(tx, places)
    return [Entry(key, place.number, *found[key]) for key, place in places.items()]


def _fetch(tx: Tx, places: Mapping[str, _Place]) -> dict[str, tuple[str, bytes]]:
    """key -> time and content. Raises NotKeptError."""
    numbers = [place.number for place in places.values()]
    if not numbers:
        return {}
    if tx.dialect == "sqlite":
        sql = "SELECT v.number, v.at, v.payload FROM json_each(:numbers) j CROSS JOIN version v ON v.number = j.value"
        rows = tx.all(sql, numbers=json.dumps(numbers))
    else:
        rows = tx.all("SELECT v.number, v.at, v.payload FROM version v WHERE v.number = any(:numbers)", numbers=numbers)
    found = {number: (at, bytes(payload)) for number, at, payload in rows}
    if lost := next((key for key, place in places.items() if place.number not in found), None):
        raise _not_kept(lost)
    return {key: found[place.number] for key, place in places.items()}


def _not_kept(key: str) -> NotKeptError:
    return NotKeptError(f"record {key}: its version at that time is older than kept")


def _payload(found: Mapping[str, tuple[str, bytes]], key: str) -> bytes | None:
    return found[key][1] if key in found else None
