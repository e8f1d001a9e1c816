"""A listing of keys alone: which records there still are, at a fraction of what reading them costs.

In: one entity of a run of scope `keys`. Out: marks of what was seen, a page and its position in one transaction; at the
remote's own end the sweep, under the guard of a full read. No record is fetched or written, no checkpoint of reading moves.
What is at the remote and not here is counted, unless the next incremental read brings it anyway. Called by `run`.
"""

from contextlib import aclosing
from dataclasses import replace
from datetime import datetime

from reconciler.model.clock import from_rfc3339
from reconciler.model.record import LogLevel, Page, Step
from reconciler.sdk.errors import RejectedError
from reconciler.store import dataset, rejects, runs
from reconciler.store.database import Tx
from reconciler.store.runs import EntityProgress
from reconciler.sync.entity import (
    LaneWantedError,
    Reading,
    page_commit,
    pages_of,
    sweep,
    tell_end,
    tell_page,
    wants_lane,
)


async def list_keys(reading: Reading, progress: EntityProgress) -> EntityProgress:
    """From where `progress` stands to the remote's own end; raises what `read_entity` raises, but for schemas."""
    number = progress.pages
    async with aclosing(pages_of(reading, progress)) as pages:
        async for page in pages:
            number += 1
            if await _commit(reading, progress, page, number):
                raise LaneWantedError
    await _complete(reading, progress, number)
    return replace(progress, pages=number, state="complete")


async def _commit(reading: Reading, progress: EntityProgress, page: Page, number: int) -> bool:
    """Whether somebody waits for our lane."""
    if page.rejects:
        said = page.rejects[0].violations[0]
        raise RejectedError(
            f"{len(page.rejects)} keys of a page could not be read, so nobody can tell who is gone: {said}"
        )
    commit = page_commit(reading, progress, number)
    overdue = _overdue(reading, progress, page)

    def store(tx: Tx) -> bool:
        awaited = overdue - rejects.keys_of(tx, commit.entity_id) if overdue else overdue
        dataset.commit_keys(tx, commit, page.keys, awaited)
        if runs.advance_entity(tx, reading.run, progress, page, {}, reading.entity.ordered):
            tell_page(tx, reading, page, commit)
        return wants_lane(tx, reading, page)

    return await reading.database.write(store, guarded=True)


def _overdue(reading: Reading, progress: EntityProgress, page: Page) -> set[str]:
    """The keys whose record the next incremental read does not ask for, so it should be here."""
    bound = _bound(reading, progress, page)
    if bound is None:
        return set()
    times = page.changed_at or [""] * len(page.keys)
    return {key for key, at in zip(page.keys, times, strict=True) if not at or from_rfc3339(at) < bound}


def _bound(reading: Reading, progress: EntityProgress, page: Page) -> datetime | None:
    """From which change time on the next incremental read asks; None where it asks for everything, or by no time."""
    stored = progress.stored.get(page.partition)
    try:
        return None if stored is None else from_rfc3339(stored) - reading.entity.overlap
    except ValueError:
        return None


async def _complete(reading: Reading, progress: EntityProgress, number: int) -> None:
    commit = page_commit(reading, progress, number + 1)

    def close(tx: Tx) -> int:
        if not progress.is_first:
            sweep(tx, reading, commit)
        dataset.fence(tx, commit.run_id, commit.fence)
        runs.complete_entity(tx, reading.run, progress, {}, commit.at)
        if runs.set_step(tx, reading.run.id, Step.VERSION):
            tell_end(tx, commit)
        return dataset.missing(tx, commit.run_id, commit.entity_id)

    if missing := await reading.database.write(close):
        message = f"at the remote but not here, and not asked for by incremental syncs: {missing} records"
        remedy = f"reconciler sync {reading.live.ref} --scope full"
        reading.journal(reading.live.integration_id, LogLevel.WARN, message, entity=reading.entity.name, remedy=remedy)
