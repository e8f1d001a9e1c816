"""What a manifest says to the custom connector: keys, signatures, what may be pushed, where our events go."""

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from reconciler.model.manifest import EVENT_TYPES, Duration
from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, Settings

EntityName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
EventName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$")]
EventTypes = Annotated[str, Field(pattern=EVENT_TYPES)]
JsonSchema = dict[str, Any]


def _sound(schema: JsonSchema) -> JsonSchema:
    """Raises ValueError for what is no JSON Schema, or refers to what is not in it: nothing could be checked by it."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(str(step) for step in error.absolute_path) or "the whole"
        raise ValueError(f"no JSON Schema (2020-12): {where} does not fit {error.validator}") from None
    resource = DRAFT202012.create_resource(schema)
    resolver = Registry().with_resource("", resource).resolver(resource.id() or "")
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(f"$ref {reference}: there is no such place in this schema; others are not read") from None
    return schema


def _references(schema: Any) -> list[str]:
    """Those that a `$id` further down may give another meaning are left alone."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    found = [name for one in inner if not (isinstance(one, dict) and "$id" in one) for name in _references(one)]
    own = schema.get("$ref") if isinstance(schema, dict) else None
    return [*found, own] if isinstance(own, str) else found


Rule = Annotated[JsonSchema, AfterValidator(_sound)]


class Schemas(Settings):
    """JSON Schemas (2020-12) of `data`, by name. References to other places are not followed."""

    entities: dict[EntityName, Rule] = Field(
        {}, description="Of records, by entity; {} for no rule.", json_schema_extra={"additionalProperties": False}
    )
    events: dict[EventName, Rule] = Field(
        {}, description="Of events, by type; {} for no rule.", json_schema_extra={"additionalProperties": False}
    )


class Outbound(Settings):
    """Where our events go, signed as Standard Webhooks has it."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    secret: Secret = Field(description="whsec_ and base64, or any text; signs what is sent.")
    events: tuple[EventTypes, ...] = Field(
        (),
        max_length=200,
        description="Types of events of the workspace that are sent there, such as sync.failed or order.*; more, and other"
        " words for them, with `synchronizations`.",
    )


class Config(Settings):
    schemas: Schemas = Schemas()
    unknown: Literal["store", "reject"] = Field("store", description="What `schemas` does not name.")
    max_delete_ratio: float = Field(0.3, ge=0, le=1, description="Of all records, what one snapshot may delete.")
    requests_per_minute: int = Field(600, ge=1, le=100_000, description="Of one key, in one process.")
    burst: int = Field(60, ge=1, le=10_000, description="Requests of one key at once.")
    outbound: Outbound | None = None


class Rotation(Settings):
    """Keys are made and replaced by a person; this says when one is due."""

    max_age: Duration | None = Field(None, description="After that a new key is due: shown, and told ahead.")
    grace: Duration = Field(timedelta(0), description="How long the old key still opens when a new one is made.")

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.grace > timedelta(days=7):
            raise ValueError("grace: at most 7d")
        return self


class GeneratedKey(AuthSettings):
    """Keys that `reconciler key create NAME` makes and shows once. None stands in Git."""

    type: Literal["generated_api_key"] = "generated_api_key"
    rotation: Rotation = Rotation()
    pinned_hashes: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = Field(
        (), max_length=10, description="SHA-256 in hex of keys of one's own (rck_...), which count as well."
    )
    signature: Literal["required", "optional", "off"] = Field(
        "off", description="Whether senders sign the body as well: optional checks a signature where there is one."
    )
    signing_secret: Secret | None = Field(None, description="whsec_ and base64, or any text; of Standard Webhooks.")
