"""The streams that there are: by which names their events come, and after which of them nothing does."""

from reconciler.api.stream_events import (
    ChangeEvent,
    DeliveriesCounted,
    IntegrationChanged,
    IntegrationRemoved,
    Resync,
    Snapshot,
    SyncComplete,
    SyncEvent,
    SyncFailed,
    SyncProgress,
    SyncTurned,
)
from reconciler.client.listening import Kinds

OF_SYNC: Kinds[SyncEvent] = Kinds(
    {"progress": SyncProgress, "complete": SyncComplete, "error": SyncFailed}, frozenset({"complete", "error"})
)
OF_CHANGES: Kinds[ChangeEvent] = Kinds(
    {
        "integration": IntegrationChanged,
        "removed": IntegrationRemoved,
        "sync": SyncTurned,
        "delivery": DeliveriesCounted,
        "resync": Resync,
        "snapshot": Snapshot,
    }
)
