"""Forgetting for good: one record in all its versions (`erase`), or everything an integration has read (`purge`).

Rows go, and so does what was made of them elsewhere in the store: rejects, the content of deliveries, log lines and
messages that name the record. What is not sent yet is taken back. `scrub` then sees to the bytes in the file. What
lies outside the store (the remote, what was delivered, exports, backups, the daemon's own output) is not reached. Whoever calls
holds off the syncs of an integration that is purged; a sync may run beside `erase`.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reconciler.model.condition import Reason
from reconciler.store import inbox, progress, scrub
from reconciler.store.database import Tx
from reconciler.store.dataset import SHIFT

MARK = "[erased]"
SAID = "its content was erased"
# a shorter key is part of too many other words; DESIGN: free text is masked by values of 8 characters and more
LEAST_IN_TEXT = 8
# texts of ours or of the remote that may name a record, and which rows of theirs belong to the integration :i
_TEXTS = (
    ("run", "error", "integration_id = :i"),
    ("run_entity", "error", "run_id IN (SELECT id FROM run WHERE integration_id = :i)"),
    ("integration", "last_sync_error", "id = :i"),
    ("condition", "message", "integration_id = :i"),
    ("event", "detail", "integration_id = :i"),
    ("run_event", "body", "run_id IN (SELECT id FROM run WHERE integration_id = :i)"),
    ("event", "payload", "integration_id = :i"),
    ("event", "subject", "integration_id = :i"),
)


@dataclass(frozen=True, slots=True)
class Traces:
    """What the store holds, or held, of records: their number, versions, rejects, deliveries and log lines."""

    records: int = 0
    versions: int = 0
    rejects: int = 0
    deliveries: int = 0
    log_lines: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.records or self.versions or self.rejects or self.deliveries or self.log_lines)

    def plus(self, other: "Traces") -> "Traces":
        return Traces(
            self.records + other.records,
            self.versions + other.versions,
            self.rejects + other.rejects,
            self.deliveries + other.deliveries,
            self.log_lines + other.log_lines,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    id: int
    public_id: str
    target_id: int


@dataclass(frozen=True, slots=True)
class Erased:
    """`targets` are integrations that deliveries were taken back from."""

    traces: Traces
    targets: frozenset[int] = frozenset()


def find(tx: Tx, integration_id: int, key: str, entity: str | None = None) -> Traces:
    """What `erase` would remove."""
    places, sent = _entities(tx, integration_id, entity), _sent(tx, integration_id, key, entity)
    return Traces(
        records=sum(
            tx.value("SELECT count(*) FROM head WHERE entity_id = :e AND key = :k", e=e, k=key) for e in places
        ),
        versions=sum(tx.value(f"SELECT count(*) {_VERSIONS}", k=key, **_range(integration_id, e)) for e in places),
        rejects=sum(len(_rejects(tx, e, key)) for e in places),
        deliveries=len(sent),
        log_lines=len(_log_lines(tx, integration_id, key, sent)),
    )


def erase(tx: Tx, integration_id: int, keys: Iterable[str], entity: str | None, at: str) -> Erased:
    """Forget these records. Syncs of the integration that are under way wait for this transaction."""
    tx.execute("UPDATE run SET pages = pages WHERE integration_id = :i AND state <> 'done'", {"i": integration_id})
    total, targets = Traces(), set[int]()
    for key in keys:
        sent = _sent(tx, integration_id, key, entity)
        _empty_deliveries(tx, sent, key, at)
        total = total.plus(_erase_rows(tx, integration_id, key, entity, sent))
        inbox.forget_records(tx, integration_id, key, entity)
        told = {one.target_id for one in sent}
        for touched in {integration_id, *told}:
            _erase_texts(tx, touched, key)
        targets |= told
    _rest_router(tx, integration_id)
    scrub.ask(tx)
    return Erased(total, frozenset(targets))


def purge(tx: Tx, integration_id: int, at: str) -> Erased:
    """Forget every record, version, checkpoint and mark of the integration; nothing of it may be running."""
    places = _entities(tx, integration_id, None)
    sent = _sent(tx, integration_id, None, None)
    _empty_deliveries(tx, sent, "", at)
    live = rejects = 0
    for entity_id in places:
        live += tx.value("SELECT count(*) FROM head WHERE entity_id = :e AND deleted = 0", e=entity_id)
        tx.execute("DELETE FROM head WHERE entity_id = :e", {"e": entity_id})
        rejects += tx.rowcount("DELETE FROM reject WHERE entity_id = :e", e=entity_id)
        tx.execute("DELETE FROM seen_page WHERE entity_id = :e", {"e": entity_id})
    progress.forget_records(tx, integration_id)
    base = integration_id << SHIFT
    bounds = {"low": base, "high": base + (1 << SHIFT)}
    versions = tx.rowcount("DELETE FROM version WHERE number > :low AND number < :high", **bounds)
    for table in ("entity", "dataset_version"):
        tx.execute(f"DELETE FROM {table} WHERE integration_id = :i", {"i": integration_id})
    lines = _delete(tx, "log", _log_lines(tx, integration_id, None, sent))
    # numbers are never given out twice, and there is nothing left for the router to look for
    tx.execute("UPDATE integration SET routed_seq = seq WHERE id = :i", {"i": integration_id})
    inbox.forget_records(tx, integration_id, None)
    scrub.ask(tx)
    return Erased(Traces(live, versions, rejects, len(sent), lines), frozenset(one.target_id for one in sent))


_VERSIONS = "FROM version WHERE number > :low AND number < :high AND entity_id = :e AND key = :k"


def _range(integration_id: int, entity_id: int) -> dict[str, int]:
    """The whole log is looked through, not only what hangs together: nothing may be left."""
    return {"low": integration_id << SHIFT, "high": integration_id + 1 << SHIFT, "e": entity_id}


def _entities(tx: Tx, integration_id: int, name: str | None) -> list[int]:
    rows = tx.all("SELECT id, name FROM entity WHERE integration_id = :i ORDER BY id", i=integration_id)
    return [i for i, found in rows if name in (None, found)]


def _sent(tx: Tx, integration_id: int, key: str | None, entity: str | None) -> list[_Sent]:
    """Deliveries that were made of this record; with key None of any."""
    wanted = "key <> ''" if key is None else "key = :k"
    rows = tx.all(
        f"SELECT id, public_id, integration_id, entity FROM delivery WHERE source_id = :i AND {wanted} ORDER BY id",
        **({"i": integration_id} if key is None else {"i": integration_id, "k": key}),
    )
    return [_Sent(i, public, target) for i, public, target, found in rows if entity in (None, found)]


def _empty_deliveries(tx: Tx, sent: Sequence[_Sent], key: str, at: str) -> None:
    """Who was told when stays on record, and where to look for it; what was told does not.

    What is being sent right now can no longer be called back, and nobody will know whether it arrived.
    """
    params = [{"id": one.id, "at": at, "reason": Reason.ERASED, "said": SAID} for one in sent]
    tx.executemany(
        "UPDATE delivery SET key = '', fields = '{}', progress = '{}', reason = :reason, error = :said, next_at = NULL,"
        " finished_at = coalesce(finished_at, :at), status = CASE WHEN status IN ('pending', 'failed') THEN 'cancelled'"
        " WHEN status = 'sending' THEN 'unknown' ELSE status END WHERE id = :id",
        params,
    )
    tx.executemany(
        "UPDATE attempt SET message = '', exchange = '' WHERE delivery_id = :id", [{"id": one.id} for one in sent]
    )
    for one in sent:
        receipt = json.loads(tx.value("SELECT receipt FROM delivery WHERE id = :id", id=one.id))
        kept = {n: v for n, v in receipt.items() if n in ("remote_id", "url") and (not key or key not in str(v))}
        tx.execute("UPDATE delivery SET receipt = :r WHERE id = :id", {"r": json.dumps(kept), "id": one.id})


def _erase_rows(tx: Tx, integration_id: int, key: str, entity: str | None, sent: Sequence[_Sent]) -> Traces:
    total = Traces(deliveries=len(sent))
    for entity_id in _entities(tx, integration_id, entity):
        live = tx.value(
            "SELECT count(*) FROM head WHERE entity_id = :e AND key = :k AND deleted = 0", e=entity_id, k=key
        )
        total = total.plus(
            Traces(
                records=tx.rowcount("DELETE FROM head WHERE entity_id = :e AND key = :k", e=entity_id, k=key),
                versions=tx.rowcount(f"DELETE {_VERSIONS}", k=key, **_range(integration_id, entity_id)),
                rejects=_delete(tx, "reject", _rejects(tx, entity_id, key)),
            )
        )
        tx.execute("UPDATE entity SET records = records - :n WHERE id = :e", {"n": int(live), "e": entity_id})
    return total.plus(Traces(log_lines=_delete(tx, "log", _log_lines(tx, integration_id, key, sent))))


def _rejects(tx: Tx, entity_id: int, key: str) -> set[int]:
    """A record whose key could not be read is known by what it holds: the key as JSON has it."""
    sql = f"SELECT id FROM reject WHERE entity_id = :e AND (key = :k OR (key = '' AND {_holds(tx, 'payload')}))"
    spellings = {json.dumps(key), json.dumps(key, ensure_ascii=False)}
    return {i for text in spellings for (i,) in tx.all(sql, e=entity_id, k=key, text=text.encode())}


def _log_lines(tx: Tx, integration_id: int, key: str | None, sent: Sequence[_Sent]) -> set[int]:
    """Lines that name the record (with None: any record), or a delivery that was made of it."""
    said = [(integration_id, "detail", '"key": ' if key is None else json.dumps(key))]
    if key is not None and len(key) >= LEAST_IN_TEXT:
        said.append((integration_id, "message", key))
    said += [(one.target_id, "detail", json.dumps(one.public_id)) for one in sent]
    return {
        line
        for i, column, text in said
        for (line,) in tx.all(f"SELECT id FROM log WHERE integration_id = :i AND {_holds(tx, column)}", i=i, text=text)
    }


def _delete(tx: Tx, table: str, ids: Iterable[int]) -> int:
    rows = [{"id": i} for i in ids]
    tx.executemany(f"DELETE FROM {table} WHERE id = :id", rows)
    return len(rows)


def _erase_texts(tx: Tx, integration_id: int, key: str) -> None:
    """Where a run that is over stood in the remote's pages may be the key, too; nobody needs to know any more."""
    tx.execute(
        "UPDATE run_entity SET position = NULL WHERE position IS NOT NULL"
        " AND run_id IN (SELECT id FROM run WHERE integration_id = :i AND state = 'done')",
        {"i": integration_id},
    )
    progress.forget_record(tx, integration_id, key, MARK)
    if len(key) < LEAST_IN_TEXT:
        return
    for table, column, where in _TEXTS:
        tx.execute(
            f"UPDATE {table} SET {column} = replace({column}, :text, :mark) WHERE {where} AND {_holds(tx, column)}",
            {"i": integration_id, "text": key, "mark": MARK},
        )


def _holds(tx: Tx, column: str) -> str:
    """Whether the column contains :text, to the letter."""
    if tx.dialect == "sqlite":
        return f"instr({column}, :text) > 0"
    return f"position(:text in {column}) > 0"


def _rest_router(tx: Tx, integration_id: int) -> None:
    """Where the end of the log went, what is left may all be routed: then there is nothing to look for."""
    bounds = {"low": integration_id << SHIFT, "high": integration_id + 1 << SHIFT}
    last = tx.value("SELECT max(number) FROM version WHERE number > :low AND number < :high", **bounds)
    tx.execute(
        "UPDATE integration SET routed_seq = seq WHERE id = :i AND routed_seq >= :last",
        {"i": integration_id, "last": (last or bounds["low"]) - bounds["low"]},
    )
