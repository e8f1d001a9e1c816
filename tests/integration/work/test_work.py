"""The seam in one process: order, lanes, asks, failures, cancel, stop. Real engine, real files."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from reconciler.model.job import Claim, Job, Outcome
from tests.integration.work.world import World, until


@pytest.mark.parametrize("is_alone", [True, False])
async def test_everything_due_runs_once(world: World, is_alone: bool) -> None:
    if not is_alone:
        world.share()
    refs = [f"r{number}" for number in range(60)]
    await world.put(*refs)
    await world.launch()
    await until(lambda: len(world.ended) == 60)
    await world.stop()
    assert sorted(world.started) == sorted(refs)
    assert await world.states() == {}
    assert world.reports == []


async def test_jobs_start_in_due_order(world: World) -> None:
    refs = [f"r{number}" for number in range(100)]
    await world.put(*refs)
    await world.launch()
    await until(lambda: len(world.ended) == 100)
    await world.stop()
    places = [abs(place - refs.index(ref)) for place, ref in enumerate(world.started)]
    assert max(places) <= world.settings.window.queued


async def test_one_lane_runs_one_at_a_time_others_beside_it(world: World) -> None:
    now_running: dict[str, int] = {}
    overlaps: list[str] = []
    most_at_once = 0

    async def body(job: Job, claim: Claim) -> Outcome:
        nonlocal most_at_once
        now_running[job.key] = now_running.get(job.key, 0) + 1
        if now_running[job.key] > 1:
            overlaps.append(job.key)
        most_at_once = max(most_at_once, sum(now_running.values()))
        await asyncio.sleep(0.02)
        now_running[job.key] -= 1
        return Outcome()

    world.body = body
    for lane in "abcd":
        await world.put(*(f"{lane}{number}" for number in range(4)), key=lane)
    await world.launch()
    await until(lambda: len(world.ended) == 16)
    await world.stop()
    assert overlaps == []
    assert most_at_once > 1


async def test_what_a_person_asks_passes_the_backlog(world: World) -> None:
    world.body = world.until_released
    crowd = [f"r{number}" for number in range(400)]
    await world.put(*crowd)
    await world.put("asked", age=-3600)
    await world.launch()
    await until(lambda: len(world.started) >= world.settings.window.running)
    assert await world.work.ask("sync", "asked")
    await until(lambda: "asked" in world.started)
    assert len(world.started) < 400
    assert not await world.work.ask("sync", "unknown")
    (world.folder / "release").touch()
    await until(lambda: len(world.ended) == 401)
    await world.stop()


async def test_put_while_running_runs_again(world: World) -> None:
    world.body = world.until_released
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    await world.put("x")
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["x", "x"])
    await world.stop()


async def test_an_outcome_with_a_time_is_due_then(world: World) -> None:
    async def body(job: Job, claim: Claim) -> Outcome:
        is_first = world.started.count(job.ref) == 1
        return Outcome(world.clock.now() + timedelta(seconds=0.2) if is_first else None)

    world.body = body
    await world.put("x")
    await world.launch()
    await until(lambda: world.ended == ["x", "x"])
    await world.stop()
    assert await world.states() == {}


async def test_an_exception_is_reported_and_tried_again(world: World) -> None:
    async def body(job: Job, claim: Claim) -> Outcome:
        if job.failures < 3:
            raise RuntimeError(f"failure {job.failures}")
        return Outcome()

    world.body = body
    await world.put("x")
    await world.launch()
    await until(lambda: world.ended == ["x"])
    await world.stop()
    assert [str(error) for _, error, _ in world.reports] == ["failure 0", "failure 1", "failure 2"]
    assert all(job is not None and job.ref == "x" for _, _, job in world.reports)


async def test_a_kind_without_code_is_reported_and_waits(world: World) -> None:
    await world.put("x", kind="dream")
    await world.launch()
    await until(lambda: bool(world.reports))
    await world.stop()
    assert "no code for jobs of kind dream" in str(world.reports[0][1])
    assert await world.states() == {"x": "due"}


async def test_cancel_of_a_running_job_stops_it_and_frees_the_lane(world: World) -> None:
    world.body = world.until_released
    await world.put("x", "y", key="lane")
    await world.launch()
    await until(lambda: world.started == ["x"])
    assert await world.work.cancel("sync", "x")
    await until(lambda: world.started == ["x", "y"])
    (world.folder / "release").touch()
    await until(lambda: world.ended == ["y"])
    await world.stop()
    assert world.cancelled == ["x"]
    assert await world.states() == {}


async def test_cancel_of_a_waiting_job_never_starts_it(world: World) -> None:
    world.body = world.until_released
    await world.put("x", "y", key="lane")
    await world.launch()
    await until(lambda: world.started == ["x"])
    assert await world.work.cancel("sync", "y")
    assert not await world.work.cancel("sync", "y")
    (world.folder / "release").touch()
    await until(lambda: world.work.running == 0)
    await world.stop()
    assert world.started == ["x"]


async def test_stop_waits_for_what_ends_in_time(world: World) -> None:
    world.body = world.until_released
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    stopping = asyncio.create_task(world.stop())
    await asyncio.sleep(0)
    (world.folder / "release").touch()
    await stopping
    assert world.ended == ["x"]
    assert await world.states() == {}


async def test_stop_cancels_what_does_not_and_a_restart_runs_it(world: World) -> None:
    world.body = world.until_released
    await world.put("x")
    await world.launch()
    await until(lambda: world.started == ["x"])
    await world.stop(timedelta(seconds=0.05))
    assert world.cancelled == ["x"]
    assert await world.states() == {"x": "due"}
    world.body = world.at_once
    await world.launch()
    await until(lambda: world.ended == ["x"])
    await world.stop()


async def test_the_loop_can_use_threads_after_stop(world: World) -> None:
    await world.launch()
    await world.stop()
    assert await asyncio.to_thread(lambda: 7) == 7


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("level", "said"), [(logging.INFO, set()), (logging.DEBUG, {"DEBUG"})])
async def test_what_follows_from_cancelling_is_told_at_debug_only(
    level: int, said: set[str], world: World, caplog: pytest.LogCaptureFixture
) -> None:
    may_end = asyncio.Event()

    async def reluctant(job: Job, claim: Claim) -> Outcome:
        try:
            return await world.until_released(job, claim)
        finally:
            await may_end.wait()  # until the engine knows of its end: else the engine has nothing to tell

    def told() -> set[str]:
        return {record.levelname for record in caplog.records if record.name == "dbos"}

    hour = timedelta(hours=1)  # a beat or a look would find the claim lost, and cancel once more what waits for its end
    world.settings = replace(world.settings, beat=hour, look=hour)
    world.body = reluctant
    await world.launch()
    await world.put("x")
    await until(lambda: world.started == ["x"])
    caplog.set_level(level)  # the root's, as `log.level` of the settings sets it
    caplog.handler.setLevel(logging.NOTSET)  # the daemon's own takes what the loggers let through
    caplog.clear()
    assert await world.work.cancel("sync", "x")
    may_end.set()
    await until(lambda: world.cancelled == ["x"] and told() == said)
    await world.stop()
    assert told() == said
