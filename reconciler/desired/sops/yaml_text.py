"""Where the scalars and comments of a YAML text stand, so that values are replaced and everything else stays as it is.

In: text that `yaml_events.read_documents` accepts. Out: spots in order of the text, with the keys above them, and edits
applied. A file that passes through here keeps its comments, order, quotes, indentation and line ends; only the values
that change are touched. Called by `encrypt.py`.
"""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.sops.marks import is_sealed_comment
from reconciler.desired.sops.scalars import is_ambiguous
from reconciler.desired.sops.yaml_events import end_of, events, start_of
from reconciler.model.finding import Code

_COMMENT = re.compile(r"(?:^|(?<=\s))#([^\r\n]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Spot:
    """A scalar. `parents` are the keys of the collection it stands in; `indent` is the column of its own further lines."""

    start: int
    end: int
    line: int
    parents: tuple[str, ...]
    is_key: bool
    flow: bool
    indent: int
    ambiguous: bool


@dataclass(frozen=True, slots=True)
class Comment:
    """`start` is the position of the #, `text` what follows it."""

    start: int
    text: str
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Edit:
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Layout:
    """`values` are those outside the `sops` blocks; `blocks` the span of each block; `ends` of each document; `notes` are
    the encrypted comments that stand as items of lists."""

    spots: tuple[Spot, ...]
    values: tuple[Spot, ...]
    notes: tuple[Spot, ...]
    blocks: tuple[tuple[int, int], ...]
    ends: tuple[int, ...]


def layout(text: str) -> Layout:
    """Find all spots. Raises `SopsError` for aliases and for documents that are not block mappings."""
    scanner = _Scanner(text)
    for event in events(text):
        scanner.see(event)
    spots = tuple(scanner.spots)
    in_block = [_in_block(text, spot) for spot in spots]
    values = tuple(spot for spot, inside in zip(spots, in_block, strict=True) if not inside and not spot.is_key)
    return Layout(spots, values, tuple(scanner.notes), tuple(_blocks(text, spots, in_block)), tuple(scanner.ends))


def comments(text: str, spots: Iterable[Spot]) -> list[Comment]:
    """Every comment outside scalars, with the keys of the collection that a reader would attach it to."""
    ordered = list(spots)
    gaps = zip([0, *(spot.end for spot in ordered)], [*(spot.start for spot in ordered), len(text)], strict=True)
    found: list[Comment] = []
    for before, (start, end) in enumerate(gaps):
        found += [
            Comment(match.start(), match[1], _parents(text, match.start(), ordered, before))
            for match in _COMMENT.finditer(text, start, end)
        ]
    return found


def edited(text: str, edits: Iterable[Edit]) -> str:
    parts, position = [], 0
    for edit in sorted(edits, key=lambda one: one.start):
        parts += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join((*parts, text[position:]))


class _Frame:
    __slots__ = ("column", "flow", "is_map", "key", "parents")

    def __init__(self, event: yaml.CollectionStartEvent, parents: tuple[str, ...], *, flow: bool) -> None:
        self.is_map = isinstance(event, yaml.MappingStartEvent)
        self.parents = parents
        self.key: str | None = None
        self.flow = flow
        self.column = start_of(event).column


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._stack: list[_Frame] = []
        self.spots: list[Spot] = []
        self.notes: list[Spot] = []
        self.ends: list[int] = []

    def see(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()
            self._value_done()
        elif isinstance(event, yaml.AliasEvent):
            message = f"line {start_of(event).line + 1}: an alias, which other SOPS programs would write out"
            raise SopsError(Code.YAML_TAG, message, "write the value in place of the alias")
        elif isinstance(event, yaml.DocumentEndEvent):
            self.ends.append(start_of(event).index)

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        above = self._stack[-1] if self._stack else None
        flow = bool(event.flow_style) or bool(above and above.flow)
        if above is None and flow:
            message = "the document is written in braces, where no sops block can be added"
            raise SopsError(Code.SOPS_MALFORMED, message, "write it as key: value lines, or name the file .json")
        parents = (*above.parents, above.key) if above and above.key is not None else above.parents if above else ()
        self._stack.append(_Frame(event, parents, flow=flow))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        frame = self._stack[-1]
        is_key = frame.is_map and frame.key is None
        if is_key:
            frame.column = start_of(event).column
        start, end = start_of(event).index, end_of(event).index
        if event.style in ("|", ">"):
            end = start + len(self._text[start:end].rstrip())
        plain = event.implicit[0] and is_ambiguous(event.value)
        line, indent = start_of(event).line + 1, frame.column + 2
        spot = Spot(start, end, line, frame.parents, is_key, frame.flow, indent, plain)
        is_note = not frame.is_map and is_sealed_comment(event.value)
        (self.notes if is_note else self.spots).append(spot)
        if is_key:
            frame.key = event.value
        else:
            self._value_done()

    def _value_done(self) -> None:
        if self._stack:
            self._stack[-1].key = None


def _in_block(text: str, spot: Spot) -> bool:
    if spot.parents:
        return spot.parents[0] == BLOCK
    return spot.is_key and text[spot.start : spot.end].strip("'\"") == BLOCK


def _blocks(text: str, spots: tuple[Spot, ...], in_block: list[bool]) -> Iterator[tuple[int, int]]:
    start = end = -1
    for spot, inside in zip(spots, in_block, strict=True):
        if start >= 0 and (not inside or not spot.parents):
            yield start, _line_end(text, end)
            start = -1
        if inside:
            start = spot.start if start < 0 else start
            end = spot.end
    if start >= 0:
        yield start, _line_end(text, end)


def _line_end(text: str, position: int) -> int:
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1


def _parents(text: str, position: int, spots: list[Spot], following: int) -> tuple[str, ...]:
    """`following` is the index of the first spot after the comment. A comment on its own line belongs to what follows, or,
    indented deeper than that, to the block that ends there."""
    line_start = text.rfind("\n", 0, position) + 1
    earlier = spots[following - 1 :: -1] if following else []
    if earlier and earlier[0].end > line_start:
        flow = list(itertools.takewhile(lambda spot: spot.flow, earlier))
        return (flow or earlier)[-1 if flow else 0].parents
    column = position - line_start
    after = spots[following] if following < len(spots) else None
    if after and (not earlier or len(after.parents) > len(earlier[0].parents) or _indent(text, after) == column):
        return after.parents
    leftmost = {spot.line: spot for spot in earlier}.values()
    return next((spot.parents for spot in leftmost if _indent(text, spot) <= column), ())


def _indent(text: str, spot: Spot) -> int:
    line = text[text.rfind("\n", 0, spot.start) + 1 : spot.start + 1]
    return len(line) - len(line.lstrip(" "))
