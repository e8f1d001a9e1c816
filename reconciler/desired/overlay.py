"""A revision with some files as they would be: what a change would come to, before or beside any commit of it.

In: a snapshot and the contents that differ. Out: a `Snapshot`, which is validated like any other. Nothing is written. Called by
`writing` and by whoever plans files that are not in Git yet.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.desired.snapshot import (
    MAX_FILE_BYTES,
    UNKNOWN_HISTORY,
    FileEntry,
    FileHistory,
    Snapshot,
    blob_id,
    compare_files,
    entry_to_read,
    too_large,
)

MODE_FILE = 0o100644
Contents = Mapping[str, bytes | None]
"""By path; None for a file that would be gone."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Made by `overlay`."""

    base: Snapshot = field(repr=False)
    contents: Contents = field(repr=False)
    files: Mapping[str, FileEntry] = field(repr=False)
    revision: str

    def read(self, path: str) -> bytes:
        entry_to_read(self.files, path)
        content = self.contents.get(path)
        if content is None:
            return self.base.read(path)
        if len(content) > MAX_FILE_BYTES:
            raise too_large(path, len(content), MAX_FILE_BYTES)
        return content

    def history(self, path: str) -> FileHistory:
        return UNKNOWN_HISTORY if path in self.contents else self.base.history(path)

    def changes(self, older: Snapshot) -> Mapping[str, FileEntry | None]:
        if older is self.base:
            return {path: self.files.get(path) for path in self.contents}
        return compare_files(older.files, self.files)


def overlay(base: Snapshot, contents: Contents) -> Overlay:
    """Named by the base's revision and the contents: equal changes of one revision are equal."""
    files = dict(base.files)
    digest = hashlib.sha256()
    for path, content in sorted(contents.items()):
        before = files.pop(path, None)
        if content is not None:
            files[path] = FileEntry(blob_id(content), len(content), before.mode if before else MODE_FILE)
        digest.update(f"{path}\0{files[path].blob_id if path in files else ''}\0".encode())
    return Overlay(base, contents, files, f"{base.revision}+{digest.hexdigest()[:12]}")
