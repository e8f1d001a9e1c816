"""Events published over HTTP to a daemon that is killed at any moment: each arrives once, and a replay is done once."""

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from reconciler.store import deliveries, replays
from reconciler.store.database import Tx
from reconciler.store.location import open_readonly
from tests.e2e.stage import PATIENCE, SLACK_CANARY, Stage
from tests.e2e.town import LISTENING, start

KILLS = 6
EVENTS = 40
WANTED = {
    "name": "orders",
    "event_type": "order.*",
    "action": "post_message",
    "map": {"channel": "C0000000OPS"},
    "template": "order {{ record.number }}",
}
pytestmark = pytest.mark.timeout(600)


class Shop:
    """A daemon with Slack, that is killed and comes back, and a publisher that asks again until it is answered."""

    def __init__(self, stage: Stage, ends: ExitStack) -> None:
        self.stage = stage
        self._ends = ends
        self._count = 0
        self.process = self._start()
        self.token = self._issue()

    def _start(self) -> "subprocess.Popen[str]":
        self._count += 1
        self._log = self.stage.root / f"daemon-{self._count}.log"
        log = self._ends.enter_context(self._log.open("w"))
        process = start(*self.stage.words("--listen", "127.0.0.1:0"), stdout=log, stderr=subprocess.STDOUT)
        self._ends.callback(process.wait, PATIENCE)
        self._ends.callback(process.terminate)
        return process

    def _issue(self) -> str:
        self.until("it listens", lambda: LISTENING.search(self._log.read_text()))
        words = ("token", "create", "shop", "--every-workspace", "--allow", "admin")
        process = start(*words, "--state-dir", str(self.stage.state), stdout=subprocess.PIPE)
        told, _ = process.communicate(timeout=PATIENCE)
        found = re.search(r"rct_\w+_[\w-]{20,}", told)
        assert found is not None, told
        return found[0]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """Asked again, with the same key, until there is an answer."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = LISTENING.search(self._log.read_text())
            if found is not None:
                headers = {"authorization": f"Bearer {self.token}"} | more.pop("headers", {})
                more["headers"] = headers
                try:
                    answer = httpx.request(method, f"http://{found['address']}{path}", timeout=PATIENCE, **more)
                except httpx.TransportError:
                    continue
                if answer.status_code < 500:
                    assert answer.status_code < 400, answer.text
                    return answer.json()
            time.sleep(0.05)
        raise AssertionError(f"no answer: {method} {path}")

    def until(self, what: str, holds: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while not (value := holds()):
            assert time.monotonic() < end, f"{what}: {self._log.read_text()[-2000:]}"
            time.sleep(0.05)
        return value

    def read(self, query: Any) -> Any:
        with open_readonly(self.stage.state / "reconciler.db") as tx:
            return query(tx)

    def texts(self) -> Counter[str]:
        return Counter(str(m["text"]) for m in self.stage.slack.messages["C0000000OPS"].values())


@contextmanager
def shop(root: Path) -> Iterator[Shop]:
    stage = Stage(root)
    with stage.slack, ExitStack() as ends:
        stage.manifest("chat", **stage.slack_spec(synchronizations=[WANTED]))
        stage.commit()
        yield Shop(stage, ends)


def _open(tx: Tx) -> int:
    return len(deliveries.unfinished(tx))


def test_killed_between_publishing_routing_and_delivering(tmp_path: Path) -> None:
    random = Random(4)
    with shop(tmp_path) as made:
        for number in range(EVENTS):
            event = {"type": "order.created", "workspace": "it-ops", "data": {"number": f"no-{number}"}}
            made.ask("POST", "/v1/events", json=event, headers={"idempotency-key": f"k{number}"})
            if number % (EVENTS // KILLS) == 3:
                time.sleep(random.uniform(0, 0.15))  # somewhere between publishing, routing and delivering
                made.kill()
        wanted = {f"order no-{n}" for n in range(EVENTS)}
        made.until("all arrived", lambda: wanted <= made.texts().keys())
        made.until("nothing is open", lambda: made.read(_open) == 0)
        told = made.read(lambda tx: Counter(d.status for d in deliveries.listing(tx, limit=500)))
        assert sum(told.values()) == EVENTS
        assert made.texts().keys() == wanted


def test_killed_in_a_replay(tmp_path: Path) -> None:
    with shop(tmp_path) as made:
        events = [
            {"type": "order.created", "workspace": "it-ops", "data": {"number": f"no-{n}"}} for n in range(EVENTS)
        ]
        made.ask("POST", "/v1/events", json=events)
        made.until("all arrived", lambda: len(made.texts()) == EVENTS and made.read(_open) == 0)
        made.until("it is shown", lambda: made.ask("GET", "/v1/integrations")["data"])
        body = {"integration": "chat", "since": "2026-01-01T00:00:00Z"}
        for _ in range(3):
            replay = made.ask("POST", "/v1/events/replay", json=body, headers={"idempotency-key": "once"})
            made.kill()
        made.until("done", lambda: made.ask("GET", f"/v1/events/replays/{replay['id']}")["state"] == "done")
        made.until("nothing is open", lambda: made.read(_open) == 0)
        assert len(made.read(lambda tx: replays.newest(tx, 10))) == 1
        again = [d for d in made.read(lambda tx: deliveries.listing(tx, limit=500)) if d.event_type == "order.created"]
        assert Counter(d.event_id for d in again).most_common(1)[0][1] == 2
        assert len(again) == 2 * EVENTS


def test_a_message_is_sent_at_once_and_what_died_is_sent_again(tmp_path: Path) -> None:
    with shop(tmp_path) as made:
        made.until("it is shown", lambda: made.ask("GET", "/v1/integrations")["data"])
        send = "/v1/integrations/chat/send?wait=30"
        message = {"channel": "post_message", "fields": {"channel": "C0000000OPS", "text": "hello"}}
        assert made.ask("POST", send, json=message)["status"] == "delivered"
        message["fields"] = {"channel": "C0000NOBODY", "text": "hello"}
        lost = made.ask("POST", send, json=message)
        assert lost["status"] == "dead"
        (again,) = made.ask("POST", f"/v1/events/{lost['event']}/retry")["deliveries"]
        assert again["retry_of"] == lost["delivery"]
        made.until(
            "it died as well", lambda: made.ask("GET", f"/v1/deliveries/{again['delivery']}")["status"] == "dead"
        )
        event = made.ask("GET", f"/v1/events/{lost['event']}")
        exchange = event["attempts"][0]["tries"][0]["exchange"]
        assert (exchange["method"], "C0000NOBODY" in exchange["request"]) == ("POST", True)
        assert "channel_not_found" in exchange["response"]
        assert not [log for log in tmp_path.glob("daemon-*.log") if "Traceback" in log.read_text()]
        assert SLACK_CANARY not in str(event)
