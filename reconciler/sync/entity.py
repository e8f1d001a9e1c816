"""One entity of one run: pages are fetched, filtered, committed with their position, and the watermark kept honest.

The next page is fetched while the last one is committed; at most two are in memory. A page's records, the position to
resume from and the run's counts are one transaction, so a killed process loses nothing and repeats at most one page.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.manifest import Sync
from reconciler.model.record import LogLevel, Page, ReadRequest, Reject, Scope, Step
from reconciler.sdk.contract import Deletes, Entity
from reconciler.sdk.errors import RejectedError, TransientError
from reconciler.sdk.live import Journal, Live
from reconciler.store import dataset, jobs, rejects, runs
from reconciler.store import progress as telling
from reconciler.store.database import Database, Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.progress import Batch
from reconciler.store.runs import EntityProgress, Run
from reconciler.sync.fields import field_filter
from reconciler.sync.guards import PageGuard
from reconciler.sync.schema import SchemaFrozenError, SchemaWatch, named, watch

PAGE_DEADLINE = timedelta(minutes=5)
SWEEP_SHARE = 0.2
SWEEP_LEAST = 10
MOST_TOLD = 20
_ALL = (Scope.FULL, Scope.KEYS)
_BY_ABSENCE = (Deletes.FULL_RUN, Deletes.KEYS)


class SweepRefusedError(Exception):
    """A complete read misses so many records that a person has to allow their deletion."""


class LaneWantedError(Exception):
    """A reconcile of the same integration waits: it goes first, at the next page, and the run goes on after it."""


class SameSince(Mapping[str, str]):
    """One lower bound for every partition: what a person gave with `--since`."""

    def __init__(self, since: str) -> None:
        self._since = since

    def __getitem__(self, key: str) -> str:
        return self._since

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that stays the same while one entity is read. `is_alone`: the run reads no other."""

    database: Database
    clock: Clock
    journal: Journal
    live: Live
    run: Run
    entity: Entity
    skew: timedelta = timedelta()
    is_alone: bool = False
    page_deadline: timedelta = PAGE_DEADLINE

    @property
    def sync(self) -> Sync:
        return self.live.manifest.spec.sync

    @property
    def reads_everything(self) -> bool:
        return self.run.scope in _ALL or self.entity.cursor is None

    @property
    def is_sweeping(self) -> bool:
        return self.reads_everything and self.entity.deletes in _BY_ABSENCE and self.run.since is None


def request_of(reading: Reading, progress: EntityProgress) -> ReadRequest:
    """What the connector is asked for; a full read and a listing of keys know no watermark and no validator."""
    run = reading.run
    is_full = run.scope in _ALL
    since: Mapping[str, str] = {} if is_full else progress.stored
    if run.since is not None and not is_full:
        since = SameSince(run.since)
    if run.scope is Scope.DELTA and not reading.entity.has_delta:
        raise RejectedError(
            f"{reading.live.connector.type} has no change feed for {reading.entity.name}; use --scope incremental or full"
        )
    return ReadRequest(
        scope=run.scope,
        started_at=run.started_at or run.requested_at,
        since=since,
        resume=progress.position,
        page_size=reading.sync.page_size,
        # what sweeps has to see every record: "not modified" would look like "all gone"
        validators={} if is_full or run.since is not None or reading.is_sweeping else progress.validators,
    )


async def read_entity(reading: Reading, progress: EntityProgress) -> EntityProgress:
    """Read from where `progress` stands to the remote's own end; returns the progress then.

    Raises what the connector raises, FencedError when the run may not go on, LaneWantedError, SweepRefusedError,
    SchemaFrozenError. The progress made until then is stored: a further call with fresh progress goes on.
    """
    apply = field_filter(reading.sync.fields, reading.entity)
    watching = watch(reading.sync.schema_, progress.shape, reading.sync.fields, accepts=reading.run.accepts_schema)
    seen = dict(progress.seen)
    number = progress.pages
    async with aclosing(pages_of(reading, progress)) as pages:
        async for page in pages:
            _raise_watermark(reading, seen, page)
            number += 1
            is_wanted = await _commit(reading, progress, watching, apply(page) if apply else page, seen, number)
            if is_wanted:
                raise LaneWantedError
    await _complete(reading, progress, watching, seen, number)
    return replace(progress, seen=seen, pages=number, state="complete")


async def pages_of(reading: Reading, progress: EntityProgress) -> AsyncGenerator[Page, None]:
    """Guarded pages from where `progress` stands; while one is worked on, the next is fetched."""
    guard = PageGuard()
    pages = reading.live.connector.read(reading.entity, request_of(reading, progress))
    following = _fetch(reading, pages)
    try:
        while (page := await following) is not None:
            guard.check(page)
            following = _fetch(reading, pages)
            yield page
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await _close(pages)


def _fetch(reading: Reading, pages: AsyncIterator[Page]) -> "asyncio.Task[Page | None]":
    async def one() -> Page | None:
        try:
            async with asyncio.timeout(reading.page_deadline.total_seconds()):
                return await anext(pages, None)
        except TimeoutError:
            raise TransientError(
                f"no page within {reading.page_deadline.total_seconds():.0f} s", reason=Reason.TIMED_OUT
            ) from None

    return asyncio.create_task(one())


async def _close(pages: AsyncIterator[Page]) -> None:
    close = getattr(pages, "aclose", None)
    if close is not None:
        await close()


def _raise_watermark(reading: Reading, seen: dict[str, str], page: Page) -> None:
    """Never beyond the remote's own clock at the start: a record dated in the future must not hide later ones."""
    if page.watermark is None:
        return
    try:
        limit = rfc3339(from_rfc3339(reading.run.started_at or reading.run.requested_at) + reading.skew)
        bounded = min(rfc3339(from_rfc3339(page.watermark)), limit)
    except ValueError:
        bounded = page.watermark
    seen[page.partition] = max(seen.get(page.partition, ""), bounded)


async def _commit(
    reading: Reading, progress: EntityProgress, watching: SchemaWatch, page: Page, seen: Mapping[str, str], number: int
) -> bool:
    """Whether somebody waits for our lane, and we could go on from here later. Raises SchemaFrozenError."""
    commit = page_commit(reading, progress, number)

    def store(tx: Tx) -> tuple[bool, Sequence[Reject]]:
        refused: list[Reject] = []

        def look(fresh: Sequence[tuple[str, bytes]]) -> Sequence[Reject]:
            refused.extend(watching.look(fresh))
            return refused

        watching.begin()
        dataset.commit_page(tx, commit, page, look)
        rejects.forget_taken(tx, commit.entity_id, (*page.keys, *page.deleted))
        if page.rejects or refused:
            rejects.keep(tx, commit, page.partition, (*page.rejects, *refused))
        keep_schema(tx, reading, watching, commit)
        if runs.advance_entity(tx, reading.run, progress, page, seen, reading.entity.ordered):
            tell_page(tx, reading, page, commit)
        return wants_lane(tx, reading, page), (*page.rejects, *refused)

    try:
        is_wanted, found = await reading.database.write(store, guarded=True)
    except SchemaFrozenError:
        await reading.database.write(lambda tx: keep_schema(tx, reading, watching, commit))
        tell_schema(reading, watching)
        raise
    tell_schema(reading, watching)
    _tell_rejects(reading, found)
    return is_wanted


def wants_lane(tx: Tx, reading: Reading, page: Page) -> bool:
    """Whether a reconcile of the same integration waits, and we could go on behind this page later."""
    return page.position is not None and jobs.is_due(
        tx, "reconcile", str(reading.live.integration_id), reading.clock.now()
    )


def tell_page(tx: Tx, reading: Reading, page: Page, commit: PageCommit) -> None:
    """To whoever watches the run."""
    total = page.total if reading.is_alone else None
    one = Batch(commit.entity_id, page.keys, page.deleted, page.partition, total)
    telling.batch(tx, commit.run_id, one, commit.at)


def tell_end(tx: Tx, commit: PageCommit) -> None:
    telling.say_of(tx, commit.run_id, commit.entity_id, "read to its end", commit.at)


def keep_schema(tx: Tx, reading: Reading, watching: SchemaWatch, commit: PageCommit) -> None:
    told = {"run": reading.run.public_id, "entity": reading.entity.name}
    watching.keep(tx, commit.integration_id, commit.entity_id, commit.at, told)


def tell_schema(reading: Reading, watching: SchemaWatch) -> None:
    """To the log, once it is stored."""
    if watching.news:
        level = LogLevel.INFO if watching.policy == "evolve" else LogLevel.WARN
        message = f"schema changed: {named(watching.news)}"
        reading.journal(reading.live.integration_id, level, message, entity=reading.entity.name, policy=watching.policy)
    watching.adopt()


def _tell_rejects(reading: Reading, found: Sequence[Reject]) -> None:
    """A few of a page, and how many more."""
    for reject in found[:MOST_TOLD]:
        reading.journal(
            reading.live.integration_id,
            LogLevel.WARN,
            "record rejected",
            entity=reading.entity.name,
            key=reject.key,
            violations=list(reject.violations),
            field=reject.field,
            expected_type=reject.expected_type,
            received_type=reject.received_type,
        )
    if len(found) > MOST_TOLD:
        more = f"{len(found) - MOST_TOLD} more records of the page rejected; see: reconciler rejects {reading.live.ref}"
        reading.journal(reading.live.integration_id, LogLevel.WARN, more, entity=reading.entity.name)


def page_commit(reading: Reading, progress: EntityProgress, number: int) -> PageCommit:
    return PageCommit(
        run_id=reading.run.id,
        fence=reading.run.fence,
        integration_id=reading.live.integration_id,
        entity_id=progress.entity_id,
        page_number=number,
        is_full=reading.is_sweeping,
        is_silent=progress.is_silent,
        at=rfc3339(reading.clock.now()),
    )


async def _complete(
    reading: Reading, progress: EntityProgress, watching: SchemaWatch, seen: Mapping[str, str], number: int
) -> None:
    commit = page_commit(reading, progress, number + 1)

    def close(tx: Tx) -> bool:
        """Whether records were rejected: a read that could not tell who they are has not seen that others are gone."""
        wants_sweep = reading.is_sweeping and not progress.is_first
        has_rejects = wants_sweep and rejects.has_nameless(tx, commit.run_id, commit.entity_id)
        if wants_sweep and not has_rejects:
            sweep(tx, reading, commit)
        dataset.fence(tx, commit.run_id, commit.fence)
        if reading.run.scope is Scope.FULL or reading.is_sweeping:  # anything else may hear "not modified"
            rejects.forget_unmet(tx, commit.run_id, commit.entity_id)
        watching.settle(tx, commit.entity_id, is_whole=progress.is_first or reading.reads_everything)
        runs.complete_entity(tx, reading.run, progress, seen, commit.at)
        if runs.set_step(tx, reading.run.id, Step.VERSION):
            tell_end(tx, commit)
        return has_rejects

    if await reading.database.write(close):
        message = "records were rejected, so none is marked as deleted"
        reading.journal(reading.live.integration_id, LogLevel.WARN, message, entity=reading.entity.name)


def sweep(tx: Tx, reading: Reading, commit: PageCommit) -> None:
    """Mark as deleted what a complete read did not meet; raises SweepRefusedError where that is too much."""
    found = dataset.unseen(tx, commit.run_id, commit.entity_id)
    allowed = max(SWEEP_LEAST, int(found.known * SWEEP_SHARE))
    if found.gone > allowed and not reading.run.allow_deletes:
        raise SweepRefusedError(
            f"{found.gone} of {found.known} {reading.entity.name} are gone at the remote, more than the {allowed} that one "
            f"run may delete; if this is right: reconciler sync NAME --scope {_scope(reading)} --allow-deletes"
        )
    if found.gone:
        dataset.sweep(tx, commit)


def _scope(reading: Reading) -> Scope:
    """An entity without a cursor is swept by every run; only of these two a person may ask that."""
    return reading.run.scope if reading.run.scope in _ALL else Scope.FULL
