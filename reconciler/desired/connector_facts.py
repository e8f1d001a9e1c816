"""What a connector declares, as plain values: the one place that `reconciler connectors` and the API's catalogue ask.

In: a connector's class. Out: `ConnectorFacts`, JSON-ready and the same for every output. Types and defaults are read from
the models that validate, so nothing here can be out of date.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from reconciler.desired.connector_checks import AnyConnector, auth_spellings, own_spellings
from reconciler.model.duration import render_duration
from reconciler.model.event import EVENT_OF, Lifecycle, singular
from reconciler.model.secret import SECRET_MARK
from reconciler.sdk.authorize import Authorizes
from reconciler.sdk.contract import (
    Channel,
    Connector,
    Counts,
    Deletes,
    Entity,
    Finds,
    Limit,
    Repeat,
    Subscribes,
    Verifies,
)
from reconciler.sdk.inbound import Rereads

REPEATS = {
    Repeat.SAFE: "sent again after a crash; the remote drops a repeat",
    Repeat.FIND: "looked for at the remote before it is sent again",
    Repeat.UNSAFE: "never sent again by itself; an interrupted attempt ends as unknown",
}
CAPABILITIES = {
    "read": "reads records",
    "incremental": "reads only what changed",
    "delta": "reads a change feed (scope delta)",
    "keys": "lists keys alone to find deletions (scope keys)",
    "configurable-entities": "settings add entities or choose what is read by default",
    "estimate": "estimates how much a sync will read",
    "deliver": "delivers events (write-back)",
    "find": "finds what was sent before",
    "consent": "asks a person for consent",
    "webhooks": "registers webhooks at the remote",
    "inbound": "verifies inbound webhooks",
    "reread": "reads again what a webhook names",
    "push": "takes records and events that are pushed",
}
DELETES = {
    Deletes.FULL_RUN: "by a complete full run",
    Deletes.KEYS: "by listing keys alone (scope keys), or a complete full run",
    Deletes.FLAG: "by a mark in the record",
    Deletes.FEED: "by the delta scope",
}


@dataclass(frozen=True, slots=True)
class FieldFacts:
    """One setting. `default` is JSON-ready, None where there is none or it is required."""

    name: str
    type: str
    is_required: bool
    default: Any
    is_secret: bool
    description: str


@dataclass(frozen=True, slots=True)
class EntityFacts:
    name: str
    key: str
    cursor: str | None
    is_incremental: bool
    has_delta: bool
    by_default: bool
    deletes: str
    rights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    name: str
    text_field: str
    repeat: str
    fields: tuple[FieldFacts, ...]
    rights: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AuthFacts:
    """`types` are the accepted spellings of `spec.auth.type`, the connector's own first."""

    types: tuple[str, ...]
    description: str
    fields: tuple[FieldFacts, ...]


@dataclass(frozen=True, slots=True)
class ConnectorFacts:
    """`can` are the names of what it can do, `capabilities` the same in words. `events` are those of records and lifecycle."""

    type: str
    title: str
    version: str
    docs_url: str
    capabilities: tuple[str, ...]
    can: tuple[str, ...]
    auth: tuple[AuthFacts, ...]
    config: tuple[FieldFacts, ...]
    entities: tuple[EntityFacts, ...]
    events: tuple[str, ...]
    channels: tuple[ChannelFacts, ...]
    limits: tuple[str, ...]


def connector_facts(connector: AnyConnector) -> ConnectorFacts:
    """Everything about one connector, without making one."""
    can = tuple(_can(connector))
    return ConnectorFacts(
        type=connector.type,
        title=connector.title,
        version=connector.version,
        docs_url=connector.docs_url,
        capabilities=tuple(CAPABILITIES[name] for name in can),
        can=can,
        auth=tuple(_auth(connector)),
        config=model_fields(connector.Config),
        entities=tuple(_entity(e) for e in connector.entities),
        events=(*(event for e in connector.entities for event in events_about(e.name)), *Lifecycle),
        channels=tuple(_channel(c) for c in connector.channels),
        limits=tuple(_limit(one) for one in connector.limits),
    )


def _can(connector: AnyConnector) -> Iterator[str]:
    entities, channels = connector.entities, connector.channels
    own_entities = connector.entities_of.__func__ is not Connector.entities_of.__func__  # type: ignore[attr-defined]
    optional = {
        "read": bool(entities),
        "incremental": any(e.cursor for e in entities),
        "delta": any(e.has_delta for e in entities),
        "keys": any(e.deletes is Deletes.KEYS for e in entities),
        "configurable-entities": own_entities,
        "estimate": issubclass(connector, Counts),
        "deliver": bool(channels),
        "find": issubclass(connector, Finds),
        "consent": issubclass(connector, Authorizes),
        "webhooks": issubclass(connector, Subscribes),
        "inbound": issubclass(connector, Verifies),
        "reread": issubclass(connector, Rereads),
        "push": callable(getattr(connector, "pushed_entity", None)),
    }
    return (name for name, is_there in optional.items() if is_there)


def events_about(entity: str) -> Iterator[str]:
    """The types of events that changes of its records make."""
    return (f"{singular(entity)}.{verb}" for verb in EVENT_OF.values())


def _auth(connector: AnyConnector) -> Iterator[AuthFacts]:
    spellings = auth_spellings(connector)
    for model in connector.auth_types:
        own = own_spellings(model)
        others = tuple(s for s, one in spellings.items() if one is model and s not in own)
        fields = tuple(f for f in model_fields(model) if f.name != "type")
        yield AuthFacts((*own, *others), _first_line(model), fields)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n", 1)[0] if "__doc__" in vars(model) else ""


def _entity(e: Entity) -> EntityFacts:
    return EntityFacts(
        e.name, e.key, e.cursor, e.cursor is not None, e.has_delta, e.by_default, DELETES[e.deletes], e.rights
    )


def _channel(c: Channel) -> ChannelFacts:
    return ChannelFacts(c.name, c.text_field, REPEATS[c.repeat], model_fields(c.fields), c.rights)


def _limit(limit: Limit) -> str:
    where = "" if limit.path == "*" else f" for {limit.path}"
    source = f" ({limit.source})" if limit.source else ""
    unit = "points" if max(limit.points.values(), default=1) > 1 else "requests" if limit.requests > 1 else "request"
    counted = _counted(limit.points) + (", one after another" if limit.is_serial else "")
    return f"{limit.requests} {unit} in {render_duration(limit.window)} per {limit.scope}{where}{counted}{source}"


def _counted(points: Mapping[str, int]) -> str:
    """What a request takes by its HTTP verb; of limits that count a request or not, which ones they count."""
    if not points:
        return ""
    if max(points.values()) > 1:
        return ", " + ", ".join(f"{'others' if verb == '*' else verb} {n}" for verb, n in points.items())
    does = bool(points.get("*", 1))
    others = ", ".join(verb for verb, n in points.items() if verb != "*" and bool(n) is not does)
    return f", all but {others}" if does else f", {others} only"


def model_fields(model: type[BaseModel]) -> tuple[FieldFacts, ...]:
    """The fields by dotted name; those of nested models follow their parent."""
    schema = model.model_json_schema(by_alias=True)
    return tuple(_fields(schema, schema.get("$defs", {}), ""))


def _fields(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[FieldFacts]:
    required = schema.get("required", ())
    for name, one in schema.get("properties", {}).items():
        nested = _nested(one, definitions)
        yield FieldFacts(
            name=f"{prefix}{name}",
            type=_type(one, definitions),
            is_required=name in required,
            default=one.get("default"),
            is_secret=_is_secret(one),
            description=one.get("description") or (nested or {}).get("description", ""),
        )
        if nested is not None and len(prefix) < 64:  # a model may hold itself
            yield from _fields(nested, definitions, f"{prefix}{name}.")


def _options(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [option for option in one.get("anyOf", [one]) if option.get("type") != "null"]


def _is_secret(one: Mapping[str, Any]) -> bool:
    return any(option.get(SECRET_MARK) for option in _options(one))


def _nested(one: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    options = _options(one)
    found = _target(options[0], definitions) if len(options) == 1 else None
    return found if found and "properties" in found else None


def _target(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    name = str(option.get("$ref", "")).rpartition("/")[2]
    return definitions.get(name)


def _type(one: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    return " or ".join(dict.fromkeys(_option_type(option, definitions) for option in _options(one)))


def _option_type(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    target = _target(option, definitions)
    if target is not None:
        return _type(target, definitions)
    if option.get(SECRET_MARK):
        return "secret"
    values = option.get("enum") or ([option["const"]] if "const" in option else None)
    if values:
        return "one of " + ", ".join(map(str, values)) if len(values) > 1 else str(values[0])
    if option.get("type") == "array":
        return f"list of {_type(option.get('items') or {}, definitions)}"
    kind = str(option.get("type", "any"))
    return {"object": "mapping", "string": "text", "boolean": "true or false"}.get(kind, kind)
