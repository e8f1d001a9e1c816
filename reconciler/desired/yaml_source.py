"""YAML files to plain trees: every document of a file in one pass over libyaml's events.

In: the bytes of a file. Out: `YamlFile`, its documents as dicts, lists and scalars, and what is wrong with it as problems
that name a line and a column. Never an exception: these bytes come from whoever may push. Called by `parsed`; positions
of single values are found later and only where a finding needs them (`positions`).

Scalars follow the YAML 1.2 core schema, so `no`, `on`, `1_000` and `2024-01-01` are text. Duplicate keys, merge keys and
tags outside the core schema are problems. Depth, number of values (aliases counted as often as they are used) and size
are bounded. Events rather than nodes: half the time, and libyaml's composer recurses without a bound.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml._yaml import CParser

from reconciler.desired.sops.marks import is_sealed_comment
from reconciler.model.finding import Code

CIPHERTEXT = "ENC[AES256_GCM,"
MAX_BYTES = 1024 * 1024
DEEPEST = 64
MOST_VALUES = 50_000
_CORE = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAYBE_NUMBER = frozenset("+-.0123456789")
_LONGEST_NUMBER = 100
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TAGGED: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "null": (type(None),)}


@dataclass(frozen=True, slots=True)
class YamlProblem:
    """What is wrong in the text itself. `is_fatal`: the document could not be read to its end."""

    line: int
    column: int
    code: Code
    message: str
    remedy: str = ""
    is_fatal: bool = False


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document; `index` counts all documents of the file from 0. `problems` leave the tree usable for more checks."""

    index: int
    line: int
    tree: Any
    problems: tuple[YamlProblem, ...] = ()
    may_hold_ciphertext: bool = True


@dataclass(frozen=True, slots=True)
class YamlFile:
    """What could be read. With `problems` of its own, documents may be missing from the end or altogether."""

    documents: tuple[YamlDocument, ...] = ()
    problems: tuple[YamlProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    size: int = MAX_BYTES
    depth: int = DEEPEST
    values: int = MOST_VALUES


DEFAULT_LIMITS = Limits()


def read_yaml(content: bytes, limits: Limits = DEFAULT_LIMITS) -> YamlFile:
    """All documents of a file, and all that is wrong with it."""
    if len(content) > limits.size:
        message = f"{len(content)} bytes, more than the {limits.size} a manifest file may have"
        return _refused(Code.FILE_TOO_LARGE, message, "split the file")
    text = decoded(content)
    if isinstance(text, YamlProblem):
        return YamlFile(problems=(text,))
    return _Reader(limits, CIPHERTEXT in text).read(text)


def decoded(content: bytes) -> str | YamlProblem:
    """The text of a file without its byte order mark, or why it is none."""
    if b"\0" in content:
        return YamlProblem(
            0, 0, Code.FILE_BINARY, "a binary file", "keep it out of the manifests' folder", is_fatal=True
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1
        return YamlProblem(line, column, Code.FILE_BINARY, "not UTF-8", "save the file as UTF-8", is_fatal=True)


def scalar(text: str) -> str | int | float | bool | None:
    """The value of a plain scalar in the core schema; raises ValueError where JSON could not hold it."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _MAYBE_NUMBER or len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        number = int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if not -(2**63) <= number < 2**63:
            raise ValueError("a whole number beyond 64 bits")
        return number
    if _FLOAT.fullmatch(text):
        value = float(text)
        if value in (float("inf"), float("-inf")):
            raise ValueError("a number too large to be held")
        return value
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("infinity and not-a-number have no place in a manifest")
    return text


@dataclass(slots=True)
class _Collection:
    """A mapping or list that is being read. `started` is how many values there were before it."""

    items: Any
    is_mapping: bool
    anchor: str | None
    started: int
    key: str | None = None


class _StopError(Exception):
    def __init__(self, problem: YamlProblem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class _Reader:
    """The state of one pass. A document that is given up ends the pass: libyaml has no way to go on behind an error."""

    limits: Limits
    may_hold_ciphertext: bool
    documents: list[YamlDocument] = field(default_factory=list)
    problems: list[YamlProblem] = field(default_factory=list)
    stack: list[_Collection] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    line: int = 1
    root: Any = None
    total: int = 0

    def read(self, text: str) -> YamlFile:
        parser = CParser(text)
        try:
            self._consume(parser)
        except yaml.MarkedYAMLError as error:
            return self._ended(_syntax(error, len(text)))
        except yaml.reader.ReaderError as error:
            return self._ended(_character(text, error))
        except _StopError as stop:
            return self._ended(stop.problem)
        finally:
            parser.dispose()
        return YamlFile(tuple(self.documents))

    def _ended(self, problem: YamlProblem) -> YamlFile:
        return YamlFile(tuple(self.documents), (*self.problems, problem))

    def _consume(self, parser: Any) -> None:
        # The most frequent events come first and are told apart by identity: this loop is most of the cost of a plan.
        next_event, stack, most = parser.get_event, self.stack, self.limits.values
        while True:
            event = next_event()
            kind = type(event)
            if kind is yaml.ScalarEvent:
                place = stack[-1] if stack else None
                if place is not None and place.is_mapping and place.key is None:
                    self._key(place, event)
                else:
                    self.total += 1
                    if self.total > most:
                        raise _too_many(event, most)
                    value = self._value(event) if event.tag or event.implicit[0] else event.value
                    self._put(place, value, event.anchor, 1)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._open(event, is_mapping=kind is yaml.MappingStartEvent)
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                done = stack.pop()
                self._put(stack[-1] if stack else None, done.items, done.anchor, self.total - done.started)
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif not self._passes(event, kind):
                return

    def _passes(self, event: Any, kind: type) -> bool:
        """The events around documents; False at the end of the file."""
        if kind is yaml.DocumentStartEvent:
            self.anchors, self.problems, self.root, self.total = {}, [], None, 0
            self.line = event.start_mark.line + 1
        elif kind is yaml.DocumentEndEvent:
            self._finish()
        return kind is not yaml.StreamEndEvent

    def _finish(self) -> None:
        place = len(self.documents)
        self.documents.append(YamlDocument(place, self.line, self.root, tuple(self.problems), self.may_hold_ciphertext))
        self.problems = []

    def _key(self, place: _Collection, event: Any) -> None:
        key = event.value
        if event.anchor is not None:
            self.anchors[event.anchor] = (key, 1)
        if event.tag is not None and event.tag not in ("!", _CORE + "str"):
            self._note(event, Code.YAML_TAG, f"the tag {_shown(event.tag)} on a key is not known", "remove it")
        elif key == "<<" and event.implicit[0]:
            self._note(event, Code.YAML_SYNTAX, "merge keys (<<) do not exist in YAML 1.2", "write the fields out")
        if key in place.items:
            self._note(event, Code.YAML_DUPLICATE_KEY, f"the key {_shown(key)} stands twice", "keep one of them")
        place.key = key

    def _value(self, event: Any) -> Any:
        tag = event.tag
        try:
            if tag is None:
                return scalar(event.value) if event.implicit[0] else event.value
            if tag in ("!", _CORE + "str"):
                return event.value
            return self._tagged(event, tag)
        except ValueError as error:
            self._note(event, Code.INVALID_VALUE, str(error), "write it in quotes if text is meant")
            return event.value

    def _tagged(self, event: Any, tag: str) -> Any:
        value = scalar(event.value)
        wanted = _TAGGED.get(tag.removeprefix(_CORE), ()) if tag.startswith(_CORE) else ()
        if type(value) in wanted:
            return float(event.value) if tag.endswith(":float") else value
        self._note(
            event, Code.YAML_TAG, f"the tag {_shown(tag)} is not known here or does not fit its value", "remove it"
        )
        return event.value

    def _open(self, event: Any, *, is_mapping: bool) -> None:
        if len(self.stack) >= self.limits.depth:
            raise _stop(event, f"nested deeper than {self.limits.depth} levels")
        self._refuse_as_key(event)
        if event.tag not in (None, "!", _CORE + ("map" if is_mapping else "seq")):
            self._note(event, Code.YAML_TAG, f"the tag {_shown(event.tag)} is not known", "remove it")
        if not self.stack:
            self.line = event.start_mark.line + 1
        self.stack.append(_Collection({} if is_mapping else [], is_mapping, event.anchor, self.total))
        self.total += 1
        if self.total > self.limits.values:
            raise _too_many(event, self.limits.values)

    def _alias(self, event: Any) -> None:
        known = self.anchors.get(event.anchor)
        if known is None:
            problem = f"the alias *{_shown(event.anchor)} has no anchor that ended before it"
            raise _StopError(_at(event, Code.YAML_SYNTAX, problem, "name an anchor (&) above", is_fatal=True))
        self._refuse_as_key(event)
        value, weight = known
        self.total += weight
        if self.total > self.limits.values:
            raise _too_many(event, self.limits.values)
        self._put(self.stack[-1] if self.stack else None, value, None, weight)

    def _refuse_as_key(self, event: Any) -> None:
        place = self.stack[-1] if self.stack else None
        if place is not None and place.is_mapping and place.key is None:
            raise _StopError(_at(event, Code.YAML_SYNTAX, "a key that is not text", "write a plain key", is_fatal=True))

    def _put(self, place: _Collection | None, value: Any, anchor: str | None, weight: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, weight)
        if place is None:
            self.root = value
        elif place.key is not None:
            # Of two equal keys the first counts, so that further checks speak of the place a reader sees first.
            place.items.setdefault(place.key, value)
            place.key = None
        elif not (self.may_hold_ciphertext and is_sealed_comment(value)):
            place.items.append(value)

    def _note(self, event: Any, code: Code, message: str, remedy: str) -> None:
        if len(self.problems) < 100:
            self.problems.append(_at(event, code, message, remedy))


def _at(event: Any, code: Code, message: str, remedy: str, *, is_fatal: bool = False) -> YamlProblem:
    mark = event.start_mark
    return YamlProblem(mark.line + 1, mark.column + 1, code, message, remedy, is_fatal)


def _too_many(event: Any, most: int) -> _StopError:
    return _stop(event, f"more than {most} values, counting aliases as often as they are used")


def _stop(event: Any, message: str) -> _StopError:
    return _StopError(_at(event, Code.YAML_LIMIT, message, "make it smaller or split the file", is_fatal=True))


def _refused(code: Code, message: str, remedy: str) -> YamlFile:
    return YamlFile(problems=(YamlProblem(0, 0, code, message, remedy, is_fatal=True),))


def _syntax(error: yaml.MarkedYAMLError, end: int) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    # What is never closed is noticed at the end of the file; where it was opened helps more.
    if mark and mark.index >= end and error.context_mark:
        mark = error.context_mark
    message = " ".join(filter(None, (error.context, error.problem))) or "not YAML"
    line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
    return YamlProblem(line, column, Code.YAML_SYNTAX, message, _remedy(message), is_fatal=True)


def _remedy(message: str) -> str:
    if "mapping values are not allowed" in message:
        return "check the indentation, and put text that holds ': ' in quotes"
    if "cannot start any token" in message:
        return "put the text in quotes; indent with spaces, not tabs"
    return ""


def _character(text: str, error: yaml.reader.ReaderError) -> YamlProblem:
    place = next((i for i, c in enumerate(text) if not c.isprintable() and c not in "\t\n\r\x85\xa0\ufeff"), 0)
    before = text[:place]
    line, column = before.count("\n") + 1, place - (before.rfind("\n") + 1) + 1
    message = f"the character U+{ord(text[place]):04X} is not permitted in YAML" if text else str(error.reason)
    return YamlProblem(
        line, column, Code.YAML_SYNTAX, message, "remove it, or write it as an escape in quotes", is_fatal=True
    )


def _shown(text: str) -> str:
    """A name from the file, short and without control characters, as findings show it."""
    return "".join(c if c.isprintable() else "?" for c in text[:60])
