"""One revision of a source as a set of files, whichever way it came.

In: nothing; these are the values and the protocol. Out: `Snapshot`, which `tree.GitSnapshot` (a commit) and
`folder.FolderSnapshot` (a directory as it lies there) fulfil; parsing and validation read files through it only.
Paths are always relative to the root of the repository or folder, with `/`, also where a sub-path is set: that is how
a person and a pull request name a file. Links are never followed on behalf of Git; they stand in `files` with their
mode, so that validation can say so.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES = 200_000
MODE_LINK = 0o120000
MODE_SUBMODULE = 0o160000


class FileEntry(NamedTuple):
    """A file as a tree names it. `size` is None where finding it out would cost a read."""

    blob_id: str
    size: int | None
    mode: int

    @property
    def is_regular(self) -> bool:
        return self.mode not in (MODE_LINK, MODE_SUBMODULE)

    @property
    def is_link(self) -> bool:
        return self.mode == MODE_LINK


@dataclass(frozen=True, slots=True)
class FileHistory:
    """Who wrote a file first and who last, as Git says it (mail address, or name where there is none).

    Empty where nobody knows: a plain folder, a history cut short, a history that could not be fetched.
    """

    created_by: str = ""
    created_at: datetime | None = None
    updated_by: str = ""
    updated_at: datetime | None = None


UNKNOWN_HISTORY = FileHistory()
FileChanges = Mapping[str, FileEntry | None]


class ReadFault(StrEnum):
    MISSING = "missing"
    TOO_LARGE = "too-large"
    NOT_A_FILE = "not-a-file"
    CHANGED = "changed"
    UNREADABLE = "unreadable"


class ReadError(Exception):
    """One file of a snapshot cannot be had; the others can. `fault` tells which finding it makes."""

    def __init__(self, path: str, fault: ReadFault, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.fault = fault


class Snapshot(Protocol):
    """All files of one revision under the source's sub-path. Immutable: a later revision is another snapshot."""

    @property
    def revision(self) -> str: ...

    @property
    def files(self) -> Mapping[str, FileEntry]: ...

    def read(self, path: str) -> bytes:
        """The bytes of `path`, bounded; raises ReadError for this file, SourceError where the source is corrupt."""

    def history(self, path: str) -> FileHistory: ...

    def changes(self, older: "Snapshot") -> FileChanges:
        """What differs from `older`: the new entry, or None for a file that is gone."""


def compare_files(old: Mapping[str, FileEntry], new: Mapping[str, FileEntry]) -> dict[str, FileEntry | None]:
    """The difference of two listings, for snapshots that share no object database."""
    changes: dict[str, FileEntry | None] = {
        path: entry for path, entry in new.items() if (before := old.get(path)) is None or _differs(before, entry)
    }
    changes.update(dict.fromkeys(old.keys() - new.keys()))
    return changes


def _differs(old: FileEntry, new: FileEntry) -> bool:
    return old.blob_id != new.blob_id or old.mode != new.mode


def blob_id(content: bytes) -> str:
    """The id Git gives to a blob of this content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def too_large(path: str, size: int, limit: int) -> ReadError:
    return ReadError(path, ReadFault.TOO_LARGE, f"{size} bytes, more than the {limit} a file may have")


def entry_to_read(files: Mapping[str, FileEntry], path: str) -> FileEntry:
    """The entry of `path` if it is an ordinary file of this snapshot; raises ReadError otherwise."""
    entry = files.get(path)
    if entry is None:
        raise ReadError(path, ReadFault.MISSING, "no such file in this revision (only files under the sub-path count)")
    if not entry.is_regular:
        kind = "a symbolic link" if entry.is_link else "a submodule"
        raise ReadError(path, ReadFault.NOT_A_FILE, f"{kind} is not followed; put the file itself there")
    return entry
