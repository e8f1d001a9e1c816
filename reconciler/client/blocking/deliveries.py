"""Made by tools/client.py from docs/openapi.json: the calls of `deliveries`."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from reconciler.api.events import (
    DeliveryCancelled,
    DeliveryDetail,
    DeliveryList,
    DeliveryRetried,
    DeliverySummary,
    SendRequest,
    Sent,
)
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.blocking.wire import Group


class DeliveriesCalls(Group):
    def list(
        self,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        integration: Sequence[str] | None = None,
        status: Sequence[Literal["pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled"]]
        | None = None,
    ) -> DeliveryList:
        """List deliveries. Newest first."""
        return self._wire.do(
            Ask[DeliveryList](
                "GET",
                "/v1/deliveries",
                {200: DeliveryList},
                query={"limit": limit, "cursor": cursor, "integration": integration, "status": status},
            )
        )

    def all(
        self,
        *,
        limit: int | None = None,
        integration: Sequence[str] | None = None,
        status: Sequence[Literal["pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled"]]
        | None = None,
    ) -> Generator[DeliverySummary, None, None]:
        """List deliveries. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list(limit=limit, integration=integration, status=status, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def get(self, delivery_id: str) -> DeliveryDetail:
        """One delivery and its attempts. What was sent and answered is data: for whoever has the grant `read` on its
        source, or published or sent it.
        """
        return self._wire.do(
            Ask[DeliveryDetail]("GET", f"/v1/deliveries/{segment(delivery_id)}", {200: DeliveryDetail})
        )

    def retry(self, delivery_id: str, *, idempotency_key: str | None = None) -> DeliveryRetried:
        """Send one again. One that has ended is sent again as a new delivery, linked to it; one that is to be tried
        again is tried now.
        """
        return self._wire.do(
            Ask[DeliveryRetried](
                "POST",
                f"/v1/deliveries/{segment(delivery_id)}/retry",
                {202: DeliveryRetried},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def cancel(self, delivery_id: str, *, idempotency_key: str | None = None) -> DeliveryCancelled:
        """Take one back. One that is pending, failed, or stuck: sending beyond its deadline."""
        return self._wire.do(
            Ask[DeliveryCancelled](
                "POST",
                f"/v1/deliveries/{segment(delivery_id)}/cancel",
                {200: DeliveryCancelled},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def send_message(
        self,
        ref: str,
        body: SendRequest | Mapping[str, Any],
        *,
        wait: int | None = None,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send one message. Through a channel of the integration, as a delivery with retries, under the grant
        `send`.
        """
        return self._wire.do(
            Ask[Sent](
                "POST",
                f"/v1/integrations/{segment(ref)}/send",
                {202: Sent},
                query={"wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )
