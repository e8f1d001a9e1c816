"""A full sync of 100,000 records of 1 kB into the store, new and unchanged, beside a bare loop over the same remote.

The bare loop gets each page, slices it into records, hashes them and upserts (key, hash, payload) into SQLite, one
transaction a page: no versions, no change log, no checkpoint, no retries, no metrics. Ours is the whole run of a sync job.
"""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import httpx
import msgspec

from benchmarks.installation import installed
from benchmarks.measure import Bench, Spent, here_async, typical
from benchmarks.rows import Row
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.job import Claim, Job
from reconciler.model.manifest import Integration, Sync
from reconciler.model.record import LogLevel, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, bearer
from reconciler.sdk.contract import AuthClasses, Entity, NoAuth, Settings, SettingsClass
from reconciler.sdk.live import Live
from reconciler.sdk.paging import PageNumber
from reconciler.sdk.rest import RestConnector, RestEntity
from reconciler.sdk.testing.room import Bench as Room
from reconciler.store import integrations, runs
from reconciler.store.database import Database
from reconciler.store.runs import NewRun
from reconciler.sync.run import Syncer

_PAGE = 1000
_CLOCK = SystemClock()


class _Config(Settings):
    url: str


class _Remote(RestConnector[_Config, NoAuth]):
    type = "bench"
    title = "Benchmark"
    Config: ClassVar[SettingsClass] = _Config
    auth_types: ClassVar[AuthClasses] = (NoAuth,)
    entities: ClassVar[tuple[Entity, ...]] = (
        RestEntity(name="records", key="id", path="/records", records="records", pager=PageNumber(), page_size=_PAGE),
    )

    def base_url(self) -> str:
        return self.config.url

    def authenticator(self) -> Authenticator:
        return bearer(Secret("benchmark-token"))

    async def probe(self) -> Any:
        raise NotImplementedError("a sync does not probe")


class _Silent:
    """Implements `Journal`: what a run says is not what is measured."""

    def __call__(self, integration_id: int, level: LogLevel, message: str, /, **detail: Any) -> None:
        if level in {LogLevel.ERROR, LogLevel.WARN}:
            raise AssertionError(f"{message} {detail}")

    async def flush(self) -> None:
        return None


class _One:
    """Implements `Connections` with one integration."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def live(self, integration_id: int) -> Live:
        return self._live

    async def drop(self, integration_id: int) -> None:
        return None


class _Page(msgspec.Struct):
    records: list[msgspec.Raw]


class _Key(msgspec.Struct):
    id: str


_PAGES, _KEYS = msgspec.json.Decoder(_Page), msgspec.json.Decoder(_Key)


def measure(bench: Bench) -> Iterator[Row]:
    count = bench.size(100_000, 2_000)
    with _remote(bench, count) as url:
        found = asyncio.run(_both(bench, url, 2 if bench.is_quick else 3))
    for what, limit in (("new", 1.6), ("unchanged", 1.1)):
        ours, bare = found[what]
        yield Row(
            name=f"sync of {count:,} records, {what}",
            figure=ours.cpu,
            unit="s CPU",
            compared_with="bare GET, slice, hash, upsert",
            compared=bare.cpu,
            limit=limit,
            limit_on="ratio",
            note=f"{count / ours.wall:.0f} records a second",
        )


async def _both(bench: Bench, url: str, runs_: int) -> dict[str, tuple[Spent, Spent]]:
    ours: dict[str, list[Spent]] = {"new": [], "unchanged": []}
    bare: dict[str, list[Spent]] = {"new": [], "unchanged": []}
    for number in range(runs_):
        async with _ours(bench.folder / f"sync-{number}", url) as sync:
            with _store(bench.folder / f"bare-{number}.db") as store:
                for what in ("new", "unchanged"):
                    ours[what].append(await here_async(sync))
                    bare[what].append(await here_async(partial(_bare, url, store)))
    return {what: (typical(ours[what]), typical(bare[what])) for what in ours}


@contextmanager
def _remote(bench: Bench, count: int) -> Iterator[str]:
    program = Path(__file__).with_name("remote.py")
    command = (sys.executable, str(program), str(count), str(_PAGE))
    with subprocess.Popen(command, env=bench.env(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@asynccontextmanager
async def _ours(folder: Path, url: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with installed(folder, 1) as made, Room() as room:
        state = made.book.state
        assert state is not None
        (desired,) = state.integrations.values()
        (row,) = await made.database.read(integrations.every)
        connector = room.connector(_Remote, {"url": url}, {})
        live = Live(row.id, desired.ref, _all_of_it(desired.manifest), connector, "", "", {}, made.base.revision)
        syncer = Syncer(made.database, _One(live), _Silent(), _CLOCK, Random(1), lambda: None)
        yield lambda: _run(made.database, syncer, row.id)


def _all_of_it(manifest: Integration) -> Integration:
    """Every entity, every field as it comes."""
    spec = manifest.spec.model_copy(update={"sync": Sync()})
    return manifest.model_copy(update={"spec": spec})


async def _run(database: Database, syncer: Syncer, integration_id: int) -> None:
    at = rfc3339(_CLOCK.now())
    run = await database.write(lambda tx: runs.create(tx, NewRun(integration_id, Scope.FULL, "schedule"), at))
    key = str(integration_id)
    job = Job(run.id, "sync", "work", key, str(run.id), 1)
    outcome = await syncer.run(job, Claim(run.id, 1, "work", key, "benchmark", run.id))
    done = await database.read(lambda tx: runs.get(tx, run.id))
    assert outcome.again_at is None
    assert done is not None
    assert done.result == "success", done


@contextmanager
def _store(path: Path) -> Iterator[sqlite3.Connection]:
    store = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL"):
            store.execute(f"PRAGMA {pragma}")
        store.execute("CREATE TABLE record (key TEXT PRIMARY KEY, hash BLOB, payload BLOB)")
        yield store
    finally:
        store.close()


async def _bare(url: str, store: sqlite3.Connection) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        number = 1
        while records := _PAGES.decode((await client.get("/records", params={"page": number})).content).records:
            rows = [(_KEYS.decode(r).id, blake2b(r, digest_size=16).digest(), bytes(r)) for r in records]
            store.execute("BEGIN")
            store.executemany(_UPSERT, rows)
            store.execute("COMMIT")
            number += 1


_UPSERT = (
    "INSERT INTO record VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET hash = excluded.hash, payload = excluded.payload"
    " WHERE record.hash <> excluded.hash"
)
