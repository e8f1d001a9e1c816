"""`reconciler --help`, the imports of `plan`, and `plan` as a whole process, warm and cold.

Figures are CPU milliseconds of a child process: it has one thread, so on a quiet machine they are its wall time too.
Warm: the parse cache holds the base revision, the one changed file is parsed. Cold: the cache is empty.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.machine import MODELS
from benchmarks.manifests import Repository, make_repository
from benchmarks.measure import Bench, Spent, in_turn
from benchmarks.rows import Row

IMPORTS = "import reconciler.app.offline, reconciler.plan.render"
CHANGES = (2,)
_LIMITS = {1_000: (300.0, 600.0), 10_000: (350.0, 2500.0)}
_MOST_MB = 150.0


def measure(bench: Bench) -> Iterator[Row]:
    yield from _starts(bench)
    for count in (1_000, 10_000):
        yield from _plans(bench, count)


def _starts(bench: Bench) -> Iterator[Row]:
    calls = [("-c", "pass"), ("-m", "reconciler", "--help"), ("-c", MODELS), ("-c", IMPORTS)]
    runs = [partial(bench.python, *words) for words in calls]
    in_turn(1, *runs)  # compiles what is imported
    bare, helped, models, imports = in_turn(bench.runs * 2, *runs)
    yield Row(
        name="reconciler --help",
        figure=helped.cpu * 1000,
        unit="ms",
        compared_with="bare interpreter",
        compared=bare.cpu * 1000,
        limit=80,
    )
    yield Row(
        name="imports of plan",
        figure=imports.cpu * 1000,
        unit="ms",
        compared_with="interpreter, pydantic, 8 models",
        compared=models.cpu * 1000,
        limit=200,
    )


def _plans(bench: Bench, full: int) -> Iterator[Row]:
    count = bench.size(full, full // 100)
    repository = make_repository(bench.folder / f"plan-{full}", count)
    warm_cache, kept = bench.folder / f"warm-{full}", bench.folder / f"kept-{full}"
    _plan(bench, repository, repository.all, warm_cache, allow=(0,))
    shutil.copytree(warm_cache, kept)
    imports, warm, cold = in_turn(
        bench.runs,
        lambda: bench.python("-c", IMPORTS),
        lambda: _plan(bench, repository, repository.one, _restored(kept, warm_cache)),
        lambda: _plan(bench, repository, repository.one, _empty(bench.folder / "cold")),
    )
    for what, spent, limit in zip(("warm", "cold"), (warm, cold), _LIMITS[full], strict=True):
        yield Row(
            name=f"plan of {count:,}, one changed, {what}",
            figure=spent.cpu * 1000,
            unit="ms",
            compared_with="interpreter with its imports",
            compared=imports.cpu * 1000,
            limit=limit,
            note=f"wall {spent.wall * 1000:.0f} ms, peak {spent.rss_mb:.0f} MB",
        )
    yield Row(
        name=f"plan of {count:,}, peak memory, cold",
        figure=cold.rss_mb,
        unit="MB",
        compared_with="interpreter with its imports",
        compared=imports.rss_mb,
        limit=_MOST_MB,
        scales=False,
    )


def _plan(bench: Bench, repository: Repository, head: str, cache: Path, allow: tuple[int, ...] = CHANGES) -> Spent:
    words = ("--repo", str(repository.folder), "--base", repository.all, "--head", head)
    return bench.python("-m", "reconciler", "plan", *words, allow=allow, XDG_CACHE_HOME=str(cache))


def _restored(kept: Path, cache: Path) -> Path:
    shutil.rmtree(cache)
    shutil.copytree(kept, cache)
    return cache


def _empty(cache: Path) -> Path:
    shutil.rmtree(cache, ignore_errors=True)
    return cache
