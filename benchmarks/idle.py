"""A daemon with 1,000 connected integrations and nothing to do: share of a core and memory, over a while.

The daemon is a process of its own with its default settings; remotes are one simulator in this process. Probes go on (every
five minutes each), schedules are once a day. Beside it, an event loop that only wakes as often as the daemon's loops do.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.manifests import make_repository
from benchmarks.measure import Bench, ChildError
from benchmarks.rows import Row
from reconciler.store import integrations
from reconciler.store.errors import StoreError
from reconciler.store.location import open_readonly
from reconciler.store.migrations import check_version
from simulators.servicenow import ServiceNow

_PASSWORD = "bench-password"
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLE_SECONDS = 300.0
_BARE = """
import asyncio
async def tick(pause):
    while True:
        await asyncio.sleep(pause)
async def main():
    await asyncio.gather(*(tick(pause) for pause in (0.1, 0.1, 0.25, 1, 1, 1, 2)))
asyncio.run(main())
"""


def measure(bench: Bench) -> Iterator[Row]:
    count, seconds = bench.size(1_000, 3), 2.0 if bench.is_quick else 30.0
    with _bare(bench) as bare:
        bare_share, bare_mb = _watch(bare, seconds)
    with _connected(bench, count) as daemon:
        share, memory = _watch(daemon, seconds)
    yield Row(
        name=f"idle with {count:,} integrations",
        figure=share * 100,
        unit="% of a core",
        compared_with="an event loop with the same timers",
        compared=bare_share * 100,
        limit=4,
    )
    yield Row(
        name=f"idle with {count:,} integrations, memory",
        figure=memory,
        unit="MB",
        compared_with="an event loop with the same timers",
        compared=bare_mb,
        limit=150,
        scales=False,
    )


@contextmanager
def _bare(bench: Bench) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", _BARE], env=bench.env())
    try:
        time.sleep(0.5)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def _connected(bench: Bench, count: int) -> Iterator[int]:
    folder = bench.folder / "idle"
    folder.mkdir()
    remote = ServiceNow()
    remote.users["recon"] = _PASSWORD
    with remote:
        repository = make_repository(folder / "repo", count, url=remote.url)
        settings = {
            "state_dir": str(folder / "state"),
            "sources": [{"url": str(repository.folder), "ref": "main"}],
            "listen": "127.0.0.1:0",
            "hosts": {"allow": ["127.0.0.0/8"]},
            "tenants": [{"env_prefix": "BENCH_"}],
        }
        config = folder / "settings.yaml"
        config.write_text(yaml.safe_dump(settings))
        with _daemon(bench, config) as process:
            _await_quiet(process, folder / "state" / "reconciler.db", count)
            yield process.pid


@contextmanager
def _daemon(bench: Bench, config: Path) -> Iterator["subprocess.Popen[bytes]"]:
    command = (sys.executable, "-m", "reconciler", "run", "--config", str(config), "--log-level", "error")
    with (bench.folder / "daemon.log").open("wb") as log:
        process = subprocess.Popen(command, env=bench.env(BENCH_PASSWORD=_PASSWORD), stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _await_quiet(process: "subprocess.Popen[bytes]", store: Path, count: int) -> None:
    """All connected and synced once. Raises ChildError when that does not come about."""
    end = time.monotonic() + _SETTLE_SECONDS
    while (done := _synced(store)) < count:
        if process.poll() is not None or time.monotonic() > end:
            raise ChildError(f"{done} of {count} integrations are connected and synced; see the daemon's log")
        time.sleep(0.25)
    time.sleep(20)  # connections of the first syncs are closed 15 s after their last use


def _synced(store: Path) -> int:
    try:
        with open_readonly(store) as tx:
            check_version(tx, "the store")  # its tables may still be made
            return sum(1 for row in integrations.every(tx) if row.is_connected and row.last_sync_at)
    except StoreError:
        return 0


def _watch(pid: int, seconds: float) -> tuple[float, float]:
    """Share of a core over that time, and resident memory in MB at its end. Less than a tick of the kernel counts as one."""
    before, started = _cpu(pid), time.monotonic()
    time.sleep(seconds)
    return max(_cpu(pid) - before, 1 / _TICKS) / (time.monotonic() - started), _resident_mb(pid)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
