"""Where in a file a value stands: run only for files that have findings, so that good files never pay for it.

In: the bytes of a file and a path into one of its documents. Out: line and column, counted from 1. Called by validation
while it turns problems into findings. A path that does not exist (a missing field) is answered with the nearest place
above it. What libyaml cannot read is answered with the start of the file: its own finding says more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml._yaml import CParser

from reconciler.desired.sops.marks import is_sealed_comment
from reconciler.desired.yaml_source import DEFAULT_LIMITS, YamlProblem, decoded

Path = tuple[str | int, ...]
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Positions:
    """Every key and value of one file. Keys and values are kept apart: an unknown field is shown at its key."""

    keys: dict[tuple[int, Path], Place] = field(default_factory=dict)
    values: dict[tuple[int, Path], Place] = field(default_factory=dict)

    def locate(self, document: int, path: Path, *, at_key: bool = False) -> Place:
        """The place of a value (or of its key), else of the nearest value above that exists."""
        for length in range(len(path), -1, -1):
            place = (document, path[:length])
            exact = self.keys if at_key or length < len(path) else self.values
            found = exact.get(place) or self.values.get(place)
            if found is not None:
                return found
        return (1, 1)


def find_positions(content: bytes) -> Positions:
    """All positions of a file, as far as it can be read."""
    positions = Positions()
    text = decoded(content)
    if not isinstance(text, YamlProblem):
        _fill(positions, text)
    return positions


def locate(content: bytes, document_index: int, path: Path, *, at_key: bool = False) -> Place:
    """Line and column of one value; for more than one of a file use `find_positions`."""
    return find_positions(content).locate(document_index, path, at_key=at_key)


def _fill(positions: Positions, text: str) -> None:
    document = -1
    stack: list[_Open] = []
    for event in _events(text):
        kind = type(event)
        if kind is yaml.DocumentStartEvent:
            document, stack = document + 1, []
        elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
            stack.pop()
        elif kind in (yaml.ScalarEvent, yaml.AliasEvent, yaml.MappingStartEvent, yaml.SequenceStartEvent):
            path = _enter(positions, document, stack, event)
            if kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
                stack.append(_Open(path or (), is_mapping=kind is yaml.MappingStartEvent))
                if len(stack) > DEFAULT_LIMITS.depth:
                    return


@dataclass(slots=True)
class _Open:
    path: Path
    is_mapping: bool
    key: str | None = None
    index: int = 0


def _enter(positions: Positions, document: int, stack: list[_Open], event: Any) -> Path | None:
    """The path of the value that begins here; None for a key or a comment. The first of two equal keys keeps its place."""
    place = (event.start_mark.line + 1, event.start_mark.column + 1)
    if not stack:
        positions.values.setdefault((document, ()), place)
        return ()
    top = stack[-1]
    if top.is_mapping and top.key is None:
        top.key = getattr(event, "value", "")
        positions.keys.setdefault((document, (*top.path, top.key)), place)
        return None
    step: str | int = top.index
    if top.is_mapping:
        step, top.key = top.key or "", None
    elif is_sealed_comment(getattr(event, "value", None)):
        return None
    else:
        top.index += 1
    path = (*top.path, step)
    positions.values.setdefault((document, path), place)
    return path


def _events(text: str) -> Iterator[Any]:
    parser = CParser(text)
    try:
        while (event := parser.get_event()) is not None:
            yield event
    except yaml.YAMLError:
        return
    finally:
        parser.dispose()
