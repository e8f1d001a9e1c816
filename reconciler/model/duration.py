"""Durations as people write them: `15m`, `1h30m`, `500ms`."""

import re
from datetime import timedelta

_PART = re.compile(r"([0-9]+)(ms|s|m|h|d|w)")
_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(value: object) -> timedelta:
    """The duration `value` stands for; raises ValueError with an example otherwise."""
    if isinstance(value, timedelta):
        return value
    text = value if isinstance(value, str) else ""
    parts = _PART.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError("a duration is a number and a unit (ms, s, m, h, d, w), such as 15m or 1h30m")
    try:
        return sum((timedelta(**{_UNITS[u]: int(n)}) for n, u in parts), timedelta())
    except OverflowError:
        raise ValueError("a duration of this length cannot be represented") from None


def render_duration(value: timedelta) -> str:
    """The shortest text with at most two units, e.g. `2d3h`, `15m`, `45s`, `320ms`."""
    if value < timedelta(seconds=1):
        return f"{int(value / timedelta(milliseconds=1))}ms"
    left = int(value.total_seconds())
    parts = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])
