"""Logs of runs and integrations, lifecycle events, requests of operators, sources, findings and approvals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

from reconciler.model.event import Lifecycle
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.ids import new_id
from reconciler.store.database import Row, Tx
from reconciler.store.events import in_order
from reconciler.store.notices import tell
from reconciler.store.seeking import first_since


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
    before_id: int | None = None,
    limit: int = 200,
) -> list[LogLine]:
    """The newest `limit` lines at `level` or worse, oldest first; `after_id` and `before_id` are not among them."""
    first = max(after_id + 1, first_since(tx, "log", "at", since) if since else 0)
    bounds: dict[str, Any] = {
        "i": integration_id,
        "first": first,
        "before": before_id if before_id is not None else 1 << 62,
        "n": limit,
    }
    where = "integration_id = :i AND id >= :first AND id < :before"
    if since:
        where, bounds = f"{where} AND at >= :since", {**bounds, "since": since}
    if run_id is not None:
        where, bounds = f"{where} AND run_id = :run", {**bounds, "run": run_id}
    worse = _LEVELS[_LEVELS.index(level) :] if level else _LEVELS
    if worse == _LEVELS:
        return _lines(tx, where, bounds)
    if run_id is not None:  # the lines of one run are found by that, and are not many
        return _lines(tx, f"{where} AND level IN ({', '.join(map(repr, worse))})", bounds)
    # One level after another, each by the index of what is worse than debug: the few bad ones among a million good.
    found = [_lines(tx, f"{where} AND level <> 'debug' AND level = '{name}'", bounds) for name in worse]
    return list(merge(*found, key=lambda line: line.id))[-limit:]


def _lines(tx: Tx, where: str, bounds: Mapping[str, Any]) -> list[LogLine]:
    rows = tx.all(
        f"SELECT id, integration_id, run_id, at, level, message, detail FROM log WHERE {where} ORDER BY id DESC LIMIT :n",
        **bounds,
    )
    return [LogLine(i, at, lv, m, json.loads(d), run, n) for n, i, run, at, lv, m, d in reversed(rows)]


def emit(tx: Tx, integration_id: int, event: Lifecycle, at: str, detail: Mapping[str, Any]) -> None:
    emit_own(tx, integration_id, event, at, detail)


def emit_own(tx: Tx, integration_id: int, event_type: str, at: str, detail: Mapping[str, Any]) -> None:
    """Also what an integration's remote told. Numbers commit in order, also from several processes: the router's cursor
    passes no event that is still to appear.
    """
    in_order(tx)
    tx.execute(
        "INSERT INTO event (public_id, workspace, integration_id, type, at, detail)"
        " SELECT :public, workspace, id, :type, :at, :detail FROM integration WHERE id = :i",
        {
            "public": new_id("evt"),
            "type": event_type,
            "at": at,
            "detail": json.dumps(dict(detail)),
            "i": integration_id,
        },
    )


@dataclass(frozen=True, slots=True)
class OperatorRequest:
    """`kind` is sync, cancel-sync, replay, rollback, erase, purge, reconcile, suspend, resume, approve, test, renew-credentials,
    or one of those of `control.event_orders`."""

    id: int
    public_id: str
    kind: str
    integration_id: int | None
    params: Mapping[str, Any]
    requested_by: str

    @property
    def is_of_command(self) -> bool:
        """Given by a command on this machine, not over the API."""
        return self.public_id.startswith(f"{COMMAND}_")


COMMAND = "cmd"
NOT_KEPT = ("erase", "publish-events")
"""What these name is kept in no request."""


def ask(
    tx: Tx,
    kind: str,
    integration_id: int | None,
    params: Mapping[str, Any],
    by: str,
    at: str,
    *,
    is_of_command: bool = False,
) -> str:
    """Leave a request for the daemon; returns the id under which its answer appears, and which says where it came from."""
    public = new_id(COMMAND if is_of_command else "req")
    tx.execute(
        "INSERT INTO request (public_id, kind, integration_id, params, requested_by, requested_at)"
        " VALUES (:p, :k, :i, :params, :by, :at)",
        {"p": public, "k": kind, "i": integration_id, "params": json.dumps(dict(params)), "by": by, "at": at},
    )
    tell(tx, "order")
    return public


_REQUEST = "SELECT id, public_id, kind, integration_id, params, requested_by FROM request"


def open_requests(tx: Tx) -> list[OperatorRequest]:
    return [_request(row) for row in tx.all(f"{_REQUEST} WHERE handled_at IS NULL ORDER BY id")]


def request(tx: Tx, public_id: str) -> OperatorRequest | None:
    row = tx.one(f"{_REQUEST} WHERE public_id = :p", p=public_id)
    return _request(row) if row else None


def _request(row: Row) -> OperatorRequest:
    number, public_id, kind, integration_id, params, by = row
    return OperatorRequest(number, public_id, kind, integration_id, json.loads(params), by)


def answer(tx: Tx, request_id: int, result: Mapping[str, Any], at: str) -> None:
    """What an order to erase names is to be nowhere afterwards, also where the order was refused; what one publishes or sends
    is kept as an event or delivery.
    """
    tx.execute(
        f"UPDATE request SET handled_at = :at, result = :r, params = CASE WHEN kind IN {NOT_KEPT}"
        " THEN '{}' ELSE params END WHERE id = :id",
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


def record_revision(
    tx: Tx, revision: str, outcome: str, digest: str, counts: Mapping[str, int], findings: int, at: str, /
) -> None:
    """What became of a revision: applied, observed, blocked; unchanged ones are not recorded."""
    tx.execute(
        "INSERT INTO revision (source, revision, at, outcome, plan_digest, findings, actions)"
        " VALUES ('', :r, :at, :o, :d, :f, :a)",
        {"r": revision, "at": at, "o": outcome, "d": digest, "f": findings, "a": json.dumps(dict(counts))},
    )


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """One revision that was looked at; `findings` and `actions` count over the whole installation."""

    id: int
    revision: str
    at: str
    outcome: str
    plan_digest: str
    findings: int
    actions: Mapping[str, int]


def revisions(tx: Tx, before_id: int | None, limit: int) -> list[RevisionRow]:
    """The newest first."""
    rows = tx.all(
        "SELECT id, revision, at, outcome, plan_digest, findings, actions FROM revision WHERE id < :before"
        " ORDER BY id DESC LIMIT :n",
        before=before_id if before_id is not None else 1 << 62,
        n=limit,
    )
    return [RevisionRow(i, r, at, outcome, digest, f, json.loads(a)) for i, r, at, outcome, digest, f, a in rows]


def replace_findings(tx: Tx, found: Sequence[Finding]) -> None:
    """The findings of the revision in force, all at once."""
    tx.execute("DELETE FROM finding")
    tx.executemany(
        "INSERT INTO finding (file, line, col, code, message, remedy, severity, workspace) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(f.file, f.line, f.column, f.code, f.message, f.remedy, f.severity, f.workspace) for f in found],
    )


_FINDING = "SELECT file, line, col, code, message, remedy, severity, workspace FROM finding"


def findings(tx: Tx) -> list[Finding]:
    return [_finding(r) for r in tx.all(f"{_FINDING} ORDER BY file, line, col")]


FindingPlace = tuple[str, int, int, str, str]
"""File, line, column, code, message: the order of findings, which outlives their being replaced as a whole."""


def some_findings(tx: Tx, workspace: str | None, after: FindingPlace | None, limit: int) -> list[Finding]:
    """Those of one workspace, or with None all, also those that nobody can attribute."""
    bounds = dict(zip(("file", "line", "col", "code", "message"), after or ("", -1, 0, "", ""), strict=True))
    own = " AND workspace = :w" if workspace is not None else ""
    rows = tx.all(
        f"{_FINDING} WHERE (file, line, col, code, message) > (:file, :line, :col, :code, :message){own}"
        " ORDER BY file, line, col, code, message LIMIT :n",
        n=limit,
        **bounds,
        **({"w": workspace} if workspace is not None else {}),
    )
    return [_finding(r) for r in rows]


def _finding(row: Row) -> Finding:
    file, line, column, code, message, remedy, severity, workspace = row
    return Finding(file, line, column, Code(code), message, remedy, Severity(severity), workspace)


def approve(tx: Tx, digest: str, by: str, at: str) -> None:
    tx.execute(
        "INSERT INTO approval (digest, revision, names, approved_by, approved_at) VALUES (:d, '', '[]', :by, :at)"
        " ON CONFLICT (digest) DO NOTHING",
        {"d": digest, "by": by, "at": at},
    )


def approvals(tx: Tx) -> frozenset[str]:
    return frozenset(d for (d,) in tx.all("SELECT digest FROM approval"))
