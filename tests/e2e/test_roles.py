"""One controller, several workers, a window: the work is shared, and any of them may die."""

import re
import signal

import pytest

from reconciler.store import integrations, runs
from reconciler.store.database import Tx
from reconciler.store.runs import Run
from tests.e2e.site import Site
from tests.e2e.stage import PATIENCE, held_back

TABLE = "/api/now/table/incident"
pytestmark = [pytest.mark.needs("initdb"), pytest.mark.timeout(900)]  # several processes start and end


def test_any_of_them_may_die(site: Site) -> None:
    controller, worker = site.start("controller", "controller"), site.start("one", "worker")
    site.start("two", "worker")
    site.start("window", "api")
    site.until_synced()
    site.until("both are seen", lambda: "reconciler_workers{} 2\n" in site.metrics("controller"))
    site.alarm("Mail is down")
    site.until_delivered(1)
    worker.kill()
    worker.wait()
    site.alarm("Disk is full")
    site.until_delivered(2)
    site.until("its death is seen", lambda: "reconciler_workers{} 1\n" in site.metrics("controller"))
    controller.kill()
    controller.wait()
    site.start("other", "controller")
    site.until_said("other", "leading")
    site.alarm("Power is off")
    site.until_delivered(3)
    assert sorted(re.sub(r"^.*: ", "", text) for text in site.messages()) == [
        "Disk is full",
        "Mail is down",
        "Power is off",
    ]
    assert "reconciler_leader{} 0\n" in site.metrics("two")
    assert "reconciler_integration_info" not in site.metrics("two")
    assert "reconciler_integration_info{" in site.metrics("other")
    for name in ("two", "window", "other"):
        assert "Traceback" not in site.log(name).read_text()


def test_a_commit_is_put_in_force_by_workers(site: Site) -> None:
    """Git is asked once a minute: only the controller is told to look, the worker must find out by itself."""
    site.start("controller", "controller")
    site.start("one", "worker")
    site.until_synced()
    spec = site.stage.slack_spec()
    spec["display_name"] = "Operations"
    site.stage.manifest("chat", **spec)
    site.stage.commit()
    site.run("reconcile", "--wait")
    row = site.until("the worker took it up", lambda: site.read(_settled))
    assert row == "Operations"
    (site.stage.repo / "chat.yaml").unlink()
    site.stage.commit()
    site.run("reconcile", "--wait")
    site.until("it is let go", lambda: site.read(lambda tx: [r.name for r in integrations.every(tx)] == ["sn"]))


def _settled(tx: Tx) -> str:
    (row,) = [r for r in integrations.every(tx) if r.name == "chat"]
    return (
        row.display_name if row.observed_generation == row.generation and row.applied_hash == row.desired_hash else ""
    )


def test_cancel_reaches_a_worker(site: Site) -> None:
    """A run that another process works on ends at once, though the remote has not answered yet."""
    site.start("controller", "controller")
    site.start("one", "worker")
    site.until_synced()
    with held_back(site.stage.servicenow, TABLE):
        run = re.findall(r"run_[A-Za-z0-9]+", site.run("sync", "sn", "--scope", "full"))[0]
        site.until("it runs", lambda: _run(site, run).state == "running")
        site.run("sync", "cancel", run)
        site.until("it has ended", lambda: _run(site, run).result == "cancelled")
    site.alarm("Mail is down")
    site.until_delivered(1)


def test_who_ends_hands_over_before_its_work_is_done(site: Site) -> None:
    first = site.start("first", stop_timeout="1h")
    site.until_synced()
    site.start("other", "controller")
    site.until_said("other", "standing by")
    with held_back(site.stage.servicenow, TABLE):
        run = re.findall(r"run_[A-Za-z0-9]+", site.run("sync", "sn", "--scope", "full"))[0]
        site.until("it runs", lambda: _run(site, run).state == "running")
        first.terminate()
        site.until_said("other", "leading")
        assert first.poll() is None
    assert first.wait(PATIENCE) == 0


def _run(site: Site, public_id: str) -> Run:
    run = site.read(lambda tx: runs.find(tx, public_id))
    assert run is not None
    return run


def test_clocks_that_differ_by_minutes(site: Site) -> None:
    """Two minutes are more than any lease: judged by the machines' own clocks, each would take the other for dead."""
    site.start("controller", "controller", skew=300)
    site.start("one", "worker", skew=-300)
    site.start("other", "controller", skew=-120)
    site.until_synced()
    leader = site.until("one leads", site.leader)
    site.alarm("Mail is down")
    site.until_delivered(1)
    assert len(site.messages()) == 1
    assert site.leader() == leader


def test_a_frozen_worker_loses_its_work(site: Site) -> None:
    site.start("controller", "controller")
    first = site.start("one", "worker")
    site.until_synced()
    first.send_signal(signal.SIGSTOP)
    try:
        site.start("two", "worker")
        site.alarm("Mail is down")
        site.until_delivered(1)
    finally:
        first.send_signal(signal.SIGCONT)
    site.alarm("Disk is full")
    site.until_delivered(2)
    assert len(site.messages()) == 2
    first.terminate()
    assert first.wait(PATIENCE) == 0
