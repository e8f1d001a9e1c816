"""What a body may hold is what the document says: a text is no number there, and a number no truth."""

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from reconciler.serve.api import _ROUTERS

_WRONG: dict[Any, tuple[Any, ...]] = {bool: ("true", "yes", 1, 0), int: ("1", True, 1.5)}


def _models() -> Iterator[type[BaseModel]]:
    for route in (one for router in _ROUTERS for one in router.routes):
        field = route.body_field if isinstance(route, APIRoute) else None
        for one in (field.field_info.annotation, *get_args(field.field_info.annotation)) if field else ():
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield one


def _fields() -> list[tuple[type[BaseModel], str, Any]]:
    return [
        (model, one.alias or name, kind)
        for model in dict.fromkeys(_models())
        for name, one in model.model_fields.items()
        for kind in (one.annotation, *get_args(one.annotation))
        if kind in _WRONG
    ]


def test_there_are_such_fields() -> None:
    assert len(_fields()) >= 9


@pytest.mark.parametrize(("model", "name", "kind"), _fields())
def test_nothing_is_taken_for_what_it_is_not(model: type[BaseModel], name: str, kind: Any) -> None:
    for wrong in _WRONG[kind]:
        with pytest.raises(ValidationError) as raised:
            model.model_validate({name: wrong})
        assert (name,) in [error["loc"] for error in raised.value.errors()], wrong
