"""A full sync of 100,000 records of 1 kB into the store, new and unchanged, beside a bare loop over the same remote.

The bare loop gets each page, slices it into records, hashes them and upserts (key, hash, payload), one transaction a page:
no versions, no change log, no checkpoint, no retries, no metrics. Ours is the whole run of a sync job. On PostgreSQL the CPU
is that of the client; what the server takes shows in the records a second of the notes. Then what runs take when nothing is
new, when the remote is slow, and in memory.
"""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from statistics import median

import httpx
import msgspec
import psycopg

from benchmarks.measure import Bench, Spent, here_async, typical
from benchmarks.rows import Row
from benchmarks.synced import Changing, OneByOne, Remote, serving, syncing
from reconciler.model.record import Scope
from reconciler.model.secret import Secret
from reconciler.store.location import Location
from tests.servers.postgres import PostgresServer


class _Page(msgspec.Struct):
    records: list[msgspec.Raw]


class _Key(msgspec.Struct):
    id: str


_PAGES, _KEYS = msgspec.json.Decoder(_Page), msgspec.json.Decoder(_Key)


def measure(bench: Bench) -> Iterator[Row]:
    count, times = bench.size(100_000, 2_000), 2 if bench.is_quick else 3
    yield from _filled(bench, bench.size(1_000_000, 4_000), count)
    with serving(bench, count) as url, PostgresServer() as server:
        files = asyncio.run(_both(url, [_files(bench, number) for number in range(times)]))
        tables = asyncio.run(_both(url, [_tables(bench, number, server) for number in range(times)]))
        nothing: dict[str, Location] = {"SQLite": bench.folder / "nothing.db", "PostgreSQL": server.create()}
        idle = [asyncio.run(_nothing_new(bench, url, where, place)) for where, place in nothing.items()]
    yield from _rows(files, count, "SQLite", "bare GET, slice, hash, upsert")
    yield from _rows(tables, count, "PostgreSQL", "bare GET, slice, hash, upsert of arrays")
    yield from idle
    yield asyncio.run(_slow(bench, bench.size(60, 5)))


def _filled(bench: Bench, count: int, fewer: int) -> Iterator[Row]:
    """The memory of a process that syncs `count` records, and of one that syncs `fewer`."""
    (small, most_of_small), (before, most) = (_memory(bench, number) for number in (fewer, count))
    name = f"sync of {count:,} records, new and unchanged, SQLite"
    yield Row(
        name=f"{name}, memory",
        figure=most - before,
        unit="MB",
        compared_with=f"sync of {fewer:,}",
        compared=most_of_small - small,
        limit=100,
        scales=False,
        note="peak, less what the process held before",
    )
    yield Row(
        name=f"{name}, peak memory of the process",
        figure=most,
        unit="MB",
        compared_with="the process before",
        compared=before,
        scales=False,
    )


def _memory(bench: Bench, count: int) -> tuple[float, float]:
    folder = bench.folder / f"filled-{count}"
    with serving(bench, count) as url:
        command = (sys.executable, "-m", "benchmarks.filling", url, str(folder))
        said = subprocess.run(command, env=bench.env(), check=True, stdout=subprocess.PIPE, text=True).stdout
    shutil.rmtree(folder)
    before, most = (int(number) / 1024 for number in said.split())
    return before, most


async def _nothing_new(bench: Bench, url: str, where: str, place: Location) -> Row:
    """An incremental run that is answered with an empty page, beside the request that it makes."""
    ours, request = [], []
    folder, asked = bench.folder / f"nothing-{where}", "/records?page=1&per_page=1000&since=2026-01-01T00:00:00Z"
    async with (
        syncing(folder, place, url, Changing) as sync,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        await sync()
        for _ in range(bench.size(200, 5)):
            ours.append(await _took(partial(sync, Scope.INCREMENTAL)))
            request.append(await _took(partial(client.get, asked)))
    return Row(
        name=f"incremental sync with nothing new, {where}, less the request",
        figure=median(ours) - median(request),
        unit="ms",
        compared_with="the request",
        compared=median(request),
        limit=5,
    )


async def _took(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - started)


async def _slow(bench: Bench, pages: int) -> Row:
    """A remote that takes 50 ms for each page: four pages in flight, and one."""
    took: dict[type[Remote], float] = {}
    with serving(bench, pages * 1000, 0.05) as url:
        for kind in (Remote, OneByOne):
            folder = bench.folder / kind.__name__
            async with syncing(folder, folder / "reconciler.db", url, kind) as sync:
                await sync()
                took[kind] = (await here_async(sync)).wall
    return Row(
        name=f"sync of {pages} pages at 50 ms each, unchanged, 4 in flight",
        figure=took[Remote],
        unit="s",
        compared_with="one page after another",
        compared=took[OneByOne],
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
        async with syncing(each.folder, each.ours, url) as sync:
            with each.bare as store:
                for what in ("new", "unchanged"):
                    ours[what].append(await here_async(sync))
                    bare[what].append(await here_async(partial(_bare, url, store)))
    return {what: (typical(ours[what]), typical(bare[what])) for what in ours}


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
