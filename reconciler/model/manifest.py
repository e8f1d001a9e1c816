"""What a manifest may say: `kind: Integration` and `kind: Workspace`, the source of the JSON Schemas.

`auth` and `config` stay open here: the connector named by `spec.type` validates them with its own models.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from reconciler.model.access import Grant, Permission
from reconciler.model.clock import from_rfc3339
from reconciler.model.duration import parse_duration
from reconciler.model.written import Written

API_VERSION = "reconciler.dev/v1"
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="DNS label: a-z, 0-9 and -.")]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    Field(json_schema_extra={"type": "string", "format": "", "pattern": r"^([0-9]+(ms|s|m|h|d|w))+$"}),
]


class Metadata(Written):
    name: Name
    workspace: Name = Field(
        "default", description="Tenant. Workspace and name are the identity; moving the file never matters."
    )
    labels: dict[str, str] = Field(default_factory=dict, description="Free labels, shown in lists and selectable.")
    annotations: dict[str, str] = Field(default_factory=dict, description="Free notes; not interpreted.")


class Fields(Written):
    include: tuple[str, ...] = Field(
        (), description="Dotted fields to keep; empty keeps all. Key and cursor are always kept."
    )
    exclude: tuple[str, ...] = Field((), description="Dotted fields that are dropped before anything is stored.")
    mask: tuple[str, ...] = Field(
        (), description="Dotted fields whose value is replaced by `********` before anything is stored."
    )


class Deletions(Written):
    """Listings of keys alone, where the connector can: what they miss is deleted at the remote."""

    enabled: bool = Field(True, description="false: only a full run finds what is deleted.")
    schedule: str | None = Field(None, description="Cron expression with five fields, read in `sync.time_zone`.")
    every: Duration | None = Field(
        None,
        description="Interval; instead of `schedule`. Default: 24h where syncs are scheduled and read changes only.",
    )


class Sync(Written):
    schedule: str | None = Field(None, description="Cron expression with five fields, read in `time_zone`.")
    every: Duration | None = Field(None, description="Interval such as 15m; instead of `schedule`.")
    time_zone: str = Field("UTC", description="IANA name, e.g. Europe/Berlin.")
    jitter: Duration | None = Field(
        None, description="Spread of the start; default a tenth of the interval, at most 30s."
    )
    scope: Literal["incremental", "delta", "full"] = "incremental"
    entities: tuple[str, ...] | None = Field(
        None, description="Default: every entity that the connector reads by default."
    )
    deletions: Deletions = Deletions()
    fields: Fields = Fields()
    schema_: Literal["evolve", "reject", "freeze"] = Field(
        "evolve", alias="schema", description="What to do about records whose fields differ from those seen before."
    )
    initial_events: Literal["none", "all"] = Field(
        "none", description="Whether the first sync's records become events."
    )
    page_size: int | None = Field(None, ge=1, le=10_000)
    timeout: Duration = Field(timedelta(hours=6), description="Deadline of one run.")


EVENT_TYPES = r"^[a-z0-9_*]+(\.[a-z0-9_*]+)+$"
"""One type of events, or with `*` several."""


class Synchronization(Written):
    name: Name
    event_type: str = Field(
        pattern=EVENT_TYPES,
        description="`<entity, singular>.<created|updated|deleted>`, a lifecycle event, or one that is published over the API;"
        " `*` stands for anything.",
    )
    from_: tuple[str, ...] | None = Field(
        None,
        alias="from",
        description="Names of integrations that the event is about; default any other of the workspace, or none.",
    )
    when: str | None = Field(
        None, max_length=2000, description="Condition over `record`, `changed`, `event`, `integration`."
    )
    action: str = Field(description="A channel of this integration's connector.")
    template: str | None = Field(None, max_length=20_000, description="Text of the channel's main field.")
    map: dict[str, Any] = Field(default_factory=dict, description="Fields of the channel; strings are templates.")
    enabled: bool = True


class Objectives(Written):
    freshness: Duration | None = Field(None, description="Longest age of the last successful sync.")
    delivery: Duration | None = Field(None, description="Longest age of an undelivered event.")


class Drift(Written):
    mode: Literal["correct", "detect", "off"] = "correct"
    ignore: tuple[str, ...] = Field((), description="JSON pointers into the remote object that are not compared.")


class Network(Written):
    """How this integration's remote is reached; default: the daemon's own settings."""

    proxy: str | None = Field(None, description="URL of an HTTP proxy.")
    ca_file: str | None = Field(None, description="PEM bundle in the permitted folder of this workspace.")
    client_cert_file: str | None = Field(None, description="PEM certificate in the permitted folder of this workspace.")
    client_key_file: str | None = Field(None, description="PEM key in the permitted folder of this workspace.")


class Access(Written):
    """What one client of the API may do with this integration's records and channels; whoever is not named may do nothing."""

    client: str = Field(
        pattern=r"^\S(.{0,253}\S)?$",
        description="Name of an API token, or of a caller as the daemon's settings take it from an OIDC token.",
    )
    allow: tuple[Grant, ...] = Field(
        description="`read`: see records. `send`: send through its channels. `sync`: have it synced.",
    )


class Spec(Written):
    type: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="The connector; `reconciler connectors` lists them.")
    display_name: str | None = None
    enabled: bool = Field(True, description="false: the configuration stays, connection and syncs stop.")
    suspend: bool = Field(False, description="true: nothing is changed, synced or delivered; the remote objects stay.")
    auth: dict[str, Any] = Field(
        default_factory=dict, description="Credential; which types a connector takes is in its schema."
    )
    config: dict[str, Any] = Field(default_factory=dict, description="Settings of the connector.")
    sync_direction: Literal["inbound", "outbound", "bidirectional"] = "bidirectional"
    sync: Sync = Sync()
    synchronizations: tuple[Synchronization, ...] = ()
    objectives: Objectives = Objectives()
    drift: Drift = Drift()
    network: Network = Network()
    deletion_policy: Literal["disconnect", "purge", "orphan"] = "disconnect"
    depends_on: tuple[Name, ...] = ()
    access: tuple[Access, ...] = Field((), description="Clients of the API and what each may do; default: nobody.")


class Integration(Written):
    """One connection to one remote system."""

    apiVersion: Literal["reconciler.dev/v1"]
    kind: Literal["Integration"]
    metadata: Metadata
    spec: Spec


class WorkspaceDefaults(Written):
    sync: Sync | None = None
    drift: Drift | None = None
    objectives: Objectives | None = None


class VersionRetention(Written):
    """A dataset version goes when there are `keep` newer ones, or when it is older than `age`; never the newest."""

    keep: int | None = Field(None, ge=1, description="At most so many dataset versions; default all.")
    age: Duration | None = Field(None, description="Dataset versions that are not older; default all.")


class Retention(Written):
    logs: Duration = Field(timedelta(days=90), description="How long log lines are kept.")
    runs: Duration = Field(timedelta(days=90), description="How long runs and rejected records are kept.")
    events: Duration = Field(timedelta(days=90), description="How long events and ended deliveries are kept.")
    versions: VersionRetention = Field(VersionRetention(), description="Which dataset versions are kept.")


def _with_zone(text: str) -> str:
    from_rfc3339(text)
    return text


class Token(Written):
    """An API token of the workspace, held as a hash."""

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Hex SHA-256 of the token.")
    permissions: tuple[Permission, ...] = Field(
        (Permission.INTEGRATION_VIEW,), description="What it may do; `admin` stands for all, in this workspace."
    )
    expires_at: Annotated[str, AfterValidator(_with_zone)] | None = Field(
        None, description="RFC 3339 with a zone, such as 2030-01-31T08:00:00Z; default never."
    )


class WorkspaceSpec(Written):
    display_name: str | None = None
    defaults: WorkspaceDefaults = WorkspaceDefaults()
    retention: Retention = Retention()
    tokens: tuple[Token, ...] = ()


class WorkspaceMetadata(Written):
    name: Name
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Workspace(Written):
    """A tenant's defaults, retention and API tokens."""

    apiVersion: Literal["reconciler.dev/v1"]
    kind: Literal["Workspace"]
    metadata: WorkspaceMetadata
    spec: WorkspaceSpec = WorkspaceSpec()
