"""Bad days through the whole daemon: remotes, secrets, manifests, Git, disk and clock fail, and nothing is lost by it."""

import asyncio
import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.app.daemon import Daemon
from reconciler.control.view import IntegrationView, overview
from reconciler.model.clock import SystemClock
from reconciler.model.condition import ConditionType, Reason, Status, Truth
from reconciler.model.event import Operation
from reconciler.sdk.testing import faults
from reconciler.sdk.testing.faults import Fault
from reconciler.store import dataset, journal, runs
from reconciler.store.database import Tx
from reconciler.store.errors import StateLockedError
from tests.e2e.forge import Forge
from tests.e2e.keys import Keys
from tests.e2e.stage import CANARY, ENV, PATIENCE, HurriedClock, Running, Stage, git, two_of_them

TABLE = "/api/now/table/incident"
RECORDS = 35


class JumpingClock(SystemClock):
    """The wall clock of a machine that somebody sets; time that passes is right all the same."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def now(self) -> datetime:
        return super().now() + self.offset


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with two_of_them(tmp_path, RECORDS) as made:
        yield made


async def synced_again(running: Running, name: str = "sn", **params: object) -> IntegrationView:
    """The view after one more run that a person asked for."""
    total = (await running.view(name)).row.total_syncs
    await running.order("sync", name, **params)
    return await running.until_view(
        name, "has done one more run", lambda v: v.row.total_syncs > total and v.running is None
    )


async def until_newer(running: Running, name: str, generation: int) -> None:
    """A wish that came after that generation is in force."""
    await running.until_view(
        name, "follows a newer wish", lambda v: v.row.observed_generation == v.row.generation > generation
    )


def is_up(view: IntegrationView) -> bool:
    """Connected and not stalled, however the last sync went."""
    return view.status in {Status.CONNECTED, Status.SYNCING} and ConditionType.STALLED not in view.conditions


async def check_records(stage: Stage, running: Running) -> None:
    """Each record of the remote was created here once, and none was deleted."""
    sn = (await running.view("sn")).row.id
    log = await running.read(lambda tx: list(dataset.log_after(tx, sn, 0, 1000)))
    assert sorted(v.key for v in log) == sorted(stage.servicenow.tables["incident"])
    assert {v.op for v in log} == {Operation.CREATE}


@pytest.mark.parametrize(
    "fault",
    [
        faults.status(429, retry_after="1"),
        faults.status(429),
        faults.status(500),
        faults.status(503),
        faults.reset(),
        faults.lost_answer(),
        faults.truncated(),
        faults.html(),
        faults.empty_page(),
        faults.capped(4),
    ],
    ids=lambda f: f"{f.effect}-{f.status}{'-asks' if f.headers else ''}",
)
async def test_a_fault_that_passes_costs_nothing(stage: Stage, fault: Fault) -> None:
    async with stage.daemon(clock=HurriedClock()) as running:
        await running.until_synced("sn")
        stage.servicenow.put("incident", {"short_description": "New", "priority": "3"})
        armed = stage.servicenow.faults.add(fault, path=TABLE, first=2, times=1)
        view = await synced_again(running, scope="full")
        assert (view.row.last_sync_result, view.status) == ("success", Status.CONNECTED)
        await check_records(stage, running)
        if fault.effect in {faults.Effect.EMPTY_PAGE, faults.Effect.CAPPED}:
            return  # asked by the simulator where it fits this vendor
        assert armed.struck == 1

        async def told() -> bool:
            logs = await running.read(lambda tx: journal.logs(tx, view.row.id, level="warn"))
            return any({"retry_attempt", "max_retries", "retry_after_ms"} <= line.detail.keys() for line in logs)

        await running.until("the log tells of the retry", told)


@pytest.mark.parametrize(
    ("fault", "result", "reason"),
    [
        (faults.status(401), "failed", Reason.AUTHENTICATION_FAILED),
        (faults.status(404), "failed", None),
        (faults.status(500), "failed", Reason.REMOTE_UNAVAILABLE),
        (faults.truncated(), "failed", None),
        (faults.html(), "failed", None),
        (faults.replay(), "failed", Reason.PROTOCOL_ERROR),
    ],
    ids=lambda f: f"{f.effect}-{f.status}" if isinstance(f, Fault) else "",
)
async def test_a_fault_that_stays_fails_the_run_and_harms_no_record(
    stage: Stage, fault: Fault, result: str, reason: Reason | None
) -> None:
    async with stage.daemon(clock=HurriedClock()) as running:
        await running.until_synced("sn")
        good_at = (await running.view("sn")).row.last_sync_at
        stage.servicenow.faults.add(fault, path=TABLE, first=2)
        view = await synced_again(running, scope="full")
        row = view.row
        assert (row.last_sync_result, row.last_sync_at, row.failed_syncs) == (result, good_at, 1)
        assert reason is None or row.last_sync_reason == reason
        assert "incidents" in row.last_sync_error
        assert view.health != "healthy"
        await check_records(stage, running)
        stage.servicenow.faults.clear()
        await running.order("reconcile", "sn")
        await running.until_view("sn", "is connected", is_up)
        assert (await synced_again(running)).row.last_sync_result == "success"


async def test_a_stall_ends_with_the_timeout_of_the_run(stage: Stage) -> None:
    """Only the run that shall be cut short has so little time: the others are right however busy the machine is."""
    async with stage.daemon() as running:
        await running.until_synced("sn")
        await sync_timeout(stage, running, "1s")
        stage.servicenow.faults.add(faults.stall(), path=TABLE)
        view = await synced_again(running)
        assert (view.row.last_sync_result, view.row.last_sync_reason) == ("failed", Reason.TIMED_OUT)
        stage.servicenow.faults.clear()
        await sync_timeout(stage, running, "1h")
        assert (await synced_again(running)).row.last_sync_result == "success"


async def sync_timeout(stage: Stage, running: Running, limit: str) -> None:
    """In force."""
    generation = (await running.view("sn")).row.generation
    stage.manifest("sn", **stage.servicenow_spec(sync={"entities": ["incidents"], "page_size": 10, "timeout": limit}))
    stage.commit(f"timeout {limit}")
    await until_newer(running, "sn", generation)


# Secrets and manifests.


def encrypted(stage: Stage, keys: Keys, password: str) -> None:
    spec = stage.servicenow_spec(auth={"type": "basic", "username": "recon", "password": password})
    stage.manifest("sn", **spec)
    keys.encrypt(stage.repo / "sn.yaml")


def passwords(stage: Stage, after: int) -> set[str]:
    import base64

    sent = (r.headers.get("authorization", "") for r in stage.servicenow.requests[after:])
    return {base64.b64decode(s.removeprefix("Basic ")).decode().partition(":")[2] for s in sent}


async def test_rotated_credential_is_used_and_the_old_one_not_again(stage: Stage) -> None:
    keys = Keys()
    encrypted(stage, keys, CANARY)
    stage.commit("encrypt")
    async with stage.daemon(env=keys.env) as running:
        await running.until_synced("sn", "chat")
        generation = (await running.view("sn")).row.generation
        stage.servicenow.users["recon"] = "canary-rotated-password"
        encrypted(stage, keys, "canary-rotated-password")
        stage.commit("rotate")
        await until_newer(running, "sn", generation)
        after = len(stage.servicenow.requests)
        assert (await synced_again(running)).row.last_sync_result == "success"
        assert passwords(stage, after) == {"canary-rotated-password"}


async def test_outdated_connections_do_not_add_up(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn")
        for number in range(5):
            stage.manifest("sn", **stage.servicenow_spec(display_name=f"Desk {number}"))
            generation = (await running.view("sn")).row.generation
            stage.commit(f"change {number}")
            await until_newer(running, "sn", generation)
        assert [len(outdated) for outdated in running.daemon.connections._retired.values()] == [1]


@pytest.mark.parametrize("wrong", ["key", "tampered"])
async def test_unreadable_secret_stalls_only_its_integration(stage: Stage, wrong: str) -> None:
    keys, others = Keys(), Keys()
    encrypted(stage, others if wrong == "key" else keys, CANARY)
    path = stage.repo / "sn.yaml"
    if wrong == "tampered":
        text = path.read_text()
        assert "username: recon" in text
        path.write_text(text.replace("username: recon", "username: other"))
    stage.commit("unreadable")
    reason = Reason.KEY_MISSING if wrong == "key" else Reason.MAC_MISMATCH
    async with stage.daemon(env=keys.env) as running:
        await running.until_synced("chat")
        view = await running.until_view("sn", f"says {reason}", lambda v: _secrets_reason(v) is reason)
        assert view.conditions[ConditionType.SECRETS_DECRYPTED].truth is Truth.FALSE
        assert view.status is not Status.CONNECTED
        encrypted(stage, keys, CANARY)
        stage.commit("mended")
        await running.until_synced("sn", "chat")
        for name in ("sn", "chat"):
            await running.until_view(name, "is connected", is_up)


def _secrets_reason(view: IntegrationView) -> Reason | None:
    said = view.conditions.get(ConditionType.SECRETS_DECRYPTED)
    return said.reason if said else None


async def test_two_manifests_with_one_name_hold_the_name_and_others_go_on(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "twin.yaml").write_text((stage.repo / "sn.yaml").read_text())
        stage.manifest("chat", **stage.slack_spec(display_name="Chat"))
        stage.commit("twin")

        async def told() -> bool:
            found = await running.read(journal.findings)
            return any(f.code == "duplicate-name" for f in found) and (
                (await running.view("chat")).row.display_name == "Chat"
            )

        await running.until("the twin is a finding", told)
        assert (await running.view("sn")).status is Status.CONNECTED
        (stage.repo / "twin.yaml").unlink()
        stage.commit("no twin")

        async def clean() -> bool:
            return not await running.read(journal.findings)

        await running.until("no findings", clean)
        assert (await running.view("sn")).ready.truth is Truth.TRUE


async def test_dependency_cycle_is_a_finding_and_others_go_on(stage: Stage) -> None:
    stage.manifest("a", **stage.slack_spec(depends_on=["b"], synchronizations=[]))
    stage.manifest("b", **stage.slack_spec(depends_on=["a"], synchronizations=[]))
    stage.commit("cycle")
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        found = await running.read(journal.findings)
        assert {f.code for f in found} == {"dependency-cycle"}
        assert {f.file for f in found} <= {"a.yaml", "b.yaml"}
        stage.manifest("a", **stage.slack_spec(synchronizations=[]))
        stage.commit("no cycle")
        await running.until_synced("a", "b")


# The store.


async def test_database_locked_by_another_process_for_a_while(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        await running.daemon.database.write(lambda tx: tx.value("PRAGMA busy_timeout = 100"))
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "sn")
        with closing(sqlite3.connect(stage.state / "reconciler.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await asyncio.sleep(1.5)
            other.execute("ROLLBACK")
        await running.until_delivered()
        assert len(stage.slack.messages["C0000000OPS"]) == 1
        await until_quiet(running)


async def test_disk_full_and_room_again(stage: Stage) -> None:
    """SQLite's own limit of pages stands for the full disk: the same error at the same places."""
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        pages = await running.daemon.database.write(lambda tx: tx.value("PRAGMA page_count"))
        for number in range(400):
            text = "x" * 2000
            stage.servicenow.put("incident", {"short_description": f"{number} {text}", "priority": "3"})
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        await running.order("sync", "sn")
        await running.daemon.database.write(lambda tx: tx.execute(f"PRAGMA max_page_count = {pages + 4}").fetchone())

        async def met() -> bool:
            failures = await running.read(lambda tx: tx.value("SELECT max(failures) FROM job"))
            return bool(failures or running.daemon.loops.failing)

        await running.until("somebody met the full disk", met)
        sn = (await running.view("sn")).row.id
        assert len(await running.read(lambda tx: list(dataset.log_after(tx, sn, 0, 1000)))) < RECORDS + 401
        await running.daemon.database.write(lambda tx: tx.execute("PRAGMA max_page_count = 1000000").fetchone())
        await running.until_delivered()
        await until_quiet(running)  # the message may have left before the run that found its record is done
        await check_records(stage, running)
        assert await running.read(lambda tx: tx.value("PRAGMA integrity_check")) == "ok"


async def until_quiet(running: Running) -> None:
    """No run is open and every loop works again."""

    async def quiet() -> bool:
        return not running.daemon.loops.failing and not await running.read(runs.unfinished)

    await running.until("all is quiet", quiet)


# The clock.


@pytest.mark.parametrize("days", [1, -1])
async def test_clock_jump(stage: Stage, days: int) -> None:
    """Schedules go on after the jump and after the clock is set right again; nothing runs a thousand times."""
    spec = {"entities": ["incidents"], "page_size": 10, "every": "1s", "jitter": "0s"}
    stage.manifest("sn", **stage.servicenow_spec(sync=spec))
    stage.commit("often")
    clock = JumpingClock()
    async with stage.daemon(clock=clock) as running:
        await running.until_synced("sn")
        for offset in (timedelta(days=days), timedelta()):
            clock.offset = offset
            total = (await running.view("sn")).row.total_syncs
            view = await running.until_view("sn", "goes on", lambda v, n=total: v.row.total_syncs >= n + 2)  # type: ignore[misc]
            assert view.row.total_syncs < total + 10
        await check_records(stage, running)


# Git.


async def until_source(running: Running, *, is_good: bool) -> None:
    async def told() -> bool:
        sources = (await running.read(lambda tx: overview(tx, SystemClock().now()))).sources
        return all(bool(s.error_reason) is not is_good for s in sources)

    await running.until("the source is told", told)


@pytest.mark.parametrize("fault", ["unreachable", "vanished"])
async def test_source_that_fails_leaves_the_last_good_revision_in_force(stage: Stage, fault: str) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
    away = stage.root / "away"
    if fault == "unreachable":
        stage.repo.rename(away)
    else:
        git(stage.repo, "branch", "-m", "main", "other")
    often: dict[str, Any] = {"source.interval": "1s"}
    async with stage.daemon(**often) as running:
        await until_source(running, is_good=False)
        views = await running.views()
        assert {v.status for v in views.values()} == {Status.CONNECTED}
        assert (await synced_again(running)).row.last_sync_result == "success"
        if fault == "unreachable":
            away.rename(stage.repo)
        else:
            git(stage.repo, "branch", "-m", "other", "main")
        await until_source(running, is_good=True)


async def test_force_push_is_taken_over_and_told(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        git(stage.repo, "checkout", "-q", "--orphan", "fresh")
        stage.manifest("chat", **stage.slack_spec(display_name="Rewritten"))
        stage.commit("rewritten")
        git(stage.repo, "branch", "-q", "-M", "fresh", "main")
        await running.until_view("chat", "is rewritten", lambda v: v.row.display_name == "Rewritten")
        assert running.daemon.following.sources["main"].state.is_rewritten is True
        assert {v.status for v in (await running.views()).values()} == {Status.CONNECTED}


# The process.


def test_sigterm_during_a_sync_ends_in_time_and_the_run_goes_on(stage: Stage) -> None:
    log = stage.root / "daemon.log"
    stage.servicenow.faults.add(faults.slow(3600), path=TABLE, first=5)
    with Forge(ENV) as forge:
        pid = forge.start(stage.words(stop_timeout="1s"), log)
        _until(lambda: sum(r.url_path == TABLE for r in stage.servicenow.requests) >= 4)
        os.kill(pid, signal.SIGTERM)
        assert forge.ended() == 0, log.read_text()
        stage.servicenow.faults.clear()
        assert not re.search("sync .* +integration=it-ops/sn", log.read_text())
        pid = forge.start(stage.words(), log)
        _until(lambda: re.search("sync success .*integration=it-ops/sn", log.read_text()))
        os.kill(pid, signal.SIGTERM)
        assert forge.ended() == 0
    assert "Traceback" not in log.read_text()


def _until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


async def test_second_daemon_on_the_same_state_is_refused(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn")
        second = Daemon(stage.settings(), ENV)
        with pytest.raises(StateLockedError, match="is in use by process"):
            await second.start()
        assert (await synced_again(running)).row.last_sync_result == "success"


async def test_observing_touches_no_remote_and_leaves_only_the_report(stage: Stage) -> None:
    (stage.repo / "broken.yaml").write_text("kind: Integration\n")
    stage.commit("one broken")
    async with stage.daemon(is_observing=True) as running:
        await running.leading.taken.wait()
        assert running.leading.plan_summary.startswith("Plan: 2 to connect")
        assert stage.servicenow.requests == [] == stage.slack.requests
        for table in ("integration", "job", "run", "delivery", "event", "inventory"):
            assert await running.read(partial(_count, table=table)) == 0
        assert {f.file for f in await running.read(journal.findings)} == {"broken.yaml"}
        assert await running.read(lambda tx: tx.value("SELECT outcome FROM revision")) == "observed"


def _count(tx: Tx, table: str) -> int:
    return int(tx.value(f"SELECT count(*) FROM {table}"))
