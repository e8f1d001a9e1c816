"""One step of a change as a replacement of spans of the text.

In: the text, the nodes around the place, the step, and how the file indents. Out: the text after it, which the caller reads
back: nothing here is taken on trust. Called by `retouch` only. `CannotError` says that the text is written in a way for which
there is no rule here.
"""

from dataclasses import dataclass
from typing import Any

from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.writing import render
from reconciler.desired.writing.nodes import Node
from reconciler.desired.writing.operations import Act, Step
from reconciler.desired.writing.render import Habit


class CannotError(Exception):
    """Not in this way."""


@dataclass(frozen=True, slots=True)
class Place:
    """The nodes from the document down; `is_whole` where the last of them is the very value that the step speaks of."""

    chain: tuple[Node, ...]
    is_whole: bool
    in_sops_root: bool


def stepped(text: str, place: Place, step: Step, habit: Habit) -> str:
    """The text with the step taken. Raises CannotError."""
    chain = place.chain
    if step.act is Act.SET:
        if not place.is_whole:
            raise CannotError
        return _set(text, chain, step.value, habit)
    parent = chain[-2] if place.is_whole else chain[-1]
    above = chain[:-1] if place.is_whole else chain
    if step.act is Act.DROP:
        return _drop(text, above, step, habit)
    if parent.kind not in ("mapping", "list"):
        raise CannotError
    key = step.path[-1]
    if not parent.values:
        return _set(text, above, {key: step.value} if parent.kind == "mapping" else [step.value], habit)
    if parent.is_flow:
        return _add_in_flow(text, parent, key, step.value)
    if parent.kind == "mapping":
        return _add_entry(text, parent, str(key), step.value, habit)
    return _add_item(text, parent, int(key), step.value, habit)


# Setting.


def _set(text: str, chain: tuple[Node, ...], value: Any, habit: Habit) -> str:
    node = chain[-1]
    if len(chain) == 1:
        return _spliced(text, node.start, node.end, render.block(value, node.column, habit).lstrip(" "))
    above = chain[-2]
    if above.is_flow:
        return _spliced(text, node.start, node.end, _inline(node, value, in_flow=True))
    if above.kind == "list":
        return _set_item(text, node, value, habit)
    key = next(one for one, other in zip(above.keys, above.values, strict=True) if other is node)
    colon = text.find(":", key.end)
    if colon < 0 or text[key.end : colon].strip():
        raise CannotError
    is_nested = bool(value) and isinstance(value, dict | list)
    return (_set_nested if is_nested else _set_plain)(text, (key, node), colon + 1, value, habit)


def _set_plain(text: str, pair: tuple[Node, Node], colon: int, value: Any, habit: Habit) -> str:
    """A scalar or an empty collection; what the comments between key and old value said is kept behind it."""
    key, node = pair
    gap, rest = text[colon : node.start], text[node.end : _line_end(text, node.end)]
    note = gap.strip()
    if node.kind == "scalar" and node.end > node.start and not note:
        new = _inline(node, value, in_flow=bool(rest.strip()), indent=key.column + habit.step)
        return _spliced(text, node.start, node.end, new)
    new = render.flow(value) if note or rest.strip() else render.one_line(value, key.column + habit.step)
    end = max(node.end, colon)
    return _spliced(text, colon, end, f" {new}" + (f" {note}" if note else ""))


def _set_nested(text: str, pair: tuple[Node, Node], colon: int, value: Any, habit: Habit) -> str:
    key, node = pair
    gap, line_end = text[colon : node.start], _line_end(text, max(node.end, colon))
    if "\n" in gap and gap.strip():
        column = key.column + (habit.step if isinstance(value, dict) else habit.dash)
        return _spliced(text, _line_start(text, node.start), node.end, render.block(value, column, habit))
    rest = text[max(node.end, colon) : line_end].rstrip()
    return _spliced(text, colon, line_end, rest + render.after_colon(value, key.column, habit))


def _set_item(text: str, node: Node, value: Any, habit: Habit) -> str:
    if node.dash < 0:
        raise CannotError
    column, note = _column(text, node.dash), text[node.dash + 1 : node.start].strip()
    is_nested = bool(value) and isinstance(value, dict | list)
    if note and is_nested:
        return _spliced(text, _line_start(text, node.start), node.end, render.block(value, column + 2, habit))
    if note:
        return _spliced(text, node.dash + 1, node.end, f" {render.flow(value)} {note}")
    if node.kind == "scalar" and not is_nested:
        rest = text[node.end : _line_end(text, node.end)].strip()
        new = _inline(node, value, in_flow=bool(rest), indent=column + 2)
        return _spliced(text, node.dash + 1, max(node.end, node.dash + 1), f" {new}")
    line_end = _line_end(text, node.end)
    if is_nested and (rest := text[node.end : line_end].strip()):
        return _spliced(text, node.dash + 1, line_end, f" {rest}\n" + render.block(value, column + 2, habit))
    return _spliced(text, node.dash, node.end, render.item(value, column, habit).lstrip(" "))


def _inline(node: Node, value: Any, *, in_flow: bool, indent: int = 0) -> str:
    if isinstance(value, str) and node.kind == "scalar":
        return render.like(value, node.style, indent, in_flow=in_flow)
    return render.flow(value) if in_flow else render.one_line(value, indent)


# Adding.


def _add_entry(text: str, parent: Node, key: str, value: Any, habit: Habit) -> str:
    ends = [one.end for name, one in zip(parent.keys, parent.values, strict=True) if name.text != BLOCK]
    place = _line_end(text, max(ends or [parent.end]))
    return _inserted_line(text, place, render.entry(key, value, parent.column, habit))


def _add_item(text: str, parent: Node, index: int, value: Any, habit: Habit) -> str:
    dash = parent.values[0].dash
    if dash < 0:
        raise CannotError
    line = render.item(value, _column(text, dash), habit)
    if index:
        return _inserted_line(text, _line_end(text, parent.values[index - 1].end), line)
    begin = _line_start(text, dash)
    if text[begin:dash].strip():
        raise CannotError
    begin = _above_notes(text, begin, _column(text, dash))
    return text[:begin] + _lines(text, line) + _newline(text) + text[begin:]


def _add_in_flow(text: str, parent: Node, key: str | int, value: Any) -> str:
    if parent.kind == "list":
        new = render.flow(value)
        if int(key) < len(parent.values):
            start = parent.values[int(key)].start
            return _spliced(text, start, start, f"{new}, ")
    else:
        new = f"{render.key_text(str(key))}: {render.flow(value)}"
    last = parent.values[-1]
    begin = (parent.keys or parent.values)[-1].start
    blank = text[_line_start(text, begin) : begin]
    gap = " " if blank.strip() else _newline(text) + blank
    tail = text[last.end : parent.end - 1]
    if tail.lstrip().startswith(","):
        place = last.end + tail.index(",") + 1
        return _spliced(text, place, place, gap + new)
    return _spliced(text, last.end, last.end, f",{gap}{new}")


# Dropping.


def _drop(text: str, above: tuple[Node, ...], step: Step, habit: Habit) -> str:
    parent = above[-1]
    if len(parent.values) == 1:
        return _set(text, above, {} if parent.kind == "mapping" else [], habit)
    last = step.path[-1]
    index = int(last) if parent.kind == "list" else [key.text for key in parent.keys].index(str(last))
    starts = [one.start for one in parent.keys or parent.values]
    value = parent.values[index]
    if parent.is_flow:
        return _drop_in_flow(text, parent, index, starts)
    begin = value.dash if parent.kind == "list" else starts[index]
    if begin < 0:
        raise CannotError
    line_end = _line_end(text, value.end)
    line = _line_start(text, begin)
    if not text[line:begin].strip():
        return _without_lines(text, line, line_end)
    if parent.kind == "list" or index:
        raise CannotError
    # The first key stands behind the dash of an item: the next one moves up, unless a comment is in between.
    is_free = not text[line_end : starts[1]].strip()
    return _spliced(text, begin, starts[1] if is_free else line_end, "")


def _drop_in_flow(text: str, parent: Node, index: int, starts: list[int]) -> str:
    end = parent.values[index].end
    if index + 1 < len(starts):
        gap = text[end : starts[index + 1]]
        line = gap.find("\n")
        kept = gap[line:] if "#" in gap and line >= 0 else ""
        return _spliced(text, starts[index], starts[index + 1], kept)
    before = parent.values[index - 1].end
    return _spliced(text, starts[index] if "#" in text[before : starts[index]] else before, end, "")


# Lines.


def _spliced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + _lines(text, new) + text[end:]


def _inserted_line(text: str, place: int, line: str) -> str:
    return text[:place] + _newline(text) + _lines(text, line) + text[place:]


def _without_lines(text: str, start: int, end: int) -> str:
    after = text.find("\n", end)
    if after >= 0:
        return text[:start] + text[after + 1 :]
    return text[:start].removesuffix("\n").removesuffix("\r")


def _lines(text: str, new: str) -> str:
    return new.replace("\n", _newline(text))


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _line_start(text: str, position: int) -> int:
    return text.rfind("\n", 0, position) + 1


def _line_end(text: str, position: int) -> int:
    """Before the line end, whichever it is."""
    found = text.find("\n", position)
    if found < 0:
        return len(text)
    return found - 1 if found > position and text[found - 1] == "\r" else found


def _column(text: str, position: int) -> int:
    return position - _line_start(text, position)


def _above_notes(text: str, begin: int, column: int) -> int:
    """Where the comment lines begin that stand right above a line and as deep: they belong to it."""
    while begin:
        above = _line_start(text, begin - 1)
        line = text[above:begin]
        if not line.startswith(" " * column + "#"):
            break
        begin = above
    return begin
