"""What several processes on one database owe each other: the spec in force, one renewal at a time, one time."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from reconciler.app.keeping import StoreTokens
from reconciler.app.server_clock import ServerClock
from reconciler.app.vault import KEY_BYTES, Vault
from reconciler.app.working import InForce
from reconciler.control.book import Unread, secrets_said
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.ids import Ref
from reconciler.model.job import Claim, Job, Outcome
from reconciler.sdk.redact import Redactor
from reconciler.sdk.testing.room import VirtualClock
from reconciler.store import conditions, jobs, leases
from reconciler.store.database import Backend, Database, Tx
from reconciler.store.migrations import migrate
from reconciler.work.settings import WorkSettings
from tests.desk import World, desired

VAULT = Vault(b"k" * KEY_BYTES)
NO_KEY = Finding("desk.yaml", 1, 1, Code.SOPS_KEY_MISSING, "no key", "add it", Severity.ERROR)


@pytest_asyncio.fixture
async def world(backend: Backend) -> AsyncIterator[World]:
    database = Database(backend)
    await migrate(database)
    yield World(database, VirtualClock())
    database.close()


class Process:
    """Another process: what it knows of Git, and the jobs it was given."""

    def __init__(self, world: World, *, is_shared: bool = True) -> None:
        self.world = world
        self.known = desired("desk")
        self.unread: Mapping[Ref, Unread] = {}
        self.looks = 0
        self.fresh_since = -1.0
        self.ran = 0
        book = SimpleNamespace(state=object(), get=lambda ref: self.known, unread=self.unread)
        following = SimpleNamespace(is_fresh_since=lambda at: self.fresh_since >= at, look=self._look)
        ground = SimpleNamespace(book=book, database=world.db, clock=world.clock, random=Random(1))
        bench: Any = SimpleNamespace(ground=ground, following=following, is_shared=is_shared)
        self._book = book
        self._run = InForce(bench).wrap(self._kind)

    def _look(self) -> None:
        self.looks += 1

    def ask_git(self) -> None:
        """It answers from now on, and later than a question that was asked before."""
        self.world.clock.advance(timedelta(seconds=1))
        self.fresh_since = self.world.clock.monotonic()

    async def _kind(self, job: Job, claim: Claim) -> Outcome:
        self.ran += 1
        return Outcome()

    async def run(self) -> Outcome:
        self._book.unread = self.unread
        row = await self.world.row()
        key = str(row.id)
        return await self._run(Job(1, "reconcile", "work", key, key, 1), Claim(1, 1, "work", key, "me", 1))


async def test_a_job_waits_until_the_spec_in_force_is_known(world: World) -> None:
    await world.wish(desired("desk", {"display_name": "new"}))
    process = Process(world)
    assert (await process.run()).again_at is not None
    assert (process.ran, process.looks) == (0, 1)
    process.known = desired("desk", {"display_name": "new"})
    assert (await process.run()).again_at is None
    assert process.ran == 1


async def test_who_is_ahead_goes_on(world: World) -> None:
    """Its wish is another generation when the leader takes it in, and reconciled again."""
    await world.wish(desired("desk"))
    process = Process(world)
    process.known = desired("desk", {"display_name": "newest"})
    await process.run()
    process.ask_git()
    await process.run()
    assert (process.ran, process.looks) == (1, 1)


async def test_who_was_ahead_is_not_taken_to_be_ahead_of_the_next_wish(world: World) -> None:
    await world.wish(desired("desk"))
    process = Process(world)
    process.known = desired("desk", {"display_name": "newer"})
    await process.run()
    process.ask_git()
    await process.run()
    world.clock.advance(timedelta(minutes=1))
    await world.wish(desired("desk", {"display_name": "newest"}))
    await process.run()
    await process.run()
    assert (process.ran, process.looks) == (1, 2)


async def test_git_is_asked_once_for_each_wish(world: World) -> None:
    """Where it does not answer, the source knows how often to try."""
    await world.wish(desired("desk", {"display_name": "new"}))
    process = Process(world)
    for _ in range(3):
        await process.run()
    assert (process.ran, process.looks) == (0, 1)


async def test_who_cannot_read_the_secrets_leaves_it_to_others(world: World) -> None:
    await world.wish(desired("desk", {"display_name": "new"}))
    process = Process(world)
    process.unread = {(await world.row()).ref: Unread((NO_KEY,))}
    await process.run()
    process.ask_git()
    await process.run()
    assert process.ran == 0


async def test_who_never_could_read_the_secrets_leaves_it_to_others(world: World) -> None:
    """It knows the spec in force by its name only."""
    await world.wish(desired("desk"))
    process = Process(world)
    process.unread = {(await world.row()).ref: Unread((NO_KEY,))}
    again_at = (await process.run()).again_at
    assert process.ran == 0
    assert again_at is not None
    assert again_at - world.clock.now() > WorkSettings("").idle_poll, "else the same process takes it again and again"


async def test_what_nobody_can_read_is_said_by_its_job(world: World) -> None:
    await world.wish(desired("desk"))
    process = Process(world)
    row, unread = await world.row(), Unread((NO_KEY,))
    process.unread = {row.ref: unread}
    said, at = [secrets_said(unread)], rfc3339(world.clock.now())
    await world.db.write(lambda tx: conditions.say(tx, row.id, row.generation, said, at))
    await process.run()
    assert process.ran == 1


async def test_alone_nothing_is_asked(world: World) -> None:
    await world.wish(desired("desk", {"display_name": "new"}))
    process = Process(world, is_shared=False)
    await process.run()
    assert (process.ran, process.looks) == (1, 0)


async def test_one_renews_a_token_and_the_other_finds_it(world: World) -> None:
    await world.wish(desired("desk"))
    integration_id = (await world.row()).id
    each = [StoreTokens(world.db, VAULT, Redactor(), SystemClock(), integration_id, is_shared=True) for _ in range(2)]
    inside = most = 0

    async def renew(tokens: StoreTokens) -> None:
        nonlocal inside, most
        async with tokens.hold("bot"):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.05)
            inside -= 1

    await asyncio.gather(*(renew(tokens) for tokens in each))
    assert most == 1


async def test_the_server_tells_the_time(world: World) -> None:
    if "postgresql" not in world.db.where:
        pytest.skip("a file has no clock of its own")
    right, skewed = SystemClock(), VirtualClock(SystemClock().now() - timedelta(minutes=5))
    clock = ServerClock(skewed)
    assert right.now() - clock.now() > timedelta(minutes=4)
    await clock.align(world.db)
    assert abs(right.now() - clock.now()) < timedelta(seconds=5)
    skewed.advance(timedelta(seconds=90))
    assert clock.now() - right.now() > timedelta(seconds=60)


async def test_who_asks_remotes_is_counted_once(world: World) -> None:
    def fill(tx: Tx) -> None:
        now = tx.now()
        for owner, age in (("one", 0), ("two", 3), ("gone", 11)):
            jobs.beat(tx, owner, now - timedelta(seconds=age))
        leases.take(tx, leases.CONTROLLER, "one", now, timedelta(seconds=8))

    await world.db.write(fill)
    assert await world.read(jobs.parties) == 2
    assert await world.read(jobs.workers) == 2
    await world.db.write(lambda tx: jobs.forget(tx, "one"))
    assert await world.read(jobs.parties) == 2
    assert await world.read(jobs.workers) == 1
