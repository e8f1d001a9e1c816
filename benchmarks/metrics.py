"""`/metrics` of 10,000 integrations beside a plain custom collector of the metrics library with 12 series each.

Measured as CPU of the whole process while one page is made; beside it, by how much the event loop was held at worst while
the board took up 100 changed integrations and the page was made.
"""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from benchmarks.installation import Installation, installed
from benchmarks.measure import Bench, Spent, here, here_async, typical
from benchmarks.rows import Row
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.serve.metrics import Metrics
from reconciler.serve.scrape import Scrape
from reconciler.serve.snapshot import Board
from reconciler.store import integrations, probes
from reconciler.store.database import Tx
from reconciler.store.probes import ProbeRecord

_SERIES = 12
_TICK = 0.001


def measure(bench: Bench) -> Iterator[Row]:
    yield from asyncio.run(_rows(bench))


async def _rows(bench: Bench) -> list[Row]:
    count = bench.size(10_000, 50)
    plain = _plain_collector(count, 2 if bench.is_quick else 3)
    async with installed(bench.folder, count) as made:
        board = Board(made.database, SystemClock())
        scrape = Scrape(board, Metrics())
        try:
            await board.reload()
            page, busy, held = await _scrapes(made, board, scrape, bench.runs)
            idle_lag = await _lag_of(asyncio.sleep(0.3))
        finally:
            scrape.close()
    names = (f"/metrics of {count:,} integrations", "plain collector, 12 series each")
    return [
        Row(
            name=names[0],
            figure=page.cpu * 1000,
            unit="ms CPU",
            compared_with=names[1],
            compared=plain.cpu * 1000,
            limit=60,
        ),
        Row(
            name=f"{names[0]}, after 100 changed",
            figure=busy.cpu * 1000,
            unit="ms CPU",
            compared_with=names[1],
            compared=plain.cpu * 1000,
        ),
        Row(
            name=f"{names[0]}, event loop held",
            figure=held * 1000,
            unit="ms",
            compared_with="longest while nothing is done",
            compared=idle_lag * 1000,
            limit=20,
        ),
    ]


async def _scrapes(made: Installation, board: Board, scrape: Scrape, runs: int) -> tuple[Spent, Spent, float]:
    pages, busy, held = [], [], []
    ids = [row.id for row in await made.database.read(integrations.every)][:100]
    for number in range(runs):
        pages.append(await here_async(lambda: scrape.page(accepts_gzip=False)))
        await made.database.write(partial(_probe, ids, number))

        async def again() -> None:
            await board.reload()
            await scrape.page(accepts_gzip=False)

        async def watched() -> None:
            held.append(await _lag_of(again()))

        busy.append(await here_async(watched))
    return typical(pages), typical(busy), median(held)


def _probe(ids: list[int], number: int, tx: Tx) -> None:
    at = rfc3339(SystemClock().now())
    for integration_id in ids:
        probes.record_probe(tx, integration_id, ProbeRecord(is_good=True, latency_ms=20.0 + number), at, at)


async def _lag_of(work: object) -> float:
    """By how much a timer of the loop was late at worst while `work` ran."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    worst = 0.0
    while not task.done():
        asked = time.perf_counter()
        await asyncio.sleep(_TICK)
        worst = max(worst, time.perf_counter() - asked - _TICK)
    await task
    return worst


class _Plain:
    """What one writes with the library: everything is made anew for each scrape."""

    def __init__(self, count: int) -> None:
        self._labels = [["it-ops", f"servicenow-{number:05d}"] for number in range(count)]

    def collect(self) -> Iterator[Metric]:
        for series in range(_SERIES):
            family = GaugeMetricFamily(f"plain_{series}", "A figure.", labels=["workspace", "name"])
            for number, labels in enumerate(self._labels):
                family.add_metric(labels, number)
            yield family


def _plain_collector(count: int, runs: int) -> Spent:
    registry = CollectorRegistry()
    registry.register(_Plain(count))
    return typical([here(lambda: generate_latest(registry)) for _ in range(runs)])
