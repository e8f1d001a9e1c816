"""Answers about integrations, as the OpenAPI document shows them. What fills them is in `serve.forms`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from reconciler.model.condition import ConditionType, Health, Reason, Status, SyncStatus, Truth
from reconciler.model.event import DeliveryStatus
from reconciler.model.manifest import Name
from reconciler.model.record import RunResult, Scope


class Shown(BaseModel):
    """Base of answers: every member is there, and there are no others."""

    model_config = ConfigDict(extra="forbid", json_schema_mode_override="serialization")
    _etag: str | None = PrivateAttr(None)

    @property
    def etag(self) -> str | None:
        """For clients: what `If-Match` asks for, where the answer bore one."""
        return self._etag

    def note_etag(self, etag: str | None) -> None:
        self._etag = etag


class HealthShown(Shown):
    status: Health
    latency_ms: float | None
    error_count: int


class IntegrationSummary(Shown):
    id: str = Field(examples=["int_7xKpQ2mR4wVb"])
    type: str
    name: str
    workspace: str
    status: Status
    auth_type: str | None = Field(description="Null where it is encrypted or not stated.")
    sync_direction: str
    last_sync_at: datetime | None
    health: HealthShown
    sync_status: SyncStatus | None = Field(description="Null before the first run has ended.")
    created_at: datetime


class IntegrationList(Shown):
    data: list[IntegrationSummary]
    has_more: bool
    next_cursor: str | None


class ConditionShown(Shown):
    type: ConditionType
    status: Truth
    reason: Reason
    message: str
    since: datetime
    generation: int


class Source(Shown):
    file: str
    line: int


class Freshness(Shown):
    objective_seconds: float
    age_seconds: float | None
    is_met: bool


class Suspension(Shown):
    by: str
    reason: str
    until: datetime | None


class RecordCounts(Shown):
    added: int
    updated: int
    unchanged: int
    deleted: int
    rejected: int
    listed: int
    missing: int


class Sync(Shown):
    """One run."""

    id: str
    at: datetime
    status: RunResult | Literal["queued", "running"]
    records_synced: int
    scope: Scope
    cause: str
    state: Literal["due", "running", "done"]
    step: str
    result: RunResult | None
    reason: str | None
    error: str | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    records: RecordCounts
    dataset_version: int | None
    restores: int | None


class ManifestMetadata(Shown):
    name: Name
    workspace: Name
    labels: dict[str, str]


class IntegrationStatus(IntegrationSummary):
    """How it fares. `drifted` are remote objects that are not as we wrote them."""

    message: str
    conditions: list[ConditionShown]
    generation: int
    observed_generation: int
    last_sync_status: RunResult | None
    last_sync_error: str | None
    next_sync_at: datetime | None
    next_keys_at: datetime | None
    uptime_percent: float | None = Field(description="Over the probes of the last 30 days.")
    total_syncs: int
    failed_syncs: int
    freshness: Freshness | None
    drifted: list[str]
    suspended: Suspension | None
    credential_expires_at: datetime | None
    deliveries: dict[DeliveryStatus, int]


class IntegrationDetail(IntegrationStatus):
    """Sent back with PUT, what is beside `metadata` and `spec` is ignored, and `********` stands for what is there."""

    metadata: ManifestMetadata
    spec: dict[str, Any] = Field(description="The manifest's `spec` as in Git, secrets as ********.")
    is_active: bool
    revision: str
    applied_revision: str | None
    source: Source
    created_by: str | None
    updated_at: datetime
    connected_at: datetime | None
    granted_scopes: list[str]
    recent_syncs: list[Sync]


Several = Annotated[str, Field(pattern="^[^,]+(,[^,]+)*$")]
"""One, or several with commas between them."""


class ListQuery(BaseModel):
    """Filters of the list. Several of a kind: any of them; labels: all of them."""

    model_config = ConfigDict(extra="forbid")

    status: list[Status] = []
    type: list[Several] = []
    workspace: list[Several] = []
    label: list[Several] = Field([], description="`name=value`, or `name` for any value.")
    q: str = Field("", description="Part of a name, type, workspace or id, in any case.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, description="`next_cursor` of the page before.")
