"""The inbox: what remotes sent or pushed to us, stored before they are answered, and what of it is still to be done.

A request becomes one row with its items: records to be stored (`put`, `delete`) or to be read again (`read`). Events need no
item, they are in the event log by the same transaction. A run of cause `inbound` takes the items of an integration in order
of their arrival. Ids that were taken are remembered for `KEPT`; of what is done no payload stays.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from reconciler.model.clock import rfc3339
from reconciler.model.ids import new_id
from reconciler.model.record import Scope
from reconciler.store import jobs, runs
from reconciler.store.database import Tx
from reconciler.store.runs import NewRun

KEPT = timedelta(days=7)
STRETCH = 500
MOST_QUEUED = 100_000
PRIO = 25
BITE = 2000
Op = Literal["put", "delete", "read"]
Kind = Literal["webhook", "events", "record", "batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """`payload` is the record, or for `read` where it is found. `position` is its place in the request."""

    entity: str
    key: str
    op: Op
    payload: bytes | None = None
    position: int = 0
    is_silent: bool = False
    id: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a request; `failed` of its items with their errors."""

    public_id: str
    accepted: int
    duplicates: int
    waiting: int
    failed: int
    error: str
    errors: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def state(self) -> Literal["queued", "processed", "failed"]:
        if self.error or self.failed:
            return "failed" if self.error or not self.waiting else "queued"
        return "queued" if self.waiting else "processed"


def open_request(tx: Tx, integration_id: int, kind: Kind, at: str) -> tuple[int, str]:
    """Its row's number and public id."""
    public_id = new_id("rcp")
    number = tx.value(
        "INSERT INTO inbox (public_id, integration_id, kind, received_at) VALUES (:p, :i, :k, :at) RETURNING id",
        p=public_id,
        i=integration_id,
        k=kind,
        at=at,
    )
    return int(number), public_id


def close_request(tx: Tx, inbox_id: int, accepted: int, duplicates: int = 0, error: str = "") -> None:
    tx.execute(
        "UPDATE inbox SET accepted = :a, duplicates = :d, error = :e WHERE id = :id",
        {"a": accepted, "d": duplicates, "e": error, "id": inbox_id},
    )


def is_new(tx: Tx, integration_id: int, identity: str, inbox_id: int, at: str) -> bool:
    """Remember the id of something that is taken; False where it was taken before."""
    return bool(
        tx.rowcount(
            "INSERT INTO inbox_seen (integration_id, identity, inbox_id, at) VALUES (:i, :d, :n, :at)"
            " ON CONFLICT (integration_id, identity) DO NOTHING",
            i=integration_id,
            d=identity,
            n=inbox_id,
            at=at,
        )
    )


def is_known(tx: Tx, integration_id: int, identity: str) -> bool:
    sql = "SELECT 1 FROM inbox_seen WHERE integration_id = :i AND identity = :d"
    return tx.value(sql, i=integration_id, d=identity) is not None


def taken_by(tx: Tx, integration_id: int, identities: Sequence[str]) -> str | None:
    """The public id of the request that had one of these ids, unless it failed: that had no effect and may come again."""
    for identity in identities:
        row = tx.one(
            "SELECT b.id, b.public_id, b.error FROM inbox_seen s JOIN inbox b ON b.id = s.inbox_id"
            " WHERE s.integration_id = :i AND s.identity = :d",
            i=integration_id,
            d=identity,
        )
        if row is None:
            continue
        failed = tx.value("SELECT 1 FROM inbox_item WHERE inbox_id = :n AND state = 'failed' LIMIT 1", n=row["id"])
        if not (row["error"] or failed):
            return str(row["public_id"])
        _forget(tx, integration_id, row["id"])
    return None


def _forget(tx: Tx, integration_id: int, inbox_id: int) -> None:
    tx.execute(
        "DELETE FROM inbox_seen WHERE integration_id = :i AND inbox_id = :n", {"i": integration_id, "n": inbox_id}
    )


def put_items(tx: Tx, integration_id: int, inbox_id: int, items: Iterable[Item]) -> None:
    tx.executemany(
        "INSERT INTO inbox_item (inbox_id, integration_id, entity, key, op, payload, position, is_silent, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued')",
        [(inbox_id, integration_id, i.entity, i.key, i.op, i.payload, i.position, int(i.is_silent)) for i in items],
    )


def ask_run(tx: Tx, integration_id: int, now: datetime) -> int:
    """The run that takes what waits: one that has not begun yet, else a new one. Returns its number."""
    waiting = tx.value(
        "SELECT id FROM run WHERE integration_id = :i AND state = 'due' AND started_at IS NULL AND is_cancelling = 0"
        " AND cause = :cause ORDER BY id LIMIT 1",
        i=integration_id,
        cause=runs.INBOUND,
    )
    if waiting is not None:
        return int(waiting)
    run = runs.create(tx, NewRun(integration_id, Scope.INCREMENTAL, runs.INBOUND), rfc3339(now))
    jobs.put(tx, kind="sync", ref=str(run.id), key=str(integration_id), prio=PRIO, due_at=now)
    return run.id


def is_full(tx: Tx, integration_id: int) -> bool:
    """Whether as many items wait as may."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM inbox_item WHERE integration_id = :i AND state = 'queued' LIMIT :n) q"
    return int(tx.value(sql, i=integration_id, n=MOST_QUEUED)) >= MOST_QUEUED


def waiting_entities(tx: Tx, integration_id: int) -> list[str]:
    rows = tx.all(
        "SELECT DISTINCT entity FROM inbox_item WHERE integration_id = :i AND state = 'queued' ORDER BY entity",
        i=integration_id,
    )
    return [str(name) for (name,) in rows]


def waiting(
    tx: Tx, integration_id: int, entity: str, limit: int = STRETCH, *, reads: bool, after: int = 0
) -> list[Item]:
    """The oldest that wait behind `after`: records to be read again, or those that were pushed."""
    rows = tx.all(
        "SELECT id, entity, key, op, payload, position, is_silent FROM inbox_item"
        " WHERE integration_id = :i AND entity = :e AND state = 'queued' AND (op = 'read') = (:reads = 1)"
        " AND id > :after"
        " ORDER BY id LIMIT :n",
        i=integration_id,
        e=entity,
        reads=int(reads),
        after=after,
        n=limit,
    )
    return [
        Item(id=i, entity=e, key=k, op=op, payload=p, position=n, is_silent=bool(s)) for i, e, k, op, p, n, s in rows
    ]


def settle(tx: Tx, items: Iterable[Item], error: str = "") -> None:
    """They are done, or failed with that reason; what they held goes."""
    state = "failed" if error else "done"
    tx.executemany(
        "UPDATE inbox_item SET state = ?, error = ?, payload = NULL WHERE id = ? AND state = 'queued'",
        [(state, error, item.id) for item in items],
    )


def note_refusal(tx: Tx, run_id: int, entity_id: int, error: str) -> None:
    """Some of the entity could not be had: the run says so at its end, also where it began anew in between."""
    tx.execute(
        "UPDATE run_entity SET error = :error WHERE run_id = :r AND entity_id = :e",
        {"error": error, "r": run_id, "e": entity_id},
    )


def refusal(tx: Tx, run_id: int, entity_id: int) -> str:
    found = tx.value("SELECT error FROM run_entity WHERE run_id = :r AND entity_id = :e", r=run_id, e=entity_id)
    return str(found or "")


def newest(tx: Tx) -> int:
    """The number of the item that came last."""
    return int(tx.value("SELECT coalesce(max(id), 0) FROM inbox_item"))


def fail_waiting(tx: Tx, integration_id: int, entity: str, upto: int, error: str) -> None:
    """Nothing of what waited for this entity until then can be done."""
    tx.execute(
        "UPDATE inbox_item SET state = 'failed', error = :error, payload = NULL"
        " WHERE integration_id = :i AND entity = :e AND state = 'queued' AND id <= :upto",
        {"error": error, "i": integration_id, "e": entity, "upto": upto},
    )


def receipt(tx: Tx, integration_id: int, public_id: str) -> Receipt | None:
    row = tx.one("SELECT * FROM inbox WHERE public_id = :p AND integration_id = :i", p=public_id, i=integration_id)
    if row is None:
        return None
    states = dict(tuple(r) for r in tx.all(
        "SELECT state, count(*) FROM inbox_item WHERE inbox_id = :n GROUP BY state", n=row["id"]))  # fmt: skip
    failed = tx.all(
        "SELECT position, error FROM inbox_item WHERE inbox_id = :n AND state = 'failed' ORDER BY id LIMIT 100",
        n=row["id"],
    )
    return Receipt(
        public_id,
        row["accepted"],
        row["duplicates"],
        int(states.get("queued", 0)),
        int(states.get("failed", 0)),
        row["error"],
        tuple({"index": position, "code": "failed", "detail": error} for position, error in failed),
    )


def stranded(tx: Tx, before: str) -> list[int]:
    """Integrations where something waits and no run will take it: none is open, and none ended since `before`."""
    rows = tx.all(
        "SELECT DISTINCT q.integration_id FROM inbox_item q WHERE q.state = 'queued' AND NOT EXISTS"
        " (SELECT 1 FROM run r WHERE r.integration_id = q.integration_id AND r.cause = :cause"
        " AND (r.state <> 'done' OR r.finished_at > :before))",
        cause=runs.INBOUND,
        before=before,
    )
    return [int(i) for (i,) in rows]


def forget_records(tx: Tx, integration_id: int, key: str | None, entity: str | None = None) -> None:
    """Nothing that was pushed of this record is kept, or of any; it may be pushed again."""
    wanted = {"i": integration_id, **({} if key is None else {"k": key}), **({} if entity is None else {"e": entity})}
    where = "integration_id = :i" + (" AND key = :k" if key is not None else "")
    where += " AND entity = :e" if entity is not None else ""
    for table in ("pushed", "pushed_snapshot", "inbox_item"):
        tx.execute(f"DELETE FROM {table} WHERE {where}", wanted)


def drop_old(tx: Tx, before: str) -> int:
    """How many rows went of what is done, or waited in vain; call until none does.

    A pushed record waits for as long as its integration is there, however long that is suspended: nobody could have it again.
    """
    old = tx.rowcount(
        "DELETE FROM inbox WHERE id IN (SELECT b.id FROM inbox b WHERE b.received_at < :t AND NOT EXISTS"
        " (SELECT 1 FROM inbox_item q JOIN integration i ON i.id = q.integration_id WHERE q.inbox_id = b.id"
        " AND q.state = 'queued' AND q.op <> 'read' AND i.removed_at IS NULL) LIMIT :n)",
        t=before,
        n=BITE,
    )
    seen = tx.rowcount("DELETE FROM inbox_seen WHERE at < :t", t=before)
    return old + seen + tx.rowcount("DELETE FROM pushed_snapshot WHERE at < :t", t=before)


def as_place(listing: str, place: Mapping[str, Any]) -> bytes:
    return json.dumps({"listing": listing, "place": dict(place)}).encode()
