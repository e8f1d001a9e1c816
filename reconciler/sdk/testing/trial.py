"""One trial of a connector: remote, room and a small stand-in for the engine.

In: a `Case`. Out: a started simulator, a live connector and `Dataset`s that take pages the way the engine does: upsert by
key, watermarks only where the contract lets them move, and the guard against positions and pages that come twice. When a
trial ends, nothing in it may have violated the vendor's description and no secret may have come out. Used by the checks
of the conformance kit and by connectors' own tests.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import msgspec

from reconciler.model.clock import rfc3339
from reconciler.model.record import Page, Position, ReadRequest, Scope
from reconciler.sdk.contract import Connector, Entity
from reconciler.sdk.network import TlsContexts
from reconciler.sdk.testing.allowing import allow, needs_consent
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.sdk.testing.room import START, Bench, VirtualClock, digest

MAX_PAGES = 200
SEEDS = 7


class RepeatedPageError(AssertionError):
    """The reader came to the same position, or brought the same page, a second time."""


@dataclass
class Dataset:
    """What the engine would have stored: records, deletions, watermarks and the last committed position."""

    records: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    watermarks: dict[str, str] = field(default_factory=dict)
    position: Position | None = None
    pages: list[Page] = field(default_factory=list)
    is_complete: bool = False
    _late: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> set[str]:
        return set(self.records) - self.deleted

    @property
    def hashes(self) -> dict[str, str]:
        return {key: digest(payload) for key, payload in self.records.items()}

    def take(self, page: Page, entity: Entity) -> None:
        """Commit one page."""
        for key, payload in zip(page.keys, page.payloads, strict=True):
            self.records[key] = payload
            self.deleted.discard(key)
        self.deleted |= set(page.deleted)
        self.position = page.position
        self.pages.append(page)
        target = self.watermarks if entity.ordered else self._late
        if page.watermark is not None:
            target[page.partition] = max(page.watermark, target.get(page.partition, ""))

    def sweep(self, listing: "Dataset") -> None:
        """What a complete listing of keys has not met is gone; an incomplete one says nothing."""
        if listing.is_complete:
            self.deleted |= self.keys - listing.keys

    def finish(self) -> None:
        """The read ended by itself: now the watermarks of unordered entities may move."""
        for partition, watermark in self._late.items():
            self.watermarks[partition] = max(watermark, self.watermarks.get(partition, ""))
        self.is_complete = True


@dataclass
class Trial:
    """A case, its remote and its connector while a check runs."""

    case: Case
    sim: Any
    bench: Bench
    connector: Connector[Any, Any]

    @property
    def clock(self) -> VirtualClock:
        return self.bench.clock

    def entity(self, name: str) -> Entity:
        return next(e for e in self.connector.entities_of(self.connector.config) if e.name == name)

    def put(self, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        return self.case.put(self.sim, entity, number, at, text)

    def seed(
        self, entity: Entity, count: int = SEEDS, *, start: datetime | None = None, step: timedelta | None = None
    ) -> list[str]:
        """`count` records, `step` apart (default: a minute), the last one an hour before now."""
        apart = timedelta(minutes=1) if step is None else step
        first = start or START - timedelta(hours=1) - count * apart
        return [self.put(entity, n, first + n * apart, f"seed {n}") for n in range(count)]

    def request(
        self, scope: Scope = Scope.FULL, since: Mapping[str, str] | None = None, resume: Position | None = None
    ) -> ReadRequest:
        # What is stored and read back is JSON: a position that does not survive that cannot be resumed.
        kept = json.loads(json.dumps(resume)) if resume is not None else None
        now = rfc3339(self.clock.now())
        return ReadRequest(scope, now, since or {}, kept, page_size=self.case.page_size)

    async def read(
        self,
        entity: Entity,
        scope: Scope = Scope.FULL,
        *,
        since: Mapping[str, str] | None = None,
        into: Dataset | None = None,
        stop_after: int | None = None,
        between: Callable[[int], None] | None = None,
    ) -> Dataset:
        """Read as the engine does; resumes where `into` stands. `between` is called with the count of pages after each.

        `stop_after` ends the read after so many pages, as a crash does. Raises RepeatedPageError.
        """
        dataset = into if into is not None else Dataset()
        pages = self.connector.read(entity, self.request(scope, since, dataset.position))
        taken = 0
        async for page in _guarded(pages):
            dataset.take(page, entity)
            taken += 1
            if between:
                between(taken)
            if taken == stop_after and page.position is not None:
                return dataset
        dataset.finish()
        return dataset


async def _guarded(pages: AsyncIterator[Page]) -> AsyncIterator[Page]:
    """The engine's guards, in small."""
    seen: set[str] = set()
    previous: tuple[object, ...] = ()
    async for page in pages:
        at = json.dumps(page.position, sort_keys=True)
        content = (page.partition, page.keys, page.payloads)
        if (page.position is not None and at in seen) or (page.keys and content == previous):
            raise RepeatedPageError(f"the remote gave the same page or position again: {at}")
        seen.add(at)
        if len(seen) > MAX_PAGES:
            raise RepeatedPageError(f"no end after {MAX_PAGES} pages")
        previous = content
        yield page


@cache
def _contexts() -> TlsContexts:
    """Loading the trust store takes longer than most checks."""
    return TlsContexts()


@asynccontextmanager
async def trial(
    case: Case,
    *,
    auth: Callable[[Any], Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    is_allowed: bool = True,
    **bench: Any,
) -> AsyncIterator[Trial]:
    """A started remote and a connector to it; on the way out, violations and leaked secrets fail the check.

    `auth` chooses another credential than the case's usual one; `config` adds to its settings; `bench` are fields of `Bench`.
    Where a person has to allow something, one does, unless `is_allowed` is false.
    """
    clock = VirtualClock()
    with case.simulator(clock.now) as sim:
        given = (auth or case.auth)(sim)
        settings = {**case.config(sim), **(config or {})}
        async with Bench(clock=clock, contexts=_contexts(), **{**case.reach(sim), **bench}) as room:
            under_trial = Trial(case, sim, room, room.connector(case.connector, settings, given))
            try:
                if is_allowed and needs_consent(under_trial.connector):
                    await allow(under_trial.connector)
                yield under_trial
            except BaseException as error:
                if violations := getattr(sim, "violations", []):
                    error.add_note("the simulator recorded: " + "; ".join(violations))
                raise
    assert not getattr(sim, "violations", []), "; ".join(sim.violations)
    leaked = room.leaks(CANARY, under_trial.connector, under_trial.connector.auth, under_trial.connector.config)
    assert not leaked, f"a secret came out: {leaked}"


def texts(payload: bytes) -> Iterable[str]:
    """Every string value inside a record."""
    stack: list[Any] = [msgspec.json.decode(payload)]
    while stack:
        value = stack.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
