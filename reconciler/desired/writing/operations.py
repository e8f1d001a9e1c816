"""The steps that lead from one plain tree to another: set, add or drop one value at a time.

In: the tree as it is and as it shall be. Out: the first step on the way, and the tree after it. Called by `retouch`, which
takes the same step in the text and compares. Pure. The order of keys says nothing and is left alone; that of lists counts,
and items are recognised by their `name`, else by being equal.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any

Path = tuple[str | int, ...]


class Act(StrEnum):
    SET = "set"
    ADD = "add"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Step:
    """`path` ends in the key or index that is set, added or dropped; `value` is not asked for where it is dropped."""

    act: Act
    path: Path
    value: Any = None


def same(one: Any, other: Any) -> bool:
    """Equal in type too: 1, 1.0 and true are three things."""
    return one is other or canonical(one) == canonical(other)


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def next_step(now: Any, wanted: Any, path: Path = ()) -> Step | None:
    """None where nothing is left to do. What is added comes before what is dropped, so that nothing is emptied on the way."""
    if same(now, wanted):
        return None
    if isinstance(now, Mapping) and isinstance(wanted, Mapping):
        return _in_mapping(now, wanted, path)
    if isinstance(now, list) and isinstance(wanted, list) and now and wanted:
        return _in_list(now, wanted, path)
    return Step(Act.SET, path, wanted)


def after(tree: Any, step: Step) -> Any:
    """The tree with the step taken; what it does not touch is shared."""
    return _taken(tree, step, step.path)


def value_at(tree: Any, path: Path) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def _in_mapping(now: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> Step | None:
    for key in now:
        if key in wanted and (step := next_step(now[key], wanted[key], (*path, key))):
            return step
    added = next((key for key in wanted if key not in now), None)
    if added is not None:
        return Step(Act.ADD, (*path, added), wanted[added])
    dropped = next(key for key in now if key not in wanted)
    return Step(Act.DROP, (*path, dropped))


def _in_list(now: list[Any], wanted: list[Any], path: Path) -> Step | None:
    matcher = SequenceMatcher(None, [*map(_mark, now)], [*map(_mark, wanted)], autojunk=False)
    codes = matcher.get_opcodes()
    for tag, i1, i2, j1, j2 in codes:
        for i, j in zip(range(i1, i2), range(j1, j2), strict=False) if tag in ("equal", "replace") else ():
            if step := next_step(now[i], wanted[j], (*path, i)):
                return step
    for _, i1, i2, j1, j2 in codes:
        if j2 - j1 > i2 - i1:
            return Step(Act.ADD, (*path, i2), wanted[j1 + i2 - i1])
    for _, i1, i2, j1, j2 in codes:
        if i2 - i1 > j2 - j1:
            return Step(Act.DROP, (*path, i2 - 1))
    return None


def _mark(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else None
    return f"name {name}" if isinstance(name, str) else canonical(value)


def _taken(node: Any, step: Step, path: Path) -> Any:
    if not path:
        return step.value
    part, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        if rest or step.act is not Act.DROP:
            return {**node, part: _taken(node.get(part), step, rest)}
        return {key: value for key, value in node.items() if key != part}
    items, index = list(node), int(part)
    if rest or step.act is Act.SET:
        items[index] = _taken(items[index], step, rest)
    elif step.act is Act.ADD:
        items.insert(index, step.value)
    else:
        del items[index]
    return items
