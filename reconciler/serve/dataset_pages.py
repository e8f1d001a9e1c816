"""Pages of records and of differences: stretch by stretch, each in a transaction of its own, and never for long.

In: a moment and where to go on. Out: rows and the place after them. A moment is a number of the integration's log, which the
cursor takes along: pages that follow each other show the same state while syncs go on. Called by `routes.dataset`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

import msgspec

from reconciler.model.clock import Clock, rfc3339
from reconciler.serve.paging import Listed, decode
from reconciler.serve.problem import ProblemError
from reconciler.store import history
from reconciler.store.database import Database, Tx
from reconciler.store.dataset import SHIFT
from reconciler.store.history import Cut, Difference, EntityOf, Entry, NotKeptError

T = TypeVar("T")
STRETCH = 100
MOST_LOOKED_AT = 5000
MOST_TIME = timedelta(seconds=2)
MOST_BYTES = 4 * 1024 * 1024


class Place(msgspec.Struct, array_like=True, frozen=True):
    """After which record to go on; `last` and `version` are the moment that the first page was of."""

    last: int
    version: int | None
    entity: str
    key: str


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A row of a page: of which entity, and how many bytes it takes."""

    entity: str
    key: str
    row: T
    size: int


Stretch = Callable[[EntityOf, str], Awaitable[tuple[Sequence[Found[T]], str | None]]]
"""The next rows of an entity behind a key, and behind which to go on: None where that was all."""


class Dataset:
    """What was synced of one integration. Every call raises ProblemError where something is not there or not kept."""

    def __init__(self, database: Database, clock: Clock, integration_id: int) -> None:
        self._database = database
        self._clock = clock
        self._id = integration_id

    async def read(self, query: Callable[[Tx], T]) -> T:
        try:
            return await self._database.read(query)
        except NotKeptError as error:
            raise ProblemError(404, "not-kept", str(error)) from None

    async def cut(self, version: int | None) -> Cut:
        """`version` 0 is before the first record; None is now."""
        if version is None:
            at = rfc3339(self._clock.now())
            return await self.read(lambda tx: history.at_present(tx, self._id, at))
        if version == 0:
            return Cut(self._id, self._id << SHIFT, 0, "")
        return await self.read(lambda tx: history.at_version(tx, self._id, version))

    def place(self, cursor: str) -> Place:
        place = decode(cursor, Place)
        if place.last >> SHIFT != self._id:
            raise ProblemError(400, "invalid-cursor", "cursor is of another list; pass next_cursor of the page before")
        return place

    def moment(self, place: Place) -> Cut:
        return Cut(self._id, place.last, place.version, "")

    async def entities(self, name: str | None) -> Sequence[EntityOf]:
        """By name; all, or the one. Before the first sync there is none, which is no mistake of whoever asks."""
        known = await self.read(lambda tx: history.entities(tx, self._id))
        found = [entity for entity in known if name in (None, entity.name)]
        if known and not found:
            message = f"entity: there is none of that name; there are: {', '.join(one.name for one in known)}"
            raise ProblemError(400, "invalid-parameter", message)
        return found

    def records(self, cut: Cut, wanted: str) -> Stretch[Entry]:
        """Those whose JSON holds the text."""
        search = _Search(wanted)

        async def stretch(entity: EntityOf, behind: str) -> tuple[Sequence[Found[Entry]], str | None]:
            found, upto = await self.read(lambda tx: history.records(tx, cut, entity.id, behind, STRETCH))
            return [Found(entity.name, e.key, e, len(e.payload)) for e in found if search.fits(e.payload)], upto

        return stretch

    def differences(self, before: Cut, after: Cut) -> Stretch[Difference]:
        async def stretch(entity: EntityOf, behind: str) -> tuple[Sequence[Found[Difference]], str | None]:
            found, upto = await self.read(lambda tx: history.differences(tx, before, after, entity.id, behind, STRETCH))
            return [Found(entity.name, d.key, d, len(d.before or b"") + len(d.after or b"")) for d in found], upto

        return stretch

    async def page(
        self, entities: Sequence[EntityOf], stretch: Stretch[T], start: Place, limit: int
    ) -> Listed[Found[T]]:
        """At most `limit` rows behind `start`; fewer where looking takes too long, or they are too large together."""
        budget = _Budget(self._clock, limit)
        rows: list[Found[T]] = []
        for entity in entities:
            behind: str | None = start.key if entity.name == start.entity else ""
            while behind is not None and entity.name >= start.entity:
                found, upto = await stretch(entity, behind)
                for one in found:
                    if budget.is_full(rows):
                        return Listed(rows, _behind(start, rows[-1].entity, rows[-1].key))
                    rows.append(one)
                behind = upto
                if behind is not None and budget.is_spent():
                    return Listed(rows, _behind(start, entity.name, behind))
        return Listed(rows)


class _Budget:
    """What one request may cost."""

    def __init__(self, clock: Clock, limit: int) -> None:
        self._clock = clock
        self._limit = limit
        self._ends_at = clock.monotonic() + MOST_TIME.total_seconds()
        self._stretches = 0

    def is_full(self, rows: Sequence[Found[Any]]) -> bool:
        return len(rows) >= self._limit or sum(one.size for one in rows) >= MOST_BYTES

    def is_spent(self) -> bool:
        """Asked after each stretch."""
        self._stretches += 1
        return self._stretches * STRETCH >= MOST_LOOKED_AT or self._clock.monotonic() >= self._ends_at


class _Search:
    """A text as it is typed, or as JSON spells it; in what a remote wrote with escapes, also behind those."""

    def __init__(self, text: str) -> None:
        folded = text.casefold()
        spelled = msgspec.json.encode(folded).decode()[1:-1]
        self._texts = tuple(dict.fromkeys((folded, spelled))) if folded else ()

    def fits(self, payload: bytes) -> bool:
        return not self._texts or self._is_in(payload) or (b"\\u" in payload and self._is_in(_plain(payload)))

    def _is_in(self, payload: bytes) -> bool:
        folded = payload.decode("utf-8", "replace").casefold()
        return any(text in folded for text in self._texts)


def _plain(payload: bytes) -> bytes:
    """With characters instead of escapes."""
    return msgspec.json.encode(msgspec.json.decode(payload))


def _behind(start: Place, entity: str, key: str) -> Place:
    return Place(start.last, start.version, entity, key)
