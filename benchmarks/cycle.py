"""The resident cycle over 100, 1,000 and 10,000 manifests: from a new HEAD to the plan, nothing changed and one file changed.

Two figures each: the pure way (difference of trees, parse, validate, compare), and the whole way of the daemon, which also
decrypts, asks the store what is not as it was wanted and writes what changed there. The bare loop compares all hashes by
name: it grows with what exists, which the cycle shall not.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.installation import SOURCE, Installation, installed
from benchmarks.measure import Bench, Spent, here, here_async, typical
from benchmarks.rows import Row
from reconciler.desired.tree import GitSnapshot
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.plan import Plan
from reconciler.plan.compare import base_as_observed, compare
from reconciler.sdk import registry

SIZES = (100, 1_000, 10_000)
_LIMITS = {("nothing", 10_000): 1.0, ("one file", 10_000): 5.0}


def measure(bench: Bench) -> Iterator[Row]:
    yield from asyncio.run(_rows(bench))


async def _rows(bench: Bench) -> list[Row]:
    return [row async for row in _measure(bench)]


async def _measure(bench: Bench) -> AsyncIterator[Row]:
    for count in SIZES[: bench.size(len(SIZES), 1)]:
        folder = bench.folder / str(count)
        folder.mkdir()
        async for row in _of_size(bench, folder, count):
            yield row


async def _of_size(bench: Bench, folder: Path, count: int) -> AsyncIterator[Row]:
    async with installed(folder, count) as made:
        bare = _bare_loop(made, bench.runs * 3)
        pure = _pure(made, bench.runs * 3)
        whole = await _whole(made, bench.runs)
    for what, spent in pure.items():
        yield Row(
            name=f"cycle of {count:,}, {what} changed",
            figure=spent.wall * 1000,
            unit="ms",
            compared_with="bare compare of all hashes",
            compared=bare * 1000,
            limit=_LIMITS.get((what, count)),
            note=f"CPU {spent.cpu * 1000:.2f} ms",
        )
    for what, spent in whole.items():
        yield Row(
            name=f"cycle of {count:,}, {what} changed, with store and secrets",
            figure=spent.wall * 1000,
            unit="ms",
            compared_with="bare compare of all hashes",
            compared=bare * 1000,
            note=f"CPU {spent.cpu * 1000:.1f} ms",
        )


def _bare_loop(made: Installation, runs: int) -> float:
    before = {path: entry.blob_id for path, entry in made.base.files.items()}
    after = dict(before)
    return median(here(lambda: [p for p, h in after.items() if before.get(p) != h]).wall for _ in range(runs))


def _pure(made: Installation, runs: int) -> dict[str, Spent]:
    inputs = Inputs(source=SOURCE, registry=registry)
    one = made.snapshot(made.repository.one, made.base)
    found = {"nothing": _cycles(made, validate(one, inputs), made.repository.none, inputs, runs)}
    found["one file"] = _cycles(made, validate(made.base, inputs), made.repository.one, inputs, runs)
    return found


def _cycles(made: Installation, known: Validated, head: str, inputs: Inputs, runs: int) -> Spent:
    before, observed = made.snapshot(known.state.revision, made.base), base_as_observed(known.state)

    def cycle() -> Plan:
        snapshot = made.snapshot(head, before)
        checked = validate(snapshot, inputs, known)
        return compare(checked.state, observed, names=checked.touched)

    return typical([here(cycle) for _ in range(runs)])


async def _whole(made: Installation, runs: int) -> dict[str, Spent]:
    """`one` and `all` differ in one manifest, `one` and `none` in none: back and forth."""
    spent: dict[str, list[Spent]] = {"nothing": [], "one file": []}
    commits = made.repository
    at = made.base
    for _ in range(runs):
        for what, commit in (("one file", commits.one), ("nothing", commits.none), ("one file", commits.all)):
            spent[what].append(await here_async(partial(_take, made, commit, at)))
            at = made.snapshot(commit, at)
    return {what: typical(each) for what, each in spent.items()}


async def _take(made: Installation, commit: str, before: GitSnapshot) -> None:
    await made.take(made.snapshot(commit, before))
