"""What to write instead of a value of the wrong type.

In: what is wanted, in the words of a finding, and the value that stands there. Out: how it is told, and the remedy. Called by
`wording`. Most of it is about the difference to YAML 1.1, where `yes` is true and `1_000` a number: most people, and the
tools they come from, still write that.
"""

import re
from collections.abc import Mapping

from reconciler.desired.problem import shown
from reconciler.desired.yaml_source import scalar

TEXT, WHOLE, NUMBER, TRUTH, LIST, MAPPING = "text", "a whole number", "a number", "true or false", "a list", "a mapping"
_MEANT = {
    **dict.fromkeys(("y", "yes", "on", "true", "1"), "true"),
    **dict.fromkeys(("n", "no", "off", "false", "0"), "false"),
}
_OLD = "yes, no, on and off are text in YAML 1.2"
_ITEMS = re.compile(r"[a-zA-Z][\w./@, -]{0,59}")
_EXACT = 2.0**53
_NAMES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Mapping, MAPPING), ((list, tuple), LIST), (str, TEXT), (bool, TRUTH), ((int, float), NUMBER),
)  # fmt: skip


def standing(wanted: str, value: object, *, may_show: bool) -> str:
    """What stands there instead, as the end of a message."""
    if value is None:
        return ", but nothing stands here"
    if may_show and isinstance(value, str | int | float):
        return seen(wanted, value)
    if wanted == WHOLE and isinstance(value, float):
        return ", not one with a fraction"
    return next((f", not {name}" for types, name in _NAMES if isinstance(value, types)), "")


def seen(wanted: str, value: str | float) -> str:
    """The value as YAML spells it. Where text is wanted it may have been spelled otherwise: 0123, 1.10."""
    if isinstance(value, bool):
        return f", not {str(value).lower()}"
    as_number = "the number " if wanted == TEXT and not isinstance(value, str) else ""
    return f", not {as_number}{shown(value)}"


def mending(wanted: str, value: object, *, may_show: bool) -> str:
    """What to write; empty where only the description of the field can tell."""
    if not isinstance(value, str | int | float):
        return ""
    if wanted == TEXT:
        return "put it in quotes"
    if wanted == TRUTH:
        return _truth(value) if may_show else f"write true or false without quotes; {_OLD}"
    if wanted in (WHOLE, NUMBER):
        said = _number(wanted, value)
        return said if may_show or not said else "write it as a plain number, without quotes"
    return _list(value) if wanted == LIST and may_show else ""


def _list(value: str | float) -> str:
    is_text = isinstance(value, str) and _ITEMS.fullmatch(value) and isinstance(scalar(value), str)
    return f"write [{value}]" if is_text else ""


def _truth(value: str | float) -> str:
    meant = _MEANT.get(str(value).lower(), "")
    if not meant or not isinstance(value, str):
        return f"write {meant}" if meant else ""
    return f"write {meant}; {_OLD}" if value.lower()[0] in "yno" else f"write {meant}, without quotes"


def _number(wanted: str, value: str | float) -> str:
    if not isinstance(value, str):
        is_whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
        return f"write {int(value)}" if is_whole else ""
    plain = value.replace("_", "")
    if not _is_number(plain, wanted):
        return ""
    return f"write {plain}, without quotes" if plain == value else f"write {plain}; {shown(value)} is text in YAML 1.2"


def _is_number(text: str, wanted: str) -> bool:
    try:
        value = scalar(text)
    except ValueError:
        return False
    return isinstance(value, int if wanted == WHOLE else int | float) and not isinstance(value, bool)
