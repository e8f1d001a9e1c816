"""What a watched run tells, in numbered rows, each written in the transaction of what it tells of.

In: a run that somebody watches; of any other nothing is written, and what the statements of a run return anyway says which it
is. Out: events in order, for whoever streams them: every number once, whatever is cut, killed or tried again. The last one,
`complete` or `error`, is written with the end of the run. They go when the run goes.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from typing import Any, Literal

from reconciler.model.condition import Reason
from reconciler.store.database import Row, Tx

Kind = Literal["progress", "complete", "error"]
_UNCONFIGURED = frozenset(
    {
        Reason.PENDING,
        Reason.VALIDATION_FAILED,
        Reason.DECRYPTION_FAILED,
        Reason.KEY_MISSING,
        Reason.MAC_MISMATCH,
        Reason.SECRET_MISSING,
        Reason.AWAITING_AUTHORIZATION,
        Reason.MISSING_DEPENDENCY,
    }
)


@dataclass(frozen=True, slots=True)
class Told:
    """One event. `body` is JSON."""

    number: int
    kind: Kind
    body: str

    @property
    def is_last(self) -> bool:
        return self.kind != "progress"


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one page: `ids` were read, `deleted` are gone. `total`: of the whole run, where the remote says so."""

    entity_id: int
    ids: Sequence[str]
    deleted: Sequence[str] = ()
    partition: str = ""
    total: int | None = None

    @property
    def mark(self) -> str:
        told = json.dumps([self.entity_id, self.partition, [*self.ids], [*self.deleted]])
        return blake2b(told.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run has told; `told` None where nobody watches it."""

    told: int | None
    is_done: bool


@dataclass(frozen=True, slots=True)
class Place(Standing):
    """Whose run it is."""

    run_id: int
    public_id: str
    integration_id: int
    workspace: str


def find(tx: Tx, public_id: str) -> Place | None:
    row = tx.one(
        "SELECT r.told, r.state, r.id, r.public_id, r.integration_id, i.workspace FROM run r"
        " JOIN integration i ON i.id = r.integration_id WHERE r.public_id = :id",
        id=public_id,
    )
    return Place(row[0], row[1] == "done", *[*row][2:]) if row else None


def watch(tx: Tx, run_id: int, at: str) -> None:
    """From now on it tells. What was before anybody asked is told in one event."""
    row = tx.one(
        "UPDATE run SET told = 0, told_batches = pages WHERE id = :id AND told IS NULL RETURNING state, pages",
        id=run_id,
    )
    if row is None:
        return
    if row["state"] == "done":
        end(tx, run_id, at)
    elif row["pages"]:
        say(tx, run_id, f"{row['pages']} batches were stored before this stream began", at)
    else:
        say(tx, run_id, "queued" if row["state"] == "due" else "running", at)


def say(tx: Tx, run_id: int, message: str, at: str, entity: str | None = None) -> None:
    """Progress that is no page. Nothing where nobody watches."""
    row = _next(tx, run_id)
    if row is not None:
        _put(tx, row, _progress(row, at, entity, Batch(0, ()), message))


def say_of(tx: Tx, run_id: int, entity_id: int, message: str, at: str) -> None:
    name = _entity(tx, entity_id)
    say(tx, run_id, f"{name}: {message}", at, name)


def batch(tx: Tx, run_id: int, one: Batch, at: str) -> None:
    """A page that was stored. One that brings the very records of an earlier one was read again, and told before."""
    if tx.value("SELECT 1 FROM run_event WHERE run_id = :r AND mark = :m", r=run_id, m=one.mark) is not None:
        return
    row = _next(tx, run_id, batches=1)
    if row is not None:
        entity = _entity(tx, one.entity_id)
        count = len(one.ids) + len(one.deleted)
        message = f"{entity}: {count} {'record' if count == 1 else 'records'} stored"
        _put(tx, row, _progress(row, at, entity, one, message), mark=one.mark)


def end(tx: Tx, run_id: int, at: str) -> None:
    """How it ended: the last event, with what the integration says of its last sync since then."""
    row = _next(tx, run_id, is_last=True)
    if row is None:
        return
    ended = tx.one(
        "SELECT r.*, i.public_id AS integration, i.workspace, i.name, i.type, i.last_sync_at"
        " FROM run r JOIN integration i ON i.id = r.integration_id WHERE r.id = :id",
        id=run_id,
    )
    assert ended is not None  # noqa: S101 - it was given a number just now
    is_good = ended["result"] in {"success", "partial"}
    _put(tx, row, _ended(ended, at, is_good=is_good), "complete" if is_good else "error")


def behind(tx: Tx, run_id: int, number: int, limit: int) -> list[Told]:
    rows = tx.all(
        "SELECT number, kind, body FROM run_event WHERE run_id = :r AND number > :n ORDER BY number LIMIT :limit",
        r=run_id,
        n=number,
        limit=limit,
    )
    return [Told(*row) for row in rows]


def standing(tx: Tx, run_ids: Collection[int]) -> dict[int, Standing]:
    """Those that are gone are missing."""
    one_of = "IN (SELECT value FROM json_each(:ids))" if tx.dialect == "sqlite" else "= any(:ids)"
    ids = json.dumps([*run_ids]) if tx.dialect == "sqlite" else [*run_ids]
    rows = tx.all(f"SELECT id, told, state FROM run WHERE id {one_of}", ids=ids)
    return {i: Standing(told, state == "done") for i, told, state in rows}


def forget_record(tx: Tx, integration_id: int, key: str, mark: str) -> None:
    """Among the ids of pages; texts that name it are not looked at."""
    holds = "instr(e.body, :text) > 0" if tx.dialect == "sqlite" else "position(:text in e.body) > 0"
    found = tx.all(
        "SELECT e.run_id, e.number, e.body FROM run_event e JOIN run r ON r.id = e.run_id"
        f" WHERE r.integration_id = :i AND {holds}",
        i=integration_id,
        text=spelled(key),
    )
    for run_id, number, body in found:
        told = json.loads(body)
        for name in {"ids", "deleted"} & told.keys():
            told[name] = [mark if one == key else one for one in told[name]]
        tx.execute(
            "UPDATE run_event SET body = :b WHERE run_id = :r AND number = :n",
            {"b": spelled(told), "r": run_id, "n": number},
        )


def forget_records(tx: Tx, integration_id: int) -> None:
    """All pages; how its runs ended stays."""
    tx.execute(
        "DELETE FROM run_event WHERE kind = 'progress' AND run_id IN (SELECT id FROM run WHERE integration_id = :i)",
        {"i": integration_id},
    )


def _next(tx: Tx, run_id: int, *, batches: int = 0, is_last: bool = False) -> Row | None:
    """Its next number, which no other transaction gives out as long as this one lasts; None where nobody watches.

    Nor is there one behind the last event: who still works on a run that was closed tells nothing any more.
    """
    return tx.one(
        "UPDATE run SET told = told + 1, told_batches = told_batches + :batches WHERE id = :id AND told IS NOT NULL"
        " AND (state = 'done') = (:last = 1) RETURNING id, public_id, told, told_batches, pages, estimated,"
        " added + updated + unchanged + listed + rejected AS records",
        batches=batches,
        last=int(is_last),
        id=run_id,
    )


def _put(tx: Tx, row: Row, body: dict[str, Any], kind: Kind = "progress", mark: str | None = None) -> None:
    tx.execute(
        "INSERT INTO run_event (run_id, number, kind, body, mark) VALUES (:r, :n, :k, :b, :m)",
        {"r": row["id"], "n": row["told"], "k": kind, "b": spelled(body), "m": mark},
    )


def spelled(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _progress(row: Row, at: str, entity: str | None, one: Batch, message: str) -> dict[str, Any]:
    return {
        "sync_job_id": row["public_id"],
        "at": at,
        "entity": entity,
        "batch": row["told_batches"],
        "totalBatches": _batches(row, one.total),
        "ids": [*one.ids],
        "deleted": [*one.deleted],
        "message": message,
    }


def _batches(row: Row, total: int | None) -> int | None:
    """From how many records there are to be, and how many a page has brought so far."""
    records = row["estimated"] if row["estimated"] is not None else total
    if records is None or not row["records"]:
        return None
    most: int = row["told_batches"]
    return max(most, ceil(int(records * row["pages"]) / int(row["records"])))


def _ended(run: Row, at: str, *, is_good: bool) -> dict[str, Any]:
    changed = {name: run[name] for name in ("added", "updated", "deleted")}
    said = {} if is_good else {"code": _code(run["result"], run["reason"]), "detail": run["error"] or "cancelled"}
    return {
        "sync_job_id": run["public_id"],
        "at": run["finished_at"] or at,
        "integration": {name: run[name] for name in ("workspace", "name", "type")} | {"id": run["integration"]},
        "result": run["result"],
        "reason": run["reason"] or None,
        **said,
        "message": run["error"] or run["result"],
        "stats": {**changed, "rejected": run["rejected"], "total": sum(changed.values()) + run["unchanged"]},
        "last_synced": run["last_sync_at"],
        "dataset_version": run["dataset_version"],
    }


def _code(result: str, reason: str) -> str:
    if result == "cancelled":
        return "cancelled"
    return "configuration-missing" if reason in _UNCONFIGURED else "fetch-failed"


def _entity(tx: Tx, entity_id: int) -> str:
    return str(tx.value("SELECT name FROM entity WHERE id = :e", e=entity_id))
