"""kill -9 the moment a push was answered, again and again: nothing of what was answered is lost, and nothing is doubled."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.store import events as event_log
from tests.e2e.stage import PATIENCE, Stage
from tests.e2e.test_ingest import FULL_ENV, event, records_of, spec

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    made.manifest("erp", **spec())
    made.commit()
    return made


def _address(log: Path) -> str | None:
    for line in log.read_text().splitlines() if log.exists() else ():
        if "listening=127" in line:
            return line.split("listening=")[1].split()[0]
    return None


def test_kill_9_after_the_answer_loses_nothing(stage: Stage, tmp_path: Path) -> None:
    env = {**os.environ, **FULL_ENV, "PYTHONPATH": os.pathsep.join(sys.path)}
    answered: dict[str, str] = {}
    key = ""
    for life in range(4):
        log = tmp_path / f"log-{life}"
        with log.open("w") as out:
            words = stage.words(listen="127.0.0.1:0")
            process = subprocess.Popen([sys.executable, "-m", "reconciler", *words], env=env, stdout=out, stderr=out)
        try:
            url = f"http://{_wait(lambda log=log: _address(log))}"
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
                key = key or _wait(lambda: _made_key(stage))
                headers = {"authorization": f"Bearer {key}"}
                _wait(lambda c=client, h=headers: c.get("/ingest/v1/erp/ping", headers=h).status_code == 200)
                for number in range(5):
                    name = f"{life}-{number}"
                    client.put(f"/ingest/v1/erp/records/orders/{name}", json={"data": {"n": name}}, headers=headers)
                    told = event(f"evt-{name}")
                    assert client.post("/ingest/v1/erp/events", json=told, headers=headers).status_code == 202
                    answered[name] = f"evt-{name}"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    asyncio.run(_all_there(stage, answered))


async def _all_there(stage: Stage, answered: Mapping[str, str]) -> None:
    async with stage.daemon(env=FULL_ENV) as running:

        async def there() -> bool:
            return (await running.read(records_of)).keys() == answered.keys()

        await running.until("every record that was answered", there)
        kept = await running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        assert sorted(e.detail["id"] for e in kept if e.type == "order.paid") == sorted(answered.values())


def _wait(look: Any) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def _made_key(stage: Stage) -> str:
    """Made by the command, beside the daemon."""
    words = ["key", "regenerate", "it-ops/erp", "--state-dir", str(stage.state)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", *words], env=env, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
