"""The copy of a source on this machine: two bare repositories in a folder of its own.

In: what the remote's ref is now. Out: commits that are on disk and were read whole. Called by `source` only.

`tip` is fetched with depth 1: the files of the newest commit and nothing else, so a manifest repository with a long
past, or manifests inside a big one, cost what they hold now (measured, 10,000 files and 20,000 commits: 0.5 s and 3 MB
against 1.9 s and 18 MB for everything). `history` is fetched with `--filter=blob:none`: commits and trees, which is
all that authorship and the question "was this rewritten?" need (0.8 s, 10 MB; a server without filters sends all).
Two repositories, because in one the missing old blobs would have to be fetched the moment a commit brings one back.

The last good commit is a ref, so it survives a restart. Any local fault has one remedy: build the mirror anew beside
the old one and swap when that worked; until then the old one stays. One process per cache folder: there is no lock.
"""

import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.desired.git_environment import trusted_owner_file
from reconciler.desired.git_transport import Git, RemoteRef
from reconciler.desired.history import HistoryTable, extend
from reconciler.desired.source_error import Fault, SourceError, explain, unwritable
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.tree import Objects, is_ancestor, open_repository

if TYPE_CHECKING:
    from pygit2 import Repository

_TIP = "refs/reconciler/tip"
_LINE = "refs/reconciler/line"
# What a new mirror would not change: then the old one is not suspected.
_NOT_OURS = frozenset(
    {
        Fault.UNREACHABLE,
        Fault.AUTHENTICATION,
        Fault.HOST_KEY,
        Fault.TLS,
        Fault.REDIRECTED,
        Fault.TIMEOUT,
        Fault.OWNERSHIP,
        Fault.REFUSED,
        Fault.TOO_LARGE,
        Fault.FULL,
        Fault.PROGRAM_MISSING,
        Fault.VANISHED,
    }
)


def mirror_folder(settings: SourceSettings, cache: Path) -> Path:
    """Another URL is another folder: its last good commit must never stand in for this one's."""
    digest = hashlib.sha256(settings.remote.encode()).hexdigest()[:12]
    return cache / f"{settings.name}-{digest}"


class Mirror:
    """`tip` and `history` of one source."""

    def __init__(self, settings: SourceSettings, folder: Path, git: Git) -> None:
        self.tip = folder / "tip.git"
        self.line = folder / "history.git"
        self._settings = settings
        self.objects = Objects(self.tip, settings.max_file_bytes)
        self._folder = folder
        self._git = git
        wanted = hashlib.sha256(f"{settings.ref}\0{settings.path}".encode()).hexdigest()[:16]
        self._good = f"refs/reconciler/good/{wanted}"

    async def prepare(self) -> None:
        """The folder, readable to nobody else; also ends a swap that a crash interrupted."""
        await asyncio.to_thread(self._prepare)

    async def last_good(self) -> str:
        """The commit that was good before this process began; empty where there is none."""
        return await asyncio.to_thread(_read_ref, self.tip, self._good)

    async def mark_good(self, commit: str) -> None:
        await asyncio.to_thread(_write_ref, self.tip, self._good, commit)

    async def fetch_tip(self, wanted: RemoteRef) -> str:
        """Brings the commit into `tip` and names it: a little later than `wanted` when someone pushed meanwhile."""
        if not self.tip.is_dir():
            await self.rebuild(wanted)
            return await asyncio.to_thread(_commit_of, self.tip, _TIP)
        try:
            await self._fetch_into(self.tip, wanted)
        except SourceError as error:
            if error.fault in _NOT_OURS:
                raise
            await self.rebuild(wanted)
        return await asyncio.to_thread(_commit_of, self.tip, _TIP)

    async def rebuild(self, wanted: RemoteRef) -> None:
        """`tip` anew from the remote. When that fails, the old one stays as it was."""
        fresh = self._folder / "tip.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        try:
            await self._git.create(fresh)
            await self._fetch_into(fresh, wanted)
            await asyncio.to_thread(self._swap, fresh)
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        self.objects.reopen()

    async def fetch_history(self, wanted: RemoteRef) -> None:
        if not self.line.is_dir():
            await self._begin_history()
        options = ("--filter=blob:none", "--update-shallow")
        try:
            await self._git.fetch(self.line, f"+{wanted.name}:{_LINE}", *options)
        except SourceError as error:
            if error.fault not in _NOT_OURS:
                # Holds nothing that cannot be had again; the next try starts with an empty one.
                await asyncio.to_thread(shutil.rmtree, self.line, ignore_errors=True)
            raise

    async def _begin_history(self) -> None:
        """Beside its place: a half-made one, after a full disk or a kill, would pass for a repository."""
        fresh = self._folder / "history.new"
        await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
        try:
            await self._git.create(fresh)
            await asyncio.to_thread(fresh.rename, self.line)
        except OSError as error:
            raise unwritable(error) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)

    async def read_history(self, known: HistoryTable, revision: str) -> HistoryTable:
        """`known` carried on to `revision`: by the commits since where it grew out of it, else from the beginning."""
        if not self.line.is_dir():
            return known
        grew = bool(known.revision) and await self.grew(known.revision, revision)
        start = known if grew else HistoryTable()
        return await read_history(self._git, self.line, start, revision, self._settings.path)

    async def grew(self, old: str, new: str) -> bool | None:
        """Whether `new` descends from `old`; None where that cannot be told, also from a history that is damaged."""
        try:
            return await asyncio.to_thread(grew_in, self.line, old, new)
        except SourceError:
            return None

    async def tidy(self) -> None:
        for repository in (self.tip, self.line):
            if repository.is_dir():
                await self._git.tidy(repository)

    async def _fetch_into(self, repository: Path, wanted: RemoteRef) -> None:
        try:
            await self._git.fetch(repository, f"+{wanted.name}:{_TIP}", "--depth=1")
        except SourceError as error:
            if error.fault is not Fault.VANISHED or not self._settings.is_commit:
                raise
            # An old server gives out only what a branch or tag points at: take all, then look for the commit.
            await self._git.fetch(repository, "+refs/*:refs/reconciler/all/*", "--update-shallow")
            await asyncio.to_thread(_write_ref, repository, _TIP, wanted.commit)

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.tip.is_dir() and (old := self._folder / "tip.old").is_dir():
            old.rename(self.tip)
        if self._settings.trust_owner:
            (self._folder / "gitconfig").write_text(trusted_owner_file(self._settings))

    def _swap(self, fresh: Path) -> None:
        old = self._folder / "tip.old"
        shutil.rmtree(old, ignore_errors=True)
        if self.tip.is_dir():
            self.tip.rename(old)
        fresh.rename(self.tip)
        shutil.rmtree(old, ignore_errors=True)


async def read_history(git: Git, repository: Path, known: HistoryTable, revision: str, path: str) -> HistoryTable:
    """`known`, which `revision` must have grown out of, carried on by git's log; parsed in a thread."""
    if known.revision == revision:
        return known
    log = await git.log(repository, revision, known.revision, path)
    cut = await asyncio.to_thread(_cut, repository)
    return await asyncio.to_thread(extend, known, log, revision, cut)


def _cut(repository: Path) -> frozenset[str]:
    shallow = repository / "shallow"
    return frozenset(shallow.read_text().split()) if shallow.is_file() else frozenset()


def grew_in(repository: Path, old: str, new: str) -> bool | None:
    """Whether `new` descends from `old` in a repository; None where it is not there or does not reach back so far."""
    return is_ancestor(open_repository(repository), old, new) if repository.is_dir() else None


def _read_ref(repository: Path, name: str) -> str:
    if not repository.is_dir():
        return ""
    opened = open_repository(repository)
    return _peeled(opened, name) if name in opened.references else ""


def _commit_of(repository: Path, name: str) -> str:
    return _peeled(open_repository(repository), name)


def _peeled(opened: "Repository", name: str) -> str:
    import pygit2

    try:
        return str(opened.references[name].peel(pygit2.Commit).id)
    except (KeyError, ValueError, pygit2.GitError):
        message = f"{name} of the mirror leads to no commit"
        raise SourceError(Fault.CORRUPT, message, "name a branch, a tag or a commit as ref") from None


def _write_ref(repository: Path, name: str, commit: str) -> None:
    import pygit2

    try:
        opened = open_repository(repository)
        opened.references.create(name, opened[commit].id, force=True)
    except KeyError:
        message = f"the remote has no commit {commit}"
        raise SourceError(Fault.VANISHED, message, "check that the commit still exists") from None
    except (ValueError, pygit2.GitError, OSError) as error:
        raise explain(str(error), "writing the mirror") from None
