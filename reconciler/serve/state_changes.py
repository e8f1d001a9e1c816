"""State changes for dashboards: the board compared with what it was, once for all who listen.

In: the board, and runs as they begin and end. Out: sources of frames, of what each caller may see and asked for. While nobody
listens nothing is compared. Each listener has a bounded queue: one who is too slow, or comes back too late, is told `resync` and
goes on from now. Events are numbered within an `epoch`, which is new with each process and each time anew that somebody begins
to listen.
"""

import asyncio
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from secrets import token_hex

from reconciler.model.access import Caller
from reconciler.serve.forms import named, run_form, to_json
from reconciler.serve.snapshot import Board, Entry
from reconciler.serve.streaming import PING, frame
from reconciler.store import turns
from reconciler.store.database import Database
from reconciler.store.errors import StoreError
from reconciler.store.runs import Run

RESYNC_WHY = "too slow, or away too long: what happened meanwhile is not told; read the list again"
SNAPSHOT_SIZE = 100
_EVENT_ID = re.compile(r"([0-9a-f]{8}):([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Measures:
    """`every` seconds the board is compared, for `linger` more after the last listener has gone, who may come back."""

    every: float = 1.0
    linger: float = 30.0
    queue: int = 256
    ring: int = 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """Whose events: of what the caller sees, those of a workspace and a type, where they are named."""

    caller: Caller
    workspace: str | None = None
    type: str | None = None

    def fits(self, workspace: str, type_: str) -> bool:
        return (
            self.caller.sees(workspace)
            and (self.workspace is None or self.workspace == workspace)
            and (self.type is None or self.type == type_)
        )


@dataclass(frozen=True, slots=True)
class _Change:
    number: int
    workspace: str
    type: str
    frame: bytes


class Changes:
    """`join` gives the source of one stream."""

    def __init__(self, database: Database, board: Board, measures: Measures | None = None) -> None:
        self._database = database
        self._board = board
        self.measures = measures or Measures()
        self.epoch = ""
        self.number = 0
        self.entries: Mapping[int, Entry] = {}
        self._seen = turns.Seen()
        self._ring: deque[_Change] = deque(maxlen=self.measures.ring)
        self._listeners: set[Listener] = set()
        self._beginning = asyncio.Lock()
        self._comparing: asyncio.Task[None] | None = None
        self._left_at = 0.0

    async def join(self, wish: Wish, last_event_id: str | None, *, wants_snapshot: bool) -> "Listener":
        """Raises StoreError."""
        async with self._beginning:
            if self._comparing is None or self._comparing.done():
                await self._begin()
            listener = Listener(self, wish)
            self._listeners.add(listener)
        missed = self._missed(last_event_id) if last_event_id is not None else None
        if missed is not None:
            listener.catch_up(missed)
        elif wants_snapshot:
            listener.begin_with([entry for entry in self.entries.values() if wish.fits(entry.workspace, entry.type)])
        elif last_event_id is not None:
            listener.fall_behind()
        return listener

    def leave(self, listener: "Listener") -> None:
        self._listeners.discard(listener)
        self._left_at = self._now()

    def end(self) -> None:
        if self._comparing is not None:
            self._comparing.cancel()

    def event_id(self, number: int) -> str:
        return f"{self.epoch}:{number}"

    def _missed(self, last_event_id: str) -> list[_Change] | None:
        """None where that is not known any more."""
        found = _EVENT_ID.fullmatch(last_event_id)
        if found is None or found[1] != self.epoch:
            return None
        number = int(found[2])
        oldest = self._ring[0].number if self._ring else self.number + 1
        if not oldest - 1 <= number <= self.number:
            return None
        return [change for change in self._ring if change.number > number]

    async def _begin(self) -> None:
        snapshot = await self._board.current()
        self._seen = await self._database.read(turns.look)
        self.entries = {entry.id: entry for entry in snapshot.entries}
        self.epoch, self.number = token_hex(4), 0
        self._ring.clear()
        self._left_at = self._now()
        self._comparing = asyncio.create_task(self._compare(), name="state changes")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _compare(self) -> None:
        while self._listeners or self._now() < self._left_at + self.measures.linger:
            await asyncio.sleep(self.measures.every)
            try:
                await self._look()
            except StoreError:
                continue  # told by health; what changed meanwhile is found by the next look
        self.entries, self._seen = {}, turns.Seen()
        self._ring.clear()

    async def _look(self) -> None:
        snapshot = await self._board.current()
        seen = self._seen
        self._seen, turned = await self._database.read(lambda tx: turns.turned(tx, seen))
        before, self.entries = self.entries, {entry.id: entry for entry in snapshot.entries}
        for entry, kind, body in _differences(before, self.entries):
            self._put(entry, kind, body)
        for run in turned:
            of = self.entries.get(run.integration_id) or before.get(run.integration_id)
            if of is not None:
                self._put(of, "sync", to_json(_sync(of, run)))

    def _put(self, entry: Entry, kind: str, body: bytes) -> None:
        self.number += 1
        made = _Change(self.number, entry.workspace, entry.type, frame(kind, body, self.event_id(self.number)))
        self._ring.append(made)
        for listener in self._listeners:
            listener.hear(made)


def _differences(before: Mapping[int, Entry], now: Mapping[int, Entry]) -> Iterator[tuple[Entry, str, bytes]]:
    for i, entry in now.items():
        old = before.get(i)
        if old is entry:
            continue
        if old is None or old.json != entry.json:
            yield entry, "integration", entry.json
        if (old.deliveries if old else {}) != entry.deliveries:
            yield entry, "delivery", to_json({"integration": named(entry), "deliveries": entry.deliveries})
    for i, old in before.items():
        if i not in now:
            yield old, "removed", to_json(named(old))


def _sync(entry: Entry, run: Run) -> dict[str, object]:
    return {**run_form(run), "integration": named(entry)}


@dataclass(eq=False, slots=True)
class Listener:
    """One client's queue. A change is kept in it by reference, and no more than `Measures.queue` of them."""

    changes: Changes
    wish: Wish
    is_over: bool = False
    _queue: "deque[bytes]" = field(default_factory=deque)
    _snapshot: Iterator[bytes] = field(default_factory=lambda: iter(()))
    _is_late: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ping(self) -> bytes:
        """With where it stands: what it does not see moves on, too."""
        if self._queue or self._is_late:
            return PING
        return b": ping\r\nid: %b\r\n\r\n" % self.changes.event_id(self.changes.number).encode()

    def hear(self, change: _Change) -> None:
        if self._is_late or not self.wish.fits(change.workspace, change.type):
            return
        if len(self._queue) >= self.changes.measures.queue:
            self.fall_behind()
        else:
            self._queue.append(change.frame)
        self._news.set()

    def catch_up(self, missed: Iterable[_Change]) -> None:
        """As many as the ring has, which is bounded, too."""
        self._queue.extend(change.frame for change in missed if self.wish.fits(change.workspace, change.type))

    def fall_behind(self) -> None:
        self._queue.clear()
        self._is_late = True

    def begin_with(self, entries: Sequence[Entry]) -> None:
        self._snapshot = _snapshot(entries, self.changes.event_id(self.changes.number))

    async def more(self, within: float) -> Sequence[bytes]:
        first = next(self._snapshot, None)
        if first is not None:
            return [first]
        if not self._queue and not self._is_late:
            self._news.clear()
            try:
                async with asyncio.timeout(within):
                    await self._news.wait()
            except TimeoutError:
                return ()
        return self._taken()

    def _taken(self) -> Sequence[bytes]:
        if self._is_late:
            self._is_late = False
            body = to_json({"detail": RESYNC_WHY})
            return [frame("resync", body, self.changes.event_id(self.changes.number))]
        taken = [*self._queue]
        self._queue.clear()
        return taken

    def close(self) -> None:
        self.changes.leave(self)


def _snapshot(entries: Sequence[Entry], event_id: str) -> Iterator[bytes]:
    """Cut in the middle it has to be asked for again: only its end bears an id."""
    rest = iter(entries)
    part = [*islice(rest, SNAPSHOT_SIZE)]
    while True:
        following = [*islice(rest, SNAPSHOT_SIZE)]
        listed = b",".join(entry.json for entry in part)
        body = b'{"integrations":[%b],"has_more":%b}' % (listed, b"true" if following else b"false")
        yield frame("snapshot", body, None if following else event_id)
        if not following:
            return
        part = following
