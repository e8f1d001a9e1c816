"""Lists and references over a snapshot: filters, pages with stable cursors, and what a `{ref}` means. Pure; called by `routes`.

A cursor is the place in the order of workspace and name. The parameters are read here and not by the framework, which would take
as long for them as all the rest of the request.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from reconciler.api.paging import DEFAULT_LIMIT, MAX_LIMIT
from reconciler.model.access import Caller
from reconciler.model.condition import Status
from reconciler.model.ids import Ref, meant
from reconciler.serve.paging import decode, encode
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry, Key, Snapshot

PARAMETERS = ("status", "type", "workspace", "label", "q", "limit", "cursor")


@dataclass(frozen=True, slots=True)
class Filters:
    """Any of the statuses, types and workspaces; all of the labels (a value of None: the label is there); the text."""

    statuses: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    workspaces: frozenset[str] = frozenset()
    labels: tuple[tuple[str, str | None], ...] = ()
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.statuses or self.types or self.workspaces or self.labels or self.text)

    def fits(self, entry: Entry) -> bool:
        return (
            (not self.statuses or entry.status in self.statuses)
            and (not self.types or entry.type in self.types)
            and (not self.workspaces or entry.workspace in self.workspaces)
            and (not self.text or self.text in entry.search)
            and (not self.labels or all(_bears(entry.labels, *label) for label in self.labels))
        )


def _bears(labels: Mapping[str, str], name: str, value: str | None) -> bool:
    return name in labels and (value is None or labels[name] == value)


@dataclass(frozen=True, slots=True)
class Query:
    filters: Filters
    limit: int = DEFAULT_LIMIT
    after: Key | None = None


def parse_query(parameters: Sequence[tuple[str, str]]) -> Query:
    """Raises ProblemError; a parameter nobody knows is an error, because a mistyped filter would show everything."""
    for name, _ in parameters:
        if name not in PARAMETERS:
            raise ProblemError(400, "unknown-parameter", f"unknown parameter {name!r}; known: {', '.join(PARAMETERS)}")
    filters = Filters(
        statuses=_statuses(_several(parameters, "status")),
        types=frozenset(_several(parameters, "type")),
        workspaces=frozenset(_several(parameters, "workspace")),
        labels=tuple(_label(text) for text in _several(parameters, "label")),
        text=(_single(parameters, "q") or "").strip().casefold(),
    )
    cursor = _single(parameters, "cursor")
    return Query(filters, _limit(_single(parameters, "limit")), decode(cursor, tuple[str, str]) if cursor else None)


def _several(parameters: Iterable[tuple[str, str]], name: str) -> list[str]:
    """A part that is empty would filter nothing, and nobody means that."""
    found = [part for key, value in parameters if key == name for part in value.split(",")]
    if not all(found):
        raise ProblemError(400, "invalid-parameter", f"{name} is empty; leave it out to have all")
    return found


def _single(parameters: Iterable[tuple[str, str]], name: str) -> str | None:
    values = [value for key, value in parameters if key == name]
    if len(values) > 1:
        raise ProblemError(400, "invalid-parameter", f"{name} is given {len(values)} times; give it once")
    return values[0] if values else None


def _statuses(values: Sequence[str]) -> frozenset[str]:
    known = [str(status) for status in Status]
    for value in values:
        if value not in known:
            raise ProblemError(400, "invalid-parameter", f"status {value!r} does not exist; one of: {', '.join(known)}")
    return frozenset(values)


def _label(text: str) -> tuple[str, str | None]:
    """`name=value` or `name`."""
    name, equals, value = text.partition("=")
    return name, value if equals else None


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_LIMIT):
        raise ProblemError(400, "invalid-parameter", f"limit must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Page:
    entries: Sequence[Entry]
    next_cursor: str | None


def page(snapshot: Snapshot, query: Query, caller: Caller) -> Page:
    """At most `limit` entries that fit and that the caller sees, in order, after the cursor."""
    first, end = _seen(snapshot, caller)
    start = max(first, bisect_right(snapshot.keys, query.after)) if query.after else first
    if query.filters:
        fitting = (e for e in islice(snapshot.entries, start, end) if query.filters.fits(e))
        found: Sequence[Entry] = list(islice(fitting, query.limit + 1))
    else:
        found = snapshot.entries[start : min(end, start + query.limit + 1)]
    if len(found) <= query.limit:
        return Page(found, None)
    return Page(found[: query.limit], encode(found[query.limit - 1].key))


def resolve(snapshot: Snapshot, ref: str, caller: Caller) -> Sequence[Entry]:
    """What `ref` may mean: a public id, a name as commands take it, or failing those a type. One entry, several, or none.

    Of what the caller does not see nothing is looked at, so that not even the time tells of it.
    """
    entries = seen(snapshot, caller)
    by_id = [entry for entry in entries if entry.public_id == ref]
    return by_id or _named(entries, ref) or [entry for entry in entries if entry.type == ref]


def seen(snapshot: Snapshot, caller: Caller) -> Sequence[Entry]:
    """All that exist for this caller."""
    first, end = _seen(snapshot, caller)
    return snapshot.entries[first:end]


def _seen(snapshot: Snapshot, caller: Caller) -> tuple[int, int]:
    """From where to where: entries of a workspace stand together."""
    if caller.workspace is None:
        return 0, len(snapshot.entries)
    after = f"{caller.workspace}\0"
    return bisect_left(snapshot.keys, (caller.workspace, "")), bisect_left(snapshot.keys, (after, ""))


def _named(entries: Sequence[Entry], ref: str) -> Sequence[Entry]:
    near = {Ref(entry.workspace, entry.name): entry for entry in entries if ref.endswith(entry.name)}
    try:
        return [near[found] for found in meant(ref, near)]
    except ValueError:
        return []
