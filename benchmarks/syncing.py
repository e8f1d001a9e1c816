"""A full sync of 100,000 records of 1 kB into the store, new and unchanged, beside a bare loop over the same remote.

The bare loop gets each page, slices it into records, hashes them and upserts (key, hash, payload), one transaction a page:
no versions, no change log, no checkpoint, no retries, no metrics. Ours is the whole run of a sync job. On PostgreSQL the CPU
is that of the client; what the server takes shows in the records a second of the notes.
"""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import httpx
import msgspec
import psycopg

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
from reconciler.store.location import Location
from reconciler.store.runs import NewRun
from reconciler.sync.run import Syncer
from tests.servers.postgres import PostgresServer

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


class _OneByOne(_Remote):
    """The same without pages in flight."""

    entities: ClassVar[tuple[Entity, ...]] = (
        RestEntity(
            name="records",
            key="id",
            path="/records",
            records="records",
            pager=PageNumber(),
            page_size=_PAGE,
            in_flight=1,
        ),
    )


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
    count, times = bench.size(100_000, 2_000), 2 if bench.is_quick else 3
    with _remote(bench, count) as url, PostgresServer() as server:
        files = asyncio.run(_both(url, [_files(bench, number) for number in range(times)]))
        tables = asyncio.run(_both(url, [_tables(bench, number, server) for number in range(times)]))
    yield from _rows(files, count, "SQLite", "bare GET, slice, hash, upsert")
    yield from _rows(tables, count, "PostgreSQL", "bare GET, slice, hash, upsert of arrays")
    yield asyncio.run(_slow(bench, bench.size(60, 5)))


async def _slow(bench: Bench, pages: int) -> Row:
    """A remote that takes 50 ms for each page: four pages in flight, and one."""
    took: dict[type[_Remote], float] = {}
    with _remote(bench, pages * _PAGE, 0.05) as url:
        for kind in (_Remote, _OneByOne):
            folder = bench.folder / kind.__name__
            async with _ours(folder, folder / "reconciler.db", url, kind) as sync:
                await sync()
                took[kind] = (await here_async(sync)).wall
    return Row(
        name=f"sync of {pages} pages at 50 ms each, unchanged, 4 in flight",
        figure=took[_Remote],
        unit="s",
        compared_with="one page after another",
        compared=took[_OneByOne],
        limit=1 / 3,
        limit_on="ratio",
    )


def _rows(found: dict[str, tuple[Spent, Spent]], count: int, where: str, bare_loop: str) -> Iterator[Row]:
    for what, limit in (("new", 1.6), ("unchanged", 1.1)):
        ours, bare = found[what]
        yield Row(
            name=f"sync of {count:,} records, {what}, {where}",
            figure=ours.cpu,
            unit="s CPU",
            compared_with=bare_loop,
            compared=bare.cpu,
            limit=limit,
            limit_on="ratio",
            note=f"{count / ours.wall:.0f} records a second, the bare loop {count / bare.wall:.0f}",
        )


@dataclass(frozen=True, slots=True)
class _Round:
    """A new store for us and one for the bare loop."""

    folder: Path
    ours: Location
    bare: "AbstractContextManager[_Store]"


def _files(bench: Bench, number: int) -> _Round:
    folder = bench.folder / f"sqlite-{number}"
    return _Round(folder, folder / "reconciler.db", _file(bench.folder / f"bare-{number}.db"))


def _tables(bench: Bench, number: int, server: PostgresServer) -> _Round:
    return _Round(bench.folder / f"postgresql-{number}", server.create(), _table(server.create()))


async def _both(url: str, rounds: Sequence[_Round]) -> dict[str, tuple[Spent, Spent]]:
    ours: dict[str, list[Spent]] = {"new": [], "unchanged": []}
    bare: dict[str, list[Spent]] = {"new": [], "unchanged": []}
    for each in rounds:
        async with _ours(each.folder, each.ours, url) as sync:
            with each.bare as store:
                for what in ("new", "unchanged"):
                    ours[what].append(await here_async(sync))
                    bare[what].append(await here_async(partial(_bare, url, store)))
    return {what: (typical(ours[what]), typical(bare[what])) for what in ours}


@contextmanager
def _remote(bench: Bench, count: int, delay: float = 0.0) -> Iterator[str]:
    program = Path(__file__).with_name("remote.py")
    command = (sys.executable, str(program), str(count), str(_PAGE), str(delay))
    with subprocess.Popen(command, env=bench.env(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@asynccontextmanager
async def _ours(
    folder: Path, place: Location, url: str, kind: type[_Remote] = _Remote
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    async with installed(folder, 1, place) as made, Room() as room:
        state = made.book.state
        assert state is not None
        (desired,) = state.integrations.values()
        (row,) = await made.database.read(integrations.every)
        connector = room.connector(kind, {"url": url}, {})
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


_Store = Callable[[Sequence[tuple[str, bytes, bytes]]], object]
"""Takes one page of keys, hashes and payloads, in a transaction of its own."""


@contextmanager
def _file(path: Path) -> Iterator[_Store]:
    store = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL"):
            store.execute(f"PRAGMA {pragma}")
        store.execute("CREATE TABLE record (key TEXT PRIMARY KEY, hash BLOB, payload BLOB)")

        def upsert(rows: Sequence[tuple[str, bytes, bytes]]) -> None:
            store.execute("BEGIN")
            store.executemany(f"INSERT INTO record VALUES (?, ?, ?) {_UPSERT}", rows)
            store.execute("COMMIT")

        yield upsert
    finally:
        store.close()


@contextmanager
def _table(url: Secret) -> Iterator[_Store]:
    with psycopg.connect(url.reveal(), autocommit=True) as store:
        store.execute("CREATE TABLE record (key TEXT PRIMARY KEY, hash BYTEA, payload BYTEA)")
        arrays = f"INSERT INTO record SELECT * FROM unnest(%s::text[], %s::bytea[], %s::bytea[]) {_UPSERT}"
        yield lambda rows: store.execute(arrays, [list(column) for column in zip(*rows, strict=True)], binary=True)


async def _bare(url: str, upsert: _Store) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        number = 1
        while records := _PAGES.decode((await client.get("/records", params={"page": number})).content).records:
            upsert([(_KEYS.decode(r).id, blake2b(r, digest_size=16).digest(), bytes(r)) for r in records])
            number += 1


_UPSERT = "ON CONFLICT (key) DO UPDATE SET hash = excluded.hash, payload = excluded.payload WHERE record.hash <> excluded.hash"
