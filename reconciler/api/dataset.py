"""Requests and answers about what was synced: records, versions, differences."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.integrations import Shown, Sync
from reconciler.api.paging import Paging
from reconciler.model.event import Operation

Version = Field(None, ge=1, lt=1 << 31, description="As that dataset version has them; default: now.")


class RecordQuery(Paging):
    entity: str | None = Field(None, max_length=200, description="Default: all, one entity after another.")
    version: int | None = Version
    q: str = Field(
        "",
        max_length=200,
        description=(
            "Part of the record's JSON, in any case. One request looks at no more than 5,000 records and for no longer"
            " than two seconds; where it did not get to the end, `has_more` is true though the page may be short, or"
            " empty: go on with `next_cursor`."
        ),
    )


class RecordAtQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int | None = Version


class Record(Shown):
    entity: str
    key: str
    at: datetime = Field(description="When this state of it was stored.")
    record: Any = Field(description="As the remote sent it, after `sync.fields`.")


class RecordPage(Shown):
    """In the order of entities and keys. All pages that follow each other show the same moment."""

    data: list[Record]
    has_more: bool
    next_cursor: str | None
    version: int | None = Field(description="The newest dataset version that is in it; null before the first.")


class RecordStep(Shown):
    at: datetime
    change: Operation
    version: int | None = Field(description="The dataset version; null while its run goes on.")
    sync_job_id: str | None


class RecordDetail(Shown):
    """`record` null: it was not there, or deleted, at that moment."""

    entity: str
    key: str
    at: datetime | None
    record: Any
    history: list[RecordStep] = Field(description="Its versions, the newest first; at most 100.")
    has_older: bool = Field(description="There were older ones, that are not shown or not kept any more.")


class DatasetVersion(Shown):
    """What one run made of the dataset."""

    version: int
    at: datetime
    sync_job_id: str | None = Field(description="Null where the run is not kept any more.")
    revision: str | None
    connector: str
    connector_version: str
    added: int
    updated: int
    deleted: int
    restores: int | None = Field(description="The version that a rollback brought back.")


class VersionList(Shown):
    """The newest first."""

    data: list[DatasetVersion]
    has_more: bool
    next_cursor: str | None


class DiffQuery(Paging):
    against: int | None = Field(
        None, ge=0, lt=1 << 31, description="The version to compare with; default: the one before. 0: nothing at all."
    )
    entity: str | None = Field(None, max_length=200, description="Default: all, one entity after another.")


class FieldDifference(Shown):
    """JSON values; absent fields are told by `is_added` and `is_removed`."""

    path: str
    before: Any
    after: Any
    is_added: bool
    is_removed: bool


class RecordDifference(Shown):
    """An added or deleted record comes whole; of an updated one come the fields that differ."""

    entity: str
    key: str
    change: Literal["added", "updated", "deleted"]
    record: Any
    fields: list[FieldDifference]


class DiffPage(Shown):
    data: list[RecordDifference]
    has_more: bool
    next_cursor: str | None
    before: int
    after: int


class RollbackRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: int = Field(ge=1, lt=1 << 31, description="The dataset version to bring back, as a new version.")
    suspend: bool = Field(False, description="Suspend the integration, so that no sync undoes it.")
    emit_events: bool = Field(False, description="Tell subscribers what changes; default: nobody.")


class RollbackStarted(Shown):
    sync_job_id: str
    run: Sync
