"""Edits of YAML texts: they mean what was asked for, and comments, order, quotes and line ends stay."""

import json
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reconciler.desired.sops.emit import json_for_yaml
from reconciler.desired.writing.operations import Path, same
from reconciler.desired.writing.retouch import LayoutError, retouched, trees_of, without_document

MANIFEST = """\
# The service desk's own; ask team-x before you change it.
apiVersion: reconciler.dev/v1   # never changes
kind: Integration
metadata: {name: a, labels: {team: x}}  # inline

spec:
    type: desk
    enabled:   true # on since May
    # where it is
    config:
        url: 'https://desk.test'
        retries: 3      # more is pointless
    synchronizations:
    # the first
    - name: p1
      action: post # a channel
      template: |
        {{ record.number }}

        done
    # the second
    - name: p2
      action: close
    depends_on: [b,  c]   # order matters
---
# another document
x:   1
"""


def changed(text: str, change: Any, index: int = 0) -> str:
    wanted = json.loads(json.dumps(trees_of(text)[index]))
    change(wanted)
    result = retouched(text, index, wanted)
    assert same(trees_of(result)[index], wanted)
    return result


def lines_between(before: str, after: str) -> tuple[set[str], set[str]]:
    """Lines that only the one has, and lines that only the other has."""
    return set(before.splitlines()) - set(after.splitlines()), set(after.splitlines()) - set(before.splitlines())


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_is_not_changed_keeps_every_byte(newline: str) -> None:
    text = MANIFEST.replace("\n", newline)
    assert changed(text, lambda tree: None) == text
    off = changed(text, lambda tree: tree["spec"].update(enabled=False))
    assert lines_between(text, off) == ({"    enabled:   true # on since May"}, {"    enabled:   false # on since May"})
    assert off.count("\r") == text.count("\r")


def test_keys_come_and_go_where_they_belong() -> None:
    def change(tree: Any) -> None:
        del tree["spec"]["config"]["retries"]
        tree["spec"]["config"]["webhook"] = {"path": "/in"}
        tree["spec"]["sync"] = {"every": "15m", "entities": ["tickets"]}
        tree["metadata"]["labels"]["tier"] = "1"

    gone, new = lines_between(MANIFEST, changed(MANIFEST, change))
    assert gone == {"        retries: 3      # more is pointless", "metadata: {name: a, labels: {team: x}}  # inline"}
    assert new == {
        "        webhook:",
        '            path: "/in"',
        "    sync:",
        "        every: 15m" if "        every: 15m" in new else '        every: "15m"',
        "        entities:",
        "        - tickets",
        'metadata: {name: a, labels: {team: x, tier: "1"}}  # inline',
    }


def test_items_of_lists_are_known_by_their_names() -> None:
    def change(tree: Any) -> None:
        items = tree["spec"]["synchronizations"]
        items.insert(0, {"name": "p0", "action": "post"})
        items[2]["action"] = "post"

    result = changed(MANIFEST, change)
    gone, new = lines_between(MANIFEST, result)
    assert (gone, new) == ({"      action: close"}, {"    - name: p0", "      action: post"})
    assert result.index("p0") < result.index("# the first") < result.index("p1") < result.index("# the second")
    dropped = changed(MANIFEST, lambda tree: tree["spec"]["synchronizations"].pop(1))
    assert "# the first" in dropped
    assert "p2" not in dropped


TEXTS = (
    *("no", "on", "Yes", "1_000", "2024-01-01", "0777", "null", "~", "", " x", "a: b", "a #b", "- a", "*x", "&x", "!t"),
    *("%a", "{a}", "[a]", "a,b", "'", '"', "it's", "\\", "tab\there", "line\nbreak", "cr\r\nlf", "é\u2028\x85\x7f"),
    *("...", "---", "{{ record.number }}", "https://x.test/a?b=c#d", "@a", "`a`", "a\n", "\n\na", "  two\n lines"),
    *("0x1F", "1e3", ".5", ".inf"),
)


@pytest.mark.parametrize("value", TEXTS)
@pytest.mark.parametrize("place", ["plain", "single", "double", "flow", "item", "literal", "empty"])
def test_text_stays_text(value: str, place: str) -> None:
    text = "plain: a # 1\nsingle: 'a' # 2\ndouble: \"a\" # 3\nflow: {x: a} # 4\nitem:\n- a # 5\nliteral: |\n  a\n# 6\nempty:\n"

    def change(tree: Any) -> None:
        tree[place] = {"flow": {"x": value}, "item": [value]}.get(place, value)

    result = changed(text, change)
    assert all(f"# {number}" in result for number in range(1, 7))
    assert YAML(typ="safe", pure=True).load(result).keys() == trees_of(text)[0].keys()


def test_documents_go_and_the_others_stay() -> None:
    three = MANIFEST + "---\nz: 2 # last\n"
    head = "# The service desk's own; ask team-x before you change it.\n"
    assert without_document(three, 0) == head + "---\n# another document\nx:   1\n---\nz: 2 # last\n"
    assert without_document(three, 1) == MANIFEST.split("---\n", maxsplit=1)[0] + "---\nz: 2 # last\n"
    assert without_document(three, 2) == MANIFEST
    assert without_document("# only\na: 1\n", 0) == ""


def test_what_an_anchor_shares_is_told_apart_or_refused() -> None:
    text = "a: &x {k: 1}\nb: *x\n"
    assert trees_of(changed(text, lambda tree: tree["b"].update(k=2)))[0] == {"a": {"k": 1}, "b": {"k": 2}}
    with pytest.raises(LayoutError, match="anchor"):
        changed("# note\na: &x\n  k: 1 # note\nb: *x\n", lambda tree: tree["a"].update(k=2))


def test_thousands_of_changes_at_once_are_refused_before_they_hold_up_others() -> None:
    wanted = trees_of(MANIFEST)[0]
    few = {**wanted, "metadata": {"name": "a", "labels": {"team": "x", **{f"k{n}": "v" for n in range(100)}}}}
    assert same(trees_of(retouched(MANIFEST, 0, few))[0], few)
    many = {**wanted, "metadata": {"name": "a", "labels": {"team": "x", **{f"k{n}": "v" for n in range(40_000)}}}}
    with pytest.raises(LayoutError, match="several changes"):
        retouched(MANIFEST, 0, many)


def test_a_file_with_problems_is_not_edited() -> None:
    with pytest.raises(LayoutError, match="mend it"):
        retouched("a: 1\na: 2\n", 0, {"a": 1})


# Any tree, written with comments everywhere, to any other.

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=3)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["no", "1_000", "x", "two words", "a: b", "#", "l1\nl2", "l1\nl2\n", "'", "2024-01-01", ""]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(NAMES, TREES, min_size=1, max_size=5)


class Scribe:
    """Writes a tree as somebody might, with a comment above and behind everything; remembers where which one stands."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.notes: dict[str, Path] = {}
        self.step = draw(st.sampled_from([2, 3, 4]))
        self.dash = draw(st.sampled_from([0, self.step]))

    def note(self, path: Path) -> str:
        mark = f"#n{len(self.notes)}."
        self.notes[mark] = path
        return mark

    def mapping(self, tree: dict[str, Any], column: int, path: Path) -> Iterator[str]:
        for key, value in tree.items():
            here = (*path, key)
            if self.draw(st.booleans()):
                yield f"{' ' * column}{self.note(here)}"
            yield from self.value(f"{' ' * column}{key}:", value, column, here, self.dash)

    def value(self, head: str, value: Any, column: int, path: Path, dash: int) -> Iterator[str]:
        behind = f" {self.note(path)}" if self.draw(st.booleans()) else ""
        if isinstance(value, dict) and value and self.draw(st.booleans()):
            yield f"{head}{behind}"
            yield from self.mapping(value, column + self.step, path)
        elif isinstance(value, list) and value and self.draw(st.booleans()):
            yield f"{head}{behind}"
            for index, item in enumerate(value):
                if self.draw(st.booleans()):
                    yield f"{' ' * (column + dash)}{self.note(path)}"
                yield from self.item(item, column + dash, (*path, index))
        else:
            yield f"{head} {json_for_yaml(value).decode()}{behind}"

    def item(self, value: Any, column: int, path: Path) -> Iterator[str]:
        if isinstance(value, dict) and value:
            lines = list(self.mapping(value, column + 2, path))
            yield (
                " " * column + "-" + (lines[0][column + 1 :] if "#n" not in lines[0].split(":")[0] else "\n" + lines[0])
            )
            yield from lines[1:]
        else:
            yield from self.value(f"{' ' * column}-", value, column, path, self.step)


def mutated(draw: Any, tree: Any) -> Any:
    """Somewhere in the tree something is set, dropped or added."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(tree)))
        act = draw(st.sampled_from(["into", "into", "drop", "add"]))
        if act == "drop":
            return {name: value for name, value in tree.items() if name != key}
        return {**tree, **({draw(NAMES): draw(TREES)} if act == "add" else {key: mutated(draw, tree[key])})}
    if isinstance(tree, list) and tree and draw(st.integers(0, 3)):
        index = draw(st.integers(0, len(tree) - 1))
        act = draw(st.sampled_from(["into", "drop", "add"]))
        if act == "into":
            return [*tree[:index], mutated(draw, tree[index]), *tree[index + 1 :]]
        return [*tree[:index], *([draw(TREES)] if act == "add" else []), *tree[index + (act == "drop") :]]
    return draw(TREES)


def is_kept(path: Path, before: Any, wanted: Any) -> bool:
    """Whether all that the comment speaks of is still there: mappings down to a value that is the same, or a scalar still."""
    for part in path:
        if not (isinstance(before, dict) and isinstance(wanted, dict) and part in before and part in wanted):
            return same(before, wanted) and bool(path)
        before, wanted = before[part], wanted[part]
    return same(before, wanted) or not (isinstance(before, dict | list) or isinstance(wanted, dict | list))


@settings(max_examples=300)
@given(st.data())
def test_random_edits_keep_comments_and_mean_what_was_asked(drawn: st.DataObject) -> None:
    before = drawn.draw(MAPPINGS)
    scribe = Scribe(drawn.draw)
    text = "\n".join(scribe.mapping(before, 0, ())) + "\n---\n# tail\nz:  1\n"
    if drawn.draw(st.booleans()):
        text = text.replace("\n", "\r\n")
    assert same(trees_of(text)[0], before), text
    wanted = before
    for _ in range(drawn.draw(st.integers(0, 4))):
        wanted = mutated(drawn.draw, wanted) or before
    wanted = wanted if isinstance(wanted, dict) else before
    result = retouched(text, 0, wanted)
    assert same(trees_of(result)[0], wanted)
    assert result.endswith(text[text.index("---") :])
    assert result.count("\n") == result.count("\r\n") or "\r" not in result
    for mark, path in scribe.notes.items():
        if is_kept(path, before, wanted):
            assert mark in result, (mark, text, result)
    read = YAML(typ="rt")
    read.allow_duplicate_keys = False
    read.load(result.split("---")[0])
