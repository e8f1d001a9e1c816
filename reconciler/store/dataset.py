"""The versioned dataset: a narrow head per record and an append-only log that holds each payload once.

`commit_page` is the hot path: one transaction writes the records of a page, the position to resume from and the run's
counts, after a fence that stops a run which was cancelled, taken over or belongs to a disconnected integration. Numbers
are `integration id * 2^40 + seq`, so the log of one integration is a range of the primary key.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat
from typing import Any

import msgspec

from reconciler.model.event import Operation
from reconciler.model.record import Counts, Page, Reject
from reconciler.store.database import Row, Tx

SHIFT = 40
_ENCODE = msgspec.json.Encoder().encode
OPS = {1: Operation.CREATE, 2: Operation.UPDATE, 3: Operation.DELETE, 4: Operation.RESTORE}
_CREATE, _UPDATE, _DELETE, _RESTORE = 1, 2, 3, 4
GONE = b"\0" * 16


class FencedError(Exception):
    """The run may not write any more: cancelled, taken over by another worker, or its integration was let go."""


@dataclass(frozen=True, slots=True)
class PageCommit:
    """What `commit_page` needs besides the page: who writes, and with which fence."""

    run_id: int
    fence: int
    integration_id: int
    entity_id: int
    page_number: int
    is_full: bool
    is_silent: bool
    at: str


@dataclass(frozen=True, slots=True)
class Version:
    """One entry of the log. `payload` is None for a deletion; `prev` is the number of the version before."""

    number: int
    entity: str
    key: str
    prev: int | None
    op: Operation
    is_silent: bool
    at: str
    payload: bytes | None


def fingerprint(payload: bytes) -> bytes:
    """The hash that decides whether a record changed: BLAKE2b, 16 bytes."""
    return blake2b(payload, digest_size=16).digest()


def fence(tx: Tx, run_id: int, fence_number: int) -> None:
    """Raises FencedError unless the run is running, not being cancelled, and still ours."""
    touched = tx.rowcount(
        "UPDATE run SET pages = pages WHERE id = :id AND fence = :fence AND state = 'running' AND is_cancelling = 0",
        id=run_id,
        fence=fence_number,
    )
    if touched != 1:
        raise FencedError(f"run {run_id} may not write any more")


Look = Callable[[Sequence[tuple[str, bytes]]], Sequence[Reject]]
"""Sees the records of a page that are new or changed, with their keys; says which of them are not to be stored."""


def commit_page(tx: Tx, commit: PageCommit, page: Page, look: Look | None = None) -> Counts:
    """Store one page; returns what it changed. A key that occurs twice counts once: a deletion wins, else the later."""
    fence(tx, commit.run_id, commit.fence)
    latest = dict(zip(page.keys, page.payloads, strict=True))
    for key in page.deleted:
        latest.pop(key, None)
    writer = _Writer(commit, _heads(tx, commit.entity_id, [*latest, *page.deleted]))
    writer.put_all(latest)
    refused = writer.leave_out(look) if look else 0
    for key in dict.fromkeys(page.deleted):
        writer.delete(key)
    writer.flush(tx)
    if commit.is_full:
        _mark_seen(tx, commit, [writer.head_ids[key] for key in latest if key in writer.head_ids])
    rejected = len(page.rejects) + refused
    counts = Counts(writer.added, writer.updated, writer.unchanged, writer.deleted, rejected, 1, page.total)
    _progress(tx, commit, counts)
    return counts


def commit_keys(tx: Tx, commit: PageCommit, keys: Sequence[str], overdue: Collection[str]) -> Counts:
    """Mark what a page of a listing of keys shows to be there; no record is written.

    `overdue` are those of which a record should be here: what is not, or is deleted here, counts as missing.
    """
    fence(tx, commit.run_id, commit.fence)
    heads = _heads(tx, commit.entity_id, list(dict.fromkeys(keys)))
    _mark_seen(tx, commit, [head[1] for head in heads.values()])
    missing = sum(key not in heads or bool(heads[key][3]) for key in overdue)
    counts = Counts(pages=1, listed=len(keys), missing=missing)
    _progress(tx, commit, counts)
    if missing:
        tx.execute(
            "UPDATE run_entity SET missing = missing + :n WHERE run_id = :r AND entity_id = :e",
            {"n": missing, "r": commit.run_id, "e": commit.entity_id},
        )
    return counts


def missing(tx: Tx, run_id: int, entity_id: int) -> int:
    """Of how many keys that the run listed the record should be here and is not."""
    return int(tx.value("SELECT missing FROM run_entity WHERE run_id = :r AND entity_id = :e", r=run_id, e=entity_id))


def restore_page(tx: Tx, commit: PageCommit, wanted: Mapping[str, bytes | None]) -> Counts:
    """Known records get these contents, None deletes; numbered and counted like a synced page. The caller checks the fence."""
    writer = _Writer(commit, _heads(tx, commit.entity_id, [*wanted]), restores=True)
    writer.put_all({key: payload for key, payload in wanted.items() if payload is not None})
    for key in [key for key, payload in wanted.items() if payload is None]:
        writer.delete(key)
    writer.flush(tx)
    counts = Counts(writer.added, writer.updated, writer.unchanged, writer.deleted, 0, 1)
    _progress(tx, commit, counts)
    return counts


Head = tuple[str, int, int, int, bytes]
"""key, id, number of the newest version, 1 where that is a deletion, hash"""


def _heads(tx: Tx, entity_id: int, keys: Sequence[str]) -> dict[str, Head]:
    """The records that are known already."""
    if tx.dialect == "sqlite":
        # cross join fixes the order: keys first, then one probe of the index each
        sql = (
            "SELECT h.key, h.id, h.version_id, h.deleted, h.hash FROM json_each(:keys) j"
            " CROSS JOIN head h ON h.entity_id = :entity AND h.key = j.value"
        )
        rows = tx.tuples(sql, keys=_ENCODE(keys).decode(), entity=entity_id)
    else:
        sql = "SELECT key, id, version_id, deleted, hash FROM head WHERE entity_id = :entity AND key = any(:keys)"
        rows = tx.tuples(sql, keys=list(keys), entity=entity_id)
    return {row[0]: row for row in rows}


class _Writer:
    """Collects the rows of a page, numbers them at once and writes them with one statement each."""

    def __init__(self, commit: PageCommit, known: dict[str, Head], *, restores: bool = False) -> None:
        self._commit = commit
        self._known = known
        self._restores = restores
        self._changes: list[tuple[str, int | None, int, bytes, bytes | None, int | None]] = []
        self.head_ids: dict[str, int] = {key: head[1] for key, head in known.items()}
        self.added = self.updated = self.unchanged = self.deleted = 0

    def put_all(self, payloads: Mapping[str, bytes]) -> None:
        """All records of a page; for one that did not change nothing is called but the hash."""
        known = self._known
        for key, payload in payloads.items():
            digest = blake2b(payload, digest_size=16).digest()
            head = known.get(key)
            if head is not None and head[4] == digest and not head[3]:
                self.unchanged += 1
            else:
                self._put(key, payload, digest, head)

    def _put(self, key: str, payload: bytes, digest: bytes, head: Head | None) -> None:
        if head is None:
            self.added += 1
            self._changes.append((key, None, _CREATE, digest, payload, None))
            return
        _, head_id, version, is_deleted, _ = head
        self.added += is_deleted
        self.updated += not is_deleted
        op = _RESTORE if self._restores else _CREATE if is_deleted else _UPDATE
        self._changes.append((key, version, op, digest, payload, head_id))

    def leave_out(self, look: Look) -> int:
        """How many of the new and changed records are not written after all; those that are known stay as they were."""
        fresh = [(change[0], change[4]) for change in self._changes if change[4] is not None]
        refused = {reject.key for reject in look(fresh)} if fresh else frozenset()
        if refused:
            for _, _, op, *_ in [change for change in self._changes if change[0] in refused]:
                self.added -= op == _CREATE
                self.updated -= op == _UPDATE
            self._changes = [change for change in self._changes if change[0] not in refused]
        return len(refused)

    def delete(self, key: str) -> None:
        known = self._known.get(key)
        if known is not None and not known[3]:
            self.deleted += 1
            self._changes.append((key, known[2], _DELETE, GONE, None, known[1]))

    def flush(self, tx: Tx) -> None:
        """Numbers go to the changes in their order, whatever they are."""
        if not self._changes:
            return
        last = _reserve(tx, self._commit.integration_id, len(self._changes))
        numbered = [(number, *change) for number, change in enumerate(self._changes, last + 1)]
        if new := [row for row in numbered if row[2] is None]:
            self._append(tx, new, is_new=True)
            _make_heads(tx, new[0][0], new[-1][0])
            self.head_ids.update((row[1], row[0]) for row in new)
        if moved := [row for row in numbered if row[2] is not None]:
            self._append(tx, moved, is_new=False)
            _move_heads(tx, [(n, int(op == _DELETE), digest, head) for n, _, _, op, digest, _, head in moved if head])

    def _append(self, tx: Tx, rows: Sequence[tuple[Any, ...]], *, is_new: bool) -> None:
        """(number, key, prev, op, hash, payload, head) each."""
        c = self._commit
        numbers, keys, prevs, ops, digests, payloads, _ = zip(*rows, strict=True)
        columns: dict[str, Iterable[Any]] = {
            "number": numbers,
            "entity_id": repeat(c.entity_id),
            "key": keys,
            "prev": prevs,
            "op": ops,
            "silent": repeat(int(c.is_silent)),
            "run_id": repeat(c.run_id),
            "at": repeat(c.at),
            "hash": tx.blobs(digests),
            "payload": tx.blobs(payloads),
        }
        if is_new:
            del columns["prev"]  # to bind a null costs more than a number does
        tx.insert(
            "version", {name: _VERSION_TYPES[name] for name in columns}, list(zip(*columns.values(), strict=False))
        )


def _reserve(tx: Tx, integration_id: int, count: int) -> int:
    """The last number given out before these `count`; the row's lock makes numbers commit in order."""
    last = tx.value(
        "UPDATE integration SET seq = seq + :count WHERE id = :id RETURNING seq", count=count, id=integration_id
    )
    return (integration_id << SHIFT) + int(last) - count


_VERSION_TYPES = {
    "number": "int8",
    "entity_id": "int8",
    "key": "text",
    "prev": "int8",
    "op": "int4",
    "silent": "int4",
    "run_id": "int8",
    "at": "text",
    "hash": "bytea",
    "payload": "bytea",
}


def _make_heads(tx: Tx, first: int, last: int) -> None:
    """Of the versions that no other one came before: cheaper than to hand their keys and hashes over once more."""
    tx.execute(
        "INSERT INTO head (id, entity_id, key, version_id, hash) SELECT number, entity_id, key, number, hash FROM version"
        " WHERE number BETWEEN :first AND :last AND prev IS NULL",
        {"first": first, "last": last},
    )


def _move_heads(tx: Tx, heads: Sequence[tuple[int, int, bytes, int]]) -> None:
    """(version, deleted, hash, head) each: the head of a record goes on to its newest version."""
    if tx.dialect == "sqlite":
        tx.executemany("UPDATE head SET version_id = ?, deleted = ?, hash = ? WHERE id = ?", heads)
        return
    versions, deleted, hashes, ids = (list(column) for column in zip(*heads, strict=True))
    tx.execute(
        "UPDATE head SET version_id = n.version, deleted = n.deleted, hash = n.hash FROM"
        " unnest(:versions::bigint[], :deleted::int[], :hashes::bytea[], :ids::bigint[]) n (version, deleted, hash, id)"
        " WHERE head.id = n.id",
        {"versions": versions, "deleted": deleted, "hashes": hashes, "ids": ids},
    )


def _mark_seen(tx: Tx, commit: PageCommit, ids: list[int]) -> None:
    tx.execute(
        "INSERT INTO seen_page (run_id, entity_id, page, ids) VALUES (:run, :entity, :page, :ids)"
        " ON CONFLICT (run_id, entity_id, page) DO UPDATE SET ids = excluded.ids",
        {"run": commit.run_id, "entity": commit.entity_id, "page": commit.page_number, "ids": _ENCODE(ids).decode()},
    )


def _progress(tx: Tx, commit: PageCommit, counts: Counts) -> None:
    tx.execute(
        "UPDATE run SET added = added + :added, updated = updated + :updated, unchanged = unchanged + :unchanged,"
        " deleted = deleted + :deleted, rejected = rejected + :rejected, listed = listed + :listed,"
        " missing = missing + :missing, pages = pages + 1, step = 'store',"
        " progressed_at = :at WHERE id = :id",
        {
            "added": counts.added,
            "updated": counts.updated,
            "unchanged": counts.unchanged,
            "deleted": counts.deleted,
            "rejected": counts.rejected,
            "listed": counts.listed,
            "missing": counts.missing,
            "at": commit.at,
            "id": commit.run_id,
        },
    )
    if counts.added != counts.deleted:
        _count_records(tx, commit.entity_id, counts.added - counts.deleted)


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a complete full read, or listing of keys, says about records that it did not see."""

    gone: int
    known: int


def unseen(tx: Tx, run_id: int, entity_id: int) -> Sweep:
    """How many live records of the entity the run has not seen, though they were there when it began."""
    known = tx.value("SELECT count(*) FROM head WHERE entity_id = :e AND deleted = 0", e=entity_id)
    ((gone,),) = _of_unseen(tx, "count(*)", run_id, entity_id)
    return Sweep(int(gone), int(known))


def _of_unseen(tx: Tx, what: str, run_id: int, entity_id: int) -> list[Row]:
    """PostgreSQL guesses how many marks there are. Where it takes them for few, it may compare each with each record."""
    _set_planner(tx, "off")
    rows = tx.all(f"SELECT {what} {_UNSEEN[tx.dialect]}", e=entity_id, r=run_id)
    _set_planner(tx, "on")
    return rows


def _set_planner(tx: Tx, flag: str) -> None:
    """For this transaction. Without loops it thinks the query costly, and would compile it, which takes longer than it does."""
    if tx.dialect == "postgresql":
        tx.execute("SELECT set_config('enable_nestloop', :flag, true), set_config('jit', :flag, true)", {"flag": flag})


def sweep(tx: Tx, commit: PageCommit) -> int:
    """Mark as deleted what the complete run has not seen; returns how many. Forgets the marks."""
    fence(tx, commit.run_id, commit.fence)
    keys = [str(row[0]) for row in _of_unseen(tx, "h.key", commit.run_id, commit.entity_id)]
    writer = _Writer(commit, _heads(tx, commit.entity_id, keys))
    for key in keys:
        writer.delete(key)
    writer.flush(tx)
    tx.execute(
        "DELETE FROM seen_page WHERE run_id = :r AND entity_id = :e", {"r": commit.run_id, "e": commit.entity_id}
    )
    tx.execute("UPDATE run SET deleted = deleted + :n WHERE id = :id", {"n": len(keys), "id": commit.run_id})
    _count_records(tx, commit.entity_id, -len(keys))
    return len(keys)


def _count_records(tx: Tx, entity_id: int, more: int) -> None:
    tx.execute("UPDATE entity SET records = records + :n WHERE id = :e", {"n": more, "e": entity_id})


# While a run pauses another may go first: what that one wrote is there, though this one had read past its place.
_OLDER = " AND h.version_id <= coalesce((SELECT began_number FROM run WHERE id = :r), h.version_id)"
_UNSEEN = {
    "sqlite": "FROM head h WHERE h.entity_id = :e AND h.deleted = 0 AND h.id NOT IN"
    " (SELECT j.value FROM seen_page s, json_each(s.ids) j WHERE s.run_id = :r AND s.entity_id = :e)" + _OLDER,
    "postgresql": "FROM head h LEFT JOIN (SELECT j.value::bigint AS id FROM seen_page s,"
    " json_array_elements_text(s.ids::json) j (value) WHERE s.run_id = :r AND s.entity_id = :e) seen ON seen.id = h.id"
    " WHERE h.entity_id = :e AND h.deleted = 0 AND seen.id IS NULL" + _OLDER,
}


def forget_seen(tx: Tx, run_id: int) -> None:
    tx.execute("DELETE FROM seen_page WHERE run_id = :r", {"r": run_id})


def close_version(tx: Tx, run_id: int, at: str) -> int | None:
    """Make one dataset version of all that the run changed; None where it changed nothing."""
    run = tx.one("SELECT * FROM run WHERE id = :id", id=run_id)
    if run is None or not (run["added"] or run["updated"] or run["deleted"]):
        return None
    integration_id = run["integration_id"]
    integration = tx.one("SELECT seq, type FROM integration WHERE id = :id", id=integration_id)
    if integration is None:
        return None
    number = tx.value(
        "SELECT coalesce(max(number), 0) + 1 FROM dataset_version WHERE integration_id = :i", i=integration_id
    )
    tx.execute(
        "INSERT INTO dataset_version (integration_id, number, run_id, at, last_number, revision, spec_hash, connector,"
        " connector_version, added, updated, deleted, restores) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            integration_id,
            number,
            run_id,
            at,
            (integration_id << SHIFT) + integration["seq"],
            run["revision"],
            run["spec_hash"],
            integration["type"],
            run["connector_version"],
            run["added"],
            run["updated"],
            run["deleted"],
            run["restores"],
        ),
    )
    tx.execute("UPDATE run SET dataset_version = :n WHERE id = :id", {"n": number, "id": run_id})
    return int(number)


def log_after(tx: Tx, integration_id: int, seq: int, limit: int) -> list[Version]:
    """Versions behind `seq` in order; a range scan of the primary key."""
    base = integration_id << SHIFT
    rows = tx.all(
        "SELECT v.number, e.name, v.key, v.prev, v.op, v.silent, v.at, v.payload FROM version v"
        " JOIN entity e ON e.id = v.entity_id WHERE v.number > :low AND v.number < :high ORDER BY v.number LIMIT :n",
        low=base + seq,
        high=base + (1 << SHIFT),
        n=limit,
    )
    return [Version(n, e, k, p, OPS[op], bool(s), at, payload) for n, e, k, p, op, s, at, payload in rows]


def payload_of(tx: Tx, number: int | None) -> bytes | None:
    """The payload of one version; None for a deletion or a version older than kept."""
    return None if number is None else tx.value("SELECT payload FROM version WHERE number = :n", n=number)


def unread(tx: Tx, integration_id: int, names: Iterable[str]) -> list[str]:
    """Which of these entities were never read to their end."""
    rows = tx.all("SELECT name FROM entity WHERE integration_id = :i AND completed_at IS NOT NULL", i=integration_id)
    known = {name for (name,) in rows}
    return [name for name in names if name not in known]
