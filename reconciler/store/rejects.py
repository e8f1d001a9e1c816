"""Records that could not be taken: kept as they came, listed, tried again, and forgotten once a sync takes them in.

In: what a page rejected, after `sync.fields`. One row per record, a bounded number per entity, the oldest going first.
Called by the page commit, by the end of a read that saw everything, by a replay and by whoever lists them. What a record
is, and whether it can be taken now, is the connector's to say; retention is in `journal`, forgetting a person in `erasure`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.model.record import Page, Reject
from reconciler.store import dataset
from reconciler.store.database import Row, Tx
from reconciler.store.dataset import PageCommit

MOST_KEPT = 1000
MOST_BYTES = 256 * 1024
TOO_LARGE = b"{}"
STRETCH = 200


@dataclass(frozen=True, slots=True)
class Kept:
    """One rejected record. `run` is the public id of the run that met it last, None where that is not kept any more.

    `listing` is the part of the entity that it came from; `violations` are those of the last try.
    """

    id: int
    entity: str
    key: str
    listing: str
    payload: bytes
    violations: tuple[str, ...]
    at: str
    run: str | None
    is_silent: bool

    @property
    def is_whole(self) -> bool:
        """False where there was too much of it to keep."""
        return self.payload != TOO_LARGE


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of kept rejects: `taken` each with the page it makes, `left` says of each id why not."""

    taken: Sequence[tuple[Kept, Page]]
    left: Mapping[int, tuple[str, ...]]


_KEPT = (
    "SELECT j.id, e.name, j.key, j.listing, j.payload, j.violations, j.at, r.public_id, re.is_silent FROM reject j"
    " JOIN entity e ON e.id = j.entity_id LEFT JOIN run r ON r.id = j.run_id"
    " LEFT JOIN run_entity re ON re.run_id = j.run_id AND re.entity_id = j.entity_id"
)


def _kept(row: Row) -> Kept:
    number, entity, key, listing, payload, violations, at, run, silent = row
    return Kept(number, entity, key, listing, bytes(payload), tuple(json.loads(violations)), at, run, bool(silent))


def keep(tx: Tx, commit: PageCommit, part: str, found: Sequence[Reject]) -> None:
    """What a page of that part could not take; a record that is known as rejected stays one row, as it is now."""
    rows = [
        (commit.run_id, commit.entity_id, r.key, payload, json.dumps(r.violations), commit.at, part, _identity(r))
        for r in found
        for payload in (r.payload if len(r.payload) <= MOST_BYTES else TOO_LARGE,)
    ]
    tx.executemany(
        "INSERT INTO reject (run_id, entity_id, key, payload, violations, at, listing, identity)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (entity_id, identity) WHERE identity IS NOT NULL DO UPDATE SET"
        " run_id = excluded.run_id, payload = excluded.payload, violations = excluded.violations, at = excluded.at,"
        " listing = excluded.listing",
        rows,
    )
    tx.execute(
        "UPDATE run_entity SET nameless = nameless + :n WHERE run_id = :r AND entity_id = :e",
        {"n": sum(not r.key for r in found), "r": commit.run_id, "e": commit.entity_id},
    )
    tx.execute(
        "DELETE FROM reject WHERE entity_id = :e AND id <="
        " (SELECT id FROM reject WHERE entity_id = :e ORDER BY id DESC LIMIT 1 OFFSET :most)",
        {"e": commit.entity_id, "most": MOST_KEPT},
    )


def misfits(tx: Tx, run_id: int, entity_id: int) -> tuple[int, str]:
    """How many records of the entity with a known key the run rejected, and the reason of one."""
    row = tx.one(
        "SELECT count(*), max(violations) FROM reject WHERE run_id = :r AND entity_id = :e AND key <> ''",
        r=run_id,
        e=entity_id,
    )
    return (row[0], "; ".join(json.loads(row[1]))) if row and row[0] else (0, "")


def _identity(reject: Reject) -> str:
    return f"key {reject.key}" if reject.key else f"hash {dataset.fingerprint(reject.payload).hex()}"


def keys_of(tx: Tx, entity_id: int) -> set[str]:
    """The keys of the entity's rejects, as far as they could be read."""
    return {key for (key,) in tx.all("SELECT key FROM reject WHERE entity_id = :e AND key <> ''", e=entity_id)}


def forget_taken(tx: Tx, entity_id: int, keys: Iterable[str]) -> None:
    """A sync took these records in, or heard that they are gone."""
    known = keys_of(tx, entity_id)
    tx.executemany(
        "DELETE FROM reject WHERE entity_id = :e AND key = :k",
        [{"e": entity_id, "k": key} for key in known.intersection(keys)] if known else [],
    )


def forget_unmet(tx: Tx, run_id: int, entity_id: int) -> None:
    """The run has read everything: what it did not reject again was taken, or is not there any more."""
    tx.execute("DELETE FROM reject WHERE entity_id = :e AND run_id < :r", {"e": entity_id, "r": run_id})


def has_nameless(tx: Tx, run_id: int, entity_id: int) -> bool:
    """Whether the run met records of the entity whose key it could not read."""
    counted = "SELECT nameless FROM run_entity WHERE run_id = :r AND entity_id = :e"
    by_older_release = "SELECT 1 FROM reject WHERE run_id = :r AND entity_id = :e AND key = '' LIMIT 1"
    return any(tx.value(sql, r=run_id, e=entity_id) for sql in (counted, by_older_release))


def listing(tx: Tx, integration_id: int, entity: str | None, limit: int) -> list[Kept]:
    """The newest first."""
    only = "" if entity is None else " AND e.name = :entity"
    sql = f"{_KEPT} WHERE e.integration_id = :i{only} ORDER BY j.at DESC, j.id DESC LIMIT :n"
    params = {"i": integration_id, "n": limit} | ({} if entity is None else {"entity": entity})
    return [_kept(row) for row in tx.all(sql, **params)]


def tally(tx: Tx, integration_id: int) -> dict[str, int]:
    """entity -> how many of its records are kept as rejected; without those that have none."""
    rows = tx.all(
        "SELECT e.name, count(*) FROM reject j JOIN entity e ON e.id = j.entity_id WHERE e.integration_id = :i"
        " GROUP BY e.name ORDER BY e.name",
        i=integration_id,
    )
    return {row[0]: row[1] for row in rows}


def behind(tx: Tx, entity_id: int, place: int) -> list[Kept]:
    """The next ones to try again, in the order in which they came."""
    sql = f"{_KEPT} WHERE j.entity_id = :e AND j.id > :place ORDER BY j.id LIMIT :n"
    return [_kept(row) for row in tx.all(sql, e=entity_id, place=place, n=STRETCH)]


def settle(tx: Tx, commit: PageCommit, tried: Retried) -> None:
    """Take in what passed; raises FencedError. What the dataset has heard of since then stays as it is."""
    dataset.fence(tx, commit.run_id, commit.fence)
    fresh = [
        (key, payload)
        for kept, page in tried.taken
        for key, payload in (*zip(page.keys, page.payloads, strict=True), *((k, None) for k in page.deleted))
        if _changed_at(tx, commit.entity_id, key) <= kept.at
    ]
    stored = [(key, payload) for key, payload in fresh if payload is not None]
    gone = tuple(key for key, payload in fresh if payload is None)
    dataset.commit_page(tx, commit, Page(tuple(k for k, _ in stored), tuple(p for _, p in stored), deleted=gone))
    tx.executemany("DELETE FROM reject WHERE id = :id", [{"id": kept.id} for kept, _ in tried.taken])
    tx.executemany(
        "UPDATE reject SET violations = :v WHERE id = :id",
        [{"v": json.dumps(said), "id": number} for number, said in tried.left.items()],
    )
    tx.execute("UPDATE run SET rejected = rejected + :n WHERE id = :r", {"n": len(tried.left), "r": commit.run_id})


def _changed_at(tx: Tx, entity_id: int, key: str) -> str:
    """When the dataset took in what it knows of the record; empty where it knows none."""
    at: str | None = tx.value(
        "SELECT v.at FROM head h JOIN version v ON v.number = h.version_id WHERE h.entity_id = :e AND h.key = :k",
        e=entity_id,
        k=key,
    )
    return at or ""
