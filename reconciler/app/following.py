"""What Git wants, in every process: sources are followed, checked and kept in the book; clear secrets never leave a process.

In: the settings' sources. Out: `settle` is called for every new desired state; `is_fresh_since` says how old what is
known may be. Called by the daemon, which alone knows whether this process leads. Not here: what a new state leads to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from random import Random

import structlog

from reconciler.app.attended import Attended
from reconciler.app.book import AppliedSpec, SourceBook
from reconciler.app.tasks import Loops
from reconciler.desired.polling import poll
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source import SourceState
from reconciler.model.clock import Clock
from reconciler.store import integrations
from reconciler.store.database import Database

SECONDS_SECRETS = 30.0


class Following:
    """`start` adds its loops. `planned` is the revision of each source that `settle` was called for."""

    def __init__(
        self,
        sources: Mapping[str, Attended],
        book: SourceBook,
        database: Database,
        clock: Clock,
        random: Random,
        keys: Callable[[], Keyring],
        settle: Callable[[], Awaitable[object]],
    ) -> None:
        self.sources = sources
        self.planned: dict[str, str] = {}
        self._book = book
        self._database = database
        self._clock = clock
        self._random = random
        self._keys = keys
        self._settle = settle
        self._triggers = {name: asyncio.Event() for name in sources}
        self._is_first = True
        self._logger = structlog.get_logger("daemon")

    def start(self, loops: Loops) -> None:
        for name, source in self.sources.items():
            loops.forever(f"source {name}", partial(self._follow, loops, name, source))
        loops.every("secrets", SECONDS_SECRETS, self.look_for_secrets)

    def look(self) -> None:
        """Ask Git now instead of at the next round."""
        for trigger in self._triggers.values():
            trigger.set()

    def is_fresh_since(self, at: float) -> bool:
        """Whether every source was asked after that monotonic time, and what it gave is in the book."""
        return all(source.taken_as_of >= at for source in self.sources.values())

    async def _recall(self) -> None:
        """Before the first revision: what was connected before goes on, or is let go, with the spec it was connected with."""
        if self._is_first:
            rows = await self._database.read(integrations.every)
            connected = [row for row in rows if row.is_connected]
            self._book.remember({r.ref: AppliedSpec(r.applied_revision, r.applied_hash) for r in connected})
            self._is_first = False

    async def _follow(self, loops: Loops, name: str, source: Attended) -> None:
        async with aclosing(poll(source, self._clock, self._random, self._triggers[name])) as stream:
            async for found in stream:
                if isinstance(found, SourceState):
                    await source.note()
                    self._tell(found)
                else:
                    await self._take(name, source, found)
                loops.works(f"source {name}")

    def _tell(self, state: SourceState) -> None:
        error = state.error
        if error:
            self._logger.warning("source not readable", source=state.name, reason=error.reason, error=error.message)

    async def _take(self, name: str, source: Attended, snapshot: Snapshot) -> None:
        asked = source.asked
        await self._recall()
        if await self._book.take(name, snapshot) is not None:
            await self._settle()
        self.planned[name] = snapshot.revision
        source.taken_as_of = asked
        await source.note()

    async def look_for_secrets(self) -> None:
        """While something cannot be read: a key, a file or a program may be there by now. Git is not asked again."""
        await self._forget_gone()
        if self._book.unread:
            self._book.rekey(await asyncio.to_thread(self._keys))
        if await self._book.is_turned():
            await self._settle()

    async def _forget_gone(self) -> None:
        """Whoever let them go: their secrets need not be known here any more."""
        if self._book.departed:
            asked = self._book.departed
            rows = await self._database.read(lambda tx: integrations.some(tx, asked))
            present = {row.ref for row in rows if row.removed_at is None}
            for ref in self._book.departed - present:  # asked anew: Git may name one again by now
                self._book.forget(ref)
