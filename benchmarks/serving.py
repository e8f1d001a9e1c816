"""The list of 10,000 integrations over HTTP, 16 connections, beside servers that do nothing, in the same run and by turns.

Server and load generator are processes of their own. Requests a second are shown as the time that 1,000 take: the promise of
5,000 a second is 200 ms. CPU seconds of the server are said beside, which others on the machine change less.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.answering import LIST
from benchmarks.measure import ROOT, Bench, ChildError
from benchmarks.rows import Row

CONNECTIONS = 16
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that runs."""

    pid: int
    address: str
    token: str

    @property
    def cpu(self) -> float:
        used = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(used[11]) + int(used[12])) / _TICK

    @property
    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024

    def request(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.token}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Asked:
    """What one round came to; `cpu` is the server's for each request, seconds all."""

    each: float
    p50: float
    p99: float
    cpu: float
    own_cpu: float


def measure(bench: Bench) -> Iterator[Row]:
    count, seconds, rounds = bench.size(10_000, 50), bench.size(4, 1), min(bench.runs, 5)
    with ExitStack() as stack:
        mine = stack.enter_context(_started(bench, "ours", str(bench.folder), str(count)))
        size = str(_size(mine))
        asgi = stack.enter_context(_started(bench, "asgi", size))
        fastapi = stack.enter_context(_started(bench, "fastapi", size))
        calls = {
            "list": (mine, LIST),
            "page": (mine, f"{LIST}?limit=20&type=slack"),
            "one": (mine, f"{LIST}/team-07.integration-00007"),
            "asgi": (asgi, LIST),
            "fastapi": (fastapi, LIST),
        }
        taken: dict[str, list[Asked]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, (peer, path) in calls.items():
                taken[name].append(_asked(bench, peer, path, seconds))
        found = {name: _typical(each) for name, each in taken.items()}
        yield from _rows(f"{count:,}", found)
        yield Row(
            name=f"server with {count:,} integrations, memory",
            figure=mine.rss_mb,
            unit="MB",
            compared_with="uvicorn, trivial ASGI",
            compared=asgi.rss_mb,
            scales=False,
        )


def _rows(count: str, found: Mapping[str, Asked]) -> Iterator[Row]:
    names = {"list": f"list of {count}", "page": f"list of {count}, filtered", "one": f"one of {count}, everything"}
    bare = {"asgi": "uvicorn, trivial ASGI", "fastapi": "trivial FastAPI route"}
    for name, beside in (("list", "asgi"), ("list", "fastapi"), ("page", "asgi"), ("one", "fastapi")):
        own, other = found[name], found[beside]
        yield Row(
            name=f"{names[name]}, 1,000 requests",
            figure=own.each * 1e6,
            unit="ms",
            compared_with=bare[beside],
            compared=other.each * 1e6,
            limit=200 if name == "list" else None,
            note=_note(own, other),
        )
    own, other = found["list"], found["asgi"]
    for name, mine, theirs, limit in (("p50", own.p50, other.p50, None), ("p99", own.p99, other.p99, 10)):
        yield Row(
            name=f"list of {count}, {name} at {CONNECTIONS} connections",
            figure=mine * 1000,
            unit="ms",
            compared_with=bare["asgi"],
            compared=theirs * 1000,
            limit=limit,
        )


def _note(own: Asked, other: Asked) -> str:
    return (
        f"{1 / own.each:,.0f} requests/s, {own.cpu * 1e6:.0f} us of the server's CPU each; beside it {1 / other.each:,.0f}"
        f" and {other.cpu * 1e6:.0f} us; the load generator took {own.own_cpu * 1e6:.0f} and {other.own_cpu * 1e6:.0f} us"
    )


@contextmanager
def _started(bench: Bench, *words: str) -> Iterator[Peer]:
    line = [sys.executable, "-m", "benchmarks.answering", *words]
    with subprocess.Popen(line, env=bench.env(), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().split()
            if len(said) != 2:
                raise ChildError(f"{words[0]} did not start")
            yield Peer(process.pid, *said)
        finally:
            process.kill()


def _size(peer: Peer) -> int:
    """Bytes of a page."""
    import httpx

    header = {"authorization": f"Bearer {peer.token}"}
    return len(httpx.get(f"http://{peer.address}{LIST}", headers=header, trust_env=False, timeout=60).content)


def _asked(bench: Bench, peer: Peer, path: str, seconds: int) -> Asked:
    line = [sys.executable, "-m", "benchmarks.asking", peer.address, str(seconds), str(CONNECTIONS)]
    before = peer.cpu
    done = subprocess.run(
        line, input=peer.request(path), env=bench.env(), cwd=ROOT, capture_output=True, check=False, timeout=300
    )
    if done.returncode:
        raise ChildError(f"asking for {path}: {done.stderr.decode()[-2000:]}")
    said = json.loads(done.stdout)
    requests = said["requests"]
    used = max(peer.cpu - before, 1 / _TICK)
    return Asked(said["wall"] / requests, said["p50"], said["p99"], used / requests, said["own_cpu"] / requests)


def _typical(rounds: list[Asked]) -> Asked:
    """The median of each figure."""
    names = ("each", "p50", "p99", "cpu", "own_cpu")
    return Asked(*(median(getattr(one, name) for one in rounds) for name in names))
