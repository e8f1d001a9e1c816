"""What the records of an entity look like: learned from them, and what differs from it."""

import json
from typing import Any

import pytest

from reconciler.sync import shape as shape_module
from reconciler.sync.shape import ENOUGH, Gauge, Shape, changes, fields_of, grown, shape_of


def _raw(record: Any) -> bytes:
    return json.dumps(record).encode()


def _learned(*records: Any) -> Shape:
    shape = Shape(looked=ENOUGH)
    for record in records:
        if not Gauge(shape).fits(_raw(record)):
            shape = grown(shape, fields_of(_raw(record)))
    return shape


def _said(shape: Shape, record: Any) -> list[str]:
    """Agrees with the compiled check: what fits differs in nothing."""
    found = sorted(str(change) for change in changes(shape, fields_of(_raw(record))))
    if Gauge(shape).fits(_raw(record)):
        assert found == []
    return found


def test_every_type_of_json_is_told_apart() -> None:
    record = {"s": 'a"{', "n": -1.5, "i": 3, "t": True, "f": False, "z": None, "a": [1, {"x": 1}], "o": {"y": [None]}}
    assert fields_of(_raw(record)) == {
        "s": "string", "n": "number", "i": "number", "t": "boolean", "f": "boolean", "z": "null", "a": "array", "o": "object",
    }  # fmt: skip
    assert Gauge(_learned(record)).fits(_raw(record))


@pytest.mark.parametrize("payload", [b"", b"[1]", b'"x"', b'{"a": }', b"\xff", b"[" * 100_000])
def test_what_is_no_object_has_no_fields(payload: bytes) -> None:
    shape = _learned({"a": 1})
    assert (fields_of(payload), list(changes(shape, fields_of(payload))), grown(shape, {})) == ({}, [], shape)


def test_what_appears_vanishes_or_changes_its_type() -> None:
    shape = _learned({"a": 1, "b": "x"}, {"a": 2, "b": "y", "c": [1]})
    assert _said(shape, {"a": 1, "b": "x"}) == []
    assert _said(shape, {"a": "1", "c": {}, "d": True}) == [
        "field a is string, it was number",
        "field b (string) is missing",
        "field c is object, it was array",
        "field d (boolean) is new",
    ]


def test_null_is_no_type() -> None:
    shape = _learned({"a": None, "b": 1})
    assert _said(shape, {"a": "anything", "b": None}) == []
    both = _learned({"a": None}, {"a": "x"}, {"a": 1})
    assert both.types == {"a": ["number", "string"]}
    assert _said(both, {"a": []}) == ["field a is array, it was number or string"]


def test_a_missing_field_says_something_once_enough_was_seen() -> None:
    few = Shape(types={"a": ["number"], "b": ["number"]}, looked=ENOUGH - 1)
    assert list(changes(few, {"a": "number"})) == []
    assert not Gauge(few).fits(b'{"a": 1}')
    assert grown(few, {"a": "number"}).sometimes == ["b"]


def test_numbers_of_any_size_fit() -> None:
    shape = _learned({"n": 1})
    for text in ("123456789012345678901234567890", "1e5", "-0.0", "1e999"):
        assert _said(shape, json.loads("{}") | {"n": 1}) == []
        assert list(changes(shape, fields_of(b'{"n": %b}' % text.encode()))) == []


def test_names_that_are_no_names_of_python() -> None:
    record = {"class": 1, "a.b": 2, "": 3, "ü": 4, "f0": 5, "__init__": 6}
    shape = _learned(record)
    assert _said(shape, record) == []
    assert _said(shape, {**record, "def": 1}) == ["field def (number) is new"]


def test_names_without_end_are_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape_module, "MOST_FIELDS", 3)
    shape = _learned(*({f"ticket-{n}": n} for n in range(9)))
    assert len(shape.types) == 3
    assert _said(shape, {"ticket-99": 1}) == []


def test_other_fields_let_through_mean_learning_anew() -> None:
    assert shape_of("", "x") == Shape(under="x")
    stored = '{"types": {"a": ["number"]}, "under": "x", "is_settled": true}'
    assert shape_of(stored, "x").is_settled
    assert shape_of(stored, "y") == Shape(under="y")
