"""The deployment example as processes: one is killed, Prometheus sees it, work goes on; the database goes and comes back."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.model.secret import Secret
from tests.e2e.deployed import Deployed
from tests.e2e.site import Site
from tests.e2e.stage import CANARY, PATIENCE, SLACK_CANARY, Stage
from tests.servers.postgres import PostgresServer
from tests.servers.prometheus import Prometheus

pytestmark = pytest.mark.timeout(900)  # several processes start and end
NAMES = ("controller", "standby", "worker-1", "worker-2")


def service(name: str) -> str:
    return "worker" if name.startswith("worker") else "controller"


@contextmanager
def on(url: Secret, root: Path) -> Iterator[Site]:
    stage = Stage(root)
    with stage.servicenow, stage.slack, ExitStack() as processes:
        for number in range(60):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        sn, chat = stage.servicenow_spec(), stage.slack_spec()
        stage.manifest("sn", **sn | {"auth": sn["auth"] | {"password": CANARY}})
        stage.manifest("chat", **chat | {"auth": chat["auth"] | {"token": SLACK_CANARY}})
        yield Site(stage, url, processes)


@pytest.mark.needs("initdb", "prometheus")
def test_one_is_killed_and_prometheus_sees_it(tmp_path: Path, postgres_url: Secret) -> None:
    with on(postgres_url, tmp_path) as site:
        deployed = Deployed(site)
        running = {name: deployed.start(name, service(name)) for name in NAMES}
        site.until_synced()
        with Prometheus(tmp_path / "prometheus", deployed.scrape(NAMES)) as prometheus:

            def until(expression: str, value: float) -> None:
                site.until(f"{expression} is {value}", lambda: prometheus.value(expression) == value)

            until('sum(up{job="reconciler"})', 4)
            until("sum(reconciler_workers)", 2)
            until("sum(reconciler_leader)", 1)
            site.until("rules are evaluated", lambda: set(prometheus.rules().values()) == {"ok"})
            site.alarm("Mail is down")
            site.until_delivered(1)

            running["worker-1"].kill()
            until('sum(up{job="reconciler"})', 3)
            until("sum(reconciler_workers)", 1)
            until('ALERTS{alertname="ReconcilerWorkerMissing", alertstate="pending"}', 1)
            site.alarm("Disk is full")
            site.until_delivered(2)

            leads = site.until("one leads", lambda: [n for n in NAMES[:2] if "leader{} 1" in site.metrics(n)])
            running[leads[0]].kill()
            until('sum(up{job="reconciler"})', 2)
            until("sum(reconciler_leader)", 1)
            site.alarm("Power is off")
            site.until_delivered(3)
            until("sum(reconciler_workers)", 1)

            deployed.start("worker-3", "worker")
            until("sum(reconciler_workers)", 2)
        assert len(site.messages()) == 3
        for path in tmp_path.glob("*.log"):
            assert "canary" not in path.read_text(), path
            assert not [line for line in path.read_text().splitlines() if _is_fault(line)], path


@pytest.mark.needs("initdb")
def test_the_database_goes_and_probes_kill_nobody(tmp_path: Path) -> None:
    """If they did, a short outage would become a long one. Only who leads ends by itself: another may lead meanwhile."""
    with PostgresServer() as server, on(server.create(), tmp_path) as site:
        deployed = Deployed(site)
        running = {name: deployed.start(name, service(name)) for name in ("controller", "worker-1")}
        site.until_synced()
        deployed.start("standby", "controller")
        others = ("standby", "worker-1")
        site.until("both are ready", lambda: _codes(site, others, "/readyz") == {httpx.codes.OK})
        server.stop()
        try:
            assert running["controller"].wait(PATIENCE) == 1
            assert "the database did not answer in time" in site.log("controller").read_text()
            assert _codes(site, others, "/readyz") == {httpx.codes.SERVICE_UNAVAILABLE}
            assert all("cannot be used" in site.ask(name, "/readyz").text for name in others)
            assert _codes(site, others, "/healthz") == {httpx.codes.OK}
        finally:
            server.start()
        site.until("both are ready", lambda: _codes(site, others, "/readyz") == {httpx.codes.OK})
        site.until_said("standby", "leading")
        site.alarm("Mail is down")
        site.until_delivered(1)
        for path in tmp_path.glob("*.log"):
            assert not [line for line in path.read_text().splitlines() if _is_fault(line)], path


def _codes(site: Site, names: tuple[str, ...], path: str) -> set[int]:
    return {site.ask(name, path).status_code for name in names}


def _is_fault(line: str) -> bool:
    """A traceback of ours; the job engine warns with its own as text."""
    return not line.startswith("{") or "exception" in json.loads(line)
