"""The base of every model of what a person writes in a manifest: a value must be of the wanted type already.

In: trees as the YAML reader makes them. Out: models that take `true` for true, and neither `yes` nor `"true"` nor 1. Used by
`manifest` and, as `Settings`, by every connector. The schemas made from these models say the same, except that JSON knows
no difference between 1 and 1.0; here 1.0 is no whole number.

Pydantic's own strict mode is not it: there a list is no tuple, and text no date, path or enum, though YAML has no other way
to write them. So only the scalars that YAML tells apart are strict; a whole number is a number. Left lax: keys of mappings,
which are always text, and models that do not have this base. What is text by nature, such as environment variables and
rendered templates, is read with `model_validate(..., strict=False)`.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

_SCALARS = frozenset({"bool", "int", "float"})
_TIMES = frozenset({"date", "time", "datetime", "timedelta"})
_INNER = ("schema", "fields", "items_schema", "values_schema", "choices", "steps", "lax_schema", "python_schema")
_DONE = "is_written"


def _tighten(node: Any) -> None:
    """Makes the scalars of a core schema strict, in place; doing it twice changes nothing."""
    if isinstance(node, list | tuple):
        for item in node:
            _tighten(item)
    elif isinstance(node, dict) and not isinstance(kind := node.get("type"), str):
        _tighten(list(node.values()))  # fields by name, choices by tag
    elif isinstance(node, dict) and _DONE not in (node.get("metadata") or ()):
        if kind in _SCALARS:
            node["strict"] = True
        elif kind in _TIMES:
            _guard(node, _no_number)
        elif kind == "literal":
            _guard_choices(node)
        else:
            _tighten([node[name] for name in _INNER if name in node])


def _guard(node: dict[str, Any], check: Callable[[Any], Any]) -> None:
    inner: Any = dict(node)
    node.clear()
    node.update(core_schema.no_info_before_validator_function(check, inner, metadata={_DONE: True}))


def _no_number(value: Any) -> Any:
    """A bare number would be taken for seconds."""
    if isinstance(value, bool | int | float):
        raise PydanticKnownError("string_type")
    return value


def _guard_choices(node: dict[str, Any]) -> None:
    """In Python 1 == True == 1.0, so that a choice of one would stand for all."""
    types = {type(choice) for choice in node["expected"]}
    expected = " or ".join(map(repr, node["expected"]))

    def check(value: Any) -> Any:
        if isinstance(value, bool | int | float) and type(value) not in types:
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    if types & {bool, int}:
        _guard(node, check)


class Written(BaseModel):
    """Frozen and closed: an unknown field is a finding, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler, /) -> CoreSchema:
        schema = handler(source)
        _tighten(schema)
        return schema
