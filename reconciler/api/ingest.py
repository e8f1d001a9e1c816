"""What others push to us, and what they are answered; keys to push with."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.integrations import Shown
from reconciler.api.paging import Moment


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EventBody(_Sent):
    id: str = Field(min_length=1, max_length=128, description="Unique at the integration.")
    type: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=200)
    occurred_at: Moment = Field(description="Not more than ten minutes in the future.")
    subject: str = Field("", max_length=255)
    data: dict[str, Any]


class EventsBody(_Sent):
    """Several; a single one may be sent as it is."""

    events: list[EventBody] = Field(min_length=1, max_length=500)


class RecordBody(_Sent):
    version: str = Field("", max_length=255, description="Compared as a number where both are numbers.")
    updated_at: Moment | None = None
    data: dict[str, Any]


class RecordsBody(_Sent):
    upserts: list[dict[str, Any]] = Field(
        [], max_length=1000, description="`id`, `data`, `version`, `updated_at` each."
    )
    deletes: list[str] = Field([], max_length=1000)
    full_snapshot: bool = False
    snapshot_id: str | None = Field(None, min_length=1, max_length=128)
    snapshot_complete: bool = False


class Rejected(Shown):
    index: int
    id: str | None = None
    code: str
    detail: str


class PushReceipt(Shown):
    receipt_id: str
    accepted: int
    duplicates: int
    rejected: list[Rejected]


class RecordResult(Shown):
    id: str
    changed: bool
    version: str


class ReceiptState(Shown):
    receipt_id: str
    state: Literal["queued", "processed", "failed"]
    accepted: int
    applied: int
    failed: int
    errors: list[Rejected]


class PushLimits(Shown):
    events_per_request: int
    records_per_request: int
    bytes: int
    requests_per_minute: int


class Ping(Shown):
    integration: str
    key_id: str
    server_time: datetime
    contract: str
    limits: PushLimits


class NewKeyRequest(_Sent):
    label: str = Field("", max_length=80)
    expires_at: Moment | None = None


class RegenerateRequest(NewKeyRequest):
    """Without a body: what the manifest says of the grace, and no label."""

    grace_seconds: int | None = Field(
        None,
        strict=True,
        ge=0,
        le=604_800,
        description="How long the key until now still opens; default `auth.rotation.grace`, or 0.",
    )


class PreviousKey(Shown):
    key_id: str
    state: Literal["retiring", "revoked"]
    valid_until: datetime


class NewIngestKey(Shown):
    key: str | None = Field(None, description="Shown this once; an answer that is given again does not have it.")
    key_id: str
    label: str
    state: Literal["active"]
    created_at: datetime
    expires_at: datetime | None
    previous: PreviousKey | None


class IngestKey(Shown):
    key_id: str
    label: str
    state: Literal["active", "retiring", "expired", "revoked"]
    hint: str
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    expires_at: datetime | None
    valid_until: datetime | None = Field(description="It was replaced, and opens until then.")
    revoked_at: datetime | None
    rotation_due_at: datetime | None = Field(description="By `auth.rotation.max_age` of the manifest.")


class IngestKeys(Shown):
    data: list[IngestKey]
    has_more: bool
    next_cursor: str | None
