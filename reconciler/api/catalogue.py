"""Answers about connectors: what can be integrated, and what each can do."""

from typing import Any, Literal

from pydantic import Field

from reconciler.api.integrations import Shown
from reconciler.api.paging import Paging

Capability = Literal[
    "read",
    "incremental",
    "delta",
    "keys",
    "configurable-entities",
    "estimate",
    "deliver",
    "find",
    "consent",
    "webhooks",
    "inbound",
    "reread",
    "push",
]


class CatalogueQuery(Paging):
    q: str = Field(
        "", max_length=200, description="Words; all of them in a type, title, capability, entity, event or channel."
    )


class SearchQuery(Paging):
    q: str = Field(
        min_length=1,
        max_length=200,
        description="Words; all of them in a type, title, capability, entity, event or channel.",
    )


class AuthMethod(Shown):
    types: list[str] = Field(
        description="Spellings of `spec.auth.type`, the connector's own first; empty: it has none."
    )
    description: str


class EntityOffered(Shown):
    """What can be read. `cursor` null: it is read as a whole each time."""

    name: str
    title: str
    key: str
    cursor: str | None
    has_delta: bool
    by_default: bool
    deletions: Literal["full_run", "keys", "flag", "feed"]
    rights: list[str]
    events: list[str]


class ChannelOffered(Shown):
    """A way to send. `text_field` is what a template fills; null where there is none."""

    name: str
    title: str
    text_field: str | None
    repeat: Literal["safe", "find", "unsafe"]
    rights: list[str]
    fields_schema: dict[str, Any] = Field(description="JSON Schema of a message.")


class LimitKept(Shown):
    """A published limit of the remote that is kept to."""

    requests: int
    window_seconds: float
    scope: str
    path: str
    points: dict[str, int]
    is_serial: bool
    source: str | None
    text: str


class Connector(Shown):
    type: str
    title: str
    version: str
    docs_url: str | None
    capabilities: list[Capability]
    auth_methods: list[AuthMethod]
    settings_schema: dict[str, Any] = Field(description="JSON Schema of `auth` and `config`.")
    entities: list[EntityOffered]
    events: list[str] = Field(description="All types of events that an integration of it may make.")
    channels: list[ChannelOffered]
    limits: list[LimitKept]


class ConnectorList(Shown):
    data: list[Connector]
    has_more: bool
    next_cursor: str | None


class AvailableConnector(Shown):
    """In short; `/v1/connectors/{type}` has all of it."""

    type: str
    title: str
    version: str
    docs_url: str | None
    capabilities: list[Capability]
    auth_methods: list[str]
    entities: list[str]
    channels: list[str]
    is_permitted: bool = Field(
        description="The daemon's settings let the caller's workspace use it; for the whole installation: any workspace."
    )
    integrations: int = Field(description="How many of those that the caller sees are of this type.")


class AvailableList(Shown):
    data: list[AvailableConnector]
    has_more: bool
    next_cursor: str | None


class Match(Shown):
    kind: Literal["type", "title", "capability", "entity", "event", "channel"]
    text: str


class FoundConnector(AvailableConnector):
    matches: list[Match]


class FoundList(Shown):
    data: list[FoundConnector]
    has_more: bool
    next_cursor: str | None
