"""Rows of the engine are disposable, and job rows come back from what is unfinished: nothing waits for ever."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.event import DeliveryStatus, Operation
from reconciler.sdk.testing.faults import slow, status
from reconciler.store import dataset, deliveries, jobs, runs
from tests.e2e.stage import Running, Stage, two_of_them

RECORDS = 60


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with two_of_them(tmp_path, RECORDS) as made:
        yield made


def queries(stage: Stage) -> list[str]:
    """What syncs asked incidents for so far, page by page."""
    asked = [r.query for r in stage.servicenow.requests if r.url_path == "/api/now/table/incident"]
    return [q["sysparm_query"] for q in asked if q.get("sysparm_limit") == "10"]


async def midway(running: Running) -> None:
    """The first run has stored some pages and is not done."""

    async def reads() -> bool:
        found = await running.read(runs.every_running)
        return any(run.counts.pages >= 2 for run in found.values())

    await running.until("a run is midway", reads)


async def all_synced(stage: Stage, running: Running) -> None:
    await running.until_synced("sn", "chat")
    sn = (await running.view("sn")).row.id
    log = await running.read(lambda tx: list(dataset.log_after(tx, sn, 0, 1000)))
    old = [v.key for v in log if v.op is Operation.CREATE]
    assert set(old) == set(stage.servicenow.tables["incident"])
    assert len(old) == RECORDS


def emptied(database: Path, *tables: str) -> int:
    """Deletes all rows of the tables (none named: of every table) and says how many there were."""
    with closing(sqlite3.connect(database, timeout=30, isolation_level=None)) as opened:
        named = tables or [
            name
            for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if "migrations" not in name and name not in ("queues", "sqlite_sequence")
        ]
        return sum(opened.execute(f"DELETE FROM {name}").rowcount for name in named)


async def interrupted(stage: Stage) -> None:
    """A daemon that was stopped in the middle of its first sync."""
    fault = stage.servicenow.faults.add(slow(1.0), path="/api/now/table/incident", first=3)
    async with stage.daemon(stop_timeout="0s") as running:
        await midway(running)
    stage.servicenow.faults.clear()
    assert fault.struck > 0


@pytest.mark.parametrize("is_removed", [True, False])
async def test_engine_rows_lost_while_stopped(stage: Stage, is_removed: bool) -> None:
    await interrupted(stage)
    done = len(queries(stage))
    if is_removed:
        for file in stage.state.glob("jobs.db*"):
            file.unlink()
    else:
        emptied(stage.state / "jobs.db")
    async with stage.daemon() as running:
        await all_synced(stage, running)
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM run WHERE integration_id = 1")) == 1
    first = queries(stage)[0]
    assert first not in queries(stage)[done:], "the run began anew instead of going on"


async def test_engine_rows_lost_while_running(stage: Stage) -> None:
    stage.servicenow.faults.add(slow(0.4), path="/api/now/table/incident", first=3, times=4)
    async with stage.daemon() as running:
        await midway(running)
        assert emptied(stage.state / "jobs.db") > 0
        await all_synced(stage, running)
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "sn")
        await running.until_delivered()
        assert len(stage.slack.messages["C0000000OPS"]) == 1


async def test_job_rows_lost_come_back(stage: Stage) -> None:
    """An unfinished run, a delivery to be tried again and an integration that is not connected yet."""
    async with stage.daemon() as running:
        await all_synced(stage, running)
        stage.slack.faults.add(status(500), path="*/chat.postMessage", times=1)
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "sn")

        async def failed() -> bool:
            return [d.status for d in await running.read(deliveries.listing)] == [DeliveryStatus.FAILED]

        await running.until("the delivery has failed once", failed)
    stage.manifest("late", **stage.slack_spec(synchronizations=[]))
    stage.commit("one more")
    stage.slack.faults.add(status(500), path="*/auth.test")
    async with stage.daemon() as running:
        await running.until_view("late", "was tried", lambda v: v.row.retries > 0)
        await running.order("sync", "sn")
        await running.until("the order is done", lambda: _answered(running))
    stage.slack.faults.clear()
    assert emptied(stage.state / "reconciler.db", "job", "lane") > 0
    with closing(sqlite3.connect(stage.state / "reconciler.db", isolation_level=None)) as opened:
        opened.execute("UPDATE delivery SET next_at = created_at")
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat", "late")

        async def done() -> bool:
            sent = await running.read(deliveries.listing)
            left: list[Any] = [*await running.read(runs.unfinished), *await running.read(jobs.counts)]
            return {d.status for d in sent} == {DeliveryStatus.DELIVERED} and not left

        await running.until("all work is done and no job is left", done)
        assert len(stage.slack.messages["C0000000OPS"]) == 1


async def _answered(running: Running) -> bool:
    return bool(await running.read(lambda tx: tx.value("SELECT count(*) = 0 FROM request WHERE handled_at IS NULL")))


async def test_delivery_left_sending_ends_when_lanes_are_lost(stage: Stage) -> None:
    """Fences begin anew with empty lanes: what an earlier fence began must not wait for ever."""
    async with stage.daemon() as running:
        await all_synced(stage, running)
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "sn")
        await running.until_delivered()
    with closing(sqlite3.connect(stage.state / "reconciler.db", isolation_level=None)) as opened:
        opened.execute("UPDATE delivery SET status = 'sending', finished_at = NULL")
        opened.execute("DELETE FROM lane")
    async with stage.daemon() as running:
        await running.until_delivered()
        assert len(stage.slack.messages["C0000000OPS"]) == 1
