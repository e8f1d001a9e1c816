"""What watched runs tell, live: one look at the store for all who stream in this process, five times a second.

In: rows that whoever works on a run has written, here or in another process. Out: sources of frames. While nobody streams
nothing is looked at. The newest events of each run are kept as long as somebody streams it, so that a page is read once however
many wait for it; who is further behind reads the store.
"""

import asyncio
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile

from reconciler.model.clock import Clock
from reconciler.serve.problem import ProblemError
from reconciler.serve.streaming import PING, error_frame, frame
from reconciler.store import progress
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError
from reconciler.store.progress import Standing, Told

LOOK_SECONDS = 0.2
AT_ONCE = 100
MOST_KEPT = 200
MOST_KEPT_BYTES = 1024 * 1024
_EVENT_ID = re.compile(r"(run_\w{1,40}):([0-9]{1,9})")
_GONE = error_frame(ProblemError(404, "run-gone", "the run, and what it told, is kept no longer"))


def read_event_id(text: str) -> tuple[str, int]:
    """The run and the number; raises ProblemError for what is no id of ours."""
    found = _EVENT_ID.fullmatch(text)
    if found is None:
        message = "Last-Event-ID is not of an event of a sync; leave it out to begin"
        raise ProblemError(400, "invalid-event-id", message)
    return found[1], int(found[2])


@dataclass(frozen=True, slots=True)
class _Piece:
    number: int
    is_last: bool
    frame: bytes


def _framed(public_id: str, told: Told) -> _Piece:
    return _Piece(told.number, told.is_last, frame(told.kind, told.body, f"{public_id}:{told.number}"))


@dataclass(slots=True, eq=False)
class _Tail:
    """The newest events of one run: all behind `first`, up to `last`. `changed` is set, and another one made, at each change."""

    run_id: int
    public_id: str
    first: int
    last: int
    streams: int = 0
    is_gone: bool = False
    is_done: bool = False
    kept: "deque[_Piece]" = field(default_factory=deque)
    size: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, events: Sequence[Told]) -> None:
        for told in events:
            piece = _framed(self.public_id, told)
            self.kept.append(piece)
            self.size += len(piece.frame)
            self.last = told.number
        while len(self.kept) > MOST_KEPT or (self.size > MOST_KEPT_BYTES and len(self.kept) > 1):
            dropped = self.kept.popleft()
            self.size -= len(dropped.frame)
            self.first = dropped.number

    def behind(self, number: int) -> list[_Piece] | None:
        """None where it does not reach back that far."""
        if number < self.first:
            return None
        return [*takewhile(lambda piece: piece.number > number, reversed(self.kept))][::-1]

    def tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class RunEvents:
    """`follow` gives the source of one stream."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._tails: dict[int, _Tail] = {}
        self._looking: asyncio.Task[None] | None = None

    def follow(self, run_id: int, public_id: str, after: int) -> "Following":
        return Following(self, run_id, public_id, after)

    async def stored(self, run_id: int, public_id: str, after: int) -> list[_Piece]:
        found = await self._database.read(lambda tx: progress.behind(tx, run_id, after, AT_ONCE))
        return [_framed(public_id, told) for told in found]

    def attach(self, run_id: int, public_id: str, after: int) -> _Tail:
        tail = self._tails.get(run_id)
        if tail is None:
            tail = self._tails[run_id] = _Tail(run_id, public_id, after, after)
        tail.streams += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="run events")
        return tail

    def detach(self, tail: _Tail) -> None:
        tail.streams -= 1
        if not tail.streams:
            self._tails.pop(tail.run_id, None)
        if not self._tails and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _look(self) -> None:
        """While the store does not answer, streams wait."""
        while True:
            asked = {tail.run_id: tail.last for tail in self._tails.values()}
            try:
                standing, found = await self._database.read(partial(_news, asked=asked))
            except StoreError:
                pass
            else:
                self._spread(asked, standing, found)
            await self._clock.sleep(LOOK_SECONDS)

    def _spread(
        self, asked: Mapping[int, int], standing: Mapping[int, Standing], found: Mapping[int, Sequence[Told]]
    ) -> None:
        for tail in [tail for tail in self._tails.values() if tail.run_id in asked]:
            now, news = standing.get(tail.run_id), found.get(tail.run_id, ())
            tail.is_gone = now is None
            # what a run that is over told may have been purged: nothing more comes
            tail.is_done = now is not None and now.is_done and not news
            tail.add([told for told in news if told.number > tail.last])
            if news or tail.is_gone or tail.is_done:
                tail.tell()


def _news(tx: Tx, asked: Mapping[int, int]) -> tuple[dict[int, Standing], dict[int, list[Told]]]:
    standing = progress.standing(tx, asked)
    behind = {run_id: last for run_id, last in asked.items() if run_id in standing and standing[run_id].told != last}
    return standing, {run_id: progress.behind(tx, run_id, last, AT_ONCE) for run_id, last in behind.items()}


class Following:
    """The events of one run behind a number, until the last one."""

    ping = PING

    def __init__(self, events: RunEvents, run_id: int, public_id: str, after: int) -> None:
        self._events = events
        self._run = run_id, public_id
        self._after = after
        self._tail: _Tail | None = None
        self.is_over = False

    async def more(self, within: float) -> Sequence[bytes]:
        found = self._tail.behind(self._after) if self._tail else None
        if found is None:
            found = await self._events.stored(*self._run, self._after)
        if not found:
            found = await self._wait(within)
        if found:
            self._after, self.is_over = found[-1].number, found[-1].is_last
        return [piece.frame for piece in found] or self._end()

    async def _wait(self, within: float) -> list[_Piece]:
        if self._tail is None:
            self._tail = self._events.attach(*self._run, self._after)
        changed = self._tail.changed
        if not (found := self._tail.behind(self._after) or []):
            try:
                async with asyncio.timeout(within):
                    await changed.wait()
            except TimeoutError:
                return []
            found = self._tail.behind(self._after) or []
        return found

    def _end(self) -> Sequence[bytes]:
        tail = self._tail
        self.is_over = tail is not None and (tail.is_gone or tail.is_done)
        return [_GONE] if tail is not None and tail.is_gone else ()

    def close(self) -> None:
        tail, self._tail = self._tail, None
        if tail is not None:
            self._events.detach(tail)
