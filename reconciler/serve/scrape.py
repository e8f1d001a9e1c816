"""`/metrics`: the board's lines, this process's counts and tallies joined into one page, in a thread of its own.

Joining 10,000 integrations takes tens of milliseconds; the event loop never waits for it. What speaks of the installation
as a whole (integrations, sources, queue) is told by the leader only, else every series would be there once per worker.
Not done: the OpenMetrics format, which costs many times as much and says nothing more.
"""

import asyncio
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reconciler.serve.exposition import INTEGRATION_FAMILIES, Family, Sample, seconds
from reconciler.serve.metrics import Metrics
from reconciler.serve.snapshot import Board, Snapshot
from reconciler.store.errors import StoreError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_GZIP = 16 + zlib.MAX_WBITS
_AT_ONCE = 1000  # joining holds the interpreter: for less than a millisecond each time

_P = "reconciler_"
_BOARD_AT = Family(f"{_P}board_timestamp_seconds", "gauge", "When the state shown here was read from the store.")
_LEADS = Family(
    f"{_P}leader", "gauge", "1 where this process leads: the one that tells of the installation as a whole."
)
_WORKERS = Family(f"{_P}workers", "gauge", "Processes that run jobs and were alive within the last ten seconds.")
_FINDINGS = Family(f"{_P}findings", "gauge", "Findings of the desired state in force, by severity.")
_SOURCE_READY = Family(
    f"{_P}source_ready", "gauge", "1 where the last fetch of the source succeeded; else 0 and the reason."
)
_SOURCE_INFO = Family(f"{_P}source_info", "gauge", "The revision of a source that is in force; always 1.")
_SOURCE_AT = Family(f"{_P}source_fetch_timestamp_seconds", "gauge", "When a source was last fetched successfully.")
_QUEUE_DEPTH = Family(f"{_P}queue_depth", "gauge", "Jobs by queue and state: due, queued or running.")
_QUEUE_DUE = Family(
    f"{_P}queue_oldest_due_timestamp_seconds", "gauge", "Since when the oldest job of a queue has been due."
)
_KEY_OPERATIONS = Family(
    f"{_P}api_key_operations_total",
    "counter",
    "Inbound keys made, replaced and revoked, by integration and operation; kept over restarts.",
)


@dataclass(frozen=True, slots=True)
class ScrapedPage:
    """In pieces: handing 20 MB to the socket at once would copy them while the loop waits."""

    pieces: Sequence[bytes]
    is_gzip: bool

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


class Scrape:
    """Made once by the daemon, ended with `close`."""

    def __init__(self, board: Board, metrics: Metrics, is_leader: Callable[[], bool] = lambda: True) -> None:
        self._board = board
        self._metrics = metrics
        self._is_leader = is_leader
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    async def page(self, *, accepts_gzip: bool) -> ScrapedPage:
        """While the store is out of order, what was read last; its age is a metric too."""
        try:
            snapshot = await self._board.current()
        except StoreError:
            snapshot = self._board.snapshot
        parts = self._parts(snapshot, is_leader=self._is_leader())
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._render, parts, accepts_gzip)

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _render(self, parts: Iterator[bytes], accepts_gzip: bool) -> ScrapedPage:
        pieces = [self._metrics.render(), *parts]
        if not accepts_gzip:
            return ScrapedPage(pieces, is_gzip=False)
        packer = zlib.compressobj(1, wbits=_GZIP)
        packed = [packer.compress(piece) for piece in pieces]
        return ScrapedPage([b"".join((*packed, packer.flush()))], is_gzip=True)

    def _parts(self, snapshot: Snapshot, *, is_leader: bool) -> Iterator[bytes]:
        yield _LEADS.head + _LEADS.lines("", [({}, int(is_leader))])
        yield self._metrics.tallies.render(snapshot.keys)
        if not is_leader:
            return
        yield _store_lines(snapshot)
        for index, family in enumerate(INTEGRATION_FAMILIES):
            yield family.head
            for start in range(0, len(snapshot.entries), _AT_ONCE):
                yield b"".join([entry.lines[index] for entry in snapshot.entries[start : start + _AT_ONCE]])


def _store_lines(snapshot: Snapshot) -> bytes:
    return b"".join(family.head + family.lines("", samples) for family, samples in _store_samples(snapshot))


def _store_samples(snapshot: Snapshot) -> Iterator[tuple[Family, list[Sample]]]:
    yield _BOARD_AT, [({}, snapshot.at.timestamp())]
    yield _FINDINGS, [({"severity": severity}, count) for severity, count in snapshot.findings.items()]
    sources = snapshot.sources
    yield _SOURCE_READY, [({"source": s.name, "reason": s.error_reason}, int(not s.error_reason)) for s in sources]
    yield _SOURCE_INFO, [({"source": s.name, "revision": s.revision}, 1) for s in sources]
    yield _SOURCE_AT, [({"source": s.name}, at) for s in sources if (at := seconds(s.fetched_at)) is not None]
    yield _WORKERS, [({}, snapshot.workers)]
    yield (
        _KEY_OPERATIONS,
        [({"workspace": w, "integration": name, "op": op}, n) for w, name, op, n in snapshot.key_operations],
    )
    yield _QUEUE_DEPTH, [({"queue": q.queue, "state": q.state}, q.count) for q in snapshot.queue]
    due = [(q.queue, at) for q in snapshot.queue if q.state == "due" and (at := seconds(q.oldest_due_at)) is not None]
    yield _QUEUE_DUE, [({"queue": queue}, at) for queue, at in due]
