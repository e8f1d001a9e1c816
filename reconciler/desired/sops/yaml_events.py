"""YAML text to plain documents, by libyaml's event stream.

In: text. Out: per document an ordered tree of mappings, lists and scalars, or a `SopsError` with the line. Events rather
than nodes, because libyaml's composer recurses and a file of brackets ends the process; here depth, size and the weight of
aliases are bounded. Duplicate keys, keys that are not text and tags outside the core schema are refused.
"""

from collections.abc import Iterator
from typing import Any, cast

import yaml
from yaml.error import Mark

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.marks import is_sealed_comment
from reconciler.desired.sops.scalars import resolve
from reconciler.desired.sops.tree import DEEPEST
from reconciler.model.finding import Code

MOST_NODES = 100_000
_STARTS = frozenset({yaml.MappingStartEvent, yaml.SequenceStartEvent})
_ENDS = frozenset({yaml.MappingEndEvent, yaml.SequenceEndEvent})
_CORE = "tag:yaml.org,2002:"
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "null": (type(None),),
}


def read_documents(text: str) -> list[Any]:
    """All documents of the text, in order."""
    return _Builder().built(events(text))


def events(text: str) -> Iterator[yaml.Event]:
    """The event stream, its errors turned into `SopsError`s without any of the text."""
    try:
        parser = yaml.CBaseLoader(text)
        while (event := parser.get_event()) is not None:
            yield event
    except yaml.MarkedYAMLError as cause:
        line = cause.problem_mark.line + 1 if cause.problem_mark else 0
        message = f"line {line}: {cause.problem or 'not YAML'}"
    except (yaml.YAMLError, UnicodeError):
        message = "the file holds characters that YAML does not permit"
    else:
        return
    raise SopsError(Code.YAML_SYNTAX, message)


def start_of(event: yaml.Event) -> Mark:
    """Where an event starts; the parser always says, though its types leave it open."""
    return cast("Mark", event.start_mark)


def end_of(event: yaml.Event) -> Mark:
    return cast("Mark", event.end_mark)


def scalar_value(event: yaml.ScalarEvent) -> Any:
    """The value of a scalar event, by its tag, its quotes and the core schema."""
    if event.tag is None or event.tag == "!":
        plain = event.implicit[0] and event.tag is None
        return resolve(event.value) if plain else event.value
    name = event.tag.removeprefix(_CORE)
    if name == "str":
        return event.value
    value = resolve(event.value)
    if not event.tag.startswith(_CORE) or type(value) not in _TYPES.get(name, ()):
        raise _at(event, Code.YAML_TAG, "a tag that is not known, or does not fit its value")
    return float(event.value) if name == "float" and isinstance(value, int) else value


class _Frame:
    """A collection under construction. `weight` counts the nodes in it."""

    __slots__ = ("anchor", "container", "key", "weight")

    def __init__(self, container: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.container = container
        self.anchor = anchor
        self.key: str | None = None
        self.weight = 1


class _Builder:
    def __init__(self) -> None:
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._documents: list[Any] = []
        self._nodes = 0

    def built(self, stream: Iterator[Any]) -> list[Any]:
        for event in stream:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._put(event, scalar_value(event), event.anchor, 1)
            elif kind in _STARTS:
                self._start(event)
            elif kind in _ENDS:
                frame = self._stack.pop()
                self._put(event, frame.container, frame.anchor, frame.weight)
            elif kind is yaml.AliasEvent:
                self._put(event, *self._aliased(event))
            elif kind is yaml.DocumentStartEvent:
                self._anchors = {}
        return self._documents

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        if len(self._stack) >= DEEPEST:
            raise _at(event, Code.YAML_LIMIT, f"nested deeper than {DEEPEST} levels")
        kind = dict if isinstance(event, yaml.MappingStartEvent) else list
        expected = _CORE + ("map" if kind is dict else "seq")
        if event.tag not in (None, "!", expected):
            raise _at(event, Code.YAML_TAG, "a tag that is not known")
        if self._stack and self._stack[-1].key is None and isinstance(self._stack[-1].container, dict):
            raise _at(event, Code.SOPS_MALFORMED, "a key that is not text")
        self._stack.append(_Frame(kind(), event.anchor))

    def _aliased(self, event: yaml.AliasEvent) -> tuple[Any, None, int]:
        if event.anchor not in self._anchors:
            raise _at(event, Code.YAML_SYNTAX, "an alias without an anchor before it")
        value, weight = self._anchors[event.anchor]
        return value, None, weight

    def _put(self, event: yaml.Event, value: Any, anchor: str | None, weight: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, weight)
        if not self._stack:
            self._documents.append(value)
            return
        frame = self._stack[-1]
        frame.weight += weight
        self._nodes += 1
        if frame.weight > MOST_NODES or self._nodes > MOST_NODES:
            raise _at(event, Code.YAML_LIMIT, f"more than {MOST_NODES} values")
        if isinstance(frame.container, list):
            if not is_sealed_comment(value):
                frame.container.append(value)
        elif frame.key is None:
            frame.key = _key(event, value, frame.container)
        else:
            frame.container[frame.key] = value
            frame.key = None


def _key(event: yaml.Event, value: Any, present: dict[str, Any]) -> str:
    if not isinstance(value, str):
        raise _at(event, Code.SOPS_MALFORMED, "a key that is not text: put it in quotes")
    if value in present:
        raise _at(event, Code.YAML_DUPLICATE_KEY, f"the key {value!r} stands twice")
    return value


def _at(event: yaml.Event, code: Code, problem: str) -> SopsError:
    return SopsError(code, f"line {start_of(event).line + 1}: {problem}")
