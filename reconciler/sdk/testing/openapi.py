"""A vendor's API description as a judge of requests and answers.

In: an OpenAPI 3.0, 3.1 or Swagger 2.0 document (file or mapping), then one request or answer at a time. Out: what is wrong
with it, as sentences; nothing is raised. Called by the simulator base. Schemas are judged by jsonschema; routing and
parameters are done here because half of the published descriptions are Swagger 2.0, which openapi-core does not read.
Not done: formats, security schemes, XML and multipart bodies, links and callbacks.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = "urn:description"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
Query = Sequence[tuple[str, str]]


def _nullable(schema: Any) -> bool:
    return isinstance(schema, Mapping) and bool(schema.get("nullable") or schema.get("x-nullable"))


def _type(validator: Any, types: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if instance is None and _nullable(schema):
        return
    yield from Draft202012Validator.VALIDATORS["type"](validator, _known_types(types), instance, schema)


def _known_types(types: Any) -> Any:
    named = [types] if isinstance(types, str) else list(types)
    return ["string", "object"] if "file" in named else named


def _enum(validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if instance is None and _nullable(schema):
        return
    yield from Draft202012Validator.VALIDATORS["enum"](validator, values, instance, schema)


def _exclusive(_validator: Any, limit: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """OpenAPI 3.0 has a boolean here; the border itself is then forbidden."""
    if limit is True and instance in (schema.get("minimum"), schema.get("maximum")):
        yield ValidationError(f"{instance!r} is on the excluded border")


def _required_but(side: str) -> Any:
    """`required`, except for properties that belong to the other direction."""

    def required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if not validator.is_type(instance, "object") or not isinstance(names, list):
            return
        properties = schema.get("properties", {})
        for name in names:
            if name not in instance and not properties.get(name, {}).get(side):
                yield ValidationError(f"{name!r} is missing")

    return required


def _validator(side: str) -> Any:
    return extend(  # type: ignore[no-untyped-call]
        Draft202012Validator,
        {
            "type": _type,
            "enum": _enum,
            "exclusiveMinimum": _exclusive,
            "exclusiveMaximum": _exclusive,
            "required": _required_but(side),
        },
    )


_REQUEST, _ANSWER = _validator("readOnly"), _validator("writeOnly")


@dataclass(frozen=True)
class Operation:
    """One path and method; `at` is its JSON pointer inside the description."""

    name: str
    at: str
    template: re.Pattern[str]
    method: str
    content: Mapping[str, Any]
    parameters: tuple[Mapping[str, Any], ...]


class Description:
    """Judges requests and answers by one document. Schemas are compiled when first needed."""

    def __init__(self, document: Mapping[str, Any], *, base: str | None = None) -> None:
        self._document = document
        self._is_v2 = "swagger" in document
        self._base = (self._declared_base() if base is None else base).rstrip("/")
        self._registry: Registry[Any] = Registry().with_resource(ROOT, DRAFT202012.create_resource(document))
        self._operations = tuple(self._all_operations())
        self._compiled: dict[tuple[str, bool], Any] = {}

    @staticmethod
    @cache
    def load(path: Path, base: str | None = None) -> "Description":
        return Description(json.loads(path.read_text("utf-8")), base=base)

    def _declared_base(self) -> str:
        if self._is_v2:
            return str(self._document.get("basePath", ""))
        servers = self._document.get("servers") or [{"url": ""}]
        return re.sub(r"^[a-z]+://[^/]*", "", servers[0]["url"])

    def _all_operations(self) -> Iterator[Operation]:
        for path, item in self._document.get("paths", {}).items():
            pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(urlsplit(path).path)) + "/?")
            for method in METHODS:
                if method in item:
                    at = f"#/paths/{_escape(path)}/{method}"
                    parameters = (*item.get("parameters", ()), *item[method].get("parameters", ()))
                    resolved = tuple(self._deref(p) for p in parameters)
                    yield Operation(f"{method.upper()} {path}", at, pattern, method, item[method], resolved)

    def _deref(self, node: Any) -> Any:
        while isinstance(node, Mapping) and "$ref" in node:
            target: Any = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]
            node = target
        return node

    def operation(self, method: str, path: str) -> Operation | None:
        """The most literal operation that fits."""
        below = path.removeprefix(self._base) if path.startswith(self._base + "/") else path
        fits = [o for o in self._operations if o.method == method.lower() and o.template.fullmatch(below)]
        return min(fits, key=lambda o: o.name.count("{"), default=None)

    def request(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: bytes
    ) -> tuple[str, list[str]]:
        """(name of the operation, complaints)."""
        found = self.operation(method, path)
        if found is None:
            return "", [f"{method} {path} is not in the vendor's description"]
        complaints = [*self._judge_query(found, query), *self._judge_headers(found, headers)]
        return found.name, complaints + self._judge_body(found, headers.get("content-type", ""), body)

    def _judge_query(self, operation: Operation, query: Query) -> Iterator[str]:
        declared = {p["name"]: p for p in operation.parameters if p.get("in") == "query"}
        known = {**declared, **{f"{name}[]": p for name, p in declared.items()}}
        for name, value in query:
            if name in known:
                yield from self._judge_value(known[name], name, value)
            elif not any(p.get("style") == "deepObject" and name.startswith(n + "[") for n, p in declared.items()):
                yield f"query parameter {name} is not in the vendor's description"
        sent = {name.split("[")[0] for name, _ in query} | {name for name, _ in query}
        for name, parameter in declared.items():
            if parameter.get("required") and name not in sent:
                yield f"required query parameter {name} is missing"

    def _judge_value(self, parameter: Mapping[str, Any], name: str, value: str) -> Iterator[str]:
        schema = self._deref(parameter.get("schema", parameter))
        kind = schema.get("type")
        if kind == "integer" and not re.fullmatch(r"-?\d+", value):
            yield f"query parameter {name} must be an integer, is {value!r}"
        elif kind == "boolean" and value not in ("true", "false"):
            yield f"query parameter {name} must be true or false, is {value!r}"
        elif kind == "string" and "enum" in schema and value not in schema["enum"]:
            yield f"query parameter {name} must be one of {schema['enum']}, is {value!r}"
        number = float(value) if kind == "integer" and re.fullmatch(r"-?\d+", value) else None
        if number is not None and not schema.get("minimum", number) <= number <= schema.get("maximum", number):
            yield f"query parameter {name} is out of range: {value}"

    @staticmethod
    def _judge_headers(operation: Operation, headers: Mapping[str, str]) -> Iterator[str]:
        for parameter in operation.parameters:
            is_required = parameter.get("in") == "header" and parameter.get("required")
            if is_required and parameter["name"].lower() not in headers:
                yield f"required header {parameter['name']} is missing"

    def _judge_body(self, operation: Operation, content_type: str, body: bytes) -> list[str]:
        kind = content_type.split(";", 1)[0].strip().lower()
        if self._is_v2:
            return self._judge_v2_body(operation, kind, body)
        wanted = self._deref(operation.content.get("requestBody"))
        if wanted is None:
            return ["the vendor takes no body here"] if body and operation.method != "delete" else []
        if not body:
            return ["the body is missing"] if wanted.get("required") else []
        at, media = self._media(f"{operation.at}/requestBody", operation.content["requestBody"], kind)
        if media is None:
            return [f"content type {kind or '(none)'} is not one of {sorted(wanted.get('content', {}))}"]
        return self._judge_schema(at, media, kind, body, asks=True)

    def _judge_v2_body(self, operation: Operation, kind: str, body: bytes) -> list[str]:
        parameters = list(enumerate(operation.parameters))
        whole = [p for _, p in parameters if p.get("in") == "body"]
        if body and not any(p.get("in") in ("body", "formData") for _, p in parameters):
            return ["the vendor takes no body here"]
        if not whole or not body:
            return ["the body is missing"] if whole and whole[0].get("required") else []
        if "json" not in kind:
            return [f"content type must be JSON, is {kind or '(none)'}"]
        return self._judge(whole[0]["schema"], f"{operation.at}/body", _parsed(kind, body), asks=True)

    def _media(self, at: str, node: Any, kind: str) -> tuple[str, Any]:
        if "$ref" in node:
            at, node = node["$ref"], self._deref(node)
        for name, media in node.get("content", {}).items():
            pattern = name.split(";", 1)[0].strip().lower().replace("*", ".*").replace("+", r"\+")
            if re.fullmatch(pattern, kind) or (kind == "application/json" and name.lower().endswith("+json")):
                return f"{at}/content/{_escape(name)}", media
        return at, None

    def answer(self, method: str, path: str, status: int, content_type: str, body: bytes) -> tuple[str, list[str]]:
        """(name of the operation, complaints about an answer)."""
        found = self.operation(method, path)
        if found is None:
            return "", []
        declared = found.content.get("responses", {})
        key = next((k for k in (str(status), f"{status // 100}XX", "default") if k in declared), None)
        if key is None:
            return found.name, [f"status {status} is not in the vendor's description"] if status < 400 else []
        kind = content_type.split(";", 1)[0].strip().lower()
        if self._is_v2:
            schema = self._deref(declared[key]).get("schema")
            is_json = schema is not None and "json" in kind
            return found.name, (
                self._judge(schema, f"{found.at}/{key}", _parsed(kind, body), asks=False) if is_json else []
            )
        at, media = self._media(f"{found.at}/responses/{key}", declared[key], kind)
        if media is None:
            return found.name, []
        return found.name, self._judge_schema(at, media, kind, body, asks=False)

    def _judge_schema(self, at: str, media: Mapping[str, Any], kind: str, body: bytes, *, asks: bool) -> list[str]:
        if "schema" not in media or not ("json" in kind or "urlencoded" in kind):
            return []
        try:
            instance = _parsed(kind, body)
        except ValueError as error:
            return [f"the body is not {kind}: {error}"]
        return self._judge({"$ref": f"{at}/schema"}, at, instance, asks=asks)

    def _judge(self, schema: Mapping[str, Any], at: str, instance: Any, *, asks: bool) -> list[str]:
        compiled = self._compiled.get((at, asks))
        if compiled is None:
            kind = _REQUEST if asks else _ANSWER
            # An `$id` makes relative references inside the operation resolve within the document.
            anchored = {**schema, "$ref": ROOT + schema["$ref"]} if "$ref" in schema else _absolute(schema)
            compiled = self._compiled[at, asks] = kind(anchored, registry=self._registry)
        worst = best_match(compiled.iter_errors(instance))
        if worst is None:
            return []
        where = "/".join(map(str, worst.absolute_path))
        return [f"body{'/' + where if where else ''}: {worst.message[:300]}"]


def _absolute(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            k: ROOT + v if k == "$ref" and isinstance(v, str) and v.startswith("#") else _absolute(v)
            for k, v in node.items()
        }
    return [_absolute(v) for v in node] if isinstance(node, list) else node


def _parsed(kind: str, body: bytes) -> Any:
    if "urlencoded" in kind:
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    return cast("Any", json.loads(body))


def _escape(name: str) -> str:
    """A JSON pointer step as part of a URI fragment."""
    escaped = name.replace("~", "~0").replace("/", "~1")
    return "".join(c if c.isalnum() or c in "~._-/" else f"%{ord(c):02X}" for c in escaped)
