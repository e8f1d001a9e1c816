"""JSON Schemas for editors and other validators, made from the same models that validate.

In: the manifest's models and the connectors. Out: schemas by file name: `integration`, `workspace`, and one per connector
with its `auth` and `config`. Called by `reconciler schema`; a test fails when the files in `schemas/` are stale. A schema
says less than `reconciler validate`: schedules, templates, names of other manifests and entities under a configuration
are not in it. A model that brings its own `model_json_schema` (settings known only as a schema) is taken at its word.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from reconciler.desired.connector_checks import AnyConnector, Registry, auth_spellings
from reconciler.model.manifest import Integration, Workspace
from reconciler.model.secret import SECRET_MARK
from reconciler.sdk.contract import AuthSettings, Channel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]
_ENCRYPTED = {"type": "string", "pattern": r"^ENC\[AES256_GCM,", "description": "Ciphertext, as SOPS writes it."}
_TEXT = {"type": "string", "minLength": 1}


def _reference(name: str, value: Schema) -> Schema:
    return {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}


_REFERENCES = [
    _reference(
        "from_sops",
        {
            "type": "object",
            "description": "One value of a SOPS file; the path is relative to the manifest.",
            "properties": {"file": _TEXT, "key": _TEXT},
            "required": ["file", "key"],
            "additionalProperties": False,
        },
    ),
    _reference(
        "from_env", {**_TEXT, "description": "An environment variable of the daemon, as far as it is permitted."}
    ),
    _reference("from_file", {**_TEXT, "description": "A file in the permitted folder of the workspace."}),
]
_SHARED: Schema = {
    "SecretValue": {"description": "Never in clear.", "anyOf": [_ENCRYPTED, *_REFERENCES]},
    "Unresolved": {"anyOf": [_ENCRYPTED, *_REFERENCES]},
}


def all_schemas(registry: Registry) -> dict[str, Schema]:
    """Every schema by its path below `schemas/`."""
    connectors = {name: registry.load(name) for name in registry.known_types()}
    schemas = {
        "integration.schema.json": integration_schema(connectors),
        "workspace.schema.json": _titled(Workspace, "workspace"),
    }
    return schemas | {f"connectors/{name}.schema.json": connector_schema(one) for name, one in connectors.items()}


def rendered(schema: Schema) -> str:
    """As it is written to a file: the same models give the same bytes."""
    return json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=False) + "\n"


def integration_schema(connectors: Mapping[str, AnyConnector]) -> Schema:
    """The manifest, with `auth` and `config` by `spec.type`. All is in one file: editors load it from one address."""
    schema = _titled(Integration, "integration")
    definitions = schema.setdefault("$defs", {})
    spec = definitions["Spec"]
    spec["properties"]["type"]["enum"] = sorted(connectors)
    spec["allOf"] = [
        {"if": {"properties": {"type": {"const": name}}, "required": ["type"]}, "then": {"$ref": f"#/$defs/{name}"}}
        for name in sorted(connectors)
    ]
    for name in sorted(connectors):
        part, found = _connector_part(connectors[name], f"{name}.")
        definitions[name] = part
        definitions.update(found)
    definitions.update(_SHARED)
    return schema


def connector_schema(connector: AnyConnector) -> Schema:
    """`auth` and `config` of one connector."""
    part, found = _connector_part(connector, "")
    return {
        "$schema": DIALECT,
        "title": connector.title,
        "description": f"auth and config of an integration of type {connector.type}.",
        **part,
        "$defs": found | _SHARED,
    }


def channel_schema(channel: Channel) -> Schema:
    """What a message through this channel may hold."""
    return {"$schema": DIALECT, **_generated(channel.fields, "#/$defs/{model}"), "title": channel.title or channel.name}


def _connector_part(connector: AnyConnector, prefix: str) -> tuple[Schema, Schema]:
    definitions: Schema = {}
    config = _model_schema(connector.Config, prefix, definitions)
    auths = [_auth_schema(connector, model, prefix, definitions) for model in connector.auth_types]
    properties: Schema = {"config": config}
    if auths:
        properties["auth"] = auths[0] if len(auths) == 1 else _by_type(auths)
    required = [name for name, one in properties.items() if one.get("required")]
    if auths and all(one.get("required") for one in auths):
        required = sorted({*required, "auth"})
    part: Schema = {"type": "object", "properties": properties}
    return (part | {"required": required} if required else part), definitions


def _by_type(auths: list[Schema]) -> Schema:
    """One of several, told apart by `type`, so that an error speaks of the one that was meant."""
    types = [one.get("properties", {}).get("type", {}).get("enum", []) for one in auths]
    if not all(types):
        return {"oneOf": auths}
    chosen = [
        {"if": {"properties": {"type": {"enum": each}}, "required": ["type"]}, "then": one}
        for each, one in zip(types, auths, strict=True)
    ]
    known = {"type": "string", "enum": [spelled for each in types for spelled in each]}
    by_name = {"if": {"properties": {"type": _ENCRYPTED}}, "else": {"properties": {"type": known}}}
    return {"type": "object", "required": ["type"], "allOf": [by_name, *chosen]}


def _auth_schema(connector: AnyConnector, model: type[AuthSettings], prefix: str, definitions: Schema) -> Schema:
    schema = _model_schema(model, prefix, definitions)
    spellings = [spelled for spelled, one in auth_spellings(connector).items() if one is model]
    if spellings and "type" in schema.get("properties", {}):
        schema["properties"]["type"] = {"type": "string", "enum": spellings}
    return schema


def _model_schema(model: type[BaseModel], prefix: str, definitions: Schema) -> Schema:
    schema = _generated(model, f"#/$defs/{prefix}{{model}}")
    found = schema.pop("$defs", {})
    definitions.update({f"{prefix}{name}": one for name, one in found.items()})
    for name, one in schema.get("properties", {}).items():
        schema["properties"][name] = one if name == "type" else _or_encrypted(one)
    return schema


def _or_encrypted(schema: Schema) -> Schema:
    """Any value may be encrypted: SOPS decides by name. A secret must be, so it has nothing to choose."""
    if "SecretValue" in json.dumps(schema) or schema.get("type") in ("array", "object"):
        return schema
    kept = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    rest = {name: value for name, value in schema.items() if name not in kept}
    return kept | {"anyOf": [rest, {"$ref": "#/$defs/Unresolved"}]}


def _titled(model: type[BaseModel], name: str) -> Schema:
    schema = _generated(model, "#/$defs/{model}")
    title = f"reconciler {name}"
    schema["properties"]["sops"] = {"type": "object", "description": "Written by SOPS; covers every value of the file."}
    return {"$schema": DIALECT, **schema, "title": title}


def _generated(model: type[BaseModel], ref_template: str) -> Schema:
    schema: Schema = _tidied(model.model_json_schema(by_alias=True, ref_template=ref_template))
    return schema


def _tidied(node: Any) -> Any:
    """Without pydantic's noise: titles that echo names, defaults that are whole objects, empty formats."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if SECRET_MARK in node:
        kept = {name: value for name, value in node.items() if name == "description"}
        return {"$ref": "#/$defs/SecretValue", **kept}
    return {name: _tidied_value(name, value) for name, value in node.items() if not _is_noise(name, value, node)}


def _tidied_value(name: str, value: Any) -> Any:
    if name in ("properties", "$defs") and isinstance(value, dict):
        return {key: _tidied(item) for key, item in value.items()}
    return value if name in ("default", "enum", "const") else _tidied(value)


_NOISE: Mapping[str, Callable[[Any, Schema], bool]] = {
    "title": lambda value, node: isinstance(value, str) and "properties" not in node,
    "default": lambda value, _: isinstance(value, dict) and bool(value),
    "format": lambda value, _: value == "",
}


def _is_noise(name: str, value: Any, node: Schema) -> bool:
    test = _NOISE.get(name)
    return test is not None and test(value, node)
