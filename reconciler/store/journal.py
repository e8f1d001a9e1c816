"""Logs of runs and integrations, lifecycle events, requests of operators, sources, findings and approvals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.model.event import Lifecycle
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.ids import new_id
from reconciler.store.database import Row, Tx
from reconciler.store.notices import tell


@dataclass(frozen=True, slots=True)
class LogLine:
    integration_id: int
    at: str
    level: str
    message: str
    detail: Mapping[str, Any]
    run_id: int | None = None
    id: int = 0


def write_logs(tx: Tx, lines: Iterable[LogLine]) -> None:
    tx.executemany(
        "INSERT INTO log (integration_id, run_id, at, level, message, detail) VALUES (?, ?, ?, ?, ?, ?)",
        [
            (x.integration_id, x.run_id, x.at, x.level, x.message, json.dumps(dict(x.detail), default=str))
            for x in lines
        ],
    )


_LEVELS = ("debug", "info", "warn", "error")


def logs(
    tx: Tx,
    integration_id: int,
    *,
    level: str | None = None,
    run_id: int | None = None,
    since: str | None = None,
    after_id: int = 0,
    limit: int = 200,
) -> list[LogLine]:
    """The newest `limit` lines at `level` or worse, oldest first."""
    wanted = _LEVELS[_LEVELS.index(level) :] if level else _LEVELS
    rows = tx.all(
        "SELECT id, integration_id, run_id, at, level, message, detail FROM log WHERE integration_id = :i AND id > :after"
        " AND (CAST(:run AS bigint) IS NULL OR run_id = :run) AND at >= coalesce(:since, at)"
        f" AND level IN ({', '.join(repr(name) for name in wanted)}) ORDER BY id DESC LIMIT :n",
        i=integration_id,
        after=after_id,
        run=run_id,
        since=since,
        n=limit,
    )
    return [LogLine(i, at, lv, m, json.loads(d), run, n) for n, i, run, at, lv, m, d in reversed(rows)]


@dataclass(frozen=True, slots=True)
class LifecycleEvent:
    id: int
    public_id: str
    workspace: str
    integration_id: int
    type: str
    at: str
    detail: Mapping[str, Any]


def emit(tx: Tx, integration_id: int, event: Lifecycle, at: str, detail: Mapping[str, Any]) -> None:
    """Numbers commit in order, also from several processes: the router's cursor passes no event that is still to appear."""
    if tx.dialect == "postgresql":
        tx.execute("SELECT pg_advisory_xact_lock(hashtext('reconciler events'))")
    tx.execute(
        "INSERT INTO event (public_id, workspace, integration_id, type, at, detail)"
        " SELECT :public, workspace, id, :type, :at, :detail FROM integration WHERE id = :i",
        {"public": new_id("evt"), "type": event, "at": at, "detail": json.dumps(dict(detail)), "i": integration_id},
    )


def events_after(tx: Tx, position: int, limit: int) -> list[LifecycleEvent]:
    rows = tx.all(
        "SELECT id, public_id, workspace, integration_id, type, at, detail FROM event WHERE id > :p ORDER BY id LIMIT :n",
        p=position,
        n=limit,
    )
    return [LifecycleEvent(i, p, w, n, t, at, json.loads(d)) for i, p, w, n, t, at, d in rows]


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """`kind` is sync, cancel-sync, replay, rollback, erase, purge, reconcile, retry-delivery, cancel-delivery, suspend, resume or
    approve."""

    id: int
    public_id: str
    kind: str
    integration_id: int | None
    params: Mapping[str, Any]
    requested_by: str


def ask(tx: Tx, kind: str, integration_id: int | None, params: Mapping[str, Any], by: str, at: str) -> str:
    """Leave a request for the daemon; returns the id under which its answer appears."""
    public = new_id("req")
    tx.execute(
        "INSERT INTO request (public_id, kind, integration_id, params, requested_by, requested_at)"
        " VALUES (:p, :k, :i, :params, :by, :at)",
        {"p": public, "k": kind, "i": integration_id, "params": json.dumps(dict(params)), "by": by, "at": at},
    )
    tell(tx, "order")
    return public


def open_requests(tx: Tx) -> list[OperatorRequest]:
    rows = tx.all(
        "SELECT id, public_id, kind, integration_id, params, requested_by FROM request WHERE handled_at IS NULL ORDER BY id"
    )
    return [OperatorRequest(i, p, k, n, json.loads(params), by) for i, p, k, n, params, by in rows]


def answer(tx: Tx, request_id: int, result: Mapping[str, Any], at: str) -> None:
    """What an order to erase names is to be nowhere afterwards, also where the order was refused."""
    tx.execute(
        "UPDATE request SET handled_at = :at, result = :r, params = CASE WHEN kind = 'erase' THEN '{}' ELSE params END"
        " WHERE id = :id",
        {"at": at, "r": json.dumps(dict(result)), "id": request_id},
    )


def answer_of(tx: Tx, public_id: str) -> Mapping[str, Any] | None:
    """The daemon's answer, None while there is none."""
    row = tx.one("SELECT result FROM request WHERE public_id = :p AND handled_at IS NOT NULL", p=public_id)
    return json.loads(row[0]) if row else None


@dataclass(frozen=True, slots=True)
class SourceRow:
    """How a source stands: the revision in force, the one tried last, and the error since when."""

    name: str
    url: str
    revision: str
    attempted_revision: str
    fetched_at: str | None
    error_reason: str = ""
    error_message: str = ""
    error_since: str | None = None
    attempted_at: str | None = None


def put_source(tx: Tx, source: SourceRow, attempted_at: str | None) -> None:
    tx.execute(
        "INSERT INTO source (name, url, revision, attempted_revision, fetched_at, attempted_at, error_reason, error_message,"
        " error_since) VALUES (:name, :url, :revision, :attempted, :fetched, :at, :reason, :message, :since)"
        " ON CONFLICT (name) DO UPDATE SET url = excluded.url, revision = excluded.revision,"
        " attempted_revision = excluded.attempted_revision, fetched_at = coalesce(excluded.fetched_at, source.fetched_at),"
        " attempted_at = coalesce(excluded.attempted_at, source.attempted_at), error_reason = excluded.error_reason,"
        " error_message = excluded.error_message, error_since = excluded.error_since",
        {
            "name": source.name,
            "url": source.url,
            "revision": source.revision,
            "attempted": source.attempted_revision,
            "fetched": source.fetched_at,
            "at": attempted_at,
            "reason": source.error_reason,
            "message": source.error_message,
            "since": source.error_since,
        },
    )


def sources(tx: Tx) -> list[SourceRow]:
    rows = tx.all(
        "SELECT name, url, revision, attempted_revision, fetched_at, error_reason, error_message, error_since,"
        " attempted_at FROM source ORDER BY name"
    )
    return [SourceRow(*row) for row in rows]


def record_revision(tx: Tx, revision: str, outcome: str, digest: str, counts: Mapping[str, int], at: str) -> None:
    """What became of a revision: applied, observed, blocked; unchanged ones are not recorded."""
    tx.execute(
        "INSERT INTO revision (source, revision, at, outcome, plan_digest, actions) VALUES ('', :r, :at, :o, :d, :a)",
        {"r": revision, "at": at, "o": outcome, "d": digest, "a": json.dumps(dict(counts))},
    )


def replace_findings(tx: Tx, found: Sequence[Finding]) -> None:
    """The findings of the revision in force, all at once."""
    tx.execute("DELETE FROM finding")
    tx.executemany(
        "INSERT INTO finding (file, line, col, code, message, remedy, severity) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(f.file, f.line, f.column, f.code, f.message, f.remedy, f.severity) for f in found],
    )


def findings(tx: Tx) -> list[Finding]:
    rows = tx.all("SELECT file, line, col, code, message, remedy, severity FROM finding ORDER BY file, line, col")
    return [_finding(r) for r in rows]


def _finding(row: Row) -> Finding:
    file, line, column, code, message, remedy, severity = row
    return Finding(file, line, column, Code(code), message, remedy, Severity(severity))


def approve(tx: Tx, digest: str, by: str, at: str) -> None:
    tx.execute(
        "INSERT INTO approval (digest, revision, names, approved_by, approved_at) VALUES (:d, '', '[]', :by, :at)"
        " ON CONFLICT (digest) DO NOTHING",
        {"d": digest, "by": by, "at": at},
    )


def approvals(tx: Tx) -> frozenset[str]:
    return frozenset(d for (d,) in tx.all("SELECT digest FROM approval"))
