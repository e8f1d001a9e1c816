"""YAML as strangers write it: right values, every problem with its place, no exception and no unbounded work."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired.positions import find_positions, locate
from reconciler.desired.yaml_source import Limits, YamlProblem, read_yaml
from reconciler.model.finding import Code

HUGE = b"a: " + b"x" * (1024 * 1024)
BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 110)
)


def tree(text: str) -> Any:
    read = read_yaml(text.encode())
    assert not read.problems
    (document,) = read.documents
    assert not document.problems
    return document.tree


def problem(content: bytes) -> YamlProblem:
    read = read_yaml(content)
    (found,) = (*read.problems, *(one for document in read.documents for one in document.problems))
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("off", "off"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-3", -3), ("+4", 4), ("0o17", 15), ("0x1F", 31), ("010", 10),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("1.", 1.0),
        ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), ("12:30", "12:30"), ("0b11", "0b11"), ("-", None), ("1.2.3", "1.2.3"),
        ("'12'", "12"), ('"true"', "true"), ("!!str 12", "12"), ("!!int '7'", 7), ("! 12", "12"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema_of_1_2(text: str, value: object) -> None:
    read = tree(f"a: {text}" if text != "-" else "a:\n  -")
    assert read == ({"a": value} if text != "-" else {"a": [None]})
    assert type(read["a"]) is type(value) or text == "-"


def test_keys_are_text_as_written() -> None:
    assert tree("404: x\ntrue: y\n1.50: z") == {"404": "x", "true": "y", "1.50": "z"}


def test_documents_know_their_line_and_byte_order_mark_and_crlf_do_not_matter() -> None:
    read = read_yaml(b"\xef\xbb\xbf# head\r\na: 1\r\n---\r\n---\r\nb: 2\r\n")
    assert [(one.index, one.line, one.tree) for one in read.documents] == [
        (0, 2, {"a": 1}),
        (1, 3, None),
        (2, 5, {"b": 2}),
    ]


def test_aliases_share_values_within_bounds() -> None:
    assert tree("a: &x {b: [1, 2]}\nc: *x") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}}


@pytest.mark.parametrize(
    ("content", "code", "place"),
    [
        (b"a: 1\nb: 2\na: 3", Code.YAML_DUPLICATE_KEY, (3, 1)),
        (b"x: &x {a: 1}\ny:\n  <<: *x", Code.YAML_SYNTAX, (3, 3)),
        (b"a: !!python/object/apply:os.system [id]", Code.YAML_TAG, (1, 4)),
        (b"a: !secret x", Code.YAML_TAG, (1, 4)),
        (b"a: !!binary aGk=", Code.YAML_TAG, (1, 4)),
        (b"a: 1\nb: [c\n", Code.YAML_SYNTAX, (2, 4)),
        (b"a: b: c", Code.YAML_SYNTAX, (1, 5)),
        (b"a:\n\tb: 1", Code.YAML_SYNTAX, (2, 1)),
        (b"a: &a [*a]", Code.YAML_SYNTAX, (1, 8)),
        (b"a: *nowhere", Code.YAML_SYNTAX, (1, 4)),
        (b"? [a]\n: b", Code.YAML_SYNTAX, (1, 3)),
        (b"a: 1\nb: \x07", Code.YAML_SYNTAX, (2, 4)),
        (b"a: .inf", Code.INVALID_VALUE, (1, 4)),
        (b"a: 99999999999999999999", Code.INVALID_VALUE, (1, 4)),
        (b"a: 1e999", Code.INVALID_VALUE, (1, 4)),
        (b"a: 1\nb: caf\xe9", Code.FILE_BINARY, (2, 7)),
        (b"\x89PNG\r\n\x1a\n\0\0", Code.FILE_BINARY, (0, 0)),
        ("a: b".encode("utf-16"), Code.FILE_BINARY, (0, 0)),
        (HUGE, Code.FILE_TOO_LARGE, (0, 0)),
        (b"[" * 100_000, Code.YAML_LIMIT, (1, 65)),
        (b"{a: " * 100_000, Code.YAML_LIMIT, (1, 257)),
        (BOMB, Code.YAML_LIMIT, (5, 23)),
    ],
)  # fmt: skip
def test_every_problem_has_a_code_and_a_place(content: bytes, code: Code, place: tuple[int, int]) -> None:
    began = time.process_time()
    found = problem(content)
    assert (found.code, (found.line, found.column)) == (code, place)
    assert time.process_time() - began < 2


def test_documents_before_a_broken_one_are_kept() -> None:
    read = read_yaml(b"a: 1\n---\nb: [\n")
    assert [one.tree for one in read.documents] == [{"a": 1}]
    assert read.problems[0].is_fatal


def test_of_two_equal_keys_the_first_counts() -> None:
    assert read_yaml(b"a: 1\na: 2").documents[0].tree == {"a": 1}


def test_an_encrypted_comment_in_a_list_is_no_item() -> None:
    content = (
        b"l:\n- ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:comment]\n- ENC[AES256_GCM,data:,type:str]\n- {x: 1}\n"
    )
    assert read_yaml(content).documents[0].tree == {"l": ["ENC[AES256_GCM,data:,type:str]", {"x": 1}]}
    assert locate(content, 0, ("l", 0)) == (3, 3)
    assert locate(content, 0, ("l", 1, "x")) == (4, 7)


def test_limits_can_be_set() -> None:
    assert read_yaml(b"[1, 2, 3]", Limits(values=3)).problems[0].code is Code.YAML_LIMIT
    assert not read_yaml(b"[1, 2]", Limits(values=3)).problems


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_raise(content: bytes) -> None:
    read_yaml(content)
    find_positions(content)


TEXT = b"""\
a: 1
---
spec:
  list:
    - x: 1
    - {y: 2, z: 3}
"""


@pytest.mark.parametrize(
    ("path", "at_key", "place"),
    [
        (("spec", "list", 1, "z"), False, (6, 17)),
        (("spec", "list", 1, "z"), True, (6, 14)),
        (("spec", "list", 0), False, (5, 7)),
        (("spec", "list", 7, "q"), False, (4, 3)),
        (("nothing",), False, (3, 1)),
        ((), False, (3, 1)),
    ],
)
def test_locate_finds_the_value_or_what_is_nearest_above(
    path: tuple[str | int, ...], at_key: bool, place: tuple[int, int]
) -> None:
    assert locate(TEXT, 1, path, at_key=at_key) == place
