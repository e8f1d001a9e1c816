"""Measuring: CPU seconds, wall seconds and peak memory of child processes and of calls in this one.

Children get a byte-code folder of their own, so that the first run pays for compiling and the others, like an installed
program, do not; nothing is written beside the sources.
"""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


class ChildError(Exception):
    """A measured command failed; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What one run took."""

    cpu: float
    wall: float
    rss_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What every group is handed: how much to do, and a folder that is removed afterwards."""

    folder: Path
    is_quick: bool = False
    bytecode: Path | None = None

    def inside(self, name: str) -> "Bench":
        """A folder of its own, the byte code shared."""
        inner = self.folder / name
        inner.mkdir()
        return replace(self, folder=inner, bytecode=self.bytecode or self.folder / "bytecode")

    def size(self, full: int, quick: int) -> int:
        return quick if self.is_quick else full

    @property
    def runs(self) -> int:
        return 1 if self.is_quick else 7

    def env(self, **more: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RECONCILER_"))}
        places = {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(self.bytecode or self.folder / "bytecode")}
        return own | places | {"XDG_CACHE_HOME": str(self.folder / "cache"), "XDG_STATE_HOME": str(self.folder)} | more

    def python(self, *words: str, allow: Sequence[int] = (0,), **env: str) -> Spent:
        """One run of this interpreter."""
        return child([sys.executable, *words], self.env(**env), self.folder, allow)


def child(command: Sequence[str], env: dict[str, str], folder: Path, allow: Sequence[int] = (0,)) -> Spent:
    """Run a command to its end. Raises ChildError for an exit code that is not in `allow`."""
    log = folder / "child.log"
    with log.open("wb") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = code = os.waitstatus_to_exitcode(status)
    if code not in allow:
        tail = log.read_text(errors="replace")[-2000:]
        raise ChildError(f"exit code {code} of {' '.join(command[1:6])}: {tail}")
    return Spent(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024)


def typical(runs: Sequence[Spent]) -> Spent:
    """The median of each figure."""
    return Spent(median(run.cpu for run in runs), median(run.wall for run in runs), median(run.rss_mb for run in runs))


def in_turn(count: int, *calls: Callable[[], Spent]) -> list[Spent]:
    """Each call `count` times, taking turns, so that a busy moment of the machine hits all of them; then medians."""
    rounds = [[call() for call in calls] for _ in range(count)]
    return [typical([one[index] for one in rounds]) for index in range(len(calls))]


def here(call: Callable[[], object]) -> Spent:
    """One call in this process. CPU counts all its threads."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


async def here_async(call: Callable[[], Awaitable[object]]) -> Spent:
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await call()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)
