"""Whole syncs beside those of dlt, singer-sdk and airbyte-cdk: the same pages of the same server, process start to end.

In: a server with 100,000 records of 1 kB. Out: CPU (all processes of a command), wall time and peak memory of a first sync,
of one that asks for what changed when nothing did, and of one that reads everything again. Each peer runs in an
environment of its own with the fast settings that its documentation names (`peers/`), and writes what its row says.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from benchmarks.environments import NotInstalledError, environment
from benchmarks.installation import installed
from benchmarks.measure import Bench, Spent, child, typical
from benchmarks.rows import Row
from benchmarks.synced import serving

PINS: Mapping[str, Sequence[str]] = {
    "dlt": ("dlt[duckdb,parquet,sqlalchemy]==1.31.0", "duckdb==2.0.0", "pyarrow==26.0.1"),
    "singer-sdk": ("singer-sdk[msgspec]==0.54.9",),
    "airbyte-cdk": ("airbyte-cdk==7.39.1",),
}
WHAT = {
    "first": "first sync of {:,} records",
    "changes": "changes of {:,}, none",
    "again": "all {:,} read again, unchanged",
}
_SOURCES = Path(__file__).with_name("peers")
_STREAM = {
    "stream": {
        "name": "records",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh", "incremental"],
        "source_defined_cursor": True,
        "default_cursor_field": ["updated_at"],
    },
    "sync_mode": "incremental",
    "destination_sync_mode": "append",
    "cursor_field": ["updated_at"],
}
_STARTER = """
import os, sys, time
started = time.perf_counter()
pid = os.fork()
if not pid:
    os.execvp(sys.argv[2], sys.argv[2:])
_, status, used = os.wait4(pid, 0)
wall = time.perf_counter() - started
with open(sys.argv[1], 'w') as figures:
    figures.write('{"cpu": %f, "wall": %f, "rss_mb": %f}' % (used.ru_utime + used.ru_stime, wall, used.ru_maxrss / 1024))
sys.exit(os.waitstatus_to_exitcode(status))
"""
Commands = Callable[[str, Path, str], Sequence[str]]
"""The command for a URL, a folder of this round's own, and one of WHAT."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`name` says version and what is written."""

    name: str
    command: Commands


def measure(bench: Bench) -> Iterator[Row]:
    count, times = bench.size(100_000, 2_000), 1 if bench.is_quick else 3
    peers = list(_installed())
    bench.python("-c", "import benchmarks.whole_run")
    with serving(bench, count) as url:
        rounds = [_round(bench, url, number, peers) for number in range(times)]
    for what, words in WHAT.items():
        ours, *theirs = [typical([one[name][what] for one in rounds]) for name in rounds[0]]
        for peer, spent in zip(peers, theirs, strict=True):
            yield from _rows(words.format(count), ours, peer.name, spent)


def _rows(name: str, ours: Spent, peer: str, theirs: Spent) -> Iterator[Row]:
    for figure, compared, unit in (
        (ours.cpu, theirs.cpu, "s CPU"),
        (ours.wall, theirs.wall, "s"),
        (ours.rss_mb, theirs.rss_mb, "MB"),
    ):
        yield Row(name=name, figure=figure, unit=unit, compared_with=peer, compared=compared, scales=unit != "MB")


def _round(bench: Bench, url: str, number: int, peers: Sequence[Peer]) -> dict[str, dict[str, Spent]]:
    """Everybody once, from nothing, taking turns."""
    inner = bench.inside(f"round-{number}")
    mine = inner.folder / "ours"
    asyncio.run(_prepare(mine))
    spent = {"ours": {what: _ours(inner, url, mine, what) for what in WHAT}}
    for place, peer in enumerate(peers):
        folder = inner.folder / f"peer-{place}"
        folder.mkdir()
        spent[peer.name] = {what: _alone(peer.command(url, folder, what), _env(folder), folder) for what in WHAT}
    return spent


async def _prepare(folder: Path) -> None:
    """A store with one connected integration, made through the product's own rooms."""
    async with installed(folder, 1):
        pass


def _ours(bench: Bench, url: str, folder: Path, what: str) -> Spent:
    scope = "incremental" if what == "changes" else "full"
    words = (sys.executable, "-m", "benchmarks.whole_run", url, str(folder), scope)
    return _alone(words, bench.env(), folder)


def _alone(command: Sequence[str], env: dict[str, str], folder: Path) -> Spent:
    """Started by a bare interpreter: a child's peak memory is never less than its parent's was, and ours is large."""
    figures = folder / "figures.json"
    child([sys.executable, "-ISc", _STARTER, str(figures), *command], env, folder)
    return Spent(**json.loads(figures.read_text()))


def _env(folder: Path) -> dict[str, str]:
    """Without our modules, and with byte code beside the sources, where pip has put it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RECONCILER_"))}
    return own | {"HOME": str(folder), "NO_COLOR": "1"}


def _installed() -> Iterator[Peer]:
    for name, make in (("dlt", _dlt), ("singer-sdk", _singer), ("airbyte-cdk", _airbyte)):
        packages = PINS[name]
        try:
            programs = environment(name, packages)
        except NotInstalledError as error:
            print(f"{name} is left out, it cannot be installed here: {error}", file=sys.stderr, flush=True)
            continue
        yield from make(f"{name} {packages[0].partition('==')[2]}", programs)


def _dlt(name: str, programs: Path) -> Iterator[Peer]:
    for database, written in (("sqlite", "SQLite"), ("duckdb", "DuckDB")):

        def command(url: str, folder: Path, what: str, database: str = database) -> Sequence[str]:
            step = "again" if what == "again" else "read"
            return [str(programs / "python"), str(_SOURCES / "dlt_pipeline.py"), url, str(folder), database, step]

        yield Peer(f"{name} to {written}", command)


def _singer(name: str, programs: Path) -> Iterator[Peer]:
    python = str(programs / "python")

    def tap(url: str, folder: Path, what: str) -> str:
        _put(folder / "tap.json", {"url": url})
        words = [python, str(_SOURCES / "singer_tap.py"), "--config", str(folder / "tap.json")]
        if what == "changes":
            words += ["--state", str(folder / "state.json")]
        return join(words)

    def lines(url: str, folder: Path, what: str) -> Sequence[str]:
        if what == "changes":
            _put(folder / "state.json", _last(folder / "lines.jsonl", "STATE")["value"])
        return _shell(f"{tap(url, folder, what)} > {join([str(folder / _lines(what))])}")

    def table(url: str, folder: Path, what: str) -> Sequence[str]:
        _put(folder / "target.json", {"path": str(folder / "records.db"), "validate_records": False})
        if what == "changes":
            _put(folder / "state.json", json.loads((folder / "said.jsonl").read_text().splitlines()[-1]))
        target = [python, str(_SOURCES / "singer_target.py"), "--config", str(folder / "target.json")]
        return _shell(f"{tap(url, folder, what)} | {join(target)} > {join([str(folder / 'said.jsonl')])}")

    yield Peer(f"{name} to JSONL", lines)
    yield Peer(f"{name} to SQLite", table)


def _airbyte(name: str, programs: Path) -> Iterator[Peer]:
    def lines(url: str, folder: Path, what: str) -> Sequence[str]:
        _put(folder / "config.json", {"url": url})
        _put(folder / "catalog.json", {"streams": [_STREAM]})
        words = [str(programs / "source-declarative-manifest"), "read", "--config", str(folder / "config.json")]
        words += ["--catalog", str(folder / "catalog.json"), "--manifest-path", str(_SOURCES / "airbyte_manifest.yaml")]
        if what == "changes":
            _put(folder / "state.json", [_last(folder / "lines.jsonl", "STATE")["state"]])
            words += ["--state", str(folder / "state.json")]
        return _shell(f"{join(words)} > {join([str(folder / _lines(what))])}")

    yield Peer(f"{name} to JSONL", lines)


def _lines(what: str) -> str:
    """What the first sync wrote is kept: its last state is where the others go on."""
    return "lines.jsonl" if what == "first" else f"{what}.jsonl"


def _shell(words: str) -> Sequence[str]:
    return ["bash", "-o", "pipefail", "-c", words]


def _put(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _last(path: Path, kind: str) -> dict[str, object]:
    """The last message of that type."""
    with path.open() as lines:
        found = [line for line in lines if line.startswith(f'{{"type":"{kind}"')]
    return dict(json.loads(found[-1]))
