"""Runs of a sync and how far each entity got: due, running, done; checkpoints promoted when an entity completes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.model.ids import new_id
from reconciler.model.record import Counts, Page, RunResult, Scope
from reconciler.store import progress as telling
from reconciler.store.database import Row, Tx
from reconciler.store.dataset import SHIFT, close_version, forget_seen

REPLAY = "replay"
INBOUND = "inbound"


@dataclass(frozen=True, slots=True)
class Run:
    id: int
    public_id: str
    integration_id: int
    scope: Scope
    cause: str
    entities: tuple[str, ...] | None
    since: str | None
    allow_deletes: bool
    state: str
    step: str
    result: RunResult | None
    reason: str
    error: str
    is_cancelling: bool
    attempts: int
    fence: int
    counts: Counts
    requested_at: str
    started_at: str | None
    finished_at: str | None
    dataset_version: int | None
    restores: int | None = None
    """The dataset version that it brings back: a rollback. None for a sync."""
    accepts_schema: bool = False
    is_watched: bool = False

    @property
    def is_replay(self) -> bool:
        """Tries rejected records again: asks the connector, but not the remote."""
        return self.cause == REPLAY

    @property
    def is_inbound(self) -> bool:
        """Takes what remotes sent or pushed to us: reads the records that are named there, and no others."""
        return self.cause == INBOUND

    @property
    def is_sync(self) -> bool:
        return self.restores is None and not self.is_replay

    @property
    def title(self) -> str:
        """What logs call it."""
        if self.restores is not None:
            return f"rollback to version {self.restores}"
        return "replay of rejects" if self.is_replay else "inbound" if self.is_inbound else "sync"

    @property
    def told(self) -> dict[str, Any]:
        """What logs say of its end."""
        rejected = {"rejected": self.counts.rejected} if self.counts.rejected else {}
        return {**({"scope": self.scope} if self.is_sync else {}), **self.counts.told(self.scope), **rejected}


@dataclass(frozen=True, slots=True)
class EntityProgress:
    """One entity of a run. `stored` are the watermarks that hold for the entity; `seen` those of this run so far."""

    entity_id: int
    name: str
    state: str
    position: Mapping[str, Any] | None
    stored: Mapping[str, str]
    seen: Mapping[str, str]
    validators: Mapping[str, str]
    is_silent: bool
    is_first: bool
    pages: int
    reason: str = ""
    error: str = ""
    shape: str = ""
    is_watched: bool = False


_COUNTED = ("added", "updated", "unchanged", "deleted", "rejected", "pages", "estimated", "listed", "missing")


def from_row(row: Row) -> Run:
    counts = Counts(*(row[c] for c in _COUNTED))
    return Run(
        id=row["id"],
        public_id=row["public_id"],
        integration_id=row["integration_id"],
        scope=Scope.KEYS if row["keys_only"] else Scope(row["scope"]),
        cause=row["cause"],
        entities=tuple(json.loads(row["entities"])) if row["entities"] else None,
        since=row["since"],
        allow_deletes=bool(row["allow_deletes"]),
        state=row["state"],
        step=row["step"],
        result=RunResult(row["result"]) if row["result"] else None,
        reason=row["reason"],
        error=row["error"],
        is_cancelling=bool(row["is_cancelling"]),
        attempts=row["attempts"],
        fence=row["fence"],
        counts=counts,
        requested_at=row["requested_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        dataset_version=row["dataset_version"],
        restores=row["restores"],
        accepts_schema=bool(row["accepts_schema"]),
        is_watched=row["told"] is not None,
    )


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a person, a schedule or a first connect asks for."""

    integration_id: int
    scope: Scope
    cause: str
    entities: Sequence[str] | None = None
    since: str | None = None
    allow_deletes: bool = False
    restores: int | None = None
    accepts_schema: bool = False


def create(tx: Tx, new: NewRun, at: str) -> Run:
    """A due run."""
    row = tx.one(
        "INSERT INTO run (public_id, integration_id, scope, cause, entities, since, allow_deletes, restores,"
        " accepts_schema, keys_only, state, requested_at)"
        " VALUES (:public, :i, :scope, :cause, :entities, :since, :allow, :restores, :accepts, :keys, 'due', :at)"
        " RETURNING *",
        public=new_id("run"),
        i=new.integration_id,
        scope=Scope.FULL if new.scope is Scope.KEYS else new.scope,
        keys=int(new.scope is Scope.KEYS),
        cause=new.cause,
        entities=json.dumps(list(new.entities)) if new.entities is not None else None,
        since=new.since,
        allow=int(new.allow_deletes),
        restores=new.restores,
        accepts=int(new.accepts_schema),
        at=at,
    )
    assert row is not None  # noqa: S101 - an INSERT with RETURNING gives its row
    return from_row(row)


def get(tx: Tx, run_id: int) -> Run | None:
    row = tx.one("SELECT * FROM run WHERE id = :id", id=run_id)
    return from_row(row) if row else None


def find(tx: Tx, public_id: str) -> Run | None:
    row = tx.one("SELECT * FROM run WHERE public_id = :id", id=public_id)
    return from_row(row) if row else None


def history(tx: Tx, integration_id: int, limit: int = 20) -> list[Run]:
    rows = tx.all("SELECT * FROM run WHERE integration_id = :i ORDER BY id DESC LIMIT :n", i=integration_id, n=limit)
    return [from_row(r) for r in rows]


def last_estimate(tx: Tx, integration_id: int) -> int | None:
    """How many records the remote said there would be, when it was asked last."""
    found = tx.value(
        "SELECT estimated FROM run WHERE integration_id = :i AND estimated IS NOT NULL ORDER BY id DESC LIMIT 1",
        i=integration_id,
    )
    return int(found) if found is not None else None


def open_run(tx: Tx, integration_id: int) -> Run | None:
    """The oldest that is not done: a scheduled run joins it, so missed ticks coalesce."""
    row = tx.one(
        "SELECT * FROM run WHERE integration_id = :i AND state <> 'done' ORDER BY id LIMIT 1", i=integration_id
    )
    return from_row(row) if row else None


def open_runs(tx: Tx, integration_id: int) -> list[Run]:
    rows = tx.all("SELECT * FROM run WHERE integration_id = :i AND state <> 'done' ORDER BY id", i=integration_id)
    return [from_row(r) for r in rows]


def open_syncs(tx: Tx, integration_id: int) -> list[Run]:
    """Without rollbacks, which have nothing to do with the remote: those go on while it is left alone."""
    return [run for run in open_runs(tx, integration_id) if run.restores is None]


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a run was made with; recorded in the dataset version it makes."""

    generation: int
    revision: str
    spec_hash: str
    connector_version: str


def start(tx: Tx, run_id: int, fence: int, lineage: Lineage, at: str) -> Run | None:
    """Take the run under `fence`; None where it is done or being cancelled. Started again after a crash it goes on.

    Another run of the integration that a crash left `running` is due again: its writer holds a lower fence.
    """
    tx.execute(
        "UPDATE run SET state = 'due' WHERE state = 'running' AND id <> :id AND fence < :fence"
        " AND integration_id = (SELECT integration_id FROM run WHERE id = :id)",
        {"id": run_id, "fence": fence},
    )
    row = tx.one(
        "UPDATE run SET state = 'running', fence = :fence, attempts = attempts + 1, generation = :generation,"
        " revision = :revision, spec_hash = :spec, connector_version = :version, step = 'validate', reason = '', error = '',"
        " started_at = coalesce(started_at, :at), progressed_at = :at, began_number = coalesce(began_number,"
        " (SELECT i.id * :lane + i.seq FROM integration i WHERE i.id = run.integration_id))"
        " WHERE id = :id AND state <> 'done' AND is_cancelling = 0 RETURNING *",
        fence=fence,
        generation=lineage.generation,
        revision=lineage.revision,
        spec=lineage.spec_hash,
        version=lineage.connector_version,
        at=at,
        lane=1 << SHIFT,
        id=run_id,
    )
    run = from_row(row) if row else None
    if run is not None and run.is_watched:
        telling.say(tx, run_id, "started" if run.attempts == 1 else f"goes on (attempt {run.attempts})", at)
    return run


def pause(tx: Tx, run: Run, at: str, reason: str = "", error: str = "") -> bool:
    """Give the place back: the run is due again and goes on where it was. False where it is cancelled or not ours.

    Until then `reason` and `error` tell whoever waits for it why.
    """
    row = tx.one(
        "UPDATE run SET state = 'due', reason = :reason, error = :error"
        " WHERE id = :id AND fence = :f AND state = 'running' AND is_cancelling = 0 RETURNING told",
        reason=reason,
        error=error,
        id=run.id,
        f=run.fence,
    )
    if row is not None and row["told"] is not None:
        telling.say(tx, run.id, f"paused: {error or 'a reconcile of the integration goes first'}", at)
    return row is not None


def put_off(tx: Tx, run_id: int, reason: str, error: str, at: str) -> None:
    """Why a due run cannot be taken yet."""
    told = tx.value(
        "UPDATE run SET reason = :reason, error = :error WHERE id = :id AND state = 'due' AND is_cancelling = 0"
        " RETURNING told",
        reason=reason,
        error=error,
        id=run_id,
    )
    if told is not None:
        telling.say(tx, run_id, f"waiting: {error}", at)


def set_step(tx: Tx, run_id: int, step: str) -> bool:
    """Whether somebody watches."""
    return tx.value("UPDATE run SET step = :s WHERE id = :id RETURNING told", s=step, id=run_id) is not None


def set_estimate(tx: Tx, run_id: int, estimated: int | None) -> None:
    tx.execute("UPDATE run SET estimated = :n WHERE id = :id", {"n": estimated, "id": run_id})


def open_entity(tx: Tx, run: Run, name: str, is_silent_first: bool) -> EntityProgress:
    """The entity's place in this run, made on first use. A first read is silent unless the manifest says otherwise."""
    tx.execute(
        "INSERT INTO entity (integration_id, name) VALUES (:i, :n) ON CONFLICT (integration_id, name) DO NOTHING",
        {"i": run.integration_id, "n": name},
    )
    entity = tx.one("SELECT * FROM entity WHERE integration_id = :i AND name = :n", i=run.integration_id, n=name)
    assert entity is not None  # noqa: S101 - inserted above
    is_first = entity["completed_at"] is None
    tx.execute(
        "INSERT INTO run_entity (run_id, entity_id, state, is_silent) VALUES (:r, :e, 'pending', :s)"
        " ON CONFLICT (run_id, entity_id) DO NOTHING",
        {"r": run.id, "e": entity["id"], "s": int(is_first and is_silent_first)},
    )
    row = tx.one(
        f"SELECT p.*, {TOLD} AS told FROM run_entity p WHERE run_id = :r AND entity_id = :e", r=run.id, e=entity["id"]
    )
    assert row is not None  # noqa: S101 - inserted above
    return EntityProgress(
        entity_id=entity["id"],
        name=name,
        state=row["state"],
        position=json.loads(row["position"]) if row["position"] else None,
        stored=json.loads(entity["watermarks"]),
        seen=json.loads(row["watermarks"]),
        validators=json.loads(entity["validators"]),
        is_silent=bool(row["is_silent"]),
        is_first=is_first,
        pages=row["pages"],
        reason=row["reason"],
        error=row["error"],
        shape=entity["shape"],
        is_watched=row["told"] is not None,
    )


TOLD = "(SELECT told FROM run WHERE id = :r)"
"""In a statement about a run's entity: not null where somebody watches the run."""


def advance_entity(
    tx: Tx, run: Run, progress: EntityProgress, page: Page, seen: Mapping[str, str], is_ordered: bool
) -> bool:
    """Where to resume after this page. An ordered entity's watermark holds at once, any other's at its end.

    Returns whether somebody watches the run.
    """
    told = tx.value(
        "UPDATE run_entity SET state = 'reading', position = :position, watermarks = :seen, pages = pages + 1,"
        " records = records + :n, total = coalesce(:total, total),"
        " validators = CASE WHEN :validators = '{}' THEN validators ELSE :validators END"
        f" WHERE run_id = :r AND entity_id = :e RETURNING {TOLD}",
        position=json.dumps(dict(page.position)) if page.position is not None else None,
        seen=json.dumps(dict(seen)),
        n=len(page.keys),
        total=page.total,
        validators=json.dumps(dict(page.validators)),
        r=run.id,
        e=progress.entity_id,
    )
    if is_ordered and leaves_no_gap(run, progress):
        _promote(tx, progress.entity_id, _raised(progress.stored, seen))
    return told is not None


def _raised(stored: Mapping[str, str], seen: Mapping[str, str]) -> dict[str, str]:
    """Never back: a full read begins far below what an interrupted one may not forget."""
    return {p: max(stored.get(p, ""), seen.get(p, "")) for p in (*stored, *seen)}


def leaves_no_gap(run: Run, progress: EntityProgress) -> bool:
    """False where nothing may be remembered as read: keys alone were, or a person's `since` skips what never was."""
    if run.scope is Scope.KEYS:
        return False
    if run.since is None or run.scope is Scope.FULL:
        return True
    return bool(progress.stored) and all(run.since <= watermark for watermark in progress.stored.values())


def _promote(tx: Tx, entity_id: int, watermarks: Mapping[str, str]) -> None:
    tx.execute("UPDATE entity SET watermarks = :w WHERE id = :e", {"w": json.dumps(dict(watermarks)), "e": entity_id})


def complete_entity(tx: Tx, run: Run, progress: EntityProgress, seen: Mapping[str, str], at: str) -> None:
    """Everything that was asked for is stored: the watermarks and validators of this run hold from now on.

    After a full read its watermarks hold as they are, so that one which a wrong clock set too high comes down.
    """
    row = tx.one(
        "SELECT validators FROM run_entity WHERE run_id = :r AND entity_id = :e", r=run.id, e=progress.entity_id
    )
    tx.execute(
        "UPDATE run_entity SET state = 'complete', position = NULL WHERE run_id = :r AND entity_id = :e",
        {"r": run.id, "e": progress.entity_id},
    )
    if not leaves_no_gap(run, progress):
        return
    is_full = run.scope is Scope.FULL
    _promote(tx, progress.entity_id, {**progress.stored, **seen} if is_full else _raised(progress.stored, seen))
    tx.execute(
        "UPDATE entity SET completed_at = :at, validators = :v,"
        " full_completed_at = CASE WHEN :full = 1 THEN :at ELSE full_completed_at END WHERE id = :e",
        {
            "at": at,
            "v": row["validators"] if row else "{}",
            "full": int(is_full),
            "e": progress.entity_id,
        },
    )


# What it changed may still have to become events: the router takes the last step, in the transaction of its cursor.
_LAST_STEP = (
    "CASE WHEN EXISTS (SELECT 1 FROM integration i WHERE i.id = run.integration_id AND i.seq > i.routed_seq)"
    " THEN 'route' ELSE 'update' END"
)


def finish(tx: Tx, run: Run, result: RunResult, reason: str, error: str, at: str, *, is_whole: bool = True) -> bool:
    """Close the run and tell the integration; `last_sync_at` moves only on success. False where it was fenced.

    A run that is not whole (a person chose some entities) says nothing of how the integration as a whole stands.
    """
    touched = tx.one(
        f"UPDATE run SET state = 'done', step = {_LAST_STEP}, result = :result, reason = :reason, error = :error,"
        " finished_at = :at, is_cancelling = 0 WHERE id = :id AND state <> 'done' AND fence = :fence RETURNING told",
        result=result,
        reason=reason,
        error=error,
        at=at,
        id=run.id,
        fence=run.fence,
    )
    if touched is None:
        return False
    forget_seen(tx, run.id)
    close_version(tx, run.id, at)
    good, bad = is_whole and result is RunResult.SUCCESS, is_whole and result is RunResult.FAILED
    counted = is_whole and result is not RunResult.CANCELLED
    tx.execute(
        "UPDATE integration SET last_run_at = :at, total_syncs = total_syncs + :counted,"
        " failed_syncs = failed_syncs + :bad, last_sync_at = CASE WHEN :good = 1 THEN :at ELSE last_sync_at END,"
        " last_sync_result = CASE WHEN :counted = 1 THEN :result ELSE last_sync_result END,"
        " last_sync_reason = CASE WHEN :counted = 1 THEN :reason ELSE last_sync_reason END,"
        " last_sync_error = CASE WHEN :counted = 1 THEN :error ELSE last_sync_error END WHERE id = :i",
        {
            "at": at,
            "counted": int(counted),
            "bad": int(bad),
            "good": int(good),
            "result": result,
            "reason": reason,
            "error": error,
            "i": run.integration_id,
        },
    )
    if touched["told"] is not None:
        telling.end(tx, run.id, at)
    return True


def cancel(tx: Tx, run_id: int, reason: str) -> bool:
    """From now on it neither starts nor commits a page; `close_cancelled` ends it. False where it is done already."""
    return bool(
        tx.rowcount(
            "UPDATE run SET is_cancelling = 1, reason = :reason, error = '' WHERE id = :id AND state <> 'done'",
            reason=reason,
            id=run_id,
        )
    )


def _close_cancelled(tx: Tx, run_id: int, state: str, at: str) -> bool:
    """What it stored before stays, in a dataset version of its own."""
    touched = tx.one(
        "UPDATE run SET state = 'done', result = 'cancelled', finished_at = :at, is_cancelling = 0"
        " WHERE id = :id AND state = :state AND is_cancelling = 1 RETURNING told",
        at=at,
        id=run_id,
        state=state,
    )
    if touched is None:
        return False
    forget_seen(tx, run_id)
    close_version(tx, run_id, at)
    if touched["told"] is not None:
        telling.end(tx, run_id, at)
    return True


def every_running(tx: Tx) -> dict[int, Run]:
    """integration id -> its run under way."""
    return {row["integration_id"]: from_row(row) for row in tx.all("SELECT * FROM run WHERE state = 'running'")}


def close_cancelled(tx: Tx, run_ids: Sequence[int], at: str) -> list[int]:
    """End cancelled runs whose task was stopped; from now on no late page of theirs can commit."""
    return [
        run_id
        for run_id in run_ids
        if _close_cancelled(tx, run_id, "running", at) or _close_cancelled(tx, run_id, "due", at)
    ]


def unfinished(tx: Tx) -> list[tuple[int, int]]:
    """(run id, integration id) of all that are not done: after a restart each needs its job row."""
    return [(r, i) for r, i in tx.all("SELECT id, integration_id FROM run WHERE state <> 'done' ORDER BY id")]
