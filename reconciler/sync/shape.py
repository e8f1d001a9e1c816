"""What the records of an entity look like: the names and types of their top-level fields, learned, and held against new ones.

Pure. `Shape` is what the store keeps. A `Gauge` compiles one into a decoder, so that records which fit cost one decode and
no Python per field; only one that does not fit is looked at field by field. `null` is no type: it says that there is no value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

ENOUGH = 20
MOST_FIELDS = 1000
_TYPES: Mapping[int, str] = {
    **dict.fromkeys(b'"', "string"),
    **dict.fromkeys(b"-0123456789", "number"),
    **dict.fromkeys(b"tf", "boolean"),
    **dict.fromkeys(b"n", "null"),
    **dict.fromkeys(b"[", "array"),
    **dict.fromkeys(b"{", "object"),
}
_DECODED: Mapping[str, Any] = {
    "string": str,
    "number": float,
    "boolean": bool,
    "array": list[msgspec.Raw],
    "object": dict[str, msgspec.Raw],
}
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Shape(msgspec.Struct, frozen=True):
    """`types` of each field, empty where only null was seen. `sometimes` are fields that some records lack.

    `looked` counts records up to ENOUGH: before, nothing is said of a field that is missing. `told` are changes that were told
    of and not accepted. `under` is the `sync.fields` it was learned under; `is_settled`: what differs from now on is a change.
    """

    types: dict[str, list[str]] = {}
    sometimes: list[str] = []
    looked: int = 0
    told: list[str] = []
    under: str = ""
    is_settled: bool = False

    @property
    def always(self) -> frozenset[str]:
        """Fields that every record had so far."""
        return frozenset(self.types).difference(self.sometimes)

    @property
    def is_open(self) -> bool:
        """So many fields that names seem to be values: new ones are no news."""
        return len(self.types) >= MOST_FIELDS


@dataclass(frozen=True, slots=True, order=True)
class Change:
    """How one field differs from the shape. `before` is empty where it was not there, `after` where it is not any more."""

    field: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        if not self.before:
            return f"field {self.field} ({self.after}) is new"
        if not self.after:
            return f"field {self.field} ({self.before}) is missing"
        return f"field {self.field} is {self.after}, it was {self.before}"


def shape_of(text: str, under: str) -> Shape:
    """What was stored; nothing is known where nothing was, or where other fields were let through then."""
    known = msgspec.json.decode(text, type=Shape) if text else Shape()
    return known if known.under == under else Shape(under=under)


class Gauge:
    """Tells records that need a closer look from those that fit the shape: one decode each."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        always = shape.always
        fields: list[Any] = [
            (f"f{i}", _decoded(types)) if name in always else (f"f{i}", _decoded(types), None)
            for i, (name, types) in enumerate(shape.types.items())
        ]
        names = {f"f{i}": name for i, name in enumerate(shape.types)}
        kind = msgspec.defstruct(
            "Fitting", fields, rename=names, forbid_unknown_fields=not shape.is_open, kw_only=True, gc=False
        )
        self._decode = msgspec.json.Decoder(kind).decode

    def fits(self, payload: bytes) -> bool:
        try:
            self._decode(payload)
        except _UNREADABLE:
            return False
        return True


def _decoded(types: Sequence[str]) -> Any:
    kind: Any = None
    for name in types:
        kind = _DECODED[name] | None if kind is None else kind | _DECODED[name]
    return kind


def fields_of(payload: bytes) -> dict[str, str]:
    """name -> type of its top-level fields; none where it is no object."""
    try:
        raws = _FIELDS.decode(payload)
    except _UNREADABLE:
        return {}
    return {name: _TYPES[bytes(raw)[0]] for name, raw in raws.items()}


def changes(shape: Shape, found: Mapping[str, str]) -> Iterator[Change]:
    """How a record with these fields differs."""
    for name, kind in found.items():
        known = shape.types.get(name)
        if known is None:
            if not shape.is_open:
                yield Change(name, "", kind)
        elif known and kind != "null" and kind not in known:
            yield Change(name, " or ".join(known), kind)
    if found and shape.looked >= ENOUGH:
        for name in shape.always.difference(found):
            yield Change(name, " or ".join(shape.types[name]) or "null")


def grown(shape: Shape, found: Mapping[str, str]) -> Shape:
    """The shape that a record with these fields fits, too."""
    if not found:
        return shape
    types = dict(shape.types)
    for name, kind in found.items():
        if name in types or len(types) < MOST_FIELDS:
            types[name] = sorted({*types.get(name, ()), kind} - {"null"})
    late = set(types).difference(shape.types) if shape.types else set()
    sometimes = sorted({*shape.sometimes, *late, *set(types).difference(found)})
    return msgspec.structs.replace(shape, types=types, sometimes=sometimes)
