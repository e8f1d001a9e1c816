"""Where every value of a YAML text stands: the nodes of its documents with the span of each.

In: text that `yaml_source` reads without a problem. Out: one `Root` a document. Called by `retouch`, which replaces spans and
leaves everything between them as it is. Ends are those of the written value: libyaml's own end of a block collection is where
the next token begins, behind comments that belong to what follows.
"""

from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml._yaml import CParser

from reconciler.desired.sops.marks import is_sealed_comment
from reconciler.desired.sops.yaml_events import end_of, start_of

_STARTS = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_ENDS = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


@dataclass(slots=True)
class Node:
    """A value. `text` and `style` are a scalar's; `keys` and `values` go together in a mapping, a list has `values` only.

    `dash` of an item of a block list is where its `-` stands.
    """

    kind: str
    start: int
    end: int
    column: int
    is_flow: bool = False
    style: str = ""
    text: str = ""
    keys: list["Node"] = field(default_factory=list)
    values: list["Node"] = field(default_factory=list)
    dash: int = -1

    def value_of(self, key: str) -> "Node | None":
        return next((value for one, value in zip(self.keys, self.values, strict=True) if one.text == key), None)


@dataclass(slots=True)
class Root:
    """A document: `start` is that of its `---`, or of its first value where it has none."""

    start: int
    node: Node


def read_nodes(text: str) -> list[Root]:
    """All documents. Raises yaml.YAMLError for what is none."""
    builder = _Builder(text)
    parser = CParser(text)
    try:
        while (event := parser.get_event()) is not None:
            builder.see(event)
    finally:
        parser.dispose()
    return builder.roots


class _Builder:
    """The state of one pass: the open collections, and for each mapping whether a key waits for its value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._stack: list[Node] = []
        self._began = 0
        self.roots: list[Root] = []

    def see(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self._began = start_of(event).index
        elif isinstance(event, _STARTS):
            self._open(event)
        elif isinstance(event, _ENDS):
            self._close(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event))
        elif isinstance(event, yaml.AliasEvent):
            mark = start_of(event)
            self._add(Node("alias", mark.index, end_of(event).index, mark.column, self._in_flow))

    @property
    def _in_flow(self) -> bool:
        return bool(self._stack) and self._stack[-1].is_flow

    def _open(self, event: Any) -> None:
        kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "list"
        mark, flow = event.start_mark, bool(event.flow_style)
        self._stack.append(Node(kind, mark.index, event.end_mark.index, mark.column, flow))

    def _close(self, event: Any) -> None:
        done = self._stack.pop()
        if done.is_flow:
            done.end = event.end_mark.index
        elif done.values:
            done.end = done.values[-1].end
            done.column = done.keys[0].column if done.keys else done.column
        self._add(done)

    def _scalar(self, event: Any) -> Node:
        start, end = event.start_mark.index, event.end_mark.index
        if event.style in ("|", ">"):
            end = start + len(self._text[start:end].rstrip())
        return Node("scalar", start, end, event.start_mark.column, self._in_flow, event.style or "", event.value)

    def _add(self, node: Node) -> None:
        if not self._stack:
            self.roots.append(Root(self._began, node))
            return
        above = self._stack[-1]
        if above.kind == "mapping" and len(above.keys) == len(above.values):
            above.keys.append(node)
        elif above.kind == "mapping":
            above.values.append(node)
        else:
            self._item(above, node)

    def _item(self, above: Node, node: Node) -> None:
        """An encrypted comment that SOPS wrote as an item is none; the span it takes still ends there."""
        if not above.is_flow:
            node.dash = self._dash(above, node)
        if node.kind == "scalar" and is_sealed_comment(node.text):
            above.end = max(above.end, node.end)
        else:
            above.values.append(node)

    def _dash(self, above: Node, node: Node) -> int:
        """The `-` of an item: before it and nothing but blanks, comments and properties between."""
        lowest = max((value.end for value in above.values), default=above.start)
        line = node.start
        while line >= lowest:
            begin = self._text.rfind("\n", 0, line) + 1
            place = begin + above.column
            if self._text[place : place + 1] == "-" and place <= node.start and place >= min(lowest, node.start):
                return place
            line = begin - 1
        return -1
