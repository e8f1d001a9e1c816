"""Errors of pydantic as problems that a person can act on.

In: a model, a tree and where the tree stands in its document. Out: problems with paths, all of them, with "did you mean".
Errors about values that are not known yet (`Unresolved`) are left out. No message repeats a value from `auth`.
"""

import types
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from reconciler.desired.mending import LIST, MAPPING, NUMBER, TEXT, TRUTH, WHOLE, mending, seen, standing
from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean, dotted
from reconciler.model.finding import Code
from reconciler.model.secret import Secret, Unresolved

_KINDS = {
    "string_type": TEXT,
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), TRUTH),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), LIST),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), MAPPING),
}


def model_problems(
    model: type[BaseModel], tree: Mapping[str, Any], base: Path, *, may_show: bool = True
) -> tuple[BaseModel | None, list[Problem]]:
    """The validated model, or what is wrong. Both empty: wrong only where values are not known yet."""
    try:
        return model.model_validate(tree), []
    except ValidationError as error:
        return None, list(_worded(model, tree, base, error, may_show=may_show))
    except (AttributeError, TypeError, LookupError, ArithmeticError) as error:
        # A connector's own validator stumbled: over a value that is not known yet, or over a real mistake of its author.
        if _holds_unresolved(tree):
            return None, []
        message = f"{dotted(base)} could not be checked: {type(error).__name__} in the connector"
        return None, [Problem(base, Code.INVALID_VALUE, message, "report this to the author of the connector")]


Model = TypeVar("Model", bound=BaseModel)


def partial_model(model: type[Model], tree: Any) -> Model | None:
    """The model without the fields that are wrong: what is left can still be checked, so that all is said at once."""
    fields = dict(tree) if isinstance(tree, Mapping) else {}
    for _ in range(2):
        try:
            return model.model_validate(fields)
        except ValidationError as error:
            wrong = {one["loc"][0] for one in error.errors(include_url=False) if one["loc"]}
            fields = {name: value for name, value in fields.items() if name not in wrong}
    return None


def _worded(
    model: type[BaseModel], tree: Mapping[str, Any], base: Path, error: ValidationError, *, may_show: bool
) -> Iterator[Problem]:
    found: dict[Path, list[Any]] = {}
    for one in error.errors(include_url=False):
        if _holds_unresolved(one["input"]) and one["type"] not in ("missing", "extra_forbidden"):
            continue
        path = _existing(tree, one["loc"], keep_last=one["type"] == "missing")
        found.setdefault(path, []).append(one)
    for path, errors in found.items():
        yield _problem(model, errors, path, base, may_show=may_show)


def _problem(model: type[BaseModel], errors: list[Any], path: Path, base: Path, *, may_show: bool) -> Problem:
    """Several errors at one place are those of the members of a union."""
    error = errors[0]
    where, kind, value = dotted((*base, *path)), error["type"], error["input"]
    if kind == "missing":
        return Problem((*base, *path), Code.MISSING_FIELD, f"{where} is missing", _described(model, path))
    if kind == "extra_forbidden":
        remedy = did_you_mean(path[-1] if path else "", field_names(model_at(model, path[:-1])), "known fields")
        return Problem((*base, *path), Code.UNKNOWN_FIELD, f"unknown field {where}", remedy, at_key=True)
    if wanted := _wanted(errors):
        message = f"{where} must be {' or '.join(wanted)}{standing(wanted[0], value, may_show=may_show)}"
        remedy = mending(wanted[0], value, may_show=may_show) or _described(model, path)
        return Problem((*base, *path), Code.INVALID_VALUE, message, remedy)
    is_shown = may_show and isinstance(value, str | int | float)
    instead = seen("", value) if is_shown else ""
    if kind in ("literal_error", "enum"):
        expected = error["ctx"]["expected"]
        remedy = _choice(value, expected) if is_shown else ""
        return Problem((*base, *path), Code.INVALID_VALUE, f"{where} must be {expected}{instead}", remedy)
    # Whoever raised a ValueError has chosen the words, often with the value in them.
    said = _said(error) if kind == "value_error" else f"{_said(error)}{instead}"
    return Problem((*base, *path), Code.INVALID_VALUE, f"{where} {said}", _described(model, path))


def _wanted(errors: list[Any]) -> list[str]:
    """What would be right, in our words; empty where the error is not about the type."""
    if errors[0]["type"] == "is_instance_of" and errors[0]["ctx"]["class"] == Secret.__name__:
        return ["a secret text"]
    kinds = [_KINDS.get(one["type"], "") for one in errors]
    return list(dict.fromkeys(filter(None, kinds))) if kinds[0] else []


def _choice(value: object, expected: str) -> str:
    choices = expected.replace(" or ", ", ").split(", ")
    if not isinstance(value, str) and f"'{value}'" in choices:
        return "put it in quotes"
    return did_you_mean(value, [choice.strip("'") for choice in choices], "permitted")


def _said(error: Any) -> str:
    if error["type"] == "string_pattern_mismatch":
        return f"must match {error['ctx']['pattern']}"
    text = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for before, after in (
        ("Input should be", "must be"),
        ("Input should", "must"),
        ("String should", "must"),
        ("Tuple should", "must"),
    ):
        if text.startswith(before):
            return after + text.removeprefix(before)
    return f"is not accepted: {text}"


def _existing(tree: Any, location: tuple[int | str, ...], *, keep_last: bool) -> Path:
    """The part of pydantic's location that is a path in the tree: it also names members of unions and `[key]`."""
    path: list[str | int] = []
    node = tree
    for place, step in enumerate(location):
        inside = (isinstance(node, Mapping) and step in node) or (
            isinstance(node, list | tuple) and isinstance(step, int) and step < len(node)
        )
        if inside:
            node = node[step]
            path.append(step)
        elif keep_last and place == len(location) - 1:
            path.append(step)
    return tuple(path)


def _holds_unresolved(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_unresolved, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_unresolved, value))
    return isinstance(value, Unresolved)


def field_names(model: type[BaseModel] | None) -> list[str]:
    """Names as a manifest spells them."""
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _described(model: type[BaseModel], path: Path) -> str:
    if not path or not isinstance(path[-1], str):
        return ""
    parent = model_at(model, path[:-1])
    fields = parent.model_fields.items() if parent else ()
    return next((field.description or "" for name, field in fields if path[-1] in (name, field.alias)), "")


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model that stands at a path, where the annotations tell."""
    return next(iter(_models(_annotation_at(model, path))), None)


def takes_text(model: type[BaseModel] | None, path: Path) -> bool:
    """Whether text may stand at a path; also where the annotations do not tell."""
    return not set(_options(_annotation_at(model, path))) <= {bool, int, float, type(None)}


def _annotation_at(model: type[BaseModel] | None, path: Path) -> Any:
    annotation: Any = model
    for step in path:
        annotation = _below(annotation, step)
    return annotation


def _below(annotation: Any, step: str | int) -> Any:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            for name, field in option.model_fields.items():
                if step in (name, field.alias):
                    return field.annotation
        elif (items := get_args(option)) and get_origin(option) is not Literal:
            return items[-1] if items[-1] is not Ellipsis else items[0]
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            yield option


def _options(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _options(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


@lru_cache(maxsize=1024)
def secret_fields(model: type[BaseModel]) -> tuple[tuple[str, ...], ...]:
    """Paths of the fields that hold secrets, `*` for any item of a list or mapping."""
    return tuple(_secret_fields(model, 0))


def _secret_fields(annotation: Any, depth: int) -> Iterator[tuple[str, ...]]:
    if depth > 8:
        return
    for option in _options(annotation):
        if option is Secret:
            yield ()
        elif isinstance(option, type) and issubclass(option, BaseModel):
            for name, field in option.model_fields.items():
                yield from ((field.alias or name, *rest) for rest in _secret_fields(field.annotation, depth + 1))
        elif get_origin(option) in (list, tuple, set, frozenset, dict, Mapping) and get_args(option):
            arguments = get_args(option)
            item = arguments[-1] if arguments[-1] is not Ellipsis else arguments[0]
            yield from (("*", *rest) for rest in _secret_fields(item, depth + 1))
