"""`sync.fields`: what is left out or masked before anything is stored. Key and cursor always stay readable."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from reconciler.model.manifest import Fields
from reconciler.model.record import Page
from reconciler.model.secret import MASK
from reconciler.sdk.contract import Entity

_ENCODER = msgspec.json.Encoder(order="sorted")


def field_filter(fields: Fields, entity: Entity) -> Callable[[Page], Page] | None:
    """A function over pages, or None where nothing is filtered: the common case costs nothing."""
    apply = record_filter(fields, [k for k in (entity.key, entity.cursor) if k])
    if apply is None:
        return None
    return lambda page: replace(
        page,
        payloads=tuple(apply(p) for p in page.payloads),
        rejects=tuple(replace(r, payload=filtered_reject(apply, r.payload)) for r in page.rejects),
    )


def record_filter(fields: Fields, kept: Sequence[str]) -> Callable[[bytes], bytes] | None:
    """A function over records. `kept` are the paths of key and cursor: their texts and numbers stay, whatever is asked."""
    include = tuple(p.split(".") for p in fields.include)
    exclude = tuple(p.split(".") for p in fields.exclude if p not in kept)
    mask = tuple(p.split(".") for p in fields.mask if p not in kept)
    if not (include or exclude or mask):
        return None
    heads = tuple(k.split(".") for k in kept)

    def apply(payload: bytes) -> bytes:
        record = msgspec.json.decode(payload)
        safe = _only(record, tuple(path for path in heads if _is_plain(record, path)))
        if include:
            record = _only(record, include)
        for path in exclude:
            _drop(record, path)
        for path in mask:
            _mask(record, path)
        return _ENCODER.encode(_merged(record, safe))

    return apply


def filtered_reject(apply: Callable[[bytes], bytes], payload: bytes) -> bytes:
    """What cannot be read cannot be filtered, and is not kept."""
    try:
        return apply(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b"{}"


def _is_plain(record: Any, path: list[str]) -> bool:
    """Not an object or a list where a key or a cursor should be: a field that is left out may stand inside."""
    for step in path:
        record = record.get(step) if isinstance(record, dict) else None
    return not isinstance(record, dict | list)


def _merged(record: Any, safe: Any) -> Any:
    """`record` with the values of `safe` in their places: leaving out an object spares the key inside it."""
    if not isinstance(record, dict) or not isinstance(safe, dict):
        return safe
    return record | {name: _merged(record.get(name), value) for name, value in safe.items()}


def _only(record: Any, paths: tuple[list[str], ...]) -> Any:
    kept: dict[str, Any] = {}
    for path in paths:
        source, target = record, kept
        for step in path[:-1]:
            source = source.get(step) if isinstance(source, dict) else None
            if not isinstance(source, dict):
                break
            target = target.setdefault(step, {})
        if isinstance(source, dict) and path[-1] in source:
            target[path[-1]] = source[path[-1]]
    return kept


def _parents(record: Any, path: list[str]) -> list[dict[str, Any]]:
    """The objects that may hold the last step; lists on the way are walked through."""
    level = [record]
    for step in path[:-1]:
        level = [v[step] for v in _objects(level) if step in v]
    return [v for v in _objects(level) if path[-1] in v]


def _objects(values: list[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for value in values:
        if isinstance(value, dict):
            found.append(value)
        elif isinstance(value, list):
            found += _objects(value)
    return found


def _drop(record: Any, path: list[str]) -> None:
    for parent in _parents(record, path):
        del parent[path[-1]]


def _mask(record: Any, path: list[str]) -> None:
    for parent in _parents(record, path):
        parent[path[-1]] = MASK
