"""What may go wrong: lost engine rows, dead peers, killed processes, jumping clocks, locked and full databases."""

import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from reconciler.model.clock import from_rfc3339
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.secret import Secret
from reconciler.store import jobs
from reconciler.store.database import Tx
from reconciler.store.errors import StoreFullError
from reconciler.store.job_store import StoredJobs
from reconciler.store.notices import Notices
from reconciler.work.elsewhere import Elsewhere
from reconciler.work.transact import engine_address
from tests.integration.work.world import World, until
from tests.servers.postgres import cut_listeners

PEER = Path(__file__).with_name("world.py")
ROOT = Path(__file__).parents[3]
ALONE = pytest.mark.parametrize("world", ["sqlite"], indirect=True)


@asynccontextmanager
async def peer(world: World, alone: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process on the same store; killed with -9 at the latest when the test ends."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PEER_DATABASE": world.url}
    process = await asyncio.create_subprocess_exec(sys.executable, str(PEER), str(world.folder), alone, env=environment)
    try:
        await until((world.folder / "ready").exists)
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def kill(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGKILL)
    await process.wait()


def overlapping(log: list[str]) -> list[str]:
    """Lanes in which something started before the one before had ended or was cancelled."""
    inside: dict[str, str] = {}
    found = []
    for what, ref, key in (line.split() for line in log):
        if what != "start":
            inside.pop(key, None)
        elif key in inside:
            found.append(f"{ref} while {inside[key]}")
        else:
            inside[key] = ref
    return found


def forget_engine_rows(world: World) -> int:
    engine = sa.create_engine(engine_address(world.settings.engine_url))
    schema = "dbos." if world.url else ""
    with engine.begin() as connection:
        gone = connection.execute(sa.text(f"DELETE FROM {schema}workflow_status")).rowcount
        connection.execute(sa.text(f"DELETE FROM {schema}operation_outputs"))
    engine.dispose()
    return gone


@ALONE
async def test_killed_process_resumes_after_restart(world: World) -> None:
    await world.put(*(f"r{number}" for number in range(20)))
    async with peer(world, "alone") as process:
        await until(lambda: len(world.log()) == 20)
        await kill(process)
    assert set((await world.states()).values()) == {"running"}
    await world.put("later")
    await world.launch()
    await until(lambda: len(world.ended) == 21)
    await world.stop()
    assert len(world.started) == 21
    assert await world.states() == {}


@ALONE
async def test_finished_work_is_not_repeated_after_a_kill(world: World) -> None:
    (world.folder / "release").touch()
    await world.put(*(f"r{number}" for number in range(20)))
    async with peer(world, "alone") as process:
        await until(lambda: sum(line.startswith("end") for line in world.log()) == 20)
        await until(lambda: not world.peek("SELECT state FROM job"))
        await kill(process)
    await world.put("later")
    await world.launch()
    await until(lambda: world.ended == ["later"])
    await world.stop()
    assert world.started == ["later"]


async def test_a_dead_peers_work_is_taken_over(world: World) -> None:
    world.share()
    world.settings = replace(world.settings, dead_after=timedelta(seconds=2))
    refs = [f"r{number}" for number in range(12)]
    await world.put(*refs)
    async with peer(world, "shared") as process:
        await until(lambda: len(world.log()) == 12)
        await world.launch()
        await kill(process)
        await until(lambda: len(world.started) == 12)
    (world.folder / "release").touch()
    await until(lambda: len(world.ended) == 12)
    await until(lambda: len(world.peek("SELECT id FROM alive")) == 1)
    await world.stop()
    assert await world.states() == {}


async def test_two_processes_share_the_work_and_no_lane_overlaps(world: World) -> None:
    world.share()
    (world.folder / "release").touch()
    async with peer(world, "shared") as process:
        await world.launch()
        for lane in range(8):
            await world.put(*(f"{lane}.{number}" for number in range(6)), key=f"lane{lane}")
        await until(lambda: sum(line.startswith("end") for line in world.log()) == 48)
        (world.folder / "leave").touch()
        await process.wait()
    await world.stop()
    assert overlapping(world.log()) == []
    assert sum(line.startswith("start") for line in world.log()) == 48


async def test_cancel_reaches_a_job_in_another_process(world: World) -> None:
    world.share()
    await world.put("x")
    async with peer(world, "shared"):
        await until(lambda: world.log() == ["start x x"])
        await world.launch()
        assert await world.work.cancel("sync", "x")
        await until(lambda: world.log() == ["start x x", "cancel x x"])
        await world.stop()


@pytest.mark.parametrize("world", [pytest.param("postgresql", marks=pytest.mark.needs("initdb"))], indirect=True)
async def test_word_of_another_process_starts_and_stops_at_once(world: World) -> None:
    """Neither looks by itself within the time of this test; a connection that is cut comes back by itself."""
    world.body = world.until_released
    hour = timedelta(hours=1)
    world.settings = replace(world.settings, idle_poll=hour, look=hour, beat=hour)
    others = Elsewhere(StoredJobs(world.db))
    await world.launch()
    notices = Notices(Secret(world.url), world.clock, world.hear, lambda _: None)
    listening = asyncio.create_task(notices.listen())
    await world.put("x", "y", age=-3600)
    assert await others.ask("sync", "x")
    await until(lambda: world.started == ["x"])
    assert await others.cancel("sync", "x")
    await until(lambda: world.cancelled == ["x"])
    assert cut_listeners(Secret(world.url)) == 1
    assert await others.ask("sync", "y")
    await until(lambda: world.started == ["x", "y"])
    listening.cancel()
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["y"])
    await world.stop()


async def test_without_word_it_is_found_by_looking(world: World) -> None:
    """As where a pooler passes no notices on: what is asked for starts, and what is cancelled stops, all the same."""
    world.share()
    world.body = world.until_released
    world.settings = replace(world.settings, beat=timedelta(hours=1))
    others = Elsewhere(StoredJobs(world.db))
    await world.launch()
    await world.put("x", age=-3600)
    assert await others.ask("sync", "x")
    await until(lambda: world.started == ["x"])
    assert await others.cancel("sync", "x")
    await until(lambda: world.cancelled == ["x"])
    await world.stop()


async def test_what_a_job_asks_for_is_nothing_of_its_own(world: World) -> None:
    """The engine would else cancel, delete or repeat one with the other."""

    async def asks(job: Job, _: Claim) -> Outcome:
        if job.ref == "x":
            await world.put("y", age=-3600)
            assert await world.work.ask("sync", "y")
        return Outcome()

    world.body = asks
    await world.put("x")
    await world.launch()
    await until(lambda: sorted(world.ended) == ["x", "y"])
    await world.stop()
    table = "dbos.workflow_status" if world.url else "workflow_status"
    engine = sa.create_engine(engine_address(world.settings.engine_url))
    with engine.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT status, parent_workflow_id FROM {table}")).all()
    engine.dispose()
    assert [tuple(row) for row in rows] == [("SUCCESS", None), ("SUCCESS", None)]


async def test_engine_rows_deleted_while_jobs_wait_and_run(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.share()
    world.body = world.until_released
    await world.put(*(f"r{number}" for number in range(30)), key="one-lane")
    await world.put(*(f"s{number}" for number in range(30)))
    await world.launch()
    await until(lambda: len(world.started) >= 10)
    assert forget_engine_rows(world) > 0
    (world.folder / "release").touch()
    await until(lambda: len(set(world.ended)) == 60)
    await world.stop()
    assert await world.states() == {}
    assert overlapping(world.log()) == []
    assert [record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}] == []


async def test_rows_taken_but_never_handed_over_run_all_the_same(world: World) -> None:
    """A crash between our commit and the engine's."""
    world.share()
    await world.put("x")
    await world.db.write(lambda tx: jobs.take_due(tx, tx.now(), 1, "work"))
    await world.launch()
    await until(lambda: world.ended == ["x"])
    await world.stop()


async def test_the_watchdog_frees_a_row_whose_owner_is_unknown(world: World) -> None:
    world.share()
    await world.put("x", age=7200)
    await world.db.write(_left_running_an_hour_ago)
    assert await world.states() == {"x": "running"}
    await world.launch()
    await until(lambda: world.ended == ["x"])
    await world.stop()


def _left_running_an_hour_ago(tx: Tx) -> None:
    past = tx.now() - timedelta(hours=1)
    [job] = jobs.take_due(tx, past, 1, "work")
    assert jobs.start(tx, job.id, job.attempt, "ghost", past, timedelta(seconds=15))


async def test_a_jumping_clock_starts_nothing_twice(world: World) -> None:
    world.body = world.until_released
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    for hours in (5, -5):
        world.clock.jump = timedelta(hours=hours)
        await until(lambda: _has_beaten_with(world))
    assert await world.states() == {"x": "running"}
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["x"])
    await world.stop()
    assert world.started == ["x"]
    assert await world.states() == {}


@pytest.mark.parametrize("judging", ["dead", "stranded"])
async def test_a_clock_that_jumps_between_a_beat_and_its_judgement_takes_nothing_away(
    judging: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.body = world.until_released
    judge = getattr(StoredJobs, judging)
    jump = timedelta(hours=5)

    async def after_a_jump(self: StoredJobs, *those: object) -> object:
        if world.started:
            world.clock.jump = jump
        return await judge(self, *those)

    monkeypatch.setattr(StoredJobs, judging, after_a_jump)
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    await until(lambda: world.clock.jump == jump and _has_beaten_with(world))
    assert await world.states() == {"x": "running"}
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["x"])
    await world.stop()
    assert world.started == ["x"]


def _has_beaten_with(world: World) -> bool:
    """Our own beat has been written with the new time."""
    [seen] = world.peek("SELECT seen_at FROM alive")
    return abs(from_rfc3339(seen) - world.clock.now()) < timedelta(minutes=1)


async def test_a_job_that_lost_its_claim_is_stopped(world: World) -> None:
    world.body = world.until_released
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    await world.db.write(jobs.reset)
    await until(lambda: world.cancelled == ["x"])
    await until(lambda: world.started == ["x", "x"])
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["x"])
    await world.stop()
    assert overlapping(world.log()) == []


async def test_a_lane_opens_again_when_what_was_cancelled_is_not_settled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.settings = replace(world.settings, lease=timedelta(seconds=1))
    world.body = world.until_released
    finish = StoredJobs.finish

    async def held_up(self: StoredJobs, claim: Claim, again_at: datetime | None, *, failed: bool) -> bool:
        if claim.job_id == first.job_id:
            await asyncio.Event().wait()
        return await finish(self, claim, again_at, failed=failed)

    monkeypatch.setattr(StoredJobs, "finish", held_up)
    await world.put("x", "y", key="lane")
    await world.launch()
    await until(lambda: world.started == ["x"])
    (first,) = world.work._hand.claims
    assert await world.work.cancel("sync", "x")
    await until(lambda: world.started == ["x", "y"])
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["y"])
    await world.stop(patience=timedelta(0))  # what is held up does not end
    assert await world.states() == {}


@ALONE
async def test_a_database_locked_by_another_process_only_delays(world: World) -> None:
    world.db.close()
    await world.open(busy_timeout=timedelta(seconds=0.1))
    await world.launch()
    blocker = sqlite3.connect(world.folder / "reconciler.db", isolation_level=None)
    world.body = _locking(blocker)
    await world.put("x", "y")
    await until(lambda: any("locked by another process" in str(error) for _, error, _ in world.reports))
    blocker.execute("ROLLBACK")
    blocker.close()
    await until(lambda: sorted(world.ended) == ["x", "y"])
    await world.stop()
    assert await world.states() == {}


def _locking(blocker: sqlite3.Connection) -> Callable[[Job, Claim], Awaitable[Outcome]]:
    async def body(job: Job, claim: Claim) -> Outcome:
        if job.ref == "x":
            blocker.execute("BEGIN IMMEDIATE")
        return Outcome()

    return body


@ALONE
async def test_a_full_disk_only_delays(world: World) -> None:
    await world.launch()
    pages = await world.db.write(lambda tx: tx.value("PRAGMA page_count"))
    await world.put("x")
    await until(lambda: world.ended == ["x"])
    await world.db.write(lambda tx: tx.value(f"PRAGMA max_page_count={pages}"))
    crowd = [f"{'long' * 2000}{number}" for number in range(6)]
    with pytest.raises(StoreFullError, match="free space"):
        await world.put(*crowd)
    await world.db.write(lambda tx: tx.value("PRAGMA max_page_count=1000000"))
    await world.put("after")
    await until(lambda: world.ended == ["x", "after"])
    await world.stop()


async def test_leaving_does_not_wait_for_a_store_that_does_not_answer(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.open(busy_timeout=timedelta(seconds=0.1))
    await world.launch()
    blocker = sqlite3.connect(tmp_path / "reconciler.db", isolation_level=None)
    world.body = _locking(blocker)
    await world.put("x")
    await until(lambda: world.ended == ["x"] and any(what == "store does not answer" for what, _, _ in world.reports))
    began = world.clock.monotonic()
    await world.stop(patience=timedelta(seconds=30))
    took = world.clock.monotonic() - began
    blocker.execute("ROLLBACK")
    blocker.close()
    assert took < 30
    assert await world.states() == {"x": "running"}
    await world.launch()
    world.body = world.at_once
    await until(lambda: world.ended == ["x", "x"])
    await world.stop()
    world.db.close()
