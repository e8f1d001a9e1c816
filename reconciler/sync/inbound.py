"""What remotes sent or pushed to us, one entity of it in one run: out of the inbox, into the dataset like a sync's pages.

Pushed records are a stretch of items and their page in one transaction. Records that are only named are read again at the
remote, listing by listing: what one of them is refused for ends its items as failed and holds up no other. No watermark moves
and nothing is swept. Called by `run`; a killed process goes on with what still waits.
"""

import json
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from reconciler.model.record import LogLevel, Page, Reject
from reconciler.sdk.contract import Entity
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RateLimitedError, RejectedError, TransientError
from reconciler.sdk.inbound import Accepts, Rereads, Touched
from reconciler.sdk.live import Live
from reconciler.store import dataset, inbox, jobs, pushed, rejects, run_entities
from reconciler.store.database import Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.inbox import Item
from reconciler.store.runs import EntityProgress, Run
from reconciler.sync.entity import LaneWantedError, Reading, keep_schema, page_commit, tell_schema
from reconciler.sync.fields import field_filter
from reconciler.sync.schema import Policy, SchemaWatch, watch

AT_ONCE = 50


def takes_in(live: Live) -> bool:
    """Nothing is pulled of it: each of its runs takes what was pushed."""
    return isinstance(live.connector, Accepts)


def is_taking(run: Run, live: Live) -> bool:
    """Whether this run is about the inbox."""
    return (run.is_inbound or takes_in(live)) and not run.is_replay


def entity_of(live: Live, name: str) -> Entity | None:
    if isinstance(live.connector, Accepts):
        return live.connector.pushed_entity(name)
    return next((e for e in live.connector.entities_of(live.connector.config) if e.name == name), None)


async def take_in(reading: Reading, progress: EntityProgress) -> None:
    """All that waits for the entity. Raises what a read raises, for the last listing that failed."""
    policy: Policy = "evolve" if reading.sync.schema_ == "evolve" else "reject"
    watching = watch(policy, progress.shape, reading.sync.fields, accepts=reading.run.accepts_schema)
    count = 0
    while stored := await _store_pushed(reading, progress, watching):
        count += stored
    count += await _reread(reading, progress, watching)
    at = page_commit(reading, progress, 0).at

    def close(tx: Tx) -> None:
        dataset.fence(tx, reading.run.id, reading.run.fence)
        if takes_in(reading.live):
            pushed.note_taken(tx, progress.entity_id, at)
        run_entities.keep_place(tx, reading.run, progress.entity_id, None, count)

    await reading.database.write(close, guarded=True)


async def _store_pushed(reading: Reading, progress: EntityProgress, watching: SchemaWatch) -> int:
    """A stretch of pushed records; how many. Raises LaneWantedError between two of them."""
    commit = _commit(reading, progress)
    apply = field_filter(reading.sync.fields, reading.entity)
    lane = str(reading.live.integration_id)

    def store(tx: Tx) -> tuple[int, bool]:
        dataset.fence(tx, commit.run_id, commit.fence)
        items = inbox.waiting(tx, commit.integration_id, reading.entity.name, reads=False)
        watching.begin()
        for is_silent in (True, False):
            page = _page([item for item in items if item.is_silent is is_silent])
            if page.keys or page.deleted:
                _store(tx, replace(commit, is_silent=is_silent), apply(page) if apply else page, watching)
        keep_schema(tx, reading, watching, commit)
        inbox.settle(tx, items)
        return len(items), bool(items) and jobs.is_due(tx, "reconcile", lane, reading.clock.now())

    count, is_wanted = await reading.database.write(store, guarded=True)
    tell_schema(reading, watching)
    if is_wanted:
        raise LaneWantedError
    return count


def _commit(reading: Reading, progress: EntityProgress) -> PageCommit:
    return replace(page_commit(reading, progress, 0), is_full=False)


def _page(items: Sequence[Item]) -> Page:
    """Of each record what was said last."""
    last = {item.key: item for item in items}
    kept = [item for item in last.values() if item.op == "put" and item.payload is not None]
    gone = tuple(item.key for item in last.values() if item.op == "delete")
    return Page(tuple(i.key for i in kept), tuple(i.payload for i in kept if i.payload is not None), deleted=gone)


def _store(tx: Tx, commit: PageCommit, page: Page, watching: SchemaWatch) -> None:
    refused: list[Reject] = []

    def look(fresh: Sequence[tuple[str, bytes]]) -> Sequence[Reject]:
        refused.extend(watching.look(fresh))
        return refused

    dataset.commit_page(tx, commit, page, look)
    rejects.forget_taken(tx, commit.entity_id, (*page.keys, *page.deleted))
    if page.rejects or refused:
        rejects.keep(tx, commit, page.partition, (*page.rejects, *refused))


async def _reread(reading: Reading, progress: EntityProgress, watching: SchemaWatch) -> int:
    """How many were. When all others are done it raises what may pass, else what a listing was refused for."""
    name, integration_id = reading.entity.name, reading.live.integration_id
    count, last, passing = 0, 0, list[TransientError]()
    while items := await reading.database.read(
        partial(inbox.waiting, integration_id=integration_id, entity=name, limit=AT_ONCE, reads=True, after=last)
    ):
        last = items[-1].id
        for listing in dict.fromkeys(_listing(item) for item in items):
            some = [item for item in items if _listing(item) == listing]
            try:
                await _reread_one(reading, progress, watching, some)
            except RateLimitedError:
                raise
            except TransientError as error:
                passing.append(error)
            count += len(some)
    if passing:
        raise passing[-1]
    if refused := await reading.database.read(lambda tx: inbox.refusal(tx, reading.run.id, progress.entity_id)):
        raise RejectedError(refused)
    return count


def _listing(item: Item) -> str:
    return str(json.loads(item.payload or b"{}").get("listing", ""))


async def _reread_one(reading: Reading, progress: EntityProgress, watching: SchemaWatch, items: Sequence[Item]) -> None:
    """What it is refused for ends its items. What may pass by itself is raised: the run tries again, the items wait."""
    connector = reading.live.connector
    apply = field_filter(reading.sync.fields, reading.entity)
    try:
        if not isinstance(connector, Rereads):
            raise RejectedError(f"{connector.type} reads no single records")
        async with aclosing(connector.reread(reading.entity, [_touched(item) for item in items])) as pages:
            async for page in pages:
                await _take(reading, progress, watching, apply(page) if apply else page)
    except (ForbiddenError, RejectedError) as error:
        await _give_up(reading, progress, items, error)
    else:
        await reading.database.write(lambda tx: inbox.settle(tx, items))


async def _give_up(reading: Reading, progress: EntityProgress, items: Sequence[Item], error: ConnectorError) -> None:
    def store(tx: Tx) -> None:
        inbox.settle(tx, items, error.message)
        inbox.note_refusal(tx, reading.run.id, progress.entity_id, error.message)

    await reading.database.write(store)
    reading.journal(reading.live.integration_id, LogLevel.WARN, error.message, entity=reading.entity.name)


def _touched(item: Item) -> Touched:
    kept = json.loads(item.payload or b"{}")
    return Touched(item.entity, item.key, kept.get("place", {}), kept.get("listing", ""))


async def _take(reading: Reading, progress: EntityProgress, watching: SchemaWatch, page: Page) -> None:
    commit = _commit(reading, progress)

    def store(tx: Tx) -> None:
        watching.begin()
        _store(tx, commit, page, watching)
        keep_schema(tx, reading, watching, commit)

    await reading.database.write(store, guarded=True)
    tell_schema(reading, watching)
