"""A folder or working tree as a source that is polled and watched like any other.

In: `SourceSettings` of a local path without `ref`. Out: `FolderSnapshot`s and a `SourceState`. Called by
`source.open_source`. Authorship comes from the history of the repository the folder lies in, if any. Nothing is copied,
so the last good revision lasts as long as the process; a folder that cannot be reached is an error, never an empty set.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path

from reconciler.desired.folder import Checkout, FolderSnapshot, StatCache, scan_folder
from reconciler.desired.git_transport import Git
from reconciler.desired.history import HistoryTable
from reconciler.desired.mirror import grew_in, mirror_folder, read_history
from reconciler.desired.source import SourceState, failure
from reconciler.desired.source_error import SourceError
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.watch import watch_files
from reconciler.model.clock import Clock


class FolderSource:
    """Files in place. Blob ids are kept by stat, so an unchanged folder is listed but not read."""

    def __init__(
        self, settings: SourceSettings, cache: Path, clock: Clock, inherited: Mapping[str, str] | None = None
    ) -> None:
        self._settings = settings
        self._root = settings.local_path or Path(settings.url)
        self._clock = clock
        self._git = Git(settings, mirror_folder(settings, cache), os.environ if inherited is None else inherited)
        self._stats = StatCache()
        self._lock = asyncio.Lock()
        self._good: FolderSnapshot | None = None
        self._state = SourceState(settings.name)

    @property
    def settings(self) -> SourceSettings:
        return self._settings

    @property
    def state(self) -> SourceState:
        return self._state

    @property
    def last_good(self) -> FolderSnapshot | None:
        return self._good

    async def restore(self) -> FolderSnapshot | None:
        return self._good

    async def fetch(self) -> FolderSnapshot:
        async with self._lock:
            try:
                return await self._fetch()
            except SourceError as error:
                self._state = replace(self._state, error=failure(error, self._state.error, self._clock.now()))
                raise

    async def watch(self) -> AsyncIterator[None]:
        async for _ in watch_files(self._root, self._settings.path):
            yield

    async def _fetch(self) -> FolderSnapshot:
        now, settings = self._clock.now(), self._settings
        found = await asyncio.to_thread(
            scan_folder, self._root, settings.path, self._stats, now, settings.max_file_bytes
        )
        good = self._good
        grew: bool | None = True
        if good is None or good.revision != found.revision:
            grew = await self._grew(good.checkout if good else None, found.checkout)
            good = replace(found, table=await self._history(found.checkout, grew=grew))
            self._good = good
            self._state = replace(self._state, is_rewritten=None if grew is None else not grew)
        self._state = replace(
            self._state, revision=good.revision, attempted_revision=found.revision, fetched_at=now, error=None
        )
        return good

    async def _grew(self, old: Checkout | None, new: Checkout | None) -> bool | None:
        if old is None or new is None:
            return True
        return await asyncio.to_thread(grew_in, new.git_folder, old.commit, new.commit)

    async def _history(self, checkout: Checkout | None, *, grew: bool | None) -> HistoryTable:
        known = self._good.table if self._good and grew else HistoryTable()
        if checkout is None or not self._settings.with_history:
            return HistoryTable()
        path = f"{checkout.prefix}{self._settings.path}".rstrip("/")
        try:
            table = await read_history(self._git, checkout.git_folder, known, checkout.commit, path)
        except SourceError as error:
            said = failure(error, self._state.history_failure, self._clock.now())
            self._state = replace(self._state, history_failure=said)
            return known
        self._state = replace(self._state, history_failure=None)
        return table
