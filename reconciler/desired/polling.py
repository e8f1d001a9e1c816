"""When to look at a source: by interval, sooner when something says so, later when it is down.

In: a source, a clock, a random generator, optionally an event that a push webhook or an operator sets. Out: a stream of
new snapshots and of changes in what is wrong. Called by the control room, one task per source. One failure is told
once: the stream says when it begins, changes its kind and ends, not each time it is met again.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from random import Random

from reconciler.desired.snapshot import Snapshot
from reconciler.desired.source import Source, SourceState
from reconciler.desired.source_error import Fault, SourceError
from reconciler.model.clock import Clock

_JITTER = 0.1
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 300.0


async def poll(
    source: Source, clock: Clock, random: Random, trigger: asyncio.Event | None = None
) -> AsyncGenerator[Snapshot | SourceState, None]:
    """Endless. First what an earlier process held good, then whatever is new; `trigger` is cleared when it is obeyed.

    Close it (`contextlib.aclosing`) to end the watch.
    """
    woken = trigger or asyncio.Event()
    watching = asyncio.create_task(_pump(source, woken))
    await asyncio.sleep(0)  # lets the watch begin before the first look, so that no change falls between them
    teller = _Teller()
    failures = 0
    try:
        for restored in teller.snapshot(await source.restore()):
            yield restored
        while True:
            woken.clear()
            try:
                snapshot: Snapshot | None = await source.fetch()
                failures = 0
            except SourceError:
                snapshot, failures = None, failures + 1
            for fetched in teller.snapshot(snapshot):
                yield fetched
            for state in teller.state(source.state):
                yield state
            await _wait(clock, _pause(source, random, failures), woken)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


class _Teller:
    """Remembers what was told, to tell only what is new."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._fault: tuple[Fault | None, Fault | None] = (None, None)

    def snapshot(self, found: Snapshot | None) -> Iterator[Snapshot]:
        if found is not None and found is not self._snapshot:
            self._snapshot = found
            yield found

    def state(self, found: SourceState) -> Iterator[SourceState]:
        fault = (
            found.error.fault if found.error else None,
            found.history_failure.fault if found.history_failure else None,
        )
        if fault != self._fault:
            self._fault = fault
            yield found


async def _pump(source: Source, woken: asyncio.Event) -> None:
    # A watch that fails (too many watches, a file system without events) leaves the interval.
    with contextlib.suppress(OSError, SourceError):
        async for _ in source.watch():
            woken.set()


def _pause(source: Source, random: Random, failures: int) -> float:
    if failures:
        ceiling = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
        return max(_FIRST_BACKOFF_SECONDS, random.uniform(0, ceiling))
    return source.settings.interval.total_seconds() * random.uniform(1 - _JITTER, 1 + _JITTER)


async def _wait(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    waits = {asyncio.ensure_future(clock.sleep(seconds)), asyncio.ensure_future(woken.wait())}
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
