"""What models of manifests take: the scalars that YAML wrote, and every natural way to write the rest."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import pytest
from pydantic import Field, ValidationError

from reconciler.model.written import Written

T = TypeVar("T")
SCALARS: tuple[Any, ...] = ("yes", "true", "5", "1.5", "", 1, 0, 5, 1.0, 1.5, True, False)


class Colour(StrEnum):
    RED = "red"


class Inner(Written):
    is_on: bool = False


class Tree(Written):
    size: int = 0
    branches: tuple["Tree", ...] = ()


class Box(Written, Generic[T]):
    content: T


class Cat(Written):
    type: Literal["cat"]
    lives: int


class Dog(Written):
    type: Literal["dog"]
    is_good: bool


class Everything(Written):
    truth: bool = False
    maybe: bool | None = None
    whole: Annotated[int, Field(ge=0)] = 0
    number: float = 0
    text: str = ""
    either: str | int = 0
    one: Literal[1, 2] = 1
    always: Literal[True] = True
    off: Literal["on", "off"] = "off"
    day: date | None = None
    moment: datetime | None = None
    hour: time | None = None
    span: timedelta = timedelta()
    path: Path | None = None
    colour: Colour = Colour.RED
    raw: bytes = b""
    wholes: tuple[int, ...] = ()
    truths: frozenset[bool] = frozenset()
    sequence: Sequence[bool] = ()
    named: Mapping[str, float] = Field(default_factory=dict)
    counted: dict[int, bool] = Field(default_factory=dict)
    inner: Inner = Inner()
    inners: tuple[Inner, ...] = ()
    tree: Tree = Tree()
    box: Box[int] | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="type")] | None = None


class Outer(Written):
    """Holds another model twice, so that pydantic keeps it as a shared definition."""

    first: Everything = Everything()
    second: Everything | None = None


def takes(values: Mapping[str, Any], model: type[Written] = Everything) -> bool:
    try:
        model.model_validate(values)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("field", "taken"),
    [
        ("truth", {bool}),
        ("maybe", {bool}),
        ("whole", {int}),
        ("number", {int, float}),
        ("text", {str}),
        ("either", {str, int}),
    ],
)
def test_a_scalar_is_taken_for_what_it_is(field: str, taken: set[type]) -> None:
    for value in SCALARS:
        assert takes({field: value}) == (type(value) in taken), value
        assert takes({"first": {field: value}, "second": {field: value}}, Outer) == (type(value) in taken), value


@pytest.mark.parametrize(
    "values",
    [
        {"one": 2},
        {"always": True},
        {"off": "on"},
        {"day": "2024-01-01"},
        {"moment": "2024-01-01T10:00:00Z"},
        {"hour": "10:00"},
        {"span": "PT5M"},
        {"path": "a/b"},
        {"colour": "red"},
        {"raw": "text"},
        {"wholes": [1, 2]},
        {"truths": [True]},
        {"sequence": [True]},
        {"named": {"a": 1}},
        {"counted": {"1": True}},
        {"inner": {"is_on": True}},
        {"inners": [{"is_on": True}]},
        {"tree": {"branches": [{"size": 1}]}},
        {"box": {"content": 1}},
        {"pet": {"type": "cat", "lives": 9}},
        {"pet": {"type": "dog", "is_good": True}},
    ],
    ids=str,
)
def test_what_yaml_can_only_write_as_text_or_list_is_taken(values: dict[str, Any]) -> None:
    assert takes(values)
    assert takes({"first": values, "second": values}, Outer)


@pytest.mark.parametrize(
    "values",
    [
        {"one": True},
        {"one": 1.0},
        {"always": 1},
        {"day": 86400},
        {"moment": 5},
        {"moment": True},
        {"hour": 5},
        {"span": 5},
        {"span": 0.5},
        {"path": 5},
        {"colour": 1},
        {"raw": 5},
        {"wholes": ["1"]},
        {"wholes": [True]},
        {"truths": ["yes"]},
        {"sequence": [1]},
        {"named": {"a": "1"}},
        {"counted": {"1": "yes"}},
        {"inner": {"is_on": "on"}},
        {"inners": [{"is_on": 1}]},
        {"tree": {"branches": [{"size": "1"}]}},
        {"box": {"content": "1"}},
        {"pet": {"type": "cat", "lives": "9"}},
        {"pet": {"type": "dog", "is_good": "yes"}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_nothing_is_converted_however_deep(values: dict[str, Any]) -> None:
    assert not takes(values)
    assert not takes({"second": values}, Outer)


def test_who_reads_text_may_ask_for_conversion() -> None:
    written = {"truth": "yes", "whole": "5", "inner": {"is_on": 1}}
    made = Outer.model_validate({"first": written}, strict=False).first
    assert (made.truth, made.whole, made.inner.is_on) == (True, 5, True)
