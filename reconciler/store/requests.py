"""Mutations: what an Idempotency-Key stands for, and the audit of all of them, also of commands on this machine.

Called by `serve.once`, and by commands that write to the store themselves. A key belongs to its caller and holds for a day. Of an
answer is kept what may be shown again; a secret that is shown once is not.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.ids import new_id
from reconciler.store.database import Row, Tx
from reconciler.store.seeking import first_since

KEPT = timedelta(hours=24)
AUDIT_KEPT = timedelta(days=365)
BITE = 5000
OS_USER = "os"
_LONG_AGO = "1970-01-01T00:00:00.000000Z"
Outcome = Literal["done", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What an earlier request with the key came to; `status` None while it is under way.

    `marker` is what its effect bears wherever it is not of our store, so that it can be found again. `started_at` is of the last
    try.
    """

    fingerprint: str
    marker: str
    made_at: str
    started_at: str
    status: int | None
    headers: Mapping[str, str]
    body: str


def begin(tx: Tx, caller: str, key: str, fingerprint: str, at: str) -> tuple[Kept, bool]:
    """The row of the key, and whether it was made now. One from more than a day ago counts as none."""
    old = rfc3339(from_rfc3339(at) - KEPT)
    tx.execute(
        "DELETE FROM api_request WHERE caller = :c AND key = :k AND made_at < :t", {"c": caller, "k": key, "t": old}
    )
    made = tx.one(
        "INSERT INTO api_request (caller, key, fingerprint, marker, made_at, started_at) VALUES (:c, :k, :f, :m, :at, :at)"
        " ON CONFLICT (caller, key) DO NOTHING RETURNING *",
        c=caller,
        k=key,
        f=fingerprint,
        m=new_id("chg"),
        at=at,
    )
    if made is not None:
        return _kept(made), True
    found = tx.one("SELECT * FROM api_request WHERE caller = :c AND key = :k", c=caller, k=key)
    assert found is not None  # noqa: S101 - it is in the way of the new one
    return _kept(found), False


def _kept(row: Row) -> Kept:
    return Kept(
        row["fingerprint"],
        row["marker"],
        row["made_at"],
        row["started_at"],
        row["status"],
        json.loads(row["headers"]),
        row["body"],
    )


def take_over(tx: Tx, caller: str, key: str, started_at: str, at: str) -> bool:
    """Go on with one whose process is gone; False where another was faster."""
    return bool(
        tx.rowcount(
            "UPDATE api_request SET started_at = :at WHERE caller = :c AND key = :k AND started_at = :was AND status IS NULL",
            at=at,
            c=caller,
            k=key,
            was=started_at,
        )
    )


def finish(tx: Tx, caller: str, key: str, status: int, headers: Mapping[str, str], body: str) -> None:
    tx.execute(
        "UPDATE api_request SET status = :s, headers = :h, body = :b WHERE caller = :c AND key = :k",
        {"s": status, "h": json.dumps(dict(headers)), "b": body, "c": caller, "k": key},
    )


def release(tx: Tx, caller: str, key: str) -> None:
    """It failed half-way: the next one with the key goes on at once, with the same marker."""
    tx.execute(
        "UPDATE api_request SET started_at = :long_ago WHERE caller = :c AND key = :k AND status IS NULL",
        {"long_ago": _LONG_AGO, "c": caller, "k": key},
    )


def forget(tx: Tx, caller: str, key: str) -> None:
    """It was refused, and nothing was done: the same key may be tried again."""
    tx.execute("DELETE FROM api_request WHERE caller = :c AND key = :k AND status IS NULL", {"c": caller, "k": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLine:
    """Who asked for what, and what became of it. `identity` names the token or subject, `revision` the commit that was made."""

    at: str
    workspace: str | None
    caller: str
    identity: str
    request_id: str
    action: str
    outcome: Outcome
    status: int
    target: str = ""
    revision: str = ""
    detail: Mapping[str, Any]
    id: int = 0


def write_audit(tx: Tx, line: AuditLine) -> None:
    tx.execute(
        "INSERT INTO audit (at, workspace, caller, identity, request_id, action, target, outcome, status, revision, detail)"
        " VALUES (:at, :w, :c, :i, :r, :a, :t, :o, :s, :rev, :d)",
        {
            "at": line.at,
            "w": line.workspace,
            "c": line.caller,
            "i": line.identity,
            "r": line.request_id,
            "a": line.action,
            "t": line.target,
            "o": line.outcome,
            "s": line.status,
            "rev": line.revision,
            "d": json.dumps(dict(line.detail), default=str),
        },
    )


def write_act(
    tx: Tx,
    by: str,
    action: str,
    at: str,
    *,
    workspace: str | None,
    target: str = "",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """What a person did here with a command, in the transaction that does it.

    `by` is the user of the operating system, `action` the command without its arguments (`reconciler key revoke`), which no
    caller of the API can pass for. `workspace` None: nothing of a single one.
    """
    line = AuditLine(
        at=at,
        workspace=workspace,
        caller=by,
        identity=f"{OS_USER}:{by}",
        request_id=new_id("req"),
        action=action,
        outcome="done",
        status=200,
        target=target,
        detail=detail or {},
    )
    write_audit(tx, line)


def audit(
    tx: Tx, workspace: str | None, *, before: int | None = None, since: str | None = None, limit: int = 50
) -> list[AuditLine]:
    """The newest first; `before` is the id of the last one seen. `workspace` None: of all."""
    first = first_since(tx, "audit", "at", since) if since else 0
    bounds: dict[str, Any] = {"first": first, "before": before if before is not None else 1 << 62, "n": limit}
    where = "id >= :first AND id < :before"
    if since:
        where, bounds = f"{where} AND at >= :since", {**bounds, "since": since}
    if workspace is not None:
        where, bounds = f"{where} AND workspace = :w", {**bounds, "w": workspace}
    rows = tx.all(f"SELECT * FROM audit WHERE {where} ORDER BY id DESC LIMIT :n", **bounds)
    names = [name for name in AuditLine.__slots__ if name != "detail"]
    return [AuditLine(**{name: row[name] for name in names}, detail=json.loads(row["detail"])) for row in rows]


def let_go(tx: Tx, workspace: str, since: str) -> int:
    """How many integrations changes over the API let go since then."""
    found = tx.value(
        "SELECT count(*) FROM audit WHERE at >= :t AND workspace = :w AND outcome = 'done' AND detail LIKE :mark",
        t=since,
        w=workspace,
        mark='%"lets_go": 1%',
    )
    return int(found or 0)


def drop_old(tx: Tx, keys_before: str, audit_before: str) -> int:
    """How many rows went; call until none does."""
    return sum(
        tx.rowcount(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {column} < :t LIMIT {BITE})", t=before
        )
        for table, column, before in (("api_request", "made_at", keys_before), ("audit", "at", audit_before))
    )
