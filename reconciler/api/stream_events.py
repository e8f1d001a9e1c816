"""The events of streams, as clients read them. What each of them is for is in the API's description of the streams."""

from datetime import datetime

from pydantic import ConfigDict, PrivateAttr

from reconciler.api.integrations import IntegrationSummary, Shown, Sync
from reconciler.model.event import DeliveryStatus
from reconciler.model.record import RunResult


class StreamEvent(Shown):
    """`event_id`: give it as `last_event_id` to go on behind this event; empty where one cannot."""

    model_config = ConfigDict(extra="forbid")
    _event_id: str = PrivateAttr("")

    @property
    def event_id(self) -> str:
        return self._event_id

    def note_event_id(self, event_id: str) -> None:
        self._event_id = event_id


class OfIntegration(Shown):
    id: str
    workspace: str
    name: str
    type: str


class SyncStats(Shown):
    added: int
    updated: int
    deleted: int
    rejected: int
    total: int


class SyncProgress(StreamEvent):
    """`batch` counts from 1; `totalBatches` is null where the remote does not say how much there is."""

    sync_job_id: str
    at: datetime
    entity: str | None
    batch: int
    totalBatches: int | None
    ids: list[str]
    deleted: list[str]
    message: str


class SyncComplete(StreamEvent):
    """The last event of a sync that succeeded, wholly or in part."""

    sync_job_id: str
    at: datetime
    integration: OfIntegration
    result: RunResult
    reason: str | None
    message: str
    stats: SyncStats
    last_synced: datetime | None
    dataset_version: int | None


class SyncFailed(SyncComplete):
    """The last event of a sync that failed or was cancelled."""

    code: str
    detail: str


class IntegrationChanged(IntegrationSummary, StreamEvent):
    """One that is new or changed, as in the list."""


class IntegrationRemoved(OfIntegration, StreamEvent):
    pass


class SyncTurned(Sync, StreamEvent):
    """A run that began or ended."""

    integration: OfIntegration


class DeliveriesCounted(StreamEvent):
    integration: OfIntegration
    deliveries: dict[DeliveryStatus, int]


class Resync(StreamEvent):
    """Events were missed: read the list again."""

    detail: str


class Snapshot(StreamEvent):
    """A part of all integrations as they are, where it was asked for; more parts follow as long as `has_more`."""

    integrations: list[IntegrationSummary]
    has_more: bool


SyncEvent = SyncProgress | SyncComplete | SyncFailed
ChangeEvent = IntegrationChanged | IntegrationRemoved | SyncTurned | DeliveriesCounted | Resync | Snapshot
