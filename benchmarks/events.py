"""Events published over HTTP until a remote has got them: how long one takes, and how many a second go on and on.

Everything is real: daemons as processes with their Git repository, their API, the job engine, and a remote over HTTP on loopback.
On SQLite there is one daemon, on PostgreSQL there are two. What publishes and what receives run on the same cores.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import yaml

from benchmarks.manifests import commit, git
from benchmarks.measure import ROOT, Bench, ChildError
from benchmarks.rows import Row
from tests.servers.postgres import PostgresServer

TARGETS = 20
_KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 120.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds from before an event was published to its arrival; and of many: how many a second, with whose CPU seconds each."""

    waits: list[float]
    rate: float
    cpu: float
    repeats: int


def measure(bench: Bench) -> Iterator[Row]:
    yield from _rows("SQLite, 1 daemon", _measured(bench.inside("sqlite"), 1, {}), 100)
    with PostgresServer() as server:
        shared = {"RECONCILER_DATABASE_URL": server.create().reveal(), "RECONCILER_MASTER_KEY": _KEY}
        yield from _rows("PostgreSQL, 2 daemons", _measured(bench.inside("postgresql"), 2, shared), 200)


def _rows(where: str, measured: Measured, least: float) -> Iterator[Row]:
    last = quantiles(measured.waits, n=100)[-1]
    said = f"of {len(measured.waits)}; longest {max(measured.waits):.2f} s"
    middle = median(measured.waits)
    for name, figure, beside, other, limit in (("p50", middle, "p99", last, 1), ("p99", last, "p50", middle, 3)):
        yield Row(
            name=f"event published to delivered, {where}, {name}",
            figure=figure,
            unit="s",
            compared_with=beside,
            compared=other,
            limit=limit,
            note=said,
        )
    yield Row(
        name=f"1,000 deliveries on and on, {where}",
        figure=1000 / measured.rate,
        unit="s",
        compared_with="their CPU seconds, all daemons",
        compared=measured.cpu * 1000,
        limit=1000 / least,
        note=f"{measured.rate:.0f} deliveries a second; {measured.repeats} repeats",
    )


def _measured(bench: Bench, daemons: int, shared: Mapping[str, str]) -> Measured:
    with ExitStack() as stack:
        url = stack.enter_context(_receiver(bench))
        _installed(bench, url)
        processes, addresses = [], []
        for number in range(daemons):
            process, address = stack.enter_context(_daemon(bench, f"daemon-{number}", shared))
            processes.append(process)
            addresses.append(address)
        client = stack.enter_context(httpx.Client(trust_env=False, timeout=60, headers=_bearer(bench, shared)))
        town = _Town(client, addresses, url)
        town.await_connected()
        waits = town.one_by_one(bench.size(200, 5))
        before = _cpu(processes)
        count = bench.size(6_000, 40)
        rate = count / town.all_at_once(count)
        return Measured(waits, rate, (_cpu(processes) - before) / count, town.seen()["repeats"])


class _Town:
    """What publishes, and looks at what arrived."""

    def __init__(self, client: httpx.Client, addresses: list[str], receiver: str) -> None:
        self._client = client
        self._addresses = addresses
        self._receiver = receiver
        self._sent = 0

    def seen(self) -> dict[str, Any]:
        return dict(self._client.get(f"{self._receiver}/seen").json())

    def await_connected(self) -> None:
        self._until("connected", lambda: self._connected() == TARGETS)

    def _connected(self) -> int:
        query = {"status": "connected", "limit": "100"}
        return len(self._client.get(f"{self._addresses[0]}/v1/integrations", params=query).json().get("data", ()))

    def one_by_one(self, count: int) -> list[float]:
        """At no particular moment of anybody's rounds."""
        begun: dict[str, float] = {}
        for _ in range(count):
            time.sleep(0.05)
            at = time.monotonic()
            begun |= dict.fromkeys(self._publish(1), at)
        self._until("all arrived", lambda: begun.keys() <= self.seen()["first"].keys())
        first = self.seen()["first"]
        return [first[text] - at for text, at in begun.items()]

    def all_at_once(self, count: int) -> float:
        started, wanted = time.monotonic(), set[str]()
        while len(wanted) < count:
            wanted |= set(self._publish(min(200, count - len(wanted))))
        self._until("all arrived", lambda: wanted <= self.seen()["first"].keys())
        first = self.seen()["first"]
        return float(max(first[text] for text in wanted) - started)

    def _publish(self, count: int) -> list[str]:
        texts = [f"note {self._sent + n}" for n in range(count)]
        events = [
            {"type": f"order.t{(self._sent + n) % TARGETS}", "data": {"text": text}} for n, text in enumerate(texts)
        ]
        address = self._addresses[self._sent % len(self._addresses)]
        self._sent += count
        answer = self._client.post(f"{address}/v1/events", json=events)
        if answer.status_code != 202:
            raise ChildError(f"an event was not taken: {answer.text}")
        return texts

    def _until(self, what: str, holds: Any) -> None:
        end = time.monotonic() + _PATIENCE
        while not holds():
            if time.monotonic() > end:
                raise ChildError(f"not within {_PATIENCE:.0f} s: {what}")
            time.sleep(0.2)


@contextmanager
def _receiver(bench: Bench) -> Iterator[str]:
    command = (sys.executable, str(Path(__file__).with_name("receiver.py")))
    with subprocess.Popen(command, env=bench.env(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def _installed(bench: Bench, url: str) -> None:
    """A repository of targets, and the connector where entry points are looked for."""
    package = bench.folder / "site" / "bench_messaging-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-messaging\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        "[reconciler.connectors]\nbench_messaging = benchmarks.messaging:Messaging\n"
    )
    repository = bench.folder / "repo"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "main")
    for number in range(TARGETS):
        (repository / f"target-{number}.yaml").write_text(yaml.safe_dump(_manifest(number, url)))
    commit(repository)
    settings = {
        "sources": [{"url": str(repository), "ref": "main"}],
        "listen": "127.0.0.1:0",
        "hosts": {"allow": ["127.0.0.0/8"]},
    }
    (bench.folder / "settings.yaml").write_text(yaml.safe_dump(settings))


def _manifest(number: int, url: str) -> dict[str, Any]:
    wanted = {"name": "orders", "event_type": f"order.t{number}", "action": "post", "template": "{{ record.text }}"}
    return {
        "apiVersion": "reconciler.dev/v1",
        "kind": "Integration",
        "metadata": {"name": f"target-{number}", "workspace": "default"},
        "spec": {
            "type": "bench_messaging",
            "config": {"url": url},
            "sync_direction": "outbound",
            "synchronizations": [wanted],
        },
    }


def _env(bench: Bench, shared: Mapping[str, str]) -> dict[str, str]:
    return bench.env(**shared) | {"PYTHONPATH": f"{ROOT}{os.pathsep}{bench.folder / 'site'}"}


@contextmanager
def _daemon(bench: Bench, name: str, shared: Mapping[str, str]) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    state, log = bench.folder / name, bench.folder / f"{name}.log"
    own = ("--config", str(bench.folder / "settings.yaml"), "--state-dir", str(state), "--log-level", "info")
    command = (sys.executable, "-m", "reconciler", "run", *own, "--log-format", "json")
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=_env(bench, shared), stdout=out, stderr=out, cwd=ROOT)
        try:
            yield process, _address(process, log)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            told = json.loads(line) if line.startswith("{") else {}
            if told.get("listening"):
                return f"http://{told['listening']}"
        time.sleep(0.05)
    raise ChildError(f"the daemon does not listen: {log.read_text()[-2000:]}")


def _bearer(bench: Bench, shared: Mapping[str, str]) -> dict[str, str]:
    words = ("token", "create", "benchmark", "--every-workspace", "--allow", "admin")
    place = () if shared else ("--state-dir", str(bench.folder / "daemon-0"))
    command = (sys.executable, "-m", "reconciler", *words, *place)
    done = subprocess.run(command, env=_env(bench, shared), check=True, capture_output=True, text=True, cwd=ROOT)
    token = next(word for word in done.stdout.split() if word.startswith("rct_") and len(word) > 40)
    return {"authorization": f"Bearer {token}"}


def _cpu(processes: list["subprocess.Popen[bytes]"]) -> float:
    return sum(_cpu_of(process.pid) for process in processes)


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
