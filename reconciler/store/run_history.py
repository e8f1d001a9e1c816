"""Runs for those who look: pages of an integration's history, one run by its public id, and how far each entity got.

Only reads. Callers: the API. What changes a run is in `runs`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import merge

from reconciler.model.record import Scope
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.integrations import get as get_integration
from reconciler.store.runs import Run, from_row
from reconciler.store.seeking import first_since

OPEN = {"queued": "due", "running": "running"}
UNWELL = ("cancelled", "failed", "partial")
# The condition of each group is that of an index, in its very words.
_GROUPS = (
    (frozenset(OPEN), "state <> 'done'"),
    (frozenset(UNWELL), "result IN ('cancelled', 'failed', 'partial')"),
    (frozenset({"success"}), "result = 'success'"),
)


@dataclass(frozen=True, slots=True)
class RunsWanted:
    """`statuses`: any of queued, running and the results; empty for all."""

    statuses: frozenset[str] = frozenset()
    scopes: frozenset[Scope] = frozenset()
    since: str | None = None


def page(tx: Tx, integration_id: int, wanted: RunsWanted, before: int | None, limit: int) -> list[Run]:
    """At most `limit` runs, the newest first, requested before the run with the id `before`."""
    first = first_since(tx, "run", "requested_at", wanted.since) if wanted.since else 0
    wheres = _wheres(wanted)
    if not wanted.statuses:
        return _some(tx, integration_id, [*wheres], wanted, first, before, limit)
    found = [
        _some(tx, integration_id, [*wheres, group, _one_of(wanted.statuses & names)], wanted, first, before, limit)
        for names, group in _GROUPS
        if wanted.statuses & names
    ]
    return list(merge(*found, key=lambda run: -run.id))[:limit]


def _wheres(wanted: RunsWanted) -> list[str]:
    scopes = sorted(str(scope) for scope in wanted.scopes)
    shown = "CASE WHEN keys_only = 1 THEN 'keys' ELSE scope END"
    rare = [] if wanted.scopes & {Scope.INCREMENTAL} else ["scope <> 'incremental'"]  # in the words of an index, too
    return [*rare, f"{shown} IN ({_quoted(scopes)})"] if scopes else []


def _one_of(statuses: Collection[str]) -> str:
    names = sorted(OPEN.get(name, name) for name in statuses)
    return f"{'state' if statuses & OPEN.keys() else 'result'} IN ({_quoted(names)})"


def _quoted(names: Sequence[str]) -> str:
    """Members of our own enums only."""
    return ", ".join(f"'{name}'" for name in names)


def _some(
    tx: Tx,
    integration_id: int,
    wheres: Sequence[str],
    wanted: RunsWanted,
    first: int,
    before: int | None,
    limit: int,
    /,
) -> list[Run]:
    """`:before` is always there, so that the index is walked from that place."""
    since = ["requested_at >= :since"] if wanted.since else []
    where = " AND ".join(["integration_id = :i", "id < :before", "id >= :first", *since, *wheres])
    rows = tx.all(
        f"SELECT * FROM run WHERE {where} ORDER BY id DESC LIMIT :n",
        i=integration_id,
        before=before if before is not None else (1 << 62),
        first=first,
        n=limit,
        **({"since": wanted.since} if wanted.since else {}),
    )
    return [from_row(row) for row in rows]


@dataclass(frozen=True, slots=True)
class EntityRead:
    """How far a run got in one entity. `total` is the remote's own count, where it gave one."""

    name: str
    state: str
    pages: int
    records: int
    total: int | None
    reason: str
    error: str


@dataclass(frozen=True, slots=True)
class RunSeen:
    """One run with all that is known of its course."""

    run: Run
    integration: IntegrationRow
    progressed_at: str | None
    revision: str
    entities: Sequence[EntityRead]


def find(tx: Tx, public_id: str, workspace: str | None) -> RunSeen | None:
    """`workspace`: whose run it has to be; None for any. Also of an integration that is let go."""
    row = tx.one("SELECT * FROM run WHERE public_id = :id", id=public_id) if _is_id(public_id) else None
    integration = get_integration(tx, row["integration_id"]) if row else None
    if row is None or integration is None or workspace not in (None, integration.workspace):
        return None
    return RunSeen(from_row(row), integration, row["progressed_at"], row["revision"], _entities(tx, row["id"]))


def _entities(tx: Tx, run_id: int) -> list[EntityRead]:
    rows = tx.all(
        "SELECT e.name, r.state, r.pages, r.records, r.total, r.reason, r.error FROM run_entity r"
        " JOIN entity e ON e.id = r.entity_id WHERE r.run_id = :r ORDER BY e.name",
        r=run_id,
    )
    return [EntityRead(*row) for row in rows]


def number_of(tx: Tx, integration_id: int, public_id: str) -> int | None:
    """The run's own number, if it is one of this integration."""
    if not _is_id(public_id):
        return None
    found = tx.value("SELECT id FROM run WHERE public_id = :p AND integration_id = :i", p=public_id, i=integration_id)
    return int(found) if found is not None else None


def names(tx: Tx, numbers: Collection[int]) -> dict[int, str]:
    """Public ids of those that are kept."""
    if not numbers:
        return {}
    some = ", ".join(str(int(number)) for number in numbers)
    return dict(tx.tuples(f"SELECT id, public_id FROM run WHERE id IN ({some})"))


def _is_id(text: str) -> bool:
    """What is none need not be looked for, and no database is asked about a text that it may refuse."""
    return text.startswith("run_") and text.isascii() and text.isprintable() and len(text) <= 64
