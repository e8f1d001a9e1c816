"""Unquoted YAML scalars, read as SOPS programs read them.

In: the text of a plain scalar. Out: text, number, truth value or None. This is the YAML 1.2 core schema plus the few
spellings that Go's YAML library adds (0777, 1_000, 0b11, 2024-01-01): the MAC of a file covers what its writer read.
`is_ambiguous` finds those spellings, so that nothing new is written with them.
"""

import re
from datetime import date

_FIRST = frozenset("-+.0123456789~nNtTfF")
_CONSTANTS: dict[str, bool | float | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_GO_INTEGER = re.compile(r"([-+]?)(?:0x([0-9a-fA-F]+)|0b([01]+)|0o?([0-7]+)|([1-9][0-9]*|0))")
_GO_BASES = (16, 2, 8, 10)
_DATE = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})")
_TIME = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:.*")
_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[-+][0-9]{2}:[0-9]{2})")
_LARGEST = 2**63
_LONGEST = 400


def resolve(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _FIRST or len(text) > _LONGEST:
        return text
    if _DECIMAL.fullmatch(text) or _BASED.fullmatch(text):
        number = int(text, 0)
        return number if -_LARGEST <= number < _LARGEST else float(number)
    return _go_only(text)


def is_ambiguous(text: str) -> bool:
    """Whether SOPS programs and YAML 1.2 read this plain scalar differently, or SOPS cannot hold it."""
    if not text or text[0] not in _FIRST or text in _CONSTANTS or len(text) > _LONGEST:
        return False
    if _DECIMAL.fullmatch(text) or _BASED.fullmatch(text):
        return not -_LARGEST <= int(text, 0) < _LARGEST
    if _FLOAT.fullmatch(text):
        return text.lstrip("+-").isdigit()
    return bool(_go_integer(text) is not None or _DATE.fullmatch(text) or _TIME.fullmatch(text)) and not (
        _RFC3339.fullmatch(text)
    )


def _go_only(text: str) -> str | int | float:
    number = _go_integer(text)
    if number is not None and -_LARGEST <= number < _LARGEST:
        return number
    if _FLOAT.fullmatch(text.replace("_", "")) and text[-1] != "_":
        return float(text.replace("_", ""))
    match = _DATE.fullmatch(text)
    return _midnight(text, *map(int, match.groups())) if match else text


def _go_integer(text: str) -> int | None:
    match = _GO_INTEGER.fullmatch(text.replace("_", "")) if text[0] in "+-0123456789" else None
    if match is None:
        return None
    sign, *spelled = match.groups()
    digits, base = next((part, base) for part, base in zip(spelled, _GO_BASES, strict=True) if part is not None)
    return -int(digits, base) if sign == "-" else int(digits, base)


def _midnight(text: str, year: int, month: int, day: int) -> str:
    try:
        return f"{date(year, month, day).isoformat()}T00:00:00Z"
    except ValueError:
        return text
