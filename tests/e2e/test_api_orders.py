"""What the API asks of a running daemon: a test of the remote, looks at Git, the end of a sync; in one process, and in the one of
several that has no connectors."""

from typing import Any

import httpx
import pytest

from reconciler.api.reconciles import FindingList, ReconcileProgress
from reconciler.api.trials import TestResult as Result
from tests.e2e.site import Site
from tests.e2e.stage import CANARY, PATIENCE, held_back
from tests.e2e.town import town

TABLE = "/api/now/table/incident"


class Asked:
    """A client of one daemon."""

    def __init__(self, address: str, token: str) -> None:
        self._address = address
        self._headers = {"authorization": f"Bearer {token}"}

    def get(self, path: str) -> dict[str, Any]:
        return self._ask("GET", path)

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        return self._ask("POST", path, body)

    def shows_both(self) -> bool:
        return len(self.get("/v1/integrations")["data"]) == 2

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        url, headers = f"{self._address}{path}", self._headers
        answer = httpx.request(method, url, json=body, headers=headers, timeout=PATIENCE, trust_env=False)
        assert answer.is_success, answer.text
        assert CANARY not in answer.text
        found: dict[str, Any] = answer.json()
        return found


@pytest.mark.timeout(600)
def test_one_process(tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]) -> None:
    with town(tmp_path_factory.mktemp("orders")) as here:
        assert here.run("token", "create", "ops", "--workspace", "it-ops", "--allow", "admin") == 0
        api = Asked(here.address, capsys.readouterr().out.strip())
        here.until("both are shown", api.shows_both)
        assert api.get("/v1/integrations/sn/status")["last_sync_at"]

        tested = api.post("/v1/integrations/sn/test")
        Result.model_validate(tested, strict=False)
        assert tested["ok"], tested
        assert tested["latency_ms"] > 0
        assert tested["entities"]["incidents"] is True

        (here.stage.repo / "bad.yaml").write_text(
            "apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata: {name: bad, workspace: it-ops}\n"
            "spec: {type: slakc}\n"
        )
        here.stage.commit()
        token = api.post("/v1/reconcile")["token"]
        done = here.until("Git is read", lambda: _done(api, token))
        assert done is not None
        ReconcileProgress.model_validate(done, strict=False)
        assert done["sources"][0]["error"] is None
        assert done["revision"]
        found = api.get("/v1/findings")
        FindingList.model_validate(found, strict=False)
        assert ("bad.yaml", "it-ops") in {(one["file"], one["workspace"]) for one in found["data"]}

        one = api.post("/v1/reconcile", {"integration": "sn"})["token"]
        here.until("it was looked at", lambda: _done(api, one))

        with held_back(here.stage.servicenow, TABLE):
            run = api.post("/v1/integrations/sn/sync", {"scope": "full"})["sync_job_id"]
            here.until("it runs", lambda: api.get(f"/v1/syncs/{run}")["status"] == "running")
            api.post(f"/v1/syncs/{run}/cancel")
            here.until("it has ended", lambda: api.get(f"/v1/syncs/{run}")["status"] == "cancelled")
        here.until("the log tells of it", lambda: api.get(f"/v1/integrations/sn/logs?sync_job_id={run}")["data"])

        (first, *_) = api.get("/v1/integrations/sn/records?entity=incidents&limit=1")["data"]
        assert api.get(f"/v1/integrations/sn/records/incidents/{first['key']}")["record"] == first["record"]
        _reads_the_audit(here, capsys)


def _done(api: Asked, token: str) -> dict[str, Any] | None:
    found = api.get(f"/v1/reconcile/{token}")
    return found if found["status"] == "done" else None


def _reads_the_audit(here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert here.run("audit", "--since", "2h", "--workspace", "it-ops") == 0
    said = capsys.readouterr().out
    assert "POST /v1/syncs/{id}/cancel" in said
    assert "ops" in said
    assert here.run("audit", "--workspace", "hr") == 0
    assert "nothing was asked for" in capsys.readouterr().out
    assert here.run("audit", "--limit", "0") == 1


@pytest.mark.needs("initdb")
@pytest.mark.timeout(600)
def test_a_process_without_connectors_asks_the_leader(site: Site) -> None:
    site.start("controller", "controller")
    site.start("worker", "worker")
    site.start("window", "api")
    site.until_synced()
    clear = site.run("token", "create", "ops", "--every-workspace", "--allow", "admin").split()[0]
    for name in ("window", "worker", "controller"):
        asked = Asked(f"http://{site.address(name)}", clear)
        site.until("both are shown", asked.shows_both)
        tested = asked.post("/v1/integrations/sn/test")
        assert tested["ok"], (name, tested)
    api = Asked(f"http://{site.address('window')}", clear)
    token = api.post("/v1/reconcile")["token"]
    site.until("the leader looked at Git", lambda: _done(api, token))
    one = api.post("/v1/reconcile", {"integration": "sn"})["token"]
    site.until("a worker looked at it", lambda: _done(api, one))
    for name in ("window", "worker", "controller"):
        assert "Traceback" not in site.log(name).read_text()
