"""What is older than kept goes, in bounded bites: history of chosen workspaces, what belongs to none, old dataset versions.

Each call is one short transaction and says whether it found anything; call until it does not. What was not routed yet stays,
and so does a delivery as long as one that repeats it is kept. Of the log of records goes what no kept version needs: of each
record everything before the state it had in the oldest one. Who keeps what for how long is decided in `control`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.store.database import Tx
from reconciler.store.dataset import SHIFT

BITE = 5000
LOG_BITE = 2000
_DELETED = 3


@dataclass(frozen=True, slots=True)
class Tenants:
    """Integrations of these workspaces; with `is_rest`, of all others."""

    workspaces: tuple[str, ...] = ()
    is_rest: bool = True

    @property
    def is_everything(self) -> bool:
        return self.is_rest and not self.workspaces


@dataclass(frozen=True, slots=True)
class Moments:
    """What is from before them goes."""

    logs: str
    runs: str
    events: str


def drop_history(tx: Tx, tenants: Tenants, before: Moments, bite: int = BITE) -> int:
    """How many rows of logs, rejects, runs, deliveries and events went."""
    routed = int(tx.value("SELECT position FROM route_cursor WHERE name = 'lifecycle'") or 0)
    repeated = "id NOT IN (SELECT retry_of FROM delivery WHERE retry_of IS NOT NULL)"
    own = _own(tx, tenants)
    of_entity = f"entity_id IN (SELECT id FROM entity WHERE {own})" if own else ""
    bites = (
        ("log", f"id < {_first_kept(tx, 'log', before.logs)}", own, before.logs),
        ("reject", "at < :t", of_entity, before.runs),
        ("run", f"state = 'done' AND finished_at < :t AND {_WITHOUT_REJECTS}", own, before.runs),
        ("delivery", f"finished_at < :t AND {repeated}", own, before.events),
        ("event", f"{_PASSED.format(routed=routed)} AND at < :t", _of_workspaces(tx, tenants), before.events),
    )
    return sum(
        _drop(tx, table, " AND ".join(part for part in (where, mine) if part), bite, t=t, **_names(tx, tenants))
        for table, where, mine, t in bites
    )


def drop_shared(tx: Tx, before: str, bite: int = BITE) -> int:
    """How many rows went of what belongs to no workspace: orders, replays, revisions and the like. And days of uptime."""
    tx.execute("DELETE FROM uptime WHERE day < :d", {"d": before[:10]})
    return (
        _drop(tx, "request", "handled_at < :t", bite, t=before)
        + _drop(tx, "revision", "at < :t", bite, t=before)
        + _drop(tx, "replay", "finished_at < :t", bite, t=before)
        + tx.rowcount("DELETE FROM approval WHERE approved_at < :t", t=before)
        + tx.rowcount("DELETE FROM reconcile_token WHERE requested_at < :t", t=before)
    )


# by time, which lists go by: what is published first is not numbered first
_PASSED = "(id <= {routed} OR source IN ('record', 'sent'))"
_WITHOUT_REJECTS = "NOT EXISTS (SELECT 1 FROM reject WHERE reject.run_id = run.id)"


def _drop(tx: Tx, table: str, where: str, bite: int, /, **params: Any) -> int:
    return tx.rowcount(
        f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE {where} LIMIT :n)", n=bite, **params
    )


def _own(tx: Tx, tenants: Tenants, column: str = "integration_id") -> str:
    """A condition on rows of integrations; empty where all are meant."""
    if tenants.is_everything:
        return ""
    return f"{column} IN (SELECT i.id FROM integration i WHERE {_of_workspaces(tx, tenants)})"


def _of_workspaces(tx: Tx, tenants: Tenants) -> str:
    """The same for rows that name their workspace."""
    if tenants.is_everything:
        return ""
    named = "IN (SELECT value FROM json_each(:names))" if tx.dialect == "sqlite" else "= any(:names)"
    return f"{'NOT ' if tenants.is_rest else ''}(workspace {named})"


def _names(tx: Tx, tenants: Tenants) -> Mapping[str, Any]:
    if tenants.is_everything:
        return {}
    return {"names": json.dumps(tenants.workspaces) if tx.dialect == "sqlite" else list(tenants.workspaces)}


def _first_kept(tx: Tx, table: str, before: str) -> int:
    """These tables grow in order of time: reading stops at the first row that is young enough."""
    first = tx.value(f"SELECT id FROM {table} WHERE at >= :t ORDER BY id LIMIT 1", t=before)
    return int(first if first is not None else tx.value(f"SELECT coalesce(max(id), 0) + 1 FROM {table}"))


@dataclass(frozen=True, slots=True)
class Surplus:
    """An integration that has more dataset versions, or more of its log, than is kept: from version `oldest` on."""

    integration_id: int
    oldest: int


def surplus(tx: Tx, tenants: Tenants, keep: int | None, before: str | None) -> list[Surplus]:
    """At most `keep` versions and none from before a moment; always the newest."""
    mine = _own(tx, tenants, "d.integration_id")
    rows = tx.all(
        "SELECT d.integration_id, min(d.number), max(d.number), min(CASE WHEN d.at >= :before THEN d.number END),"
        " min(d.last_number), min(i.cut_number) FROM dataset_version d JOIN integration i ON i.id = d.integration_id"
        f"{f' WHERE {mine}' if mine else ''} GROUP BY d.integration_id",
        before=before or "",
        **_names(tx, tenants),
    )
    found = []
    for integration_id, first, last, young, end, cut in rows:
        oldest = max(first, last - keep + 1 if keep else first, young or last)
        if oldest > first or (first > 1 and cut < end):
            found.append(Surplus(integration_id, oldest))
    return found


def cut_versions(tx: Tx, one: Surplus, bite: int = LOG_BITE) -> bool:
    """A bite of the log of one integration; whether there is more. The versions go first: nobody finds one half cut.

    Not while an earlier version is brought back, and not what is still to become events.
    """
    i = one.integration_id
    row = tx.one("SELECT routed_seq, cut_number FROM integration WHERE id = :i", i=i)
    end = tx.value(
        "SELECT last_number FROM dataset_version WHERE integration_id = :i AND number = :n", i=i, n=one.oldest
    )
    restoring = "SELECT 1 FROM run WHERE integration_id = :i AND state <> 'done' AND restores IS NOT NULL LIMIT 1"
    if row is None or end is None or tx.value(restoring, i=i):
        return False
    tx.execute("DELETE FROM dataset_version WHERE integration_id = :i AND number < :n", {"i": i, "n": one.oldest})
    low, high = max(row["cut_number"], i << SHIFT), min(end, (i << SHIFT) + row["routed_seq"])
    if low >= high:
        return False
    upto = tx.value(
        "SELECT number FROM version WHERE number > :low AND number <= :high ORDER BY number LIMIT 1 OFFSET :skip",
        low=low,
        high=high,
        skip=bite - 1,
    )
    _cut(tx, low, upto or high)
    tx.execute("UPDATE integration SET cut_number = :n WHERE id = :i", {"n": upto or high, "i": i})
    return upto is not None and upto < high


def _cut(tx: Tx, low: int, upto: int) -> None:
    """Between these numbers: what each entry replaced, and records whose last word is that they are gone."""
    gone = tx.all(
        "SELECT h.id, v.number FROM version v JOIN head h ON h.entity_id = v.entity_id AND h.key = v.key"
        " AND h.version_id = v.number WHERE v.number > :low AND v.number <= :upto AND v.op = :deleted",
        low=low,
        upto=upto,
        deleted=_DELETED,
    )
    tx.execute(
        "DELETE FROM version WHERE number IN"
        " (SELECT prev FROM version WHERE number > :low AND number <= :upto AND prev IS NOT NULL)",
        {"low": low, "upto": upto},
    )
    tx.executemany("DELETE FROM head WHERE id = :id", [{"id": head} for head, _ in gone])
    tx.executemany("DELETE FROM version WHERE number = :n", [{"n": number} for _, number in gone])


_REMEMBERED = "retention"


def remembered(tx: Tx) -> str:
    """The settings that were in force last, as `remember` got them."""
    return tx.value("SELECT value FROM meta WHERE key = :k", k=_REMEMBERED) or ""


def remember(tx: Tx, settings: str) -> None:
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (:k, :v) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        {"k": _REMEMBERED, "v": settings},
    )
