"""100,000 records over 20 integrations, three workers of which one is killed again and again: everything once."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count, cycle
from pathlib import Path

import pytest

from reconciler.model.secret import Secret
from reconciler.store import deliveries, runs
from reconciler.store.database import Tx
from simulators.servicenow import ServiceNow
from tests.e2e.site import Site
from tests.e2e.stage import CANARY, Stage

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.slow, pytest.mark.timeout(1800)]

INTEGRATIONS, RECORDS, ALARMS = 20, 5_000, 20
PATIENCE = 1700.0  # on a busy machine; some two minutes on a quiet one


@pytest.fixture
def desk() -> Iterator[ServiceNow]:
    """Where the alarms of all integrations become tickets."""
    made = ServiceNow()
    made.users["recon"] = CANARY
    with made:
        yield made


@pytest.fixture
def site(tmp_path: Path, postgres_url: Secret, desk: ServiceNow) -> Iterator[Site]:
    stage = Stage(tmp_path)
    with stage.servicenow, ExitStack() as processes:
        for number in range(RECORDS):
            priority = "1" if number < ALARMS else "4"
            stage.servicenow.put("incident", {"short_description": f"Incident {number}", "priority": priority})
        for number in range(INTEGRATIONS):
            sync = {"entities": ["incidents"], "page_size": 500, "initial_events": "all"}
            stage.manifest(f"sn-{number:02}", **stage.servicenow_spec(sync=sync))
        ticket = {
            "name": "alarms",
            "event_type": "incident.created",
            "when": "record.priority == '1'",
            "action": "create_incident",
            "template": "{{ record.number }}",
        }
        config = {"instance_url": desk.url}
        stage.manifest("desk", **stage.servicenow_spec(config=config, sync={"entities": []}, synchronizations=[ticket]))
        stage.commit()
        yield Site(stage, postgres_url, processes)


def _progress(tx: Tx) -> int:
    """How much is done by now, in steps of a few seconds' work."""
    return int(tx.value("SELECT count(*) FROM version")) // 8_000 + deliveries_of(tx)["delivered"] // 40


def deliveries_of(tx: Tx) -> Counter[str]:
    return Counter(str(d.status) for d in deliveries.listing(tx, limit=1000))


def _is_done(tx: Tx) -> bool:
    synced = tx.value("SELECT count(*) FROM integration WHERE last_sync_result = 'success'")
    routed = not deliveries.unrouted(tx)
    return synced == INTEGRATIONS and routed and not runs.unfinished(tx) and not deliveries.unfinished(tx)


def test_every_record_is_there_once_and_every_change_is_told_once(site: Site, desk: ServiceNow) -> None:
    site.start("controller", "controller")
    names = (f"worker-{number}" for number in count())
    workers = [site.start(next(names), "worker") for _ in range(3)]
    site.until_tables()
    end, killed, victims, done = time.monotonic() + PATIENCE, 0, cycle(range(3)), 0
    while not site.read(_is_done):
        assert time.monotonic() < end, site.run("status")
        progress = site.read(_progress) or 0
        if progress > done:
            victim = next(victims)
            workers[victim].kill()
            workers[victim].wait()
            workers[victim] = site.start(next(names), "worker")
            killed, done = killed + 1, progress
        time.sleep(0.05)
    assert killed >= 8
    kept = site.read(lambda tx: [tuple(row) for row in tx.all(_KEPT)])
    assert kept == [(f"sn-{number:02}", RECORDS, RECORDS, RECORDS) for number in range(INTEGRATIONS)]
    assert site.read(deliveries_of) == {"delivered": INTEGRATIONS * ALARMS}
    tickets = [row["correlation_id"] for row in desk.tables["incident"].values()]
    assert len(tickets) == len(set(tickets)) == INTEGRATIONS * ALARMS


_KEPT = """
SELECT i.name, count(*), count(DISTINCT h.key),
  (SELECT count(*) FROM version v WHERE v.entity_id = e.id)
FROM integration i JOIN entity e ON e.integration_id = i.id JOIN head h ON h.entity_id = e.id
WHERE i.name LIKE 'sn-%' GROUP BY i.id, i.name, e.id ORDER BY i.name
"""
