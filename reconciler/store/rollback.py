"""Bringing an earlier dataset version back: a run like a sync's, that reads from our own log instead of a remote.

`begin` leaves a due run with a place for every entity, `take` starts it or goes on after a crash, `restore_next` does
one stretch in one transaction with the place to go on from. Nothing is deleted from the log: records get new versions, and
all of them together become one dataset version when the run ends. Checkpoints stay where they are. Who orders it and
what else has to stop meanwhile is decided in `control`, the loop is in `sync`.
"""

import json
from dataclasses import dataclass

from reconciler.model.record import Scope
from reconciler.store import dataset, history, progress, run_entities, runs
from reconciler.store.database import Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.history import NotKeptError
from reconciler.store.progress import Batch
from reconciler.store.runs import Lineage, NewRun, Run

STRETCH = 500


@dataclass(frozen=True, slots=True)
class Place:
    """One entity of a rollback that is not done: go on behind this key."""

    entity_id: int
    behind: str
    is_silent: bool
    pages: int


def begin(tx: Tx, integration_id: int, number: int, at: str, *, emits_events: bool) -> Run:
    """A due run. Raises NotKeptError where there is no such version."""
    history.at_version(tx, integration_id, number)
    run = runs.create(tx, NewRun(integration_id, Scope.FULL, "person", restores=number), at)
    tx.execute(
        "INSERT INTO run_entity (run_id, entity_id, state, is_silent)"
        " SELECT :r, id, 'pending', :silent FROM entity WHERE integration_id = :i",
        {"r": run.id, "silent": int(not emits_events), "i": integration_id},
    )
    return run


def take(tx: Tx, run: Run, fence: int, at: str) -> Run | None:
    """Start it with the lineage of what it brings back; None where it is done or cancelled."""
    generation = tx.value("SELECT generation FROM integration WHERE id = :i", i=run.integration_id)
    try:
        source = history.version(tx, run.integration_id, _target(run))
        lineage = Lineage(generation, source.revision, source.spec_hash, source.connector_version)
    except NotKeptError:  # the first stretch says so
        lineage = Lineage(generation, "", "", "")
    return runs.start(tx, run.id, fence, lineage, at)


def places(tx: Tx, run: Run) -> list[Place]:
    """What is left to do."""
    rows = tx.all(
        "SELECT entity_id, position, is_silent, pages FROM run_entity WHERE run_id = :r AND state <> 'complete'"
        " ORDER BY entity_id",
        r=run.id,
    )
    return [Place(e, json.loads(position)["behind"] if position else "", bool(s), n) for e, position, s, n in rows]


def restore_next(tx: Tx, run: Run, place: Place, at: str) -> Place | None:
    """One stretch in key order; where to go on, None when the entity is done. Raises FencedError, NotKeptError."""
    dataset.fence(tx, run.id, run.fence)  # first of all: it also locks who may write
    cut = history.at_version(tx, run.integration_id, _target(run))
    wanted, upto = history.returning(tx, cut, place.entity_id, place.behind, STRETCH)
    commit = PageCommit(
        run_id=run.id,
        fence=run.fence,
        integration_id=run.integration_id,
        entity_id=place.entity_id,
        page_number=place.pages + 1,
        is_full=False,
        is_silent=place.is_silent,
        at=at,
    )
    dataset.restore_page(tx, commit, wanted)
    if run_entities.keep_place(tx, run, place.entity_id, None if upto is None else {"behind": upto}, len(wanted)):
        gone = [key for key, payload in wanted.items() if payload is None]
        kept = [key for key, payload in wanted.items() if payload is not None]
        progress.batch(tx, run.id, Batch(place.entity_id, kept, gone), at)
    return Place(place.entity_id, upto, place.is_silent, place.pages + 1) if upto is not None else None


def _target(run: Run) -> int:
    if run.restores is None:
        raise ValueError(f"{run.public_id} is a sync, not a rollback")
    return run.restores
