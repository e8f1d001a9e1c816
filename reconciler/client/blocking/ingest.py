"""Made by tools/client.py from docs/openapi.json: the calls of `ingest`."""

from collections.abc import Mapping
from typing import Any

from reconciler.api.ingest import EventsBody, Ping, PushReceipt, ReceiptState, RecordBody, RecordResult, RecordsBody
from reconciler.client.ask import Ask, segment
from reconciler.client.blocking.wire import Group


class IngestCalls(Group):
    def push_events_in(self, integration: str, body: EventsBody | Mapping[str, Any]) -> PushReceipt:
        """Push events. Each counts once by its `id`, for seven days. Bad ones are listed; where all are bad, 422."""
        return self._wire.do(
            Ask[PushReceipt]("POST", f"/ingest/v1/{segment(integration)}/events", {202: PushReceipt}, body=body)
        )

    def push_record_in(
        self, integration: str, entity: str, record_id: str, body: RecordBody | Mapping[str, Any]
    ) -> RecordResult:
        """Push a record. 201 for a new one. An older `version` (or `updated_at`) than is known is refused with 409."""
        return self._wire.do(
            Ask[RecordResult](
                "PUT",
                f"/ingest/v1/{segment(integration)}/records/{segment(entity)}/{segment(record_id)}",
                {200: RecordResult, 201: RecordResult},
                body=body,
            )
        )

    def delete_record_in(self, integration: str, entity: str, record_id: str) -> None:
        """Delete a pushed record. `?version=` keeps an older deletion from undoing what is newer. Its history stays,
        as after any sync.
        """
        return self._wire.do(
            Ask[None](
                "DELETE",
                f"/ingest/v1/{segment(integration)}/records/{segment(entity)}/{segment(record_id)}",
                {204: None},
            )
        )

    def push_records_in(self, integration: str, entity: str, body: RecordsBody | Mapping[str, Any]) -> PushReceipt:
        """Push many records. Up to 1,000, as JSON or a record a line; `{"id": ..., "deleted": true}` deletes. Pages
        of one `snapshot_id` are a full snapshot: with `snapshot_complete` what none of them named is deleted,
        within the manifest's `max_delete_ratio`.
        """
        return self._wire.do(
            Ask[PushReceipt](
                "POST",
                f"/ingest/v1/{segment(integration)}/records/{segment(entity)}:batch",
                {202: PushReceipt},
                body=body,
            )
        )

    def get_push_receipt(self, integration: str, receipt_id: str) -> ReceiptState:
        """What became of a push. Kept for seven days."""
        return self._wire.do(
            Ask[ReceiptState](
                "GET", f"/ingest/v1/{segment(integration)}/receipts/{segment(receipt_id)}", {200: ReceiptState}
            )
        )

    def ping(self, integration: str) -> Ping:
        """Does the key open, and how much may be sent."""
        return self._wire.do(Ask[Ping]("GET", f"/ingest/v1/{segment(integration)}/ping", {200: Ping}))
