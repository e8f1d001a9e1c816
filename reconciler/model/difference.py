"""What differs between two contents of one record, field by field. Pure; used to show differences, never to decide on them."""

from collections.abc import Iterator
from typing import Any

import msgspec

from reconciler.model.plan import FieldChange

_ENCODER = msgspec.json.Encoder(order="sorted")


def field_changes(before: bytes, after: bytes) -> list[FieldChange]:
    """By dotted path, in order of the paths; a list is one value. Empty where only the spelling of the JSON differs."""
    old, new = dict(_leaves(msgspec.json.decode(before))), dict(_leaves(msgspec.json.decode(after)))
    return [
        FieldChange(path, old.get(path), new.get(path))
        for path in sorted(old | new)
        if old.get(path) != new.get(path)
    ]  # fmt: skip


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, JSON text); as text, because 1, 1.0 and true are equal in Python."""
    if isinstance(value, dict) and (value or not path):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path or "value", _ENCODER.encode(value).decode()
