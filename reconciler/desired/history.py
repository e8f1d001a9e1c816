"""Who created each file and who changed it last, from one pass over `git log --raw`.

In: the bytes of `git_transport.Git.log`. Out: a frozen `HistoryTable`, extended by the commits since; `source` keeps
one per revision. A file deleted and written again later counts as created again; a file moved unchanged within one
commit keeps its creator. Commits where a history was cut (a shallow clone) name nobody, rather than whoever happened
to stand at the cut.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from reconciler.desired.snapshot import UNKNOWN_HISTORY, FileHistory

_ABSENT = "0" * 40


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit of the log and what it did to files: (path, id before, id after)."""

    id: str
    author: str
    authored_at: datetime | None
    committed_at: datetime | None
    touched: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class HistoryTable:
    """Everything known up to `revision`. `gone` are deleted paths: on a side branch a file may live on.

    `told` are the paths that the commits after `base` spoke of.
    """

    revision: str = ""
    entries: Mapping[str, FileHistory] = field(default_factory=dict)
    gone: frozenset[str] = frozenset()
    base: str = field(default="", compare=False)
    told: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def of(self, path: str) -> FileHistory:
        return self.entries.get(path, UNKNOWN_HISTORY)

    def since(self, older: "HistoryTable") -> frozenset[str] | None:
        """Paths of which it may know more than `older`; None where that may be any."""
        if self.revision == older.revision:
            return frozenset()
        return self.told if self.base == older.revision else None


def extend(table: HistoryTable, log: bytes, revision: str, cut: frozenset[str] = frozenset()) -> HistoryTable:
    """`table` carried on to `revision` by `log`, oldest first. `cut` are commits whose parents are unknown."""
    entries, gone, told = dict(table.entries), set(table.gone), set[str]()
    for commit in read_log(log):
        _apply(commit, entries, gone, is_cut=commit.id in cut)
        told.update(path for path, _, _ in commit.touched)
    return HistoryTable(revision, entries, frozenset(gone), table.revision, frozenset(told))


def _apply(commit: Commit, entries: dict[str, FileHistory], gone: set[str], *, is_cut: bool) -> None:
    if is_cut:
        entries.update(dict.fromkeys((path for path, _, _ in commit.touched), UNKNOWN_HISTORY))
        return
    moved = {before: entries[path] for path, before, after in commit.touched if after == _ABSENT and path in entries}
    for path, before, after in commit.touched:
        if after == _ABSENT:
            gone.add(path)
            continue
        if path not in entries or (before == _ABSENT and path in gone):
            entries[path] = moved.get(after) or FileHistory(commit.author, commit.authored_at)
        gone.discard(path)
        entries[path] = _updated(entries[path], commit)


def _updated(known: FileHistory, commit: Commit) -> FileHistory:
    # Topological order may bring an older side branch after a newer commit.
    if known.updated_at and commit.committed_at and commit.committed_at < known.updated_at:
        return known
    return replace(known, updated_by=commit.author, updated_at=commit.committed_at)


def read_log(log: bytes) -> Iterator[Commit]:
    """The commits of a log in NUL-separated fields: a header of five, then pairs of change and path."""
    fields = iter(log.decode("utf-8", "surrogateescape").split("\0"))
    header: tuple[str, ...] = ()
    touched: list[tuple[str, str, str]] = []
    for text in fields:
        word = text.lstrip("\n")
        if word.startswith("\x01"):
            if header:
                yield _commit(header, touched)
            header, touched = (word[1:], *(next(fields) for _ in range(4))), []
        elif word.startswith(":"):
            touched.append((next(fields), *_ids(word)))
    if header:
        yield _commit(header, touched)


def _ids(change: str) -> tuple[str, str]:
    """Ids before (of the first parent) and after; a merge has one colon and one id per parent."""
    parents = len(change) - len(change.lstrip(":"))
    words = change[parents:].split(" ")
    ids = words[parents + 1 : 2 * parents + 2]
    return ids[0], ids[-1]


def _commit(header: tuple[str, ...], touched: list[tuple[str, str, str]]) -> Commit:
    id_, name, mail, authored, committed = header
    return Commit(id_, mail or name, _time(authored), _time(committed), tuple(touched))


def _time(seconds: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None
