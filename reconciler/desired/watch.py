"""File system events as a plain "look again", for sources on this machine.

In: a folder or repository. Out: an endless stream of None, one per burst of changes. Called by the `watch` of a source.
The events are hints, never facts: what changed is found by looking, and the poll interval covers what no event told
(network file systems, a link swapped at the root).
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from reconciler.desired.source_error import SourceError

_QUIET_MS = 50
_LONGEST_MS = 1000
_GIT_FILES = frozenset({"HEAD", "packed-refs"})


async def watch_refs(repository: Path) -> AsyncIterator[None]:
    """Whenever a branch or tag may have moved. Objects are written before the ref, so they do not count."""
    folders = _git_folders(repository)
    async for _ in _bursts(folders, lambda path: _is_ref(path, folders)):
        yield


async def watch_files(root: Path, subpath: str) -> AsyncIterator[None]:
    """Whenever a file below the sub-path of `root` changed, or the HEAD of the repository it is in."""
    below, folders = _existing(root, subpath), _git_folders(root)
    async for _ in _bursts((below, *folders), lambda path: _is_ref(path, folders) or ".git" not in path.parts):
        yield


def _existing(root: Path, subpath: str) -> Path:
    below = root / subpath
    return (below if below.is_dir() else root).resolve()


def _git_folders(path: Path) -> tuple[Path, ...]:
    """The Git folder of `path`, and for a linked worktree also the main one, which has the branches."""
    from reconciler.desired.tree import open_repository

    try:
        folder = Path(open_repository(path).path).resolve()
    except SourceError:
        return ()
    common = folder / "commondir"
    return (folder, (folder / common.read_text().strip()).resolve()) if common.is_file() else (folder,)


def _is_ref(path: Path, folders: tuple[Path, ...]) -> bool:
    if path.name.endswith(".lock"):
        return False
    inside = [path.relative_to(folder) for folder in folders if path.is_relative_to(folder)]
    return any(i.as_posix() in _GIT_FILES or i.parts[:1] in (("refs",), ("reftable",)) for i in inside)


async def _bursts(folders: tuple[Path, ...], is_wanted: Callable[[Path], bool]) -> AsyncIterator[None]:
    from watchfiles import Change, awatch

    if not folders:
        return

    def wanted(_: Change, path: str) -> bool:
        return is_wanted(Path(path))

    try:
        async for _ in awatch(*folders, watch_filter=wanted, debounce=_LONGEST_MS, step=_QUIET_MS):
            yield
    except RuntimeError as error:  # the library's own kind, for instance where the system has no more watches to give
        raise OSError(str(error)) from None
