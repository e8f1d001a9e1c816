"""Whether a request has the form that its route declares, as far as the framework lets more pass than the document says.

Called for each request once its caller is known. In: the request. Out: nothing, or ProblemError: 400 for parameters that the
route does not know or that come twice, 415 for a body that is no JSON, 422 for JSON that only some readers take (NaN, half
a surrogate pair, UTF-16) and for NUL, which no text of ours can hold. What values mean is checked by the route's models.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_origin

import msgspec
from pydantic import BaseModel
from starlette.requests import Request

from reconciler.serve.problem import ProblemError

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_JSON = re.compile(r"application/(?:json|[^;\s/]+\+json)\s*(?:;.*)?", re.IGNORECASE)


async def check_form(request: Request) -> None:
    """Raises ProblemError."""
    scope = request.scope
    if "\0" in scope["path"]:
        raise ProblemError(404, "not-found", "there is nothing at a path with a NUL in it")
    if scope["query_string"]:
        _check_parameters(request)
    if scope["method"] not in {"GET", "HEAD"} and getattr(scope["route"], "body_field", None) is not None:
        _check_body(request.headers.get("content-type", ""), await request.body())


def _check_parameters(request: Request) -> None:
    given, known = request.query_params.multi_items(), _known(request)
    for name, value in given:
        if name not in known:
            listed = f"known: {', '.join(known)}" if known else "it takes none"
            raise ProblemError(400, "unknown-parameter", f"unknown parameter {name[:100]!r}; {listed}")
        if "\0" in value:
            raise ProblemError(400, "invalid-parameter", f"{name} has a NUL in it")
    for name, count in Counter(name for name, _ in given).items():
        if count > 1 and not known[name]:
            raise ProblemError(400, "invalid-parameter", f"{name} is given {count} times; give it once")


def _known(request: Request) -> dict[str, bool]:
    """Of each parameter in the query whether it may come several times. Kept by the application, as long as its routes live."""
    route, kept = request.scope["route"], request.app.state.parameters
    if id(route) not in kept:
        kept[id(route)] = _looked_up(route)
    known: dict[str, bool] = kept[id(route)]
    return known


def _looked_up(route: Any) -> dict[str, bool]:
    declared = (route.openapi_extra or {}).get("parameters", ())
    written = {one["name"]: one["schema"].get("type") == "array" for one in declared if one["in"] == "query"}
    return written | dict(_declared(route.dependant))


def _declared(dependant: Any) -> Iterator[tuple[str, bool]]:
    for field in dependant.query_params:
        model = field.field_info.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            yield from ((one.alias or name, _is_list(one.annotation)) for name, one in model.model_fields.items())
        else:
            yield field.alias, _is_list(model)
    for inner in dependant.dependencies:
        yield from _declared(inner)


def _is_list(annotation: Any) -> bool:
    """Also where it may be None."""
    if get_origin(annotation) in {list, tuple, set, frozenset} or annotation in {list, tuple, set, frozenset}:
        return True
    return any(_is_list(one) for one in getattr(annotation, "__args__", ()))


def _check_body(content_type: str, body: bytes) -> None:
    if not body:
        return
    if not _JSON.fullmatch(content_type.strip()):
        raise ProblemError(415, "not-json", "the body must be JSON; send Content-Type: application/json")
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(str(error)) from None
    if _NUL.search(body):
        raise _not_json("NUL (\\u0000) is in no text that we keep")


def _not_json(why: str) -> ProblemError:
    errors = [{"pointer": "", "code": "json_invalid", "detail": why}]
    return ProblemError(422, "invalid-body", f"the body is not JSON as RFC 8259 has it: {why}", {"errors": errors})
