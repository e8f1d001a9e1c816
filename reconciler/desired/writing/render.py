"""Values as YAML text, to stand inside a text that a person wrote.

In: a value and where it will stand. Out: text that `yaml_source` and SOPS programs read as that very value: text that looks
like another type to either is quoted. Called by `retouch` for what is new and by `edits` for new files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.desired.sops.emit import yaml_scalar
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.scalars import is_ambiguous, resolve
from reconciler.desired.yaml_source import scalar

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*(?: [A-Za-z0-9_./@+-]+)*|https?://[A-Za-z0-9_./@+=&%:-]*[A-Za-z0-9_/]")
_OLD_TRUTH = frozenset({"y", "n", "yes", "no", "on", "off", "null", "true", "false"})
_SINGLE = re.compile(r"[^\n\t\r\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]*")


@dataclass(frozen=True, slots=True)
class Habit:
    """How a file indents: columns per level, and whether the dashes of a list stand deeper than its key."""

    step: int = 2
    dash: int = 2


PLAIN_HABIT = Habit()


def block(value: Any, column: int, habit: Habit = PLAIN_HABIT) -> str:
    """A mapping or list as lines that begin at `column`, without the last line end."""
    if isinstance(value, Mapping):
        return "\n".join(entry(key, item, column, habit) for key, item in value.items())
    return "\n".join(item(one, column, habit) for one in value)


def entry(key: str, value: Any, column: int, habit: Habit = PLAIN_HABIT) -> str:
    """`key: value` as a line of its own or several."""
    return " " * column + key_text(key) + ":" + after_colon(value, column, habit)


def after_colon(value: Any, column: int, habit: Habit) -> str:
    """What follows `key:` of a key at `column`."""
    if value and isinstance(value, Mapping):
        return "\n" + block(value, column + habit.step, habit)
    if value and isinstance(value, list | tuple):
        return "\n" + block(value, column + habit.dash, habit)
    return " " + one_line(value, column + habit.step)


def item(value: Any, column: int, habit: Habit) -> str:
    """`- value`, its dash at `column`."""
    begin = " " * column + "- "
    if value and isinstance(value, Mapping | list | tuple):
        return begin + block(value, column + 2, habit)[column + 2 :]
    return begin + one_line(value, column + 2)


def one_line(value: Any, indent: int) -> str:
    """A scalar or an empty collection in a block; text of several lines becomes a literal block at `indent`."""
    if isinstance(value, Mapping | list | tuple):
        return "{}" if isinstance(value, Mapping) else "[]"
    if isinstance(value, str) and (is_plain(value) or looks_encrypted(value)):
        return value
    return yaml_scalar(value, indent, flow=False, literal=True)


def flow(value: Any) -> str:
    """A value inside braces or brackets."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key_text(key)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, str) and is_plain(value) and "," not in value:
        return value
    return yaml_scalar(value, 0, flow=True, literal=False)


def like(value: str, style: str, indent: int, *, in_flow: bool) -> str:
    """Text in the quotes that the text before it had, where it fits into them."""
    if looks_encrypted(value):
        return f'"{value}"' if in_flow or style in ("'", '"') else value
    if style == "'" and _SINGLE.fullmatch(value):
        return "'" + value.replace("'", "''") + "'"
    if style == '"':
        return _double(value)
    return flow(value) if in_flow else one_line(value, indent)


def key_text(key: str) -> str:
    return key if is_plain(key) and ":" not in key else _double(key)


def is_plain(text: str) -> bool:
    """Whether text may stand without quotes, for every reader that is known to read these files."""
    if not _PLAIN.fullmatch(text) or text.lower() in _OLD_TRUTH:
        return False
    return resolve(text) == text and scalar(text) == text and not is_ambiguous(text)


def _double(value: str) -> str:
    quoted = yaml_scalar(value, 0, flow=True, literal=False)
    return quoted if quoted.startswith('"') else f'"{quoted}"'
