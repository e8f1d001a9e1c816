"""Made by tools/client.py from docs/openapi.json: the calls of `events`."""

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from reconciler.api.events import (
    EventCancelled,
    EventDetail,
    EventFilter,
    EventList,
    EventRetried,
    EventSummary,
    NewEvent,
    PublishedEvents,
    ReplayRequest,
    ReplayShown,
)
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.blocking.wire import Group


class EventsCalls(Group):
    def publish(self, body: NewEvent | Mapping[str, Any], *, idempotency_key: str | None = None) -> PublishedEvents:
        """Publish events of your own. One, or a list of at most 500; kept all together, or none. Routed at once to
        the synchronizations that want them.
        """
        return self._wire.do(
            Ask[PublishedEvents](
                "POST",
                "/v1/events",
                {202: PublishedEvents},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        integration: Sequence[str] | None = None,
        type: Sequence[str] | None = None,
        status: Sequence[Literal["pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled", "none"]]
        | None = None,
        from_: datetime | str | None = None,
        to: datetime | str | None = None,
    ) -> EventList:
        """List events. All sources as one, newest first: what was published, what integrations told of themselves,
        changes of records that made a delivery, and messages that were sent.
        """
        return self._wire.do(
            Ask[EventList](
                "GET",
                "/v1/events",
                {200: EventList},
                query={
                    "limit": limit,
                    "cursor": cursor,
                    "integration": integration,
                    "type": type,
                    "status": status,
                    "from": from_,
                    "to": to,
                },
            )
        )

    def all(
        self,
        *,
        limit: int | None = None,
        integration: Sequence[str] | None = None,
        type: Sequence[str] | None = None,
        status: Sequence[Literal["pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled", "none"]]
        | None = None,
        from_: datetime | str | None = None,
        to: datetime | str | None = None,
    ) -> Generator[EventSummary, None, None]:
        """List events. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list(
                limit=limit, integration=integration, type=type, status=status, from_=from_, to=to, cursor=cursor
            )
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def filter(self, body: EventFilter | Mapping[str, Any]) -> EventList:
        """List events, by a filter in the body. Changes nothing."""
        return self._wire.do(Ask[EventList]("POST", "/v1/events/filter", {200: EventList}, body=body))

    def replay(self, body: ReplayRequest | Mapping[str, Any], *, idempotency_key: str | None = None) -> ReplayShown:
        """Tell an integration once more. Makes deliveries anew of what happened since a time, in the background.
        What is still on its way is left alone.
        """
        return self._wire.do(
            Ask[ReplayShown](
                "POST",
                "/v1/events/replay",
                {202: ReplayShown},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def get_replay(self, replay_id: str) -> ReplayShown:
        """How far a replay is."""
        return self._wire.do(Ask[ReplayShown]("GET", f"/v1/events/replays/{segment(replay_id)}", {200: ReplayShown}))

    def get(self, event_id: str) -> EventDetail:
        """One event, its deliveries and their attempts. Its payload, what was sent and what was answered are data:
        for whoever has the grant `read`, or published it.
        """
        return self._wire.do(Ask[EventDetail]("GET", f"/v1/events/{segment(event_id)}", {200: EventDetail}))

    def retry(self, event_id: str, *, idempotency_key: str | None = None) -> EventRetried:
        """Send again what did not arrive. New deliveries, linked to the originals, for its failed, dead or unknown
        ones only.
        """
        return self._wire.do(
            Ask[EventRetried](
                "POST",
                f"/v1/events/{segment(event_id)}/retry",
                {202: EventRetried},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def cancel(self, event_id: str, *, idempotency_key: str | None = None) -> EventCancelled:
        """Take back what has not arrived. What is pending, failed, or stuck: sending beyond its deadline. What is
        stuck may have arrived.
        """
        return self._wire.do(
            Ask[EventCancelled](
                "POST",
                f"/v1/events/{segment(event_id)}/cancel",
                {200: EventCancelled},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )
