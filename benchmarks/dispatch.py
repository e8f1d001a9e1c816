"""Jobs that do nothing, due all at once, run by one process on SQLite and by one, two and four on PostgreSQL.

In: rows as an intake writes them, 10,000 integrations due at the same minute. Out: how long until all have run, how long
a sync that a person asks for meanwhile takes to start, and how long one that is asked for in another process. On SQLite one
process works, by the lock of its state directory.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from random import uniform
from statistics import median
from threading import Thread
from typing import IO

from benchmarks.measure import ROOT, Bench
from benchmarks.rows import Row
from benchmarks.worker import location
from reconciler.model.clock import SystemClock
from reconciler.store import jobs
from reconciler.store.database import Database, Tx
from reconciler.store.job_store import StoredJobs
from reconciler.store.location import backend
from reconciler.store.migrations import migrate
from reconciler.work.elsewhere import Elsewhere
from tests.servers.postgres import PostgresServer

_CLOCK = SystemClock()
_ASKED = 15


@dataclass(frozen=True, slots=True)
class Drained:
    """How long it took, and how long each asked job waited for its start meanwhile; of one process only."""

    seconds: float
    waits: list[float]


def measure(bench: Bench) -> Iterator[Row]:
    count = bench.size(10_000, 200)
    folder = bench.folder / "state"
    folder.mkdir()
    alone = _drain(bench, str(folder), count, 1)
    yield from _rows("SQLite, 1 process", count, alone, alone, 90)
    with PostgresServer() as server:
        first: Drained | None = None
        for processes in (1, 2) if bench.is_quick else (1, 2, 4):
            drained = _drain(bench, server.create().reveal(), count, processes)
            first = first or drained
            yield from _rows(f"PostgreSQL, {processes} process{'es' * (processes > 1)}", count, drained, first, 90)
        for processes in (1, 2) if bench.is_quick else (1, 2, 4):
            yield _elsewhere(bench, server.create().reveal(), processes)


def _elsewhere(bench: Bench, place: str, processes: int) -> Row:
    """Nothing else is due, and who asks runs no jobs."""
    hearing, deaf = (_asked(bench, place, processes, *words) for words in ((), ("deaf",)))
    return Row(
        name=f"a sync asked for in another process, PostgreSQL, {processes} process{'es' * (processes > 1)}",
        figure=median(hearing),
        unit="s",
        compared_with="found by looking",
        compared=median(deaf),
        limit=0.3,
        note=f"median of {len(hearing)}; longest {max(hearing):.2f} s, by looking {max(deaf):.2f} s",
    )


def _asked(bench: Bench, place: str, processes: int, *words: str) -> list[float]:
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(bench, place, *words)) for _ in range(processes)]
        said: SimpleQueue[str] = SimpleQueue()
        for worker in workers:
            Thread(target=_pass_on, args=(_out(worker), said), daemon=True).start()
        return asyncio.run(_waits(place, said))


def _pass_on(lines: IO[str], said: "SimpleQueue[str]") -> None:
    for line in lines:
        said.put(line)


async def _waits(place: str, said: "SimpleQueue[str]") -> list[float]:
    database, waits = Database(backend(location(place))), []
    others = Elsewhere(StoredJobs(database))
    try:
        for number in range(_ASKED):
            await asyncio.sleep(uniform(0.5, 1.0))  # at no particular moment of their rounds
            asked, ref, at = time.monotonic(), f"elsewhere-{number}", _CLOCK.now()
            await database.write(lambda tx, ref=ref, at=at: jobs.put(tx, "sync", ref, ref, 1, at))  # type: ignore[misc]
            await others.ask("sync", ref)
            waits.append(float(await asyncio.to_thread(said.get)) - asked)
    finally:
        database.close()
    return waits


def _rows(where: str, count: int, drained: Drained, first: Drained, limit: float) -> Iterator[Row]:
    yield Row(
        name=f"{count:,} jobs due at once, {where}",
        figure=drained.seconds,
        unit="s",
        compared_with="one process",
        compared=first.seconds,
        limit=limit,
        note=f"{count / drained.seconds:.0f} jobs a second",
    )
    if not drained.waits:
        return
    yield Row(
        name=f"a sync asked for meanwhile, {where}",
        figure=median(drained.waits),
        unit="s",
        compared_with="one process",
        compared=median(first.waits),
        limit=0.3,
        note=f"median of {len(drained.waits)}; longest {max(drained.waits):.2f} s",
    )


def _drain(bench: Bench, place: str, count: int, processes: int) -> Drained:
    with ExitStack() as stack:
        first, *_ = [stack.enter_context(_worker(bench, place)) for _ in range(processes)]
        return asyncio.run(_measured(place, first, count, is_alone=processes == 1))


@contextmanager
def _worker(bench: Bench, place: str, *more: str) -> Iterator["subprocess.Popen[str]"]:
    words = (sys.executable, "-m", "benchmarks.worker", place, *more)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=bench.env(), text=True, stdin=pipe, stdout=pipe) as process:
        assert _out(process).readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _out(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdout is not None
    return process.stdout


async def _measured(place: str, worker: "subprocess.Popen[str]", count: int, *, is_alone: bool) -> Drained:
    database = Database(backend(location(place)))
    await migrate(database)
    try:
        started = time.monotonic()
        await database.write(lambda tx: _put(tx, count))
        waits = [await _ask(database, worker, count + n + 1) for n in range(_ASKED)] if is_alone else []
        while await database.read(lambda tx: tx.value("SELECT count(*) FROM job")):  # noqa: ASYNC110 other processes do it
            await asyncio.sleep(0.02)
        return Drained(time.monotonic() - started, waits)
    finally:
        database.close()


def _put(tx: Tx, count: int) -> None:
    now = _CLOCK.now()
    for number in range(1, count + 1):
        jobs.put(tx, kind="reconcile", ref=str(number), key=str(number), prio=50, due_at=now)


async def _ask(database: Database, worker: "subprocess.Popen[str]", number: int) -> float:
    """From the row to the first line of the job; what the command line and its order take comes on top."""
    asked = time.monotonic()
    ref, at = str(number), _CLOCK.now()
    await database.write(lambda tx: jobs.put(tx, kind="sync", ref=ref, key=ref, prio=1, due_at=at))
    assert worker.stdin is not None
    worker.stdin.write(f"{ref}\n")
    worker.stdin.flush()
    return float(await asyncio.to_thread(_out(worker).readline)) - asked
