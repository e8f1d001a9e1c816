"""The daemon on PostgreSQL: the main job, a second daemon that takes over, a server that restarts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import pytest

from reconciler.model.secret import Secret
from reconciler.store import deliveries, integrations, leases
from reconciler.store.database import Tx
from reconciler.store.errors import StoreError
from reconciler.store.location import open_readonly
from tests.e2e.stage import ENV, PATIENCE, Stage
from tests.e2e.town import ROOT
from tests.servers.postgres import PostgresServer

T = TypeVar("T")
pytestmark = pytest.mark.needs("initdb")
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


class Site:
    """ServiceNow and Slack, one database, and as many daemons as are started."""

    def __init__(self, stage: Stage, url: Secret, processes: ExitStack) -> None:
        self.stage = stage
        self.url = url
        self.env = {
            **os.environ,
            **ENV,
            "PYTHONPATH": str(ROOT),
            "RECONCILER_DATABASE_URL": url.reveal(),
            "RECONCILER_MASTER_KEY": KEY,
        }
        self._processes = processes

    def start(self, name: str) -> "subprocess.Popen[str]":
        log = self._processes.enter_context(self.log(name).open("w"))
        line = (sys.executable, "-m", "reconciler", *self.stage.words(), "--state-dir", str(self.stage.root / name))
        process = subprocess.Popen(line, cwd=ROOT, env=self.env, text=True, stdout=log, stderr=subprocess.STDOUT)
        self._processes.callback(_end, process)
        return process

    def log(self, name: str) -> Path:
        return self.stage.root / f"{name}.log"

    def read(self, query: Callable[[Tx], T]) -> T | None:
        try:
            with open_readonly(self.url) as tx:
                return query(tx)
        except StoreError:
            return None

    def until(self, what: str, holds: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE
        while not (value := holds()):
            assert time.monotonic() < end, what
            time.sleep(0.05)
        return value

    def until_synced(self) -> None:
        self.until("tables", lambda: self.read(lambda tx: tx.value("SELECT to_regclass('integration') IS NOT NULL")))
        self.until(
            "both synced", lambda: self.read(lambda tx: len([r for r in integrations.every(tx) if r.last_sync_at]) == 2)
        )

    def until_delivered(self, count: int) -> None:
        query = lambda tx: len(deliveries.listing(tx, status="delivered")) >= count  # noqa: E731
        self.until(f"{count} delivered", lambda: self.read(query))

    def run(self, *words: str) -> str:
        line = (sys.executable, "-m", "reconciler", *words)
        done = subprocess.run(
            line, check=False, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def alarm(self, text: str) -> None:
        self.stage.servicenow.put("incident", {"short_description": text, "priority": "1"})
        self.run("sync", "sn", "--wait")

    def messages(self) -> list[str]:
        return [str(m["text"]) for m in self.stage.slack.messages["C0000000OPS"].values()]


def _end(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def site(tmp_path: Path, postgres_url: Secret) -> Iterator[Site]:
    stage = Stage(tmp_path)
    with stage.servicenow, stage.slack, ExitStack() as processes:
        for number in range(60):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.commit()
        yield Site(stage, postgres_url, processes)


def test_the_main_job_and_its_commands(site: Site) -> None:
    process = site.start("one")
    site.until_synced()
    site.alarm("Mail is down")
    site.until_delivered(1)
    assert len(site.messages()) == 1
    shown = json.loads(site.run("status", "--output", "json"))
    assert {i["status"] for i in shown["integrations"]} == {"connected"}
    assert "No changes" in site.run("plan", "--repo", str(site.stage.repo))
    assert "no daemon" not in site.run("status")
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert "no daemon works on the database" in site.run("status")
    assert "Traceback" not in site.log("one").read_text()


def test_a_second_daemon_stands_by_and_takes_over(site: Site) -> None:
    first = site.start("one")
    site.until_synced()
    second = site.start("two")
    site.until("standing by", lambda: "standing by" in site.log("two").read_text())
    site.alarm("Mail is down")
    site.until_delivered(1)
    leader = site.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now()))
    first.kill()
    first.wait()
    site.until("another leads", lambda: _is_other(site, leader))
    site.until("it works", lambda: "started" in site.log("two").read_text())
    site.alarm("Disk is full")
    site.until_delivered(2)
    assert sorted(re.sub(r"^.*: ", "", text) for text in site.messages()) == ["Disk is full", "Mail is down"]
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0


def _is_other(site: Site, before: str | None) -> bool:
    now = site.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now()))
    return now is not None and now != before


def test_who_stands_by_goes_when_told(site: Site) -> None:
    site.start("one")
    site.until_synced()
    second = site.start("two")
    site.until("standing by", lambda: "standing by" in site.log("two").read_text())
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0


def test_a_frozen_leader_ends_when_it_wakes_up(site: Site) -> None:
    first = site.start("one")
    site.until_synced()
    leader = site.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now()))
    site.start("two")
    first.send_signal(signal.SIGSTOP)
    try:
        site.until("another leads", lambda: _is_other(site, leader))
        site.until("it works", lambda: "started" in site.log("two").read_text())
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(PATIENCE) == 1
    assert "no longer leading" in site.log("one").read_text()
    site.alarm("Mail is down")
    site.until_delivered(1)
    assert len(site.messages()) == 1


def test_a_restarted_server_costs_no_more_than_what_was_under_way(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    with PostgresServer() as server, stage.servicenow, stage.slack, ExitStack() as processes:
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.commit()
        site = Site(stage, server.create(), processes)
        process = site.start("one")
        site.until_synced()
        server.restart()
        site.alarm("Mail is down")
        site.until_delivered(1)
        assert process.poll() is None
        assert len(site.messages()) == 1


def test_apply_beside_a_daemon_is_refused_and_alone_does_its_pass(site: Site) -> None:
    words = (
        "apply",
        "--repo",
        str(site.stage.repo),
        *site.stage.words()[1:3],
        "--state-dir",
        str(site.stage.root / "once"),
    )
    assert "2 to connect" in site.run(*words)
    process = site.start("one")
    site.until("leading", lambda: site.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now())))
    line = (sys.executable, "-m", "reconciler", *words)
    refused = subprocess.run(
        line, check=False, cwd=ROOT, env=site.env, text=True, capture_output=True, timeout=PATIENCE
    )
    assert refused.returncode == 1
    assert "works on postgresql://" in refused.stderr
    assert site.url.reveal() not in refused.stderr
    assert process.poll() is None


def test_without_a_master_key_it_does_not_start(site: Site) -> None:
    del site.env["RECONCILER_MASTER_KEY"]
    process = site.start("one")
    assert process.wait(PATIENCE) == 1
    assert "on PostgreSQL the master key must be given" in site.log("one").read_text()
