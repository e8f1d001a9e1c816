"""One source of desired state that is a Git repository: the newest revision, or the last good one and what is wrong.

In: `SourceSettings`, a cache folder, a clock. Out: `GitSnapshot`s and a `SourceState`. Called by `polling.poll` and the
control room. Whatever goes wrong (unreachable, vanished branch, rewritten history, corrupt objects), the last good
revision stays in force, also over a restart, and the state says so. Parsing and validating are not done here.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from reconciler.desired.git_transport import Git, RemoteRef
from reconciler.desired.history import HistoryTable
from reconciler.desired.mirror import Mirror, mirror_folder
from reconciler.desired.snapshot import FileEntry, Snapshot
from reconciler.desired.source_error import Fault, SourceError, unwritable
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.tree import GitSnapshot, patched
from reconciler.desired.watch import watch_refs
from reconciler.model.clock import Clock
from reconciler.model.condition import Reason

_HISTORY_PAUSE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class SourceFailure:
    """What is wrong. `since` is when this kind of fault began, not when it was last seen."""

    fault: Fault
    reason: Reason
    message: str
    since: datetime


@dataclass(frozen=True, slots=True)
class SourceState:
    """`revision` is in force; `attempted_revision` is what the remote had last, even if it could not be fetched.

    `is_rewritten` is true while the revision in force did not grow out of the one before it (a force-push), None where
    the history that would tell is not at hand. `history_failure` concerns authorship only; the revision is unharmed.
    """

    name: str
    revision: str = ""
    attempted_revision: str = ""
    fetched_at: datetime | None = None
    error: SourceFailure | None = None
    is_rewritten: bool | None = False
    history_failure: SourceFailure | None = None


class Source(Protocol):
    """What polling needs of a source, wherever it lies."""

    @property
    def settings(self) -> SourceSettings: ...

    @property
    def state(self) -> SourceState: ...

    @property
    def last_good(self) -> Snapshot | None: ...

    async def restore(self) -> Snapshot | None:
        """The last good revision of an earlier process, without asking the remote."""

    async def fetch(self) -> Snapshot:
        """The newest revision: the same object where nothing moved. Raises SourceError; `last_good` then stays."""

    def watch(self) -> AsyncIterator[None]:
        """Says when looking is worth while before the interval is over; ends at once where nothing can be watched."""


def open_source(settings: SourceSettings, cache: Path, clock: Clock) -> Source:
    """A folder or working tree read as it lies there, or a mirrored repository, by what the settings say."""
    from reconciler.desired.folder_source import FolderSource

    return FolderSource(settings, cache, clock) if settings.is_as_is else GitSource(settings, cache, clock)


class GitSource:
    """A repository anywhere, mirrored under `cache`. One fetch at a time; safe to call from several tasks."""

    def __init__(
        self, settings: SourceSettings, cache: Path, clock: Clock, inherited: Mapping[str, str] | None = None
    ) -> None:
        folder = mirror_folder(settings, cache)
        self._settings = settings
        self._clock = clock
        self._git = Git(settings, folder, os.environ if inherited is None else inherited)
        self._mirror = Mirror(settings, folder, self._git)
        self._objects = self._mirror.objects
        self._lock = asyncio.Lock()
        self._good: GitSnapshot | None = None
        self._is_restored = False
        self._history_after: datetime | None = None
        self._state = SourceState(settings.name)

    @property
    def settings(self) -> SourceSettings:
        return self._settings

    @property
    def state(self) -> SourceState:
        return self._state

    @property
    def last_good(self) -> GitSnapshot | None:
        return self._good

    async def restore(self) -> GitSnapshot | None:
        async with self._lock:
            with contextlib.suppress(OSError):  # the fetch that follows meets it too, and tells
                return await self._restore()
            return None

    async def fetch(self) -> GitSnapshot:
        async with self._lock:
            try:
                return await self._try()
            except SourceError as error:
                self._state = replace(self._state, error=failure(error, self._state.error, self._clock.now()))
                raise

    async def _try(self) -> GitSnapshot:
        try:
            await self._restore()
            return await self._fetch()
        except OSError as error:
            raise unwritable(error) from error

    async def watch(self) -> AsyncIterator[None]:
        local = self._settings.local_path
        if local is not None:
            async for _ in watch_refs(local):
                yield

    async def _restore(self) -> GitSnapshot | None:
        if self._is_restored:
            return self._good
        await self._mirror.prepare()
        self._is_restored = True
        # A mirror that cannot be read is no reason to stop: the next fetch builds it anew.
        with contextlib.suppress(SourceError):
            if commit := await self._mirror.last_good():
                files = await asyncio.to_thread(self._list_all, commit, was_there=True)
                self._good = GitSnapshot(commit, files, self._settings.path, self._objects)
                self._state = replace(self._state, revision=commit)
                self._good = replace(self._good, table=await self._mirror.read_history(HistoryTable(), commit))
        return self._good

    async def _fetch(self) -> GitSnapshot:
        wanted = await self._git.resolve()
        self._state = replace(self._state, attempted_revision=wanted.commit)
        good = self._good
        if good and good.revision == wanted.commit and not self._objects.is_suspect:
            return await self._unmoved(good, wanted)
        history = asyncio.create_task(self._fetch_history(wanted))
        try:
            commit, files = await self._bring(wanted)
        except BaseException:
            history.cancel()
            await asyncio.wait({history})
            raise
        await history
        return await self._accept(commit, files)

    async def _bring(self, wanted: RemoteRef) -> tuple[str, Mapping[str, FileEntry]]:
        """The commit in the mirror, every blob of it read once; a faulty mirror is built anew, one time."""
        if not self._objects.is_suspect:
            commit = await self._mirror.fetch_tip(wanted)
            try:
                return commit, await asyncio.to_thread(self._list, commit)
            except SourceError:
                if not self._objects.is_suspect:
                    raise
        await self._mirror.rebuild(wanted)
        commit = await self._mirror.fetch_tip(wanted)
        return commit, await asyncio.to_thread(self._list, commit)

    def _list(self, commit: str) -> Mapping[str, FileEntry]:
        good = self._good
        if good is None or not self._objects.has(good.revision):
            return self._list_all(commit, was_there=good is not None)
        changes = self._objects.changed(good.revision, commit, self._settings.path)
        self._objects.verify(entry for entry in changes.values() if entry)
        return patched(good.files, changes)

    def _list_all(self, commit: str, *, was_there: bool) -> Mapping[str, FileEntry]:
        """A sub-path that never was is a mistake in the settings; one that was there and is gone holds no files now."""
        try:
            files = self._objects.list_blobs(commit, self._settings.path)
        except SourceError as error:
            if error.fault is Fault.PATH_MISSING and was_there:
                return {}
            raise
        self._objects.verify(files.values())
        return files

    async def _accept(self, commit: str, files: Mapping[str, FileEntry]) -> GitSnapshot:
        good = self._good
        table = await self._known_history(commit)
        grew = await self._mirror.grew(good.revision, commit) if good else True
        snapshot = GitSnapshot(commit, files, self._settings.path, self._objects, table)
        await self._mirror.mark_good(commit)
        self._good = snapshot
        is_rewritten = None if grew is None else not grew
        self._state = replace(
            self._state, revision=commit, fetched_at=self._clock.now(), error=None, is_rewritten=is_rewritten
        )
        with contextlib.suppress(SourceError):
            await self._mirror.tidy()
        return snapshot

    async def _unmoved(self, good: GitSnapshot, wanted: RemoteRef) -> GitSnapshot:
        self._state = replace(self._state, fetched_at=self._clock.now(), error=None)
        if good.table.revision != good.revision and self._is_history_due():
            await self._fetch_history(wanted)
            table = await self._known_history(good.revision)
            self._good = good = replace(good, table=table)
        return good

    def _is_history_due(self) -> bool:
        return self._settings.with_history and (self._history_after is None or self._clock.now() >= self._history_after)

    async def _fetch_history(self, wanted: RemoteRef) -> None:
        """Never fails the revision: without it only authorship is unknown, and the state says why."""
        if not self._is_history_due():
            return
        try:
            await self._mirror.fetch_history(wanted)
        except SourceError as error:
            self._note_history(error)
        else:
            self._history_after = None
            self._state = replace(self._state, history_failure=None)

    async def _known_history(self, commit: str) -> HistoryTable:
        known = self._good.table if self._good else HistoryTable()
        if not self._settings.with_history or self._state.history_failure:
            return known
        try:
            return await self._mirror.read_history(known, commit)
        except SourceError as error:
            self._note_history(error)
            return known

    def _note_history(self, error: SourceError) -> None:
        now = self._clock.now()
        self._history_after = now + _HISTORY_PAUSE
        self._state = replace(self._state, history_failure=failure(error, self._state.history_failure, now))


def failure(error: SourceError, before: SourceFailure | None, now: datetime) -> SourceFailure:
    """`since` is kept while the kind of fault stays the same."""
    since = before.since if before and before.fault is error.fault else now
    return SourceFailure(error.fault, error.reason, str(error), since)
