"""Integrations: what Git wants of each, what was applied, when it is due. One row for as long as anything of it is known.

What is said of it is in `conditions`, what probes found in `probes`.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cached_property
from typing import Any

import msgspec

from reconciler.model.clock import rfc3339
from reconciler.model.ids import Ref, new_id
from reconciler.model.state import DesiredIntegration, ObservedIntegration, ObservedState
from reconciler.model.tree import decode_tree, encode_tree, tree_hash
from reconciler.store import ingest_keys
from reconciler.store.database import Row, Tx


@dataclass(frozen=True, slots=True)
class IntegrationRow:
    """The row as it stands; JSON columns decoded, times as text."""

    id: int
    public_id: str
    workspace: str
    name: str
    type: str
    display_name: str
    labels: Mapping[str, str]
    is_desired: bool
    generation: int
    observed_generation: int
    desired_hash: str
    desired_effective: str
    file: str
    line: int
    revision: str
    created_by: str
    manifest_updated_at: str | None
    applied_hash: str
    applied_effective: str
    applied_revision: str
    applied_type: str
    applied_policy: str
    applied_at: str | None
    is_connected: bool
    suspend_reason: str
    suspended_by: str
    suspended_until: str | None
    identity: str
    account: str
    missing: Sequence[str]
    latency_ms: float | None
    skew_ms: float | None
    probe_at: str | None
    next_probe_at: str | None
    error_count: int
    credential_expires_at: str | None
    connected_at: str | None
    retries: int
    next_attempt_at: str | None
    next_sync_at: str | None
    next_keys_at: str | None
    last_sync_at: str | None
    last_sync_result: str
    last_sync_reason: str
    last_sync_error: str
    last_run_at: str | None
    total_syncs: int
    failed_syncs: int
    drifted: Sequence[str]
    created_at: str
    removed_at: str | None

    @property
    def ref(self) -> Ref:
        return Ref(self.workspace, self.name)

    @property
    def is_suspended(self) -> bool:
        return bool(self.suspended_by)


_COLUMNS = tuple(f.name for f in fields(IntegrationRow))
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM integration"
_JSON = frozenset({"labels", "missing", "drifted"})
_BOOL = frozenset({"is_desired", "is_connected"})
_AT_ONCE = 100
_DECODE = msgspec.json.Decoder().decode  # ten thousand rows are read at a time


def _row(row: Row) -> IntegrationRow:
    values = dict(zip(_COLUMNS, row, strict=True))
    for name in _JSON:
        values[name] = _DECODE(values[name])
    for name in _BOOL:
        values[name] = bool(values[name])
    return IntegrationRow(**values)


def get(tx: Tx, integration_id: int) -> IntegrationRow | None:
    row = tx.one(f"{_SELECT} WHERE id = :id", id=integration_id)
    return _row(row) if row else None


def find(tx: Tx, ref: Ref) -> IntegrationRow | None:
    row = tx.one(f"{_SELECT} WHERE workspace = :w AND name = :n", w=ref.workspace, n=ref.name)
    return _row(row) if row else None


def named(tx: Tx, text: str) -> list[IntegrationRow]:
    """What Git names: `workspace.name`, or a bare name in whatever workspaces have it."""
    workspace, separator, name = text.partition(".")
    if separator:
        row = find(tx, Ref(workspace, name))
        return [row] if row is not None and row.removed_at is None else []
    return [_row(row) for row in tx.all(f"{_SELECT} WHERE name = :n AND removed_at IS NULL", n=text)]


def every(tx: Tx, *, with_removed: bool = False) -> list[IntegrationRow]:
    """All of them by workspace and name; those that Git no longer names and that are let go only on request."""
    where = "" if with_removed else " WHERE removed_at IS NULL"
    return [_row(r) for r in tx.all(f"{_SELECT}{where} ORDER BY workspace, name")]


def some(tx: Tx, refs: Collection[Ref]) -> list[IntegrationRow]:
    """Those of these names that are known, also where they are let go."""
    return [_row(r) for r in _of(tx, _SELECT, refs)]


@dataclass(frozen=True, slots=True)
class DesiredChange:
    """A changed wish: the manifest and the keyed hash of its clear values (empty where it could not be decrypted)."""

    desired: DesiredIntegration
    effective_hash: str


def want(tx: Tx, changes: Iterable[DesiredChange], at: str) -> dict[Ref, int]:
    """Insert or update what Git wants; every change raises the generation. Returns the ids."""
    return {c.desired.ref: _want(tx, c, at) for c in changes}


def _want(tx: Tx, change: DesiredChange, at: str) -> int:
    d = change.desired
    row = tx.one(
        "INSERT INTO integration (public_id, workspace, name, type, display_name, labels, desired_tree, desired_hash,"
        " desired_effective, file, line, revision, created_by, manifest_updated_at, freshness_seconds, created_at, updated_at)"
        " VALUES (:public, :w, :n, :type, :display, :labels, :tree, :hash, :effective, :file, :line, :revision, :by,"
        " :changed, :freshness, :at, :at)"
        " ON CONFLICT (workspace, name) DO UPDATE SET type = excluded.type, display_name = excluded.display_name,"
        " labels = excluded.labels, freshness_seconds = excluded.freshness_seconds,"
        " desired_tree = excluded.desired_tree, file = excluded.file, line = excluded.line, revision = excluded.revision,"
        " created_by = excluded.created_by, is_desired = 1, removed_at = NULL,"
        " manifest_updated_at = excluded.manifest_updated_at, updated_at = excluded.updated_at, retries = 0,"
        " generation = integration.generation + CASE WHEN integration.desired_hash = excluded.desired_hash"
        " AND integration.desired_effective = excluded.desired_effective AND integration.is_desired = 1 THEN 0 ELSE 1 END,"
        " desired_hash = excluded.desired_hash, desired_effective = excluded.desired_effective RETURNING id",
        public=new_id(f"int_{_short(d.manifest.spec.type)}"),
        w=d.ref.workspace,
        n=d.ref.name,
        type=d.manifest.spec.type,
        display=d.manifest.spec.display_name or "",
        labels=json.dumps(d.manifest.metadata.labels),
        tree=encode_tree(d.tree),
        hash=d.source_hash,
        effective=change.effective_hash,
        file=d.origin.file,
        line=d.origin.line,
        revision=d.origin.revision,
        by=d.created_by,
        changed=rfc3339(d.updated_at) if d.updated_at else None,
        freshness=d.manifest.spec.objectives.freshness.total_seconds()
        if d.manifest.spec.objectives.freshness
        else None,
        at=at,
    )
    return int(row[0]) if row else 0


def _short(type_name: str) -> str:
    return {"servicenow": "sn", "github": "gh", "gitlab": "gl", "pagerduty": "pd"}.get(
        type_name, type_name[:3].strip("_")
    )


def unwant(tx: Tx, ids: Iterable[int], revision: str, at: str) -> None:
    """Git no longer names them: the next reconcile lets them go."""
    tx.executemany(
        "UPDATE integration SET is_desired = 0, generation = generation + 1, revision = ?, updated_at = ?, retries = 0"
        " WHERE id = ? AND is_desired = 1",
        [(revision, at, i) for i in ids],
    )


_OBSERVED = (
    "SELECT workspace, name, applied_type, applied_tree, applied_hash, applied_effective, applied_fingerprints,"
    " is_connected, applied_policy, drifted FROM integration"
)


def observed_state(tx: Tx) -> ObservedState:
    """Everything applied, as the plan compares it. Cheap: hashes for all, trees decoded only when looked at."""
    rows = tx.all(f"{_OBSERVED} WHERE applied_tree IS NOT NULL")
    return ObservedState(_applied_revision(tx), {Ref(r[0], r[1]): _observed(r) for r in rows})


def observed_of(tx: Tx, refs: Collection[Ref], gone: Callable[[Ref], bool]) -> ObservedState:
    """The same of these names only; all are counted where one of them is connected and `gone`, for the guard."""
    found = {Ref(r[0], r[1]): _observed(r) for r in _of(tx, _OBSERVED, refs) if r[3] is not None}
    if not any(one.is_connected and gone(ref) for ref, one in found.items()):
        return ObservedState(_applied_revision(tx), found, {})
    counted = tx.all(
        "SELECT workspace, count(*) FROM integration WHERE applied_tree IS NOT NULL AND is_connected = 1 GROUP BY workspace"
    )
    return ObservedState(_applied_revision(tx), found, {row[0]: row[1] for row in counted})


def connected_in(tx: Tx, workspace: str) -> int:
    return int(tx.value("SELECT count(*) FROM integration WHERE workspace = :w AND is_connected = 1", w=workspace))


def _applied_revision(tx: Tx) -> str:
    return tx.value("SELECT value FROM meta WHERE key = 'applied_revision'") or ""


def _of(tx: Tx, select: str, refs: Collection[Ref]) -> Iterator[Row]:
    """The rows of these names, each found by the index; `select` has `FROM integration` and no more."""
    ordered = sorted(refs)
    for start in range(0, len(ordered), _AT_ONCE):
        some = ordered[start : start + _AT_ONCE]
        places = ", ".join(["(?, ?)"] * len(some))
        asked = f"WITH asked (w, n) AS (VALUES {places}) {select} WHERE workspace = w AND name = n"
        yield from tx.execute(
            asked.replace("FROM integration", "FROM asked CROSS JOIN integration"),
            [text for ref in some for text in (ref.workspace, ref.name)],
        )


def differing(tx: Tx) -> frozenset[Ref]:
    """Names of which something else is applied than was wanted last; the condition is that of the index."""
    rows = tx.all(
        "SELECT workspace, name FROM integration WHERE removed_at IS NULL"
        " AND (is_desired = 0 OR is_connected = 0 OR drifted <> '[]' OR applied_hash <> desired_hash"
        " OR (applied_effective <> '' AND applied_effective <> desired_effective))"
    )
    return frozenset(Ref(workspace, name) for workspace, name in rows)


class _LazyTree(Mapping[str, Any]):
    """Decoded on first use: a plan of 10,000 looks into a handful."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _tree(self) -> dict[str, Any]:
        return decode_tree(self._text)

    def __getitem__(self, key: str) -> Any:
        return self._tree[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)


def _observed(row: Row) -> ObservedIntegration:
    workspace, name, type_name, tree, source_hash, effective, fingerprints, is_connected, policy, drifted = row
    return ObservedIntegration(
        ref=Ref(workspace, name),
        type=type_name,
        tree=_LazyTree(tree),
        source_hash=source_hash,
        effective_hash=effective,
        fingerprints=_DECODE(fingerprints),
        is_connected=bool(is_connected),
        deletion_policy=policy,
        drifted=tuple(_DECODE(drifted)),
    )


def set_applied_revision(tx: Tx, revision: str) -> None:
    """The revision whose plan was taken over last."""
    _put_meta(tx, "applied_revision", revision)


def taken(tx: Tx) -> str:
    """What `note_taken` was told last; of another database, or by another process, it is something else."""
    return tx.value("SELECT value FROM meta WHERE key = 'taken'") or ""


def note_taken(tx: Tx, mark: str) -> None:
    """That all wishes are now written as the one who gives this mark has them."""
    _put_meta(tx, "taken", mark)


def _put_meta(tx: Tx, key: str, value: str) -> None:
    tx.execute(
        "INSERT INTO meta (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        {"key": key, "value": value},
    )


@dataclass(frozen=True, slots=True)
class Applied:
    """What a successful reconcile made true."""

    generation: int
    tree: Mapping[str, Any]
    source_hash: str
    effective_hash: str
    fingerprints: Mapping[str, str]
    revision: str
    type: str
    deletion_policy: str


def record_applied(tx: Tx, integration_id: int, applied: Applied, at: str) -> bool:
    """False where the wish has moved on meanwhile: then the next reconcile, which is due already, decides."""
    touched = tx.rowcount(
        "UPDATE integration SET applied_tree = :tree, applied_hash = :hash, applied_effective = :effective,"
        " applied_fingerprints = :fps, applied_revision = :revision, applied_type = :type, applied_policy = :policy,"
        " applied_at = :at, observed_generation = :generation, is_connected = 1, retries = 0, next_attempt_at = NULL,"
        " connected_at = CASE WHEN is_connected = 1 THEN connected_at ELSE :at END, drifted = '[]'"
        " WHERE id = :id AND generation = :generation AND is_desired = 1",
        tree=encode_tree(applied.tree),
        hash=applied.source_hash,
        effective=applied.effective_hash,
        fps=json.dumps(dict(applied.fingerprints)),
        revision=applied.revision,
        type=applied.type,
        policy=applied.deletion_policy,
        at=at,
        generation=applied.generation,
        id=integration_id,
    )
    return touched == 1


def note_applied_revision(tx: Tx, integration_id: int, revision: str) -> None:
    """The same spec as of another commit."""
    tx.execute(
        "UPDATE integration SET applied_revision = :r WHERE id = :id AND applied_revision <> :r",
        {"r": revision, "id": integration_id},
    )


def record_stopped(
    tx: Tx, integration_id: int, generation: int, tree: Mapping[str, Any] | None, at: str, policy: str | None = None
) -> None:
    """Not connected any more, on purpose. `tree` is what was applied (disabled); None leaves the last one (removed)."""
    tx.execute(
        "UPDATE integration SET is_connected = 0, observed_generation = :g, next_sync_at = NULL, next_keys_at = NULL,"
        " next_probe_at = NULL, retries = 0, next_attempt_at = NULL, drifted = '[]', error_count = 0,"
        " applied_tree = coalesce(:tree, applied_tree), applied_policy = coalesce(:policy, applied_policy),"
        " applied_at = :at WHERE id = :id",
        {
            "g": generation,
            "tree": encode_tree(tree) if tree is not None else None,
            "policy": policy,
            "at": at,
            "id": integration_id,
        },
    )


def record_suspended(tx: Tx, integration_id: int) -> None:
    """Git's own suspension is applied, whatever else waits until it is lifted: the plan shows it no more."""
    text = tx.value("SELECT applied_tree FROM integration WHERE id = :id", id=integration_id)
    if text is not None:
        tree = decode_tree(text) | {"suspend": True}
        tx.execute(
            "UPDATE integration SET applied_tree = :tree, applied_hash = :hash WHERE id = :id",
            {"tree": encode_tree(tree), "hash": tree_hash(tree), "id": integration_id},
        )


def record_removed(tx: Tx, integration_id: int, generation: int, at: str) -> bool:
    """Let go: it leaves lists and metrics; records and history stay, keys of ours to push with are dead for good.

    False where Git names it again meanwhile.
    """
    touched = tx.rowcount(
        "UPDATE integration SET removed_at = :at, applied_tree = NULL, suspended_by = '', suspend_reason = '',"
        " suspended_until = NULL WHERE id = :id AND generation = :g AND is_desired = 0",
        at=at,
        g=generation,
        id=integration_id,
    )
    if touched:
        ingest_keys.revoke_all(tx, integration_id, at)
    return bool(touched)


def record_failure(tx: Tx, integration_id: int, next_attempt_at: str | None) -> int:
    """Count a failed reconcile; returns how many there were in a row."""
    return int(
        tx.value(
            "UPDATE integration SET retries = retries + 1, error_count = error_count + 1, next_attempt_at = :next"
            " WHERE id = :id RETURNING retries",
            next=next_attempt_at,
            id=integration_id,
        )
        or 0
    )


def record_drift(tx: Tx, integration_id: int, drifted: Sequence[str]) -> None:
    tx.execute(
        "UPDATE integration SET drifted = :d WHERE id = :id", {"d": json.dumps(list(drifted)), "id": integration_id}
    )


def set_next_sync(tx: Tx, integration_id: int, at: str | None) -> None:
    tx.execute("UPDATE integration SET next_sync_at = :at WHERE id = :id", {"at": at, "id": integration_id})


def suspend(tx: Tx, integration_id: int, by: str, reason: str, until: str | None) -> None:
    """A person's order, kept until resumed or `until`; `spec.suspend` in Git is apart from it."""
    tx.execute(
        "UPDATE integration SET suspended_by = :by, suspend_reason = :r, suspended_until = :u WHERE id = :id",
        {"by": by, "r": reason, "u": until, "id": integration_id},
    )


def freshness(tx: Tx) -> dict[int, timedelta]:
    """id -> freshness objective, of those that have one."""
    rows = tx.all("SELECT id, freshness_seconds FROM integration WHERE freshness_seconds IS NOT NULL")
    return {i: timedelta(seconds=s) for i, s in rows}


def unsettled(tx: Tx) -> list[tuple[int, str | None]]:
    """(id, time of the next try) of those whose wish was not applied yet, or whose last reconcile failed."""
    rows = tx.all(
        "SELECT id, next_attempt_at FROM integration WHERE removed_at IS NULL"
        " AND (observed_generation < generation OR next_attempt_at IS NOT NULL)"
    )
    return [(i, at) for i, at in rows]


def freshness_of(tx: Tx, integration_id: int) -> timedelta | None:
    seconds = tx.value("SELECT freshness_seconds FROM integration WHERE id = :i", i=integration_id)
    return None if seconds is None else timedelta(seconds=seconds)


def applied_fingerprints(tx: Tx, integration_id: int) -> dict[str, str]:
    """Path of each secret of the spec that was applied -> what tells it apart from others."""
    text = tx.value("SELECT applied_fingerprints FROM integration WHERE id = :i", i=integration_id)
    return dict(_DECODE(text)) if text else {}


@dataclass(frozen=True, slots=True)
class Named:
    """Who an id is, also of one that was let go."""

    id: int
    public_id: str
    workspace: str
    name: str


def names_of(tx: Tx, ids: Collection[int]) -> dict[int, Named]:
    rows = (tx.one("SELECT id, public_id, workspace, name FROM integration WHERE id = :i", i=i) for i in sorted(ids))
    return {row[0]: Named(*row) for row in rows if row is not None}
