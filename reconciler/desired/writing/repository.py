"""The bare repository that changes are made in: fetch a branch, read it, add a commit to it, push.

In: `Git` of one source and a folder of its own, beside the source's mirrors: those are replaced when they are damaged, and
fetched into at any time. Out: commits at the remote; WriteError and SourceError. Called by `writing` only, one change at a
time. There is no work tree: trees and commits are made from objects, and what is pushed is the id of a commit.
"""

import asyncio
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.desired.git_transport import Git, Refusal
from reconciler.desired.overlay import MODE_FILE, Contents
from reconciler.desired.snapshot import MAX_FILE_BYTES
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.tree import GitSnapshot, Objects, open_repository, patched
from reconciler.desired.writing.signing import Signing, signing_words
from reconciler.desired.writing.terms import Author, WriteError, WriteFault

if TYPE_CHECKING:
    from pygit2 import Commit, Repository

TRAILER = "Reconciler-Change"
_BRANCHES = "refs/heads/"
_SLACK = timedelta(hours=1)
_MOST_COMMITS = 2_000
_MOST_OLD = 50
_FEW = f"--depth={_MOST_OLD}"  # clocks differ: one old commit does not say that all behind it are old
_LASTING = frozenset({Fault.CORRUPT, Fault.FAILED})


@dataclass(frozen=True, slots=True)
class Message:
    """Of a commit. `trailers` stand in its last paragraph."""

    subject: str
    trailers: Mapping[str, str]
    author: Author
    committer: Author
    at: datetime


class WriteRepository:
    """One branch at a time; what was fetched before makes the next fetch short."""

    def __init__(self, settings: SourceSettings, folder: Path, git: Git) -> None:
        self._settings = settings
        self._path = folder / "write.git"
        self._git = git
        self._near: GitSnapshot | None = None
        self._branch = ""
        self.objects = Objects(self._path, settings.max_file_bytes or MAX_FILE_BYTES)

    async def branch(self) -> str:
        """The branch that the source follows; asked once where the settings name it. Raises WriteError where it is none."""
        ref = self._settings.ref
        if self._branch:
            return self._branch
        if self._settings.is_commit:
            raise _no_branch(f"the source {self._settings.name} is pinned to the commit {ref[:12]}")
        asked = ("HEAD",) if ref in ("", "HEAD") else (ref,) if ref.startswith("refs/") else ()
        names = asked or (f"{_BRANCHES}{ref}", f"refs/tags/{ref}")
        output = await self._git.run(
            "ls-remote", "--symref", "--quiet", "--", self._settings.remote, *names, doing="asking the remote"
        )
        rows = [line.partition("\t") for line in output.decode(errors="replace").splitlines()]
        links = {name: to.removeprefix("ref: ") for to, _, name in rows if to.startswith("ref: ")}
        found = next((name for name in names if any(row[2] == name for row in rows)), "")
        name = links.get(found, found)
        if not found:
            raise SourceError(
                Fault.VANISHED, f"the remote has no branch {ref or 'by default'}", "push it, or change ref"
            )
        if not name.startswith(_BRANCHES):
            raise _no_branch(f"{ref or 'HEAD'} of the source {self._settings.name} is no branch")
        self._branch = name.removeprefix(_BRANCHES) if ref not in ("", "HEAD") else ""
        return name.removeprefix(_BRANCHES)

    async def fetch(self, branch: str, marked_at: datetime | None = None) -> str:
        """Brings the branch here and names its newest commit; empty where the remote has no such branch.

        With `marked_at`, what was committed since then is here too.
        """
        await self._prepare()
        ref = _local(branch)
        options = () if await asyncio.to_thread(self._head, ref) else (_FEW,)
        try:
            await self._git.fetch(self._path, f"+{_BRANCHES}{branch}:{ref}", *options)
        except SourceError as error:
            if error.fault is Fault.VANISHED:
                return ""
            if error.fault not in _LASTING:
                raise
            await self._anew(branch)
        self.objects.reopen()
        head = await asyncio.to_thread(self._head, ref)
        if marked_at is not None and await asyncio.to_thread(self._is_cut, head, marked_at - _SLACK):
            since = int((marked_at - _SLACK).timestamp())
            await self._git.fetch(self._path, f"+{_BRANCHES}{branch}:{ref}", f"--shallow-since={since}")
            self.objects.reopen()
        return head

    async def find(self, head: str, marker: str, marked_at: datetime) -> str:
        """The commit that bears the marker, among those since it was made; empty where there is none."""
        return await asyncio.to_thread(self._find, head, marker, marked_at - _SLACK)

    async def snapshot(self, commit: str) -> GitSnapshot:
        self._near = await asyncio.to_thread(self._snapshot, commit)
        return self._near

    async def commit(self, parent: str, contents: Contents, message: Message, signing: Signing | None) -> str:
        """A commit with other contents, signed where a key is set; not at the remote yet."""
        tree = await asyncio.to_thread(self._write_tree, parent, contents)
        words = [f"--git-dir={self._path}"]
        text = f"{message.subject}\n\n" + "".join(f"{name}: {value}\n" for name, value in message.trailers.items())
        async with signing_words(signing) as (options, signs, more):
            arguments = (*words, *options, "commit-tree", *signs, "-p", parent, "-m", text, tree)
            try:
                made = await self._git.run(*arguments, doing="making the commit", more={**_persons(message), **more})
            except SourceError as error:
                if signing is None:
                    raise
                remedy = f"see that signing_key_file {signing.key_file} is a key without a passphrase, mode 0600"
                raise WriteError(
                    WriteFault.UNSIGNED, f"the commit could not be signed: {error.message}", remedy
                ) from None
        return made.decode().strip()

    async def push(self, commit: str, branch: str) -> Refusal | None:
        return await self._git.push(self._path, commit, branch)

    async def contents(self, commit: str) -> tuple[Contents, Contents]:
        """The files that a commit changed, before and after; nothing where its parent is not at hand."""
        return await asyncio.to_thread(self._contents, commit)

    async def tidy(self) -> None:
        await self._git.tidy(self._path)

    async def _prepare(self) -> None:
        if not self._path.is_dir():
            await asyncio.to_thread(self._path.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            await asyncio.to_thread(shutil.rmtree, fresh, ignore_errors=True)
            await self._git.create(fresh)
            await asyncio.to_thread(fresh.rename, self._path)

    async def _anew(self, branch: str) -> None:
        """Holds nothing that cannot be had again."""
        await asyncio.to_thread(shutil.rmtree, self._path, ignore_errors=True)
        self._near = None
        self.objects.reopen()
        await self._prepare()
        await self._git.fetch(self._path, f"+{_BRANCHES}{branch}:{_local(branch)}", _FEW)

    def _snapshot(self, commit: str) -> GitSnapshot:
        near, path = self._near, self._settings.path
        if near is not None and self.objects.has(near.revision):
            files = patched(near.files, self.objects.changed(near.revision, commit, path))
        else:
            files = self.objects.list_blobs(commit, path)
        return GitSnapshot(commit, files, path, self.objects)

    def _open(self) -> "Repository":
        return open_repository(self._path)

    def _head(self, ref: str) -> str:
        opened = self._open()
        return str(opened.references[ref].target) if ref in opened.references else ""

    def _is_cut(self, head: str, since: datetime) -> bool:
        """Whether the history at hand ends in a commit that is younger than that."""
        shallow = self._path / "shallow"
        cut = set(shallow.read_text().split()) if shallow.is_file() else set()
        return bool(cut) and any(str(one.id) in cut and _time(one) >= since for one in self._walk(head, since))

    def _walk(self, head: str, since: datetime) -> "list[Commit]":
        """The commits since then, and a few more, because clocks differ."""
        found: list[Commit] = []
        old = 0
        for commit in self._open().walk(head):
            old = old + 1 if _time(commit) < since else 0
            found.append(commit)
            if old > _MOST_OLD or len(found) >= _MOST_COMMITS:
                break
        return found

    def _find(self, head: str, marker: str, since: datetime) -> str:
        line = f"{TRAILER}: {marker}"
        return next((str(one.id) for one in self._walk(head, since) if line in one.message.splitlines()), "")

    def _write_tree(self, parent: str, contents: Contents) -> str:
        import pygit2

        opened = self._open()
        base = opened[parent].peel(pygit2.Tree)
        index = pygit2.Index()
        index.read_tree(base)
        for path, content in contents.items():
            if content is None:
                index.remove(path)
            else:
                mode = index[path].mode if path in index else pygit2.enums.FileMode(MODE_FILE)
                index.add(pygit2.IndexEntry(path, opened.create_blob(content), mode))
        return str(index.write_tree(opened))

    def _contents(self, commit: str) -> tuple[Contents, Contents]:
        import pygit2

        made = self._open()[commit].peel(pygit2.Commit)
        if not made.parent_ids or not self.objects.has(str(made.parent_ids[0])):
            return {}, {}
        parent = str(made.parent_ids[0])
        paths = self.objects.changed(parent, commit, self._settings.path)
        before = {path: self.objects.content(parent, path) for path in paths}
        return before, {path: self.objects.content(commit, path) for path in paths}


def _local(branch: str) -> str:
    return f"refs/reconciler/write/{branch}"


def _time(commit: "Commit") -> datetime:
    return datetime.fromtimestamp(commit.commit_time, UTC)


def _persons(message: Message) -> dict[str, str]:
    at = f"@{int(message.at.timestamp())} +0000"
    both = (("AUTHOR", message.author), ("COMMITTER", message.committer))
    return {
        f"GIT_{role}_{name}": value
        for role, who in both
        for name, value in (("NAME", who.name), ("EMAIL", who.email), ("DATE", at))
    }


def _no_branch(message: str) -> WriteError:
    return WriteError(WriteFault.NOT_A_BRANCH, f"{message}, to which nothing can be added", "set ref to a branch")
