"""Requests and answers about runs: syncs, and what else runs in an integration's lane."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.integrations import Shown, Sync
from reconciler.api.paging import Moment, Paging
from reconciler.model.record import Scope

RunStatus = Literal["queued", "running", "success", "partial", "failed", "cancelled"]


class SyncRequest(BaseModel):
    """What to read. Without a body: what the manifest says, incrementally."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope = Scope.INCREMENTAL
    entities: list[str] | None = Field(None, min_length=1, description="Default: those of the manifest.")
    since: Moment | None = Field(None, description="Read what changed since then; not with scope full or keys.")
    allow_deletes: bool = Field(False, strict=True, description="Let a full run delete more than the guard permits.")
    accept_schema: bool = Field(
        False, strict=True, description="Take records whose fields are new, where the schema is frozen."
    )


class SyncQueued(Shown):
    sync_job_id: str
    status: Literal["queued"]
    queued_at: datetime
    estimated_records: int | None = Field(description="Of the last run; null where nobody knows.")


class SyncQuery(Paging):
    status: list[RunStatus] = Field([], max_length=6, description="Any of these.")
    scope: list[Scope] = Field([], max_length=4, description="Any of these.")
    since: Moment | None = Field(None, description="Requested since then.")


class SyncList(Shown):
    """The newest first. A rollback and a replay of rejects are runs, too."""

    data: list[Sync]
    has_more: bool
    next_cursor: str | None


class IntegrationNamed(Shown):
    id: str
    workspace: str
    name: str
    type: str


class EntityProgress(Shown):
    """How far the run is in one entity. `total` is what the remote says there is, null where it does not."""

    entity: str
    state: Literal["pending", "reading", "complete", "partial", "failed"]
    pages: int
    records: int
    total: int | None
    reason: str | None
    error: str | None


class SyncDetail(Sync):
    """One run, with how far it got. `progressed_at` is when it last stored something."""

    integration: IntegrationNamed
    requested_entities: list[str] | None = Field(description="Null: those of the manifest.")
    since: datetime | None
    attempts: int
    is_cancelling: bool
    progressed_at: datetime | None
    duration_seconds: float | None = Field(description="Since it started, or until it ended; null before it starts.")
    estimated_records: int | None
    pages: int
    revision: str | None = Field(description="The commit whose manifest it ran with; null before it starts.")
    entities: list[EntityProgress]


class SyncCancelled(Shown):
    sync_job_id: str
    status: Literal["cancelling"]
