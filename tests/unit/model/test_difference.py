"""What differs between two contents of a record."""

import pytest

from reconciler.model.difference import field_changes


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', []),
        ('{"a": 1}', '{"a": 1.0}', [("a", "1", "1.0")]),
        ('{"a": 1}', '{"a": true}', [("a", "1", "true")]),
        ('{"a": null}', "{}", [("a", "null", None)]),
        ("{}", '{"a": ""}', [("a", None, '""')]),
        ('{"a": {"b": {"c": 1}, "d": 1}}', '{"a": {"b": {"c": 2}, "d": 1}}', [("a.b.c", "1", "2")]),
        ('{"a": {}}', '{"a": {"b": 1}}', [("a", "{}", None), ("a.b", None, "1")]),
        ('{"a": [1, {"x": 1, "y": 2}]}', '{"a": [1, {"y": 2, "x": 1}]}', []),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', [("a", "[1,2]", "[2,1]")]),
        ('"text"', '{"a": 1}', [("a", None, "1"), ("value", '"text"', None)]),
        ('{"b": "ü", "a": "x"}', '{"b": "u", "a": "y"}', [("a", '"x"', '"y"'), ("b", '"ü"', '"u"')]),
    ],
)
def test_fields_that_differ(before: str, after: str, expected: list[tuple[str, str | None, str | None]]) -> None:
    found = field_changes(before.encode(), after.encode())
    assert [(c.path, c.before, c.after) for c in found] == expected
