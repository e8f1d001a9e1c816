"""Made by tools/client.py from docs/openapi.json: the calls of `streams`."""

from collections.abc import Generator

from reconciler.api.stream_events import ChangeEvent, SyncEvent
from reconciler.client.ask import Ask, segment
from reconciler.client.blocking.wire import Group
from reconciler.client.streams import OF_CHANGES, OF_SYNC


class StreamsCalls(Group):
    def sync(self, sync_id: str, *, last_event_id: str | None = None) -> Generator[SyncEvent, None, None]:
        """What a sync tells, while it goes on and afterwards. What it tells, as it happens. Where the connection is
        cut it is taken up again.
        """
        return self._wire.listen(
            Ask[SyncEvent]("GET", f"/v1/syncs/{segment(sync_id)}/events", headers={"last-event-id": last_event_id}),
            OF_SYNC,
        )

    def changes(
        self,
        *,
        workspace: str | None = None,
        type: str | None = None,
        snapshot: bool | None = None,
        last_event_id: str | None = None,
    ) -> Generator[ChangeEvent, None, None]:
        """State changes, as they happen. What it tells, as it happens. Where the connection is cut it is taken up
        again.
        """
        return self._wire.listen(
            Ask[ChangeEvent](
                "GET",
                "/v1/stream",
                query={"workspace": workspace, "type": type, "snapshot": snapshot},
                headers={"last-event-id": last_event_id},
            ),
            OF_CHANGES,
        )
