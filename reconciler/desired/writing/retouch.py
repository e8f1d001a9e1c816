"""One document of a YAML text led to another tree, and nothing else of the text touched.

In: text, which document, and the tree it shall have. Out: text. Called by `edits` and `sealing`. A round trip through a YAML
library keeps comments, but writes indentation, quotes, blanks and long lines its own way; here spans are replaced, one step of
`operations` at a time, and after each step the text is read back as a whole: it must say what the step said, in this document
and in all others. A step that cannot be taken so is taken for the collection around it, unless comments would be lost.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.writing.nodes import Node, Root, read_nodes
from reconciler.desired.writing.operations import Act, Path, Step, after, canonical, next_step, same, value_at
from reconciler.desired.writing.render import Habit
from reconciler.desired.writing.spans import CannotError, Place, stepped
from reconciler.desired.yaml_source import read_yaml

_COMMENT = re.compile(r"(?:^|\s)#|,type:comment\]")
_MOST_READ = 5_000_000
"""Characters. Every step looks at the whole text and at all that is wanted, and all who write wait meanwhile."""


class LayoutError(Exception):
    """The text is written in a way that this change cannot be brought into; `message` says what to write instead."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def retouched(text: str, index: int, wanted: Any) -> str:
    """The text in which document `index` is `wanted`. Raises LayoutError."""
    read, size = 0, len(canonical(wanted))
    while read < _MOST_READ:
        read += len(text) + size
        trees = trees_of(text)
        step = next_step(trees[index], wanted)
        if step is None:
            return text
        text = _taken(text, trees, index, step)
    raise LayoutError("too much of the document changes at once; make it several changes")


def without_document(text: str, index: int) -> str:
    """The text without one of its documents; comments above the first one stay. Empty where none is left."""
    roots, trees = read_nodes(text), trees_of(text)
    rest = [*trees[:index], *trees[index + 1 :]]
    if not any(tree is not None for tree in rest):
        return ""
    end = roots[index + 1].start if index + 1 < len(roots) else len(text)
    shorter = text[: roots[index].start] + text[end:]
    if not same(_read(shorter), rest):
        raise LayoutError("the document cannot be told from those beside it: begin each with a line ---")
    return shorter


def trees_of(text: str) -> list[Any]:
    """All documents as the daemon reads them. Raises LayoutError where it reads them with problems."""
    trees = _read(text)
    if trees is None:
        raise LayoutError("the file is not read without problems; mend it in Git first")
    return trees


def _read(text: str) -> list[Any] | None:
    file = read_yaml(text.encode())
    if file.problems or any(document.problems for document in file.documents):
        return None
    return [document.tree for document in file.documents]


def _taken(text: str, trees: list[Any], index: int, step: Step) -> str:
    root = read_nodes(text)[index]
    habit = _habit(root.node)
    wanted = [*trees[:index], after(trees[index], step), *trees[index + 1 :]]
    for attempt in _attempts(text, root, step, wanted[index]):
        try:
            found = stepped(text, _place(root.node, attempt.path), attempt, habit)
            if same(_read(found), wanted):
                return found
        except (CannotError, yaml.YAMLError):
            continue
    where = ".".join(map(str, step.path)) or "the document"
    shared = " (values shared by an anchor are written out by hand first)" if _has_alias(root.node) else ""
    raise LayoutError(f"{where} cannot be changed without losing comments: write it in plain key: value lines{shared}")


def _attempts(text: str, root: Root, step: Step, wanted: Any) -> Iterator[Step]:
    """The step, then the same for ever larger parts, as long as no comment stands in them."""
    yield step
    path = step.path if step.act is Act.SET else (*step.path, "")
    for length in range(len(path) - 1, -1, -1):
        if length == len(step.path):
            continue
        part = path[:length]
        node = _found(root.node, part)
        if node is None:
            continue
        if _holds_comment(text, node):
            return
        yield Step(Act.SET, part, value_at(wanted, part))


def _place(root: Node, path: Path) -> Place:
    """The nodes from the document down to where the step is taken; its last part may not exist yet."""
    chain, node = [root], root
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        chain.append(child)
        node = child
    missing = len(path) + 1 - len(chain)
    if missing > 1:
        raise CannotError
    return Place(tuple(chain), is_whole=missing == 0, in_sops_root=_has_block(root))


def _found(node: Node, path: Path) -> Node | None:
    for part in path:
        child = _child(node, part)
        if child is None:
            return None
        node = child
    return node


def _child(node: Node, part: str | int) -> Node | None:
    if node.kind == "mapping":
        return node.value_of(str(part))
    if node.kind == "list" and isinstance(part, int) and part < len(node.values):
        return node.values[part]
    return None


def _has_block(root: Node) -> bool:
    return root.kind == "mapping" and root.value_of(BLOCK) is not None


def _holds_comment(text: str, node: Node) -> bool:
    parts, position = [], node.start
    for leaf in _leaves(node):
        parts.append(text[position : leaf.start])
        position = max(position, leaf.end)
    parts.append(text[position : node.end])
    return any(_COMMENT.search(part) for part in parts)


def _leaves(node: Node) -> Iterator[Node]:
    if node.kind in ("scalar", "alias"):
        yield node
        return
    for place, value in enumerate(node.values):
        if node.keys:
            yield node.keys[place]
        yield from _leaves(value)


def _has_alias(node: Node) -> bool:
    return any(leaf.kind == "alias" for leaf in _leaves(node))


def _habit(root: Node) -> Habit:
    """As the first nested mapping and the first list of the document are written."""
    steps = dict.fromkeys(("mapping", "list"), -1)
    pending = [root]
    while pending:
        node = pending.pop(0)
        for child in node.values:
            if not child.is_flow and child.kind in steps and node.kind == "mapping" and not node.is_flow:
                steps[child.kind] = child.column - node.column if steps[child.kind] < 0 else steps[child.kind]
            pending.append(child)
    step = steps["mapping"] if steps["mapping"] > 0 else 2
    return Habit(step, steps["list"] if steps["list"] >= 0 else step)
