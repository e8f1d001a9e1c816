"""What Git would change here: the plan that is pending, that of another revision, and that of files which are not in Git yet.

Implements `Planner` for the API. In: the sources this process follows, or, where it follows none, asks when it is asked. Out:
plans against what the store says is applied. No secret is decrypted. One plan is made at a time, in a thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from reconciler.app.book import SourceBook
from reconciler.desired.merge import merge
from reconciler.desired.overlay import overlay
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.source import Source, open_source
from reconciler.desired.source_error import SourceError
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.clock import Clock
from reconciler.model.state import DesiredState, KeysSeen, ObservedState
from reconciler.plan.compare import compare
from reconciler.plan.keys import with_dues
from reconciler.serve.ports import Foreseen, NotReadableError, SubmittedFile
from reconciler.store import ingest_keys, integrations, journal
from reconciler.store.database import Database, Tx

Refresh = Callable[[], Awaitable[None]]


class Foresight:
    """`refresh` brings the book up to date where nobody else does; it raises SourceError."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        inputs: Mapping[str, Inputs],
        book: SourceBook,
        database: Database,
        clock: Clock,
        refresh: Refresh,
    ) -> None:
        self._sources = sources
        self._inputs = inputs
        self._book = book
        self._database = database
        self._clock = clock
        self._refresh = refresh
        self._turn = asyncio.Lock()

    async def pending(self) -> Foreseen:
        async with self._turn:
            await self.look()
            return await self._against_applied(self._wished(), ())

    async def of_revision(self, revision: str, source: str | None) -> Foreseen:
        async with self._turn:
            await self.look()
            name = self._one(source)
            with TemporaryDirectory(prefix="reconciler-plan-") as scratch:
                snapshot = await self._fetched(name, revision, Path(scratch))
                return await self._with(name, snapshot)

    async def of_files(self, files: tuple[SubmittedFile, ...], source: str | None) -> Foreseen:
        async with self._turn:
            await self.look()
            name = self._one(source)
            contents = {one.path: None if one.content is None else one.content.encode() for one in files}
            return await self._with(name, overlay(self._checked(name).snapshot, contents))

    async def of_validated(self, source: str, after: Validated) -> Foreseen:
        """With that source as it was checked elsewhere."""
        async with self._turn:
            return await self._with_checked(source, after)

    async def look(self) -> None:
        try:
            await self._refresh()
        except SourceError as error:
            raise NotReadableError(str(error)) from None

    def _one(self, source: str | None) -> str:
        if source is None and len(self._sources) == 1:
            return next(iter(self._sources))
        if source in self._sources and source is not None:
            return source
        known = ", ".join(self._sources)
        raise NotReadableError(f"which source is meant? one of: {known}", is_request=True)

    def _wished(self) -> DesiredState:
        if self._book.wished is None:
            raise NotReadableError("no revision of the sources has been read yet")
        return self._book.wished

    def _checked(self, name: str) -> Validated:
        found = self._book.checked.get(name)
        if found is None:
            raise NotReadableError(f"no revision of the source {name} has been read yet")
        return found

    async def _fetched(self, name: str, revision: str, scratch: Path) -> Snapshot:
        try:
            settings = replace(self._sources[name].settings, ref=revision, with_history=False)
            return await open_source(settings, scratch, self._clock).fetch()
        except (SourceError, ValueError) as error:
            raise NotReadableError(str(error), is_request=True) from None

    async def _with(self, name: str, snapshot: Snapshot) -> Foreseen:
        """That source as it would be, the others as they are."""
        after = await asyncio.to_thread(validate, snapshot, self._inputs[name], self._checked(name))
        return await self._with_checked(name, after)

    async def _with_checked(self, name: str, after: Validated) -> Foreseen:
        checked = {one: self._checked(one) for one in self._sources}
        states = {one: known.state for one, known in checked.items()} | {name: after.state}
        merged = await asyncio.to_thread(merge, states)
        return await self._against_applied(merged.state, (after, *(v for one, v in checked.items() if one != name)))

    async def _against_applied(self, desired: DesiredState, read: tuple[Validated, ...]) -> Foreseen:
        observed, approved, keys = await self._database.read(_applied)
        held = frozenset(ref for one in read for ref in one.holding(observed.integrations).held)
        state = replace(desired, held=desired.held | held)
        plan = await asyncio.to_thread(partial(compare, state, observed, approved=approved))
        return Foreseen(with_dues(plan, state, keys), state)


def _applied(tx: Tx) -> tuple[ObservedState, frozenset[str], KeysSeen]:
    return integrations.observed_state(tx), journal.approvals(tx), ingest_keys.seen(tx)
