"""A plain folder or a working tree, read as it lies there: uncommitted files count.

In: a path. Out: `FolderSnapshot`, with the same blob ids Git would give, so that parsed files are cached across both.
Called by `folder_source` in threads and by the offline `validate` and `plan` directly; no asyncio, no subprocess.

In a working tree a symbolic link is what Git sees: a link, never followed. In a plain folder a link to a file inside the
folder is followed (mounted ConfigMaps are made of them) and one that leads out is not. A folder that cannot be listed
in full raises: a partial listing would read as "the rest was deleted".
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.desired.history import HistoryTable
from reconciler.desired.snapshot import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MODE_LINK,
    MODE_SUBMODULE,
    FileEntry,
    FileHistory,
    ReadError,
    ReadFault,
    Snapshot,
    blob_id,
    compare_files,
    entry_to_read,
    too_large,
)
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.tree import GitSnapshot, Objects, list_blobs, open_repository

if TYPE_CHECKING:
    from pygit2 import Repository

_RACY_NS = 2_000_000_000
MAX_KEPT_BYTES = 64 * 1024 * 1024
_Stamp = tuple[int, int, int, int]


@dataclass(slots=True)
class StatCache:
    """Blob ids of files whose stat has not moved, owned by one source. A file changed within the last two seconds is
    read again, since a second change may leave the same stamp."""

    known: dict[str, tuple[_Stamp, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkout:
    """The repository a folder lies in: its HEAD, and what HEAD holds below the folder (paths relative to the folder)."""

    git_folder: Path
    prefix: str
    commit: str
    files: Mapping[str, FileEntry]
    is_ignored: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """`read` gives the bytes that were listed or raises: a file edited since belongs to the next snapshot."""

    revision: str
    files: Mapping[str, FileEntry] = field(compare=False, repr=False)
    root: Path
    max_file_bytes: int = field(compare=False, repr=False)
    checkout: Checkout | None = field(default=None, compare=False, repr=False)
    table: HistoryTable = field(default=HistoryTable(), compare=False, repr=False)
    contents: Mapping[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    subpath: str = field(default="", compare=False, repr=False)

    def read(self, path: str) -> bytes:
        entry = entry_to_read(self.files, path)
        if (kept := self.contents.get(path)) is not None:
            return kept
        content = _read_file(self.root, path, self.max_file_bytes)
        if blob_id(content) != entry.blob_id:
            raise ReadError(path, ReadFault.CHANGED, "changed while it was read; the next look takes it up")
        return content

    def history(self, path: str) -> FileHistory:
        """What Git says; a file not committed as it is was changed when its time stamp says, by nobody known."""
        checkout = self.checkout
        known = self.table.of(f"{checkout.prefix}{path}") if checkout else FileHistory()
        committed = checkout.files.get(path) if checkout else None
        if committed is not None and path in self.files and committed.blob_id == self.files[path].blob_id:
            return known
        return replace(known, updated_by="", updated_at=_modified_at(self.root / path))

    def earlier(self, revision: str) -> GitSnapshot | None:
        """The folder as that commit has it; None for what was never committed, and outside of a repository."""
        checkout = self.checkout
        objects = Objects(checkout.git_folder, self.max_file_bytes) if checkout else None
        if checkout is None or objects is None or not objects.has(revision):
            return None
        listed = objects.list_blobs(revision, f"{checkout.prefix}{self.subpath}")
        files = {path.removeprefix(checkout.prefix): entry for path, entry in listed.items()}
        return GitSnapshot(revision, files, self.subpath, objects, self.table)

    def changes(self, older: Snapshot) -> Mapping[str, FileEntry | None]:
        return compare_files(older.files, self.files)


def scan_folder(
    root: Path,
    subpath: str = "",
    cache: StatCache | None = None,
    now: datetime | None = None,
    max_file_bytes: int = MAX_FILE_BYTES,
    *,
    keeps: bool = False,
) -> FolderSnapshot:
    """Everything below `root`/`subpath` now. With `cache` and `now`, files that did not change are not read again.

    With `keeps` manifests stay in memory as they were listed and are not read again: for a snapshot of one use.
    """
    resolved = _resolved(root)
    checkout = _checkout(resolved, subpath)
    scan = _Scan(
        resolved, checkout, cache or StatCache(), _nanoseconds(now), max_file_bytes, MAX_KEPT_BYTES if keeps else 0
    )
    files = scan.run(subpath)
    return FolderSnapshot(
        _revision(files, checkout), files, resolved, max_file_bytes, checkout, contents=scan.contents, subpath=subpath
    )


def _resolved(root: Path) -> Path:
    try:
        found = root.expanduser().resolve(strict=True)
    except (OSError, RuntimeError):
        found = root
    if not found.is_dir():
        message = f"{root} is not a folder that can be reached"
        raise SourceError(Fault.UNREACHABLE, message, "check the path, the mount and its permissions")
    return found


def _nanoseconds(now: datetime | None) -> int:
    return int(now.timestamp() * 1_000_000_000) if now else 0


def _modified_at(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError:
        return None


def _revision(files: Mapping[str, FileEntry], checkout: Checkout | None) -> str:
    ids = {path: entry.blob_id for path, entry in files.items()}
    if checkout and ids == {path: entry.blob_id for path, entry in checkout.files.items()}:
        return checkout.commit
    lines = "".join(f"{path}\0{files[path].mode:o} {ids[path]}\n" for path in sorted(files))
    digest = sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{checkout.commit}-dirty.{digest}" if checkout else f"folder@{digest}"


def _checkout(root: Path, subpath: str) -> Checkout | None:
    """None for a plain folder, a repository without a commit, and a folder its surrounding repository ignores."""
    try:
        opened = open_repository(root)
    except SourceError as error:
        if error.fault is Fault.UNREACHABLE:
            return None
        raise
    if opened.is_bare or opened.head_is_unborn or not root.is_relative_to(workdir := Path(opened.workdir).resolve()):
        return None
    inside = root.relative_to(workdir).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    if prefix and opened.path_is_ignored(prefix):
        return None
    commit = str(opened.head.target)
    files = {path.removeprefix(prefix): entry for path, entry in _committed(opened, commit, f"{prefix}{subpath}")}
    return Checkout(Path(opened.path), prefix, commit, files, lambda path: opened.path_is_ignored(f"{prefix}{path}"))


def _committed(opened: "Repository", commit: str, subpath: str) -> Iterator[tuple[str, FileEntry]]:
    try:
        yield from list_blobs(opened, commit, subpath).items()
    except SourceError as error:
        if error.fault is not Fault.PATH_MISSING:
            raise


class _Scan:
    """One walk. Paths are relative to the root, with `/`."""

    def __init__(
        self, root: Path, checkout: Checkout | None, cache: StatCache, now_ns: int, limit: int, room: int
    ) -> None:
        self._root = root
        self._checkout = checkout
        self._cache = cache
        self._now_ns = now_ns
        self._limit = limit
        self._tracked = _with_folders(checkout.files) if checkout else frozenset()
        self._files: dict[str, FileEntry] = {}
        self._real_folders: dict[str, str] = {}
        self.contents: dict[str, bytes] = {}
        self._room = room

    def run(self, subpath: str) -> dict[str, FileEntry]:
        start = "/".join(name for name in subpath.split("/") if name not in ("", "."))
        if not (self._root / start).is_dir():
            message = f"{self._root} has no folder {start}"
            raise SourceError(Fault.PATH_MISSING, message, "check path in the settings of the source")
        pending = [start]
        while pending:
            pending += self._folder(pending.pop())
            if len(self._files) > MAX_FILES:
                remedy = "set path to the folder of the manifests"
                raise SourceError(Fault.TOO_LARGE, f"more than {MAX_FILES} files under {self._root}", remedy)
        for path in self._cache.known.keys() - self._files.keys():
            del self._cache.known[path]
        return self._files

    def _folder(self, folder: str) -> list[str]:
        """Notes the files of one folder and gives back the folders below."""
        below = []
        try:
            with os.scandir(self._root / folder) as found:
                for item in found:
                    path = f"{folder}/{item.name}" if folder else item.name
                    # ConfigMap mounts keep the real files in folders that start with two dots.
                    if item.name == ".git" or item.name.startswith("..") or self._is_ignored(path, item):
                        continue
                    if self._note(path, item):
                        below.append(path)
        except OSError as error:
            message = f"{self._root / folder} cannot be listed: {error.strerror}"
            raise SourceError(Fault.UNREACHABLE, message, "check the permissions of the folder") from None
        return below

    def _is_ignored(self, path: str, item: "os.DirEntry[str]") -> bool:
        if self._checkout is None or path in self._tracked:
            return False
        return self._checkout.is_ignored(f"{path}/" if item.is_dir(follow_symlinks=False) else path)

    def _note(self, path: str, item: "os.DirEntry[str]") -> bool:
        """True for a folder to look into."""
        if item.is_symlink():
            self._note_link(path)
        elif item.is_dir(follow_symlinks=False):
            if self._checkout is None or not (self._root / path / ".git").exists():
                return True
            self._files[path] = FileEntry("", None, MODE_SUBMODULE)
        elif item.is_file(follow_symlinks=False):
            self._note_file(path, item.stat(follow_symlinks=False))
        return False

    def _note_link(self, path: str) -> None:
        link = self._root / path
        target = _real(link)
        if self._checkout is None and target.is_relative_to(self._root):
            if target.is_file():
                self._note_file(path, target.stat())
                return
            if target.is_dir():  # its files are met where they really are
                return
        text = os.fsencode(link.readlink())
        self._files[path] = FileEntry(blob_id(text), len(text), MODE_LINK)

    def _note_file(self, path: str, found: os.stat_result) -> None:
        mode = 0o100755 if found.st_mode & stat.S_IXUSR else 0o100644
        stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
        known = self._cache.known.get(path)
        if known and known[0] == stamp:
            self._files[path] = FileEntry(known[1], found.st_size, mode)
            return
        if (entry_id := self._id(path, found)) is None:
            return
        self._files[path] = FileEntry(entry_id, found.st_size, mode)
        if self._now_ns - max(found.st_mtime_ns, found.st_ctime_ns) > _RACY_NS:
            self._cache.known[path] = (stamp, entry_id)

    def _id(self, path: str, found: os.stat_result) -> str | None:
        """The blob id; None where the file is gone again. What cannot be read stays listed, so that nothing is pruned."""
        try:
            content = self._content(path)
        except ReadError as error:
            if error.fault is ReadFault.MISSING:
                return None
            return blob_id(f"{error.fault} {found.st_size} {found.st_mtime_ns}".encode())
        self._keep(path, content)
        return blob_id(content)

    def _content(self, path: str) -> bytes:
        folder, _, name = path.rpartition("/")
        real = self._real_folders.get(folder)
        if real is None:
            real = self._real_folders[folder] = str(_inside(self._root, folder, path))
        try:
            return _read_ordinary(f"{real}/{name}", path, self._limit)
        except _LinkError:
            return _read_file(self._root, path, self._limit)

    def _keep(self, path: str, content: bytes) -> None:
        if len(content) <= self._room and path.endswith((".yaml", ".yml")):
            self.contents[path] = content
            self._room -= len(content)


def _with_folders(files: Mapping[str, FileEntry]) -> frozenset[str]:
    folders = {path.rpartition("/")[0] for path in files}
    above = {parent.as_posix() for folder in folders if folder for parent in Path(folder).parents}
    return frozenset(files) | folders | above


def _real(path: Path) -> Path:
    # Unlike Path.resolve, no exception for links that lead in a circle; opening one fails by itself.
    return Path(os.path.realpath(path))


def _inside(root: Path, place: str, path: str) -> Path:
    """Where `place` really is; raises ReadError for `path` where that is not in `root`."""
    real = _real(root / place)
    if not real.is_relative_to(root):
        raise ReadError(path, ReadFault.NOT_A_FILE, "leads out of the folder")
    return real


def _read_file(root: Path, path: str, limit: int) -> bytes:
    """Bytes of an ordinary file inside `root`; never waits on a pipe, never follows a link out."""
    try:
        return _read_ordinary(str(_inside(root, path, path)), path, limit)
    except _LinkError:
        raise ReadError(path, ReadFault.UNREADABLE, "cannot be read: it has just become a link") from None


class _LinkError(Exception):
    """The file is a link."""


def _read_ordinary(target: str, path: str, limit: int) -> bytes:
    """Raises ReadError, and _LinkError where the last part of `target` is a link."""
    try:
        descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ReadError(path, ReadFault.MISSING, "no such file any more") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _LinkError from None
        raise ReadError(path, ReadFault.UNREADABLE, f"cannot be read: {error.strerror}") from None
    with open(descriptor, "rb", closefd=True) as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ReadError(path, ReadFault.NOT_A_FILE, "is not an ordinary file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise too_large(path, max(found.st_size, len(content)), limit)
    return content
