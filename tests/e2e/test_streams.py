"""A sync streamed from a daemon that is killed in the middle, and from a process that does not run it."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.sdk.testing.simulator import Call, Reply
from tests.e2e.site import Site, end_process
from tests.e2e.stage import PATIENCE
from tests.e2e.town import LISTENING, Town, start, town

TABLE = "/api/now/table/incident"
FULL = {"scope": "full"}


def events(answer: httpx.Response) -> Iterator[tuple[str, str, Any]]:
    """(kind, id, body), to the stream's end or that of its daemon."""
    found: dict[str, str] = {}
    try:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if line:
                found[name] = value
            elif "data" in found:
                yield found["event"], found.get("id", ""), json.loads(found["data"])
                found = {}
    except httpx.TransportError:
        return


def streamed(address: str, token: str, path: str, last: str = "", method: str = "GET") -> list[tuple[str, str, Any]]:
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
    if last:
        headers["last-event-id"] = last
    body = FULL if method == "POST" else None
    with httpx.stream(
        method, f"{address}{path}", headers=headers, json=body, timeout=PATIENCE, trust_env=False
    ) as answer:
        return list(events(answer))


@contextmanager
def killed_at_pages(here: Town, *pages: int) -> Iterator[list[int]]:
    """The daemon is dead as soon as one of these pages is asked for; which of them were, in what is given."""
    asked, answer = [0], here.stage.servicenow.answer
    struck: list[int] = []

    def lethal(call: Call) -> Reply:
        if call.url_path == TABLE and here.process.poll() is None:
            asked[0] += 1
            if asked[0] in pages:
                struck.append(asked[0])
                os.kill(here.process.pid, signal.SIGKILL)
        reply: Reply = answer(call)
        return reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.stage.servicenow, "answer", lethal)
        yield struck


def begin_again(here: Town, number: int, lives: ExitStack) -> str:
    log = here.stage.root / f"again-{number}.log"
    with log.open("w") as said:
        here.process = start(*here.stage.words("--listen", "127.0.0.1:0"), stdout=said, stderr=subprocess.STDOUT)
        lives.callback(end_process, here.process)
    found = here.until("it listens", lambda: LISTENING.search(log.read_text()))
    assert found is not None
    return f"http://{found['address']}"


def _listed(address: str, token: str) -> bool:
    found = httpx.get(
        f"{address}/v1/integrations/sn", headers={"authorization": f"Bearer {token}"}, timeout=PATIENCE, trust_env=False
    )
    return found.status_code == 200


@pytest.mark.timeout(600)
def test_killed_in_the_middle_nothing_is_missing_and_nothing_told_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with town(tmp_path) as here, ExitStack() as lives:
        for number in range(380):
            here.stage.servicenow.put("incident", {"short_description": f"New {number}", "priority": "4"})
        capsys.readouterr()
        assert here.run("token", "create", "watcher", "--workspace", "it-ops", "--allow", "admin") == 0
        token, address = capsys.readouterr().out.split()[-1], here.address
        here.until("the list has it", lambda: _listed(address, token))
        told: list[tuple[str, str, Any]] = []
        with killed_at_pages(here, 4, 9) as struck:
            for life in range(5):
                if life:
                    assert here.process.wait(PATIENCE) == -signal.SIGKILL
                    address = begin_again(here, life, lives)
                last = told[-1][1] if told else ""
                told += streamed(address, token, "/v1/integrations/sn/sync", last, "POST")
                if told[-1][0] != "progress":
                    break
        assert len(struck) == 2
        run = told[0][2]["sync_job_id"]
        assert told == streamed(address, token, f"/v1/syncs/{run}/events")
        assert [event_id for _, event_id, _ in told] == [f"{run}:{n + 1}" for n in range(len(told))]
        ids = [record for _, _, body in told for record in body.get("ids", ())]
        assert sorted(ids) == sorted(here.stage.servicenow.tables["incident"])
        assert (told[-1][0], told[-1][2]["stats"]["total"]) == ("complete", 500)
        assert here.read(lambda tx: tx.value("SELECT count(*) FROM run WHERE cause = 'person'")) == 1


@pytest.mark.needs("initdb")
@pytest.mark.timeout(600)
def test_streamed_by_a_process_that_does_not_run_it(site: Site) -> None:
    site.start("boss", "controller")
    site.start("hand", "worker")
    site.start("window", "api")
    site.until_synced()
    token = site.run("token", "create", "watcher", "--every-workspace", "--allow", "integration.sync").split()[-1]
    told = streamed(f"http://{site.address('window')}", token, "/v1/integrations/sn/sync", method="POST")
    assert [kind for kind, _, _ in told][-1] == "complete"
    ids = [record for _, _, body in told for record in body.get("ids", ())]
    assert sorted(ids) == sorted(site.stage.servicenow.tables["incident"])
