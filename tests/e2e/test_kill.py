"""kill -9 at chosen and at random points of connect, sync and deliver: nothing lost, nothing doubled that can be prevented.

The simulators live in this process and decide when the daemon dies: at the nth request of a kind, before the remote has
done anything, after it has and before the answer leaves, or a moment after the answer; some die at no chosen point.
Each death is followed by a new start on the same state. At the end the remotes' tables are compared with the store.
"""

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reconciler.control.view import IntegrationView, overview
from reconciler.model.clock import SystemClock
from reconciler.model.condition import Truth
from reconciler.model.event import DeliveryStatus
from reconciler.sdk.testing.simulator import Call, Reply, Simulator
from reconciler.store import dataset, deliveries, runs
from reconciler.store.database import Tx
from reconciler.store.location import open_readonly
from simulators.email import MailServer, Received
from tests.e2e.forge import Forge
from tests.e2e.stage import ENV, HOOK_CANARY, PATIENCE, PUBLIC_URL, Stage

RUNS = 54
OLD = 70
LONGEST_START = 180.0
LONGEST_LIFE = 12.0


@dataclass(frozen=True)
class Aim:
    """Where the daemon is to die: at the `nth` request to `remote` that fits, `before` or `done` or `after` so many seconds."""

    remote: str
    request: str
    when: str
    nth: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        moment = f"{self.seconds * 1000:.0f} ms after" if self.when == "after" else self.when
        return f"{moment} request {self.nth} of {self.remote} {self.request}"


AIMS = (
    Aim("servicenow", "GET /api/now/table/incident", "before", 1),
    Aim("servicenow", "GET /api/now/table/incident", "done", 4),
    Aim("servicenow", "GET /api/now/table/incident", "after", 5),
    Aim("servicenow", "GET /api/now/table/incident", "after", 6),
    Aim("servicenow", "POST /api/now/table/incident", "done"),
    Aim("servicenow", "POST /api/now/table/incident", "after"),
    Aim("servicenow", "POST /api/now/table/incident", "before"),
    Aim("slack", "POST /api/chat.postMessage", "done"),
    Aim("slack", "POST /api/chat.postMessage", "before"),
    Aim("slack", "POST /api/chat.postMessage", "after", 2),
    Aim("slack", "POST /api/auth.test", "done"),
    Aim("github", "POST */hooks", "done"),
    Aim("github", "POST */hooks", "before"),
    Aim("github", "POST */hooks", "after"),
    Aim("github", "GET */hooks", "done"),
    Aim("github", "GET */issues", "done", 2),
    Aim("mail", "DATA", "done"),
    Aim("mail", "DATA", "before"),
    Aim("mail", "DATA", "after"),
    Aim("clock", "", "after"),
)


@dataclass
class Executioner:
    """Sits in the remotes and kills the daemon at the aim. `struck` says how often each aim did it.

    A daemon that never comes to its aim dies when its time is up; a slow start on a busy machine does not count.
    """

    struck: Counter[str] = field(default_factory=Counter)
    _pid: int | None = None
    _aim: Aim | None = None
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _timer: threading.Timer | None = None
    _is_up: bool = True

    def arm(self, pid: int, aim: Aim, patience: float | None = None) -> None:
        """`patience`: how long from now on; without it LONGEST_LIFE from the first request to any remote on."""
        with self._lock:
            self._pid, self._aim, self._seen = pid, aim, 0
            self._is_up = patience is not None
            self._allow(LONGEST_START if patience is None else patience)

    def _allow(self, seconds: float) -> None:
        self.disarm()
        self._timer = threading.Timer(seconds, self.kill, (self._aim,), {"is_aimed": False})
        self._timer.start()

    def disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _notice(self) -> None:
        with self._lock:
            if not self._is_up:
                self._is_up = True
                self._allow(LONGEST_LIFE)

    def watch(self, name: str, simulator: Simulator) -> None:
        answer = simulator.answer

        def watched(call: Call) -> Reply:
            reply: Reply = self.pass_by(name, f"{call.method} {call.url_path}", lambda: answer(call))
            return reply

        simulator.answer = watched  # type: ignore[method-assign]

    def watch_mail(self, server: MailServer) -> None:
        server.received = _WatchedMails(self.pass_by)

    def pass_by(self, name: str, request: str, act: Callable[[], Any]) -> Any:
        """`act` is what the remote does with the request."""
        self._notice()
        is_hit = self._counts(name, request)
        self._strike(is_hit, "before")
        done = act()
        self._strike(is_hit, "done")
        self._strike(is_hit, "after")
        return done

    def _counts(self, remote: str, request: str) -> bool:
        aim = self._aim
        if aim is None or aim.remote != remote or not fnmatchcase(request, aim.request):
            return False
        self._seen += 1
        return self._seen == aim.nth

    def _strike(self, is_hit: bool, when: str) -> None:
        aim = self._aim
        if not is_hit or aim is None or aim.when != when:
            return
        if when == "after":
            threading.Timer(aim.seconds, self.kill, (aim,)).start()
        else:
            self.kill(aim)

    def kill(self, aim: Aim, *, is_aimed: bool = True) -> None:
        with self._lock:
            if self._pid is not None and self._aim is aim:
                os.kill(self._pid, signal.SIGKILL)
                self._pid = None
                self.struck[str(aim) if is_aimed else f"time is up for {aim}"] += 1


class _WatchedMails(list[Received]):
    """Mails of a server: taking one is the moment between the client's dot and the server's 250."""

    def __init__(self, pass_by: Callable[[str, str, Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._pass_by = pass_by

    def append(self, mail: Received) -> None:
        self._pass_by("mail", "DATA", lambda: super(_WatchedMails, self).append(mail))


class World:
    """The remotes, what happens in them, and the daemon's lives."""

    def __init__(self, stage: Stage, forge: Forge, random: Random) -> None:
        self.stage = stage
        self.forge = forge
        self.random = random
        self.executioner = Executioner()
        self.log = stage.root / "daemon.log"
        self.repositories = ["acme/app"]
        network = {"ca_file": str(stage.mail.ca_file)}
        # The last life ends in peace: what runs then may take its time, so that no run is left in the middle.
        self.words = stage.words("--log-format", "json", public_url=PUBLIC_URL, network=network, stop_timeout="60s")
        watch = self.executioner.watch
        watch("servicenow", stage.servicenow)
        watch("slack", stage.slack)
        watch("github", stage.github)
        self.executioner.watch_mail(stage.mail)

    def write_manifests(self, number: int) -> None:
        stage, every = self.stage, {"every": "1s", "jitter": "0s", "page_size": 10, "initial_events": "all"}
        issue = {
            "name": "issues",
            "event_type": "issue.created",
            "from": ["gh"],
            "action": "create_incident",
            "map": {"description": "issue {{ record.id }}"},
            "template": "{{ record.title }}",
        }
        stage.manifest(
            "sn", **stage.servicenow_spec(sync={"entities": ["incidents"], **every}, synchronizations=[issue])
        )
        stage.manifest(
            "chat", **stage.slack_spec(sync={"entities": ["users"], "every": "1h"}, display_name=str(number))
        )
        stage.manifest("mail", **stage.mail_spec())
        spec = stage.github_spec(sync={"entities": ["issues"], **every})
        spec["config"] |= {"repositories": list(self.repositories)}
        stage.manifest("gh", **spec)
        stage.commit(f"round {number}")

    def happen(self, number: int) -> None:
        """Something new everywhere, so that each life has work of each kind."""
        put = self.stage.servicenow.put
        put("incident", {"short_description": f"Round {number}", "priority": "1"})
        put("incident", {"short_description": f"Lesser {number}", "priority": "4"})
        repo = self.stage.github.repos["acme/app"]
        self.stage.github.put_issue(repo, number + 1, SystemClock().now(), title=f"Issue {number}")
        if number % 3 == 0:
            name = f"acme/r{number}"
            self.stage.github.add_repo(name)
            self.repositories.append(name)

    def live_and_die(self, aim: Aim) -> None:
        pid = self.forge.start(self.words, self.log)
        self.executioner.arm(pid, aim, self.random.uniform(0.2, 3.0) if aim.remote == "clock" else None)
        assert self.forge.ended() == -signal.SIGKILL, self.log.read_text()[-3000:]
        self.executioner.disarm()

    def aim(self, number: int) -> Aim:
        chosen = AIMS[number % len(AIMS)]
        if chosen.when != "after":
            return chosen
        return Aim(chosen.remote, chosen.request, "after", chosen.nth, self.random.uniform(0, 0.06))

    def look(self) -> dict[str, IntegrationView]:
        return {v.row.name: v for v in self.read(lambda tx: overview(tx, SystemClock().now())).integrations}

    def read(self, query: Callable[[Tx], Any]) -> Any:
        with open_readonly(self.stage.state / "reconciler.db") as tx:
            return query(tx)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    stage = Stage(tmp_path)
    with stage.servicenow, stage.slack, stage.github, stage.mail:
        for number in range(OLD):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 10)})
        with Forge(ENV) as forge:
            yield World(stage, forge, Random(20))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_at_many_points_loses_and_doubles_nothing(world: World) -> None:
    for number in range(RUNS):
        world.happen(number)
        if number % 3 == 0 or number < len(AIMS):
            world.write_manifests(number)
        world.live_and_die(world.aim(number))
    _settle(world)
    _check_records(world)
    _check_deliveries(world)
    _check_webhooks(world)
    _check_store(world)
    aimed = sum(count for aim, count in world.executioner.struck.items() if not aim.startswith("time"))
    assert aimed >= RUNS // 2, world.executioner.struck


def _settle(world: World) -> None:
    """One more life, a quiet one, until nothing is left to do; it ends on SIGTERM with 0."""
    said, interrupted = world.log.stat().st_size, _open_runs(world)
    daemon = world.forge.plain(world.words, world.log)
    end = time.monotonic() + PATIENCE
    while world.log.stat().st_size == said or interrupted & _open_runs(world) or not _is_settled(world):
        assert daemon.poll() is None, world.log.read_text()[-3000:]
        assert time.monotonic() < end, world.log.read_text()[-3000:]
        time.sleep(0.1)
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(PATIENCE) == 0


def _open_runs(world: World) -> set[int]:
    return {run for run, _ in world.read(runs.unfinished)}


def _is_settled(world: World) -> bool:
    rows = world.look()
    is_read = world.read(lambda tx: _keys(tx, rows["sn"].row.id)) == set(world.stage.servicenow.tables["incident"])
    issues = {str(i["id"]) for i in world.stage.github.repos["acme/app"].issues.values()}
    is_done = not world.read(deliveries.unfinished) and not world.read(deliveries.unrouted)
    made = len(issues) == sum(1 for r in world.stage.servicenow.tables["incident"].values() if r["correlation_id"])
    are_up = all(v.ready.truth is Truth.TRUE and v.row.observed_generation == v.row.generation for v in rows.values())
    return are_up and is_read and is_done and made and world.read(lambda tx: _keys(tx, rows["gh"].row.id)) == issues


def _keys(tx: Tx, integration_id: int) -> set[str]:
    return {v.key for v in _versions(tx, integration_id)}


def _versions(tx: Tx, integration_id: int) -> list[dataset.Version]:
    return list(dataset.log_after(tx, integration_id, 0, 100_000))


def _check_records(world: World) -> None:
    """Each record once, with what the remote has."""
    sn = world.look()["sn"].row.id
    versions = world.read(lambda tx: _versions(tx, sn))
    made = Counter(v.key for v in versions if v.op == "create")
    assert set(made.values()) == {1}
    kept = {v.key: json.loads(v.payload) for v in versions if v.payload}
    tables = world.stage.servicenow.tables["incident"]
    assert {k: v["number"] for k, v in kept.items()} == {k: v["number"] for k, v in tables.items()}
    heads = "SELECT count(*) FROM head JOIN entity e ON e.id = head.entity_id WHERE e.integration_id = :i"
    assert world.read(lambda tx: tx.value(heads, i=sn)) == len(tables)


def _check_deliveries(world: World) -> None:
    stage = world.stage
    wanted = {key for key, row in stage.servicenow.tables["incident"].items() if row["priority"] == "1"}
    every = world.read(lambda tx: deliveries.listing(tx, limit=100_000))
    for target, statuses in (("post_message", {"delivered"}), ("send_mail", {"delivered", "unknown"})):
        made = [d for d in every if d.channel == target]
        assert Counter(d.key for d in made) == dict.fromkeys(wanted, 1), target
        assert {str(d.status) for d in made} <= statuses
    numbers = {stage.servicenow.tables["incident"][key]["number"] for key in wanted}
    said = Counter(m["text"].split(":")[0] for m in stage.slack.messages["C0000000OPS"].values())
    assert said == dict.fromkeys(numbers, 1)
    _check_incidents(world, every)
    _check_mails(world, every)


def _check_incidents(world: World, every: list[deliveries.Delivery]) -> None:
    """One incident for each issue, whatever died between the remote's yes and our record of it."""
    made = [row for row in world.stage.servicenow.tables["incident"].values() if row["correlation_id"]]
    issues = {f"issue {i['id']}" for i in world.stage.github.repos["acme/app"].issues.values()}
    assert Counter(row["description"] for row in made) == dict.fromkeys(issues, 1)
    assert {d.status for d in every if d.channel == "create_incident"} == {DeliveryStatus.DELIVERED}


def _check_mails(world: World, every: list[deliveries.Delivery]) -> None:
    """Delivered: one mail. Unknown, because SMTP cannot be asked: one or none, never two."""
    mails = Counter(str(m.message["Message-ID"])[1:].split("@")[0] for m in world.stage.mail.received)
    for delivery in (d for d in every if d.channel == "send_mail"):
        count = mails[delivery.public_id]
        assert count == 1 or (count == 0 and delivery.status is DeliveryStatus.UNKNOWN), delivery
    assert any(d.status is DeliveryStatus.UNKNOWN for d in every)


def _check_webhooks(world: World) -> None:
    hooks = {name: repo.hooks for name, repo in world.stage.github.repos.items()}
    assert {name: len(found) for name, found in hooks.items()} == dict.fromkeys(world.repositories, 1)
    for repo in world.stage.github.repos.values():
        assert list(repo.secrets.values()) == [HOOK_CANARY]
    states = world.read(lambda tx: [s for (s,) in tx.all("SELECT state FROM inventory")])
    assert states == ["present"] * len(world.repositories)


def _check_store(world: World) -> None:
    assert world.read(lambda tx: tx.value("PRAGMA integrity_check")) == "ok"
    assert world.read(lambda tx: tx.value("SELECT count(*) FROM run WHERE state = 'running'")) == 0
    for view in world.look().values():
        assert (view.row.name, str(view.ready.truth)) == (view.row.name, "True")
    for simulator in (world.stage.servicenow, world.stage.slack, world.stage.github):
        assert simulator.violations == []
