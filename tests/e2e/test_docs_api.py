"""The calls that docs/api.md begins with, as they stand there, against a daemon with integrations of the demo's names."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.stage import PATIENCE, Stage, git
from tests.e2e.town import ROOT, Town, town_of

DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    root = tmp_path_factory.mktemp("api")
    stage = Stage(root)
    with stage.servicenow, stage.slack:
        stage.manifest("servicenow-prod", **stage.servicenow_spec())
        stage.manifest("ops-slack", **stage.slack_spec())
        stage.commit()
        remote = root / "remote.git"
        git(root, "clone", "-q", "--bare", str(stage.repo), str(remote))
        source = {"name": "main", "url": str(remote), "ref": "main", "write_back": {"mode": "commit"}}
        with town_of(stage, sources=[source]) as made:
            yield made


def test_the_calls_of_the_first_page(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    here.until("both are synced", lambda: here.is_synced("servicenow-prod", "ops-slack"))
    assert here.run("token", "create", "demo", "--every-workspace", "--allow", "admin") == 0
    env = {**os.environ, "RECONCILER_URL": here.address, "RECONCILER_TOKEN": capsys.readouterr().out.strip()}
    wanted = f"{here.address}/v1/integrations/servicenow-prod"
    bearer = {"authorization": f"Bearer {env['RECONCILER_TOKEN']}"}
    here.until("it is listed", lambda: httpx.get(wanted, headers=bearer, trust_env=False, timeout=PATIENCE).is_success)
    calls = [line for line in _first_block() if line.startswith("curl")]
    assert len(calls) == 5
    said = [subprocess.run(["bash", "-c", one], env=env, capture_output=True, text=True, check=False) for one in calls]
    assert [(one.returncode, one.stderr) for one in said] == [(0, "")] * 5
    listed, status, synced, changed, published = (one.stdout for one in said)
    assert {one["name"] for one in json.loads(listed)["data"]} == {"servicenow-prod", "ops-slack"}
    assert json.loads(status)["name"] == "servicenow-prod"
    assert re.findall(r"^event: (\w+)$", synced, re.MULTILINE)[-1] == "complete"
    assert json.loads(changed)["mode"] == "commit"
    assert json.loads(published)["data"][0]["type"] == "order.created"
    assert git(Path(here.stage.root / "remote.git"), "log", "-1", "--format=%s", "main") == "Change it-ops/ops-slack"


def _first_block() -> list[str]:
    found = re.search(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1].splitlines()
