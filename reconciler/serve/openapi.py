"""The OpenAPI 3.1 document: what FastAPI makes of the routes, with what it cannot know. Committed as docs/openapi.json."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from reconciler import __version__
from reconciler.api.problem import Problem, problems

TITLE = "reconciler"
ABOUT = (
    "Operate, observe and change integrations. Git is the only truth: a change of a manifest made here is a commit.\n\n"
    "Times are RFC 3339, errors RFC 9457 (`application/problem+json`), lists have `data`, `has_more` and `next_cursor`."
)
PROBLEM = "application/problem+json"
REFERENCE = "#/components/schemas/{model}"


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """As the document shows the fields of a model: for a route that reads its parameters itself."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    definitions = schema.get("$defs", {})
    return [
        {"name": name, "in": "query", "required": False, "schema": _inlined(one, definitions)}
        for name, one in schema["properties"].items()
    ]


def whole_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Of a body that a route reads itself: nothing in it refers to elsewhere."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    inlined: dict[str, Any] = _inlined(schema, schema.pop("$defs", {}))
    return inlined


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(one, definitions) for name, one in schema.items()}


def document(app: FastAPI) -> dict[str, Any]:
    """Made once for an application."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=TITLE, version=__version__, openapi_version="3.1.0", description=ABOUT, routes=app.routes
        )
        components = made.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        problem = Problem.model_json_schema(ref_template=REFERENCE)
        schemas.update(problem.pop("$defs", {}))
        schemas["Problem"] = problem
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer", "description": "A token of the API, or of an issuer."},
            "key": {"type": "http", "scheme": "bearer", "description": "A key to push to one integration."},
        }
        made["security"] = [{"token": []}]
        _secure_doors(made["paths"])
        for operation in (one for path in made["paths"].values() for one in path.values()):
            operation["responses"] = _answers(operation)
        app.openapi_schema = made
    return app.openapi_schema


def _secure_doors(paths: dict[str, Any]) -> None:
    """What others send to us opens with a key of theirs, or with a signature, of which the document knows no form."""
    for path, operations in paths.items():
        if path.startswith(("/ingest/", "/v1/inbound/")):
            for operation in operations.values():
                operation["security"] = [{"key": []}] if path.startswith("/ingest/") else []


def _answers(operation: dict[str, Any]) -> dict[str, Any]:
    """With what any request may come to: 400 for parameters, 422 for headers, more where there is a body. Ordered.

    The framework's own 422 is for all of these; where a route declares it, it stays.
    """
    own = dict(operation["responses"])
    if PROBLEM not in own.get("422", {}).get("content", {}):
        own.pop("422", None)
    always = {400}
    if "requestBody" in operation:
        always |= {413, 415, 422}
    if any(one["in"] == "header" for one in operation.get("parameters", ())):
        always.add(422)
    return dict(sorted(({str(status): one for status, one in problems(*always).items()} | own).items()))
