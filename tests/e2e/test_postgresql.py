"""The daemon on PostgreSQL: the main job, a second daemon that takes over, a server that restarts."""

import json
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.e2e.site import Site
from tests.e2e.stage import PATIENCE, Stage
from tests.e2e.town import ROOT
from tests.servers.postgres import PostgresServer

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.timeout(900)]  # several processes start and end


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
    site.until_said("two", "standing by")
    site.alarm("Mail is down")
    site.until_delivered(1)
    leader = site.until("one leads", site.leader)
    first.kill()
    first.wait()
    site.until("another leads", lambda: _is_other(site, leader))
    site.until_said("two", "leading")
    site.alarm("Disk is full")
    site.until_delivered(2)
    assert sorted(re.sub(r"^.*: ", "", text) for text in site.messages()) == ["Disk is full", "Mail is down"]
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0


def _is_other(site: Site, before: str | None) -> bool:
    now = site.leader()
    return now is not None and now != before


def test_who_stands_by_goes_when_told(site: Site) -> None:
    site.start("one")
    site.until_synced()
    second = site.start("two")
    site.until_said("two", "standing by")
    second.send_signal(signal.SIGTERM)
    assert second.wait(PATIENCE) == 0


def test_a_frozen_leader_ends_when_it_wakes_up(site: Site) -> None:
    first = site.start("one")
    site.until_synced()
    leader = site.until("one leads", site.leader)
    site.start("two")
    first.send_signal(signal.SIGSTOP)
    try:
        site.until("another leads", lambda: _is_other(site, leader))
        site.until_said("two", "leading")
    finally:
        first.send_signal(signal.SIGCONT)
    assert first.wait(PATIENCE) == 1
    assert "no longer leading" in site.log("one").read_text()
    site.alarm("Mail is down")
    site.until_delivered(1)
    assert len(site.messages()) == 1


def test_a_restarted_server_costs_no_more_than_what_was_under_way(tmp_path: Path) -> None:
    """However long the restart takes here; one that outlasts a lease ends the daemon, which its supervisor starts again."""
    stage = Stage(tmp_path)
    with PostgresServer() as server, stage.servicenow, stage.slack, ExitStack() as processes:
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.commit()
        site = Site(stage, server.create(), processes)
        words = (*stage.words(), "--state-dir", str(stage.root / "one"), "--listen", "127.0.0.1:0")
        process = site.launch("one", ("tests.e2e.unhurried", *words), site.env)
        site.until_synced()
        server.restart()
        site.until("all works again", lambda: site.ask("one", "/readyz").status_code == httpx.codes.OK)
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
    site.until("leading", site.leader)
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
