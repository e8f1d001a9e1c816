"""What is told of credentials: that one ends soon, once; that somebody else is connected than before; and what waiting costs."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from reconciler.control import holdup
from reconciler.control.consent import WARNING, expiring, turned
from reconciler.control.probe import Prober
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.model.event import Lifecycle
from reconciler.model.record import LogLevel
from reconciler.sdk.contract import Probe
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.testing.room import START
from reconciler.store import probes
from tests.desk import World, desired, embedded

C = ConditionType
TOLD = Lifecycle.EXPIRING


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with embedded(tmp_path) as made:
        yield made


def ending(at: datetime | None, identity: str = "ada") -> Probe:
    return Probe(identity, credential_expires_at=at)


async def reconcile(world: World, *answers: Probe) -> None:
    for answer in answers:
        world.remote().probes.append(answer)
        await world.reconcile()


async def test_it_is_told_once_and_over_when_there_is_a_new_one(world: World) -> None:
    await world.wish(desired("desk"))
    soon, late = START + timedelta(days=6), START + timedelta(days=60)
    await reconcile(world, ending(late))
    assert C.CREDENTIAL_EXPIRING not in await world.said()
    await reconcile(world, ending(soon), ending(soon))
    condition = (await world.said())[C.CREDENTIAL_EXPIRING]
    assert (condition.truth, condition.reason) == (Truth.TRUE, Reason.CREDENTIAL_EXPIRING)
    assert "2026-03-08 10:00 UTC" in condition.message
    assert (await world.events()).count(TOLD) == 1
    await reconcile(world, ending(late))
    assert C.CREDENTIAL_EXPIRING not in await world.said()
    await reconcile(world, ending(soon))
    assert (await world.events()).count(TOLD) == 2


async def test_time_alone_brings_it_by_a_probe(world: World) -> None:
    await world.wish(desired("desk"))
    until = START + timedelta(days=8)
    await reconcile(world, ending(until))
    prober = Prober(world.db, world.connections, world.clock, world.random, timedelta(minutes=5))
    world.remote().probes += [ending(until)]
    world.clock.advance(timedelta(minutes=10))
    await prober.tick()
    assert await world.jobs_of("reconcile") == {}, "nothing turned"
    world.remote().probes += [ending(until)]
    world.clock.advance(timedelta(days=1))
    await prober.tick()
    assert len(await world.jobs_of("reconcile")) == 1
    await reconcile(world, ending(until))
    assert C.CREDENTIAL_EXPIRING in await world.said()
    world.remote().probes += [ending(until)]
    world.clock.advance(timedelta(minutes=10))
    await prober.tick()
    assert await world.jobs_of("reconcile") == {}, "it is said already"


async def test_it_goes_with_the_integration(world: World) -> None:
    await world.wish(desired("desk"))
    await reconcile(world, ending(START + timedelta(days=1)))
    await world.wish(desired("desk", {"enabled": False}))
    await world.reconcile()
    assert C.CREDENTIAL_EXPIRING not in await world.said()


@pytest.mark.parametrize(
    ("left", "is_told"),
    [(None, False), (WARNING + timedelta(seconds=1), False), (WARNING, True), (-WARNING, True)],
)
def test_how_long_ahead(left: timedelta | None, is_told: bool) -> None:
    said = expiring(START + left if left is not None else None, START, WARNING)
    assert (said.truth is Truth.TRUE) is is_told
    before = Condition(C.CREDENTIAL_EXPIRING, Truth.TRUE, Reason.CREDENTIAL_EXPIRING, "", START)
    assert (turned(said, None), turned(said, before)) == (is_told, not is_told)


async def test_another_account_than_before_is_told(world: World) -> None:
    await world.wish(desired("desk"))
    await reconcile(world, ending(None), ending(None, "grace"))
    assert (await world.said())[C.CONNECTED].message == "connected as grace, before as ada"
    level, message, detail = world.journal.lines[-1]
    assert (level, message) == (LogLevel.WARN, "connected")
    assert (detail["identity"], detail["identity_before"]) == ("grace", "ada")
    await reconcile(world, ending(None, "grace"))
    assert (await world.said())[C.CONNECTED].message == "connected as grace"


async def test_another_account_that_a_probe_meets_first_is_told_by_the_reconcile(world: World) -> None:
    await world.wish(desired("desk"))
    await reconcile(world, ending(None))
    prober = Prober(world.db, world.connections, world.clock, world.random, timedelta(minutes=5))
    world.remote().probes += [ending(None, "grace")]
    world.clock.advance(timedelta(minutes=10))
    await prober.tick()
    assert (await world.row()).identity == "ada"
    assert len(await world.jobs_of("reconcile")) == 1
    await reconcile(world, ending(None, "grace"))
    assert (await world.said())[C.CONNECTED].message == "connected as grace, before as ada"


async def test_waiting_for_a_person_counts_as_no_outage_and_says_what_to_do(world: World) -> None:
    world.remote().probes.append(UnauthorizedError("a person", reason=Reason.AWAITING_AUTHORIZATION))
    await world.wish(desired("desk"))
    await world.reconcile()
    row = await world.row()
    assert await world.read(lambda tx: probes.uptime_of(tx, row.id, "")) == (0, 0)
    held = await world.read(lambda tx: holdup.of_integration(tx, row))
    assert str(held) == "a person has to allow it first; reconciler authorize it-ops/desk"
    assert [level for level, message, _ in world.journal.lines if message == "a person"] == [LogLevel.WARN]
