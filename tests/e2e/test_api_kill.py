"""kill -9 in the middle of changes over the API: asked again with the same Idempotency-Key, each was done once.

A change in Git is a commit, a sync a run: both are counted. Keys of changes that the dead process worked on are refused with
409 until it is certain that nobody does any more, therefore all deaths come first and what is asked again comes after.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from tests.e2e.stage import PATIENCE, git
from tests.e2e.surface import Surface, surfaced

ROUNDS = 12
LONGEST = 1.2
SEED = 4


@dataclass(frozen=True)
class Wanted:
    key: str
    method: str
    path: str
    body: Mapping[str, Any]

    def ask(self, url: str, header: Mapping[str, str]) -> httpx.Response:
        headers = {**header, "idempotency-key": self.key}
        return httpx.request(
            self.method, f"{url}{self.path}", headers=headers, json=self.body, timeout=PATIENCE, trust_env=False
        )


def wanted(surface: Surface, number: int) -> Wanted:
    """By turns a patch, a connection and a sync, each distinguishable from all others."""
    key = f"key-{number}"
    if number % 3 == 0:
        labels = {"metadata": {"labels": {f"n{number}": "x"}}}
        return Wanted(key, "PATCH", "/v1/integrations/spare-0", labels)
    if number % 3 == 1:
        spec = {
            "name": f"talk-{number}",
            "workspace": "it-ops",
            "auth": {"type": "bot_token", "token": {"from_env": "ITOPS_SLACK"}},
            "config": {"base_url": f"{surface.stage.slack.url}/api"},
            "sync": {"entities": ["users"]},
        }
        return Wanted(key, "POST", "/v1/integrations/slack/connect", spec)
    return Wanted(key, "POST", f"/v1/integrations/spare-{number // 3 + 1}/sync", {"scope": "full"})


@pytest.fixture
def surface(tmp_path: Path) -> Iterator[Surface]:
    with surfaced(tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_key_is_done_once(surface: Surface) -> None:
    header = {"authorization": f"Bearer {surface.tokens['admin']}"}
    random, before = Random(SEED), surface.commits()
    every = [wanted(surface, number) for number in range(ROUNDS)]
    for one in every:
        die_meanwhile(surface, one, header, random.uniform(0, LONGEST))
        surface.start()
        surface.until("it answers", lambda: surface.get("/healthz", header).status_code == httpx.codes.OK)
    bodies = [final(surface, one, header) for one in every]
    for one, body in zip(every, bodies, strict=True):
        again = one.ask(surface.url, header)
        assert again.headers["idempotent-replayed"] == "true"
        assert again.content == body
    changes = [one for one in every if not one.path.endswith("/sync")]
    subjects = git(surface.remote, "log", "--format=%s", "main").splitlines()
    assert surface.commits() == before + len(changes), subjects
    syncs = surface.read(lambda tx: tx.all("SELECT public_id FROM request WHERE kind = 'sync'"))
    assert len(syncs) == len(every) - len(changes)
    runs = surface.read(lambda tx: tx.all("SELECT public_id FROM run WHERE scope = 'full'"))
    assert len({row[0] for row in runs}) == len(syncs)


def die_meanwhile(surface: Surface, one: Wanted, header: Mapping[str, str], seconds: float) -> None:
    """The request is under way, or not yet there, or answered: whatever that long brings."""
    url = surface.url

    def ask() -> None:
        with suppress(httpx.HTTPError):
            one.ask(url, header)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(seconds)
    surface.kill()
    asking.join(PATIENCE)


def final(surface: Surface, one: Wanted, header: Mapping[str, str]) -> bytes:
    """What it came to, once it is said: nobody may be working on it, and Git must have been read."""

    def answered() -> httpx.Response | None:
        answer = one.ask(surface.url, header)
        if answer.status_code == 503 or (answer.status_code, answer.json().get("code")) == (409, "in-progress"):
            time.sleep(0.5)
            return None
        return answer

    found = surface.until(f"{one.key} is done", answered)
    assert found is not None
    assert found.status_code == 202, (one, found.text)
    return found.content
