"""What is due of integrations that are connected: syncs, listings of keys, probes, and the age of what was read last.

Asked every second by the control room, so each question is answered from an index or one narrow pass.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.ids import Ref
from reconciler.store.database import Tx


def set_next_probe(tx: Tx, integration_id: int, at: str | None) -> None:
    tx.execute("UPDATE integration SET next_probe_at = :at WHERE id = :id", {"at": at, "id": integration_id})


def rest(tx: Tx, integration_id: int) -> None:
    """No sync and no probe is due until the next successful reconcile; a retry that was planned is not."""
    tx.execute(
        "UPDATE integration SET next_sync_at = NULL, next_keys_at = NULL, next_probe_at = NULL, next_attempt_at = NULL"
        " WHERE id = :id",
        {"id": integration_id},
    )


def due_syncs(tx: Tx, now: str, limit: int) -> list[tuple[int, str]]:
    """(id, due time) of connected integrations whose next sync is due, oldest first."""
    return _due(tx, "next_sync_at", now, limit)


def due_listings(tx: Tx, now: str, limit: int) -> list[tuple[int, str]]:
    """The same of those whose keys are to be listed."""
    return _due(tx, "next_keys_at", now, limit)


def _due(tx: Tx, column: str, now: str, limit: int) -> list[tuple[int, str]]:
    rows = tx.all(
        f"SELECT id, {column} FROM integration WHERE {column} <= :now AND is_connected = 1 AND suspended_by = ''"
        f" ORDER BY {column} LIMIT :n",
        now=now,
        n=limit,
    )
    return [(i, at) for i, at in rows]


def due_probes(tx: Tx, now: str, limit: int) -> list[int]:
    """Oldest first; not while a failed reconcile waits for its next try, which would come too soon."""
    rows = tx.all(
        "SELECT id FROM integration WHERE next_probe_at <= :now AND is_connected = 1 AND suspended_by = ''"
        " AND next_attempt_at IS NULL ORDER BY next_probe_at LIMIT :n",
        now=now,
        n=limit,
    )
    return [i for (i,) in rows]


@dataclass(frozen=True, slots=True)
class Ageing:
    """`since` is the last success, or the connection where that is younger; `truth` and `reason` are what Fresh says."""

    id: int
    ref: Ref
    generation: int
    objective: timedelta | None
    since: str
    last_result: str
    truth: Truth | None
    reason: Reason | None


def ageing(tx: Tx, now: datetime) -> list[Ageing]:
    """Connected integrations that may be late, being older than the shortest objective, and those that are called so."""
    shortest = tx.value("SELECT min(freshness_seconds) FROM integration WHERE removed_at IS NULL")
    rows = tx.all(
        "SELECT i.id, i.workspace, i.name, i.generation, i.freshness_seconds, i.last_sync_at, i.connected_at,"
        " i.last_sync_result, c.truth, c.reason FROM integration i"
        " LEFT JOIN condition c ON c.integration_id = i.id AND c.type = 'Fresh'"
        " WHERE i.is_connected = 1 AND i.removed_at IS NULL AND i.suspended_by = ''"
        " AND (c.reason IN ('Late', 'Stale') OR (i.freshness_seconds IS NOT NULL"
        " AND coalesce(i.last_sync_at, '') < :young AND coalesce(i.connected_at, '') < :young))",
        young=rfc3339(now - timedelta(seconds=shortest or 0)),
    )
    return [
        Ageing(
            id=i,
            ref=Ref(workspace, name),
            generation=generation,
            objective=None if seconds is None else timedelta(seconds=seconds),
            since=max(synced or "", connected or ""),
            last_result=result,
            truth=Truth(truth) if truth else None,
            reason=Reason(reason) if reason else None,
        )
        for i, workspace, name, generation, seconds, synced, connected, result, truth, reason in rows
    ]


def with_condition(tx: Tx, type_name: ConditionType, reason: Reason) -> list[int]:
    """Integrations whose condition of that type has this reason."""
    sql = "SELECT integration_id FROM condition WHERE type = :t AND reason = :r ORDER BY integration_id"
    return [i for (i,) in tx.all(sql, t=type_name, r=reason)]
