"""Made by tools/client.py from docs/openapi.json: the calls of `integrations`."""

from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from reconciler.api.ingest import IngestKey, IngestKeys, NewIngestKey, NewKeyRequest, RegenerateRequest
from reconciler.api.integrations import IntegrationDetail, IntegrationList, IntegrationStatus, IntegrationSummary
from reconciler.api.manifests import (
    ChangeShown,
    Disconnected,
    DisconnectRequest,
    ManifestGiven,
    ManifestPatch,
    Schedule,
)
from reconciler.api.observing import LogLine, LogPage
from reconciler.api.stream_events import SyncEvent
from reconciler.api.suspension import SuspendRequest, SuspensionState
from reconciler.api.syncs import SyncQueued, SyncRequest
from reconciler.api.trials import TestResult
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.blocking.wire import Group
from reconciler.client.streams import OF_SYNC


class IntegrationsCalls(Group):
    def list(
        self,
        *,
        status: Sequence[Literal["connected", "disconnected", "error", "syncing", "pending_auth"]] | None = None,
        type: Sequence[str] | None = None,
        workspace: Sequence[str] | None = None,
        label: Sequence[str] | None = None,
        q: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> IntegrationList:
        """List integrations. By workspace and name. A cursor stays good while integrations come and go."""
        return self._wire.do(
            Ask[IntegrationList](
                "GET",
                "/v1/integrations",
                {200: IntegrationList},
                query={
                    "status": status,
                    "type": type,
                    "workspace": workspace,
                    "label": label,
                    "q": q,
                    "limit": limit,
                    "cursor": cursor,
                },
            )
        )

    def all(
        self,
        *,
        status: Sequence[Literal["connected", "disconnected", "error", "syncing", "pending_auth"]] | None = None,
        type: Sequence[str] | None = None,
        workspace: Sequence[str] | None = None,
        label: Sequence[str] | None = None,
        q: str | None = None,
        limit: int | None = None,
    ) -> Generator[IntegrationSummary, None, None]:
        """List integrations. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list(
                status=status, type=type, workspace=workspace, label=label, q=q, limit=limit, cursor=cursor
            )
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def create(
        self,
        body: ManifestGiven | Mapping[str, Any],
        *,
        source: str | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Create an integration. Write a new manifest. Its secrets are encrypted for the recipients that the
        repository names.
        """
        return self._wire.do(
            Ask[ChangeShown](
                "POST",
                "/v1/integrations",
                {202: ChangeShown},
                query={"source": source, "wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def get(self, ref: str) -> IntegrationDetail:
        """Everything about one. Its manifest with secrets masked, its conditions, and its recent syncs."""
        return self._wire.do(
            Ask[IntegrationDetail]("GET", f"/v1/integrations/{segment(ref)}", {200: IntegrationDetail})
        )

    def replace(
        self,
        ref: str,
        body: BaseModel | Mapping[str, Any],
        *,
        wait: float | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Replace a manifest. What `GET` gives may be sent back changed: `********` keeps the secret that is there,
        byte for byte.
        """
        return self._wire.do(
            Ask[ChangeShown](
                "PUT",
                f"/v1/integrations/{segment(ref)}",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"if-match": if_match, "idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def change(
        self,
        ref: str,
        body: ManifestPatch | Mapping[str, Any],
        *,
        wait: float | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Change a manifest. A merge patch (RFC 7396) of `metadata` and `spec`."""
        return self._wire.do(
            Ask[ChangeShown](
                "PATCH",
                f"/v1/integrations/{segment(ref)}",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"if-match": if_match, "idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def remove(
        self,
        ref: str,
        *,
        beyond_guard: bool | None = None,
        wait: float | None = None,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> Disconnected | ChangeShown:
        """Remove. Remove the manifest. What becomes of records and remote objects says its `deletion_policy`."""
        return self._wire.do(
            Ask[Disconnected | ChangeShown](
                "DELETE",
                f"/v1/integrations/{segment(ref)}",
                {200: Disconnected, 202: ChangeShown},
                query={"beyond_guard": beyond_guard, "wait": wait},
                headers={"if-match": if_match, "idempotency-key": idempotency_key or new_key()},
            )
        )

    def connect(
        self,
        type: str,
        body: BaseModel | Mapping[str, Any],
        *,
        source: str | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Connect a system. As `POST /v1/integrations`, with the fields of `spec` beside the name."""
        return self._wire.do(
            Ask[ChangeShown](
                "POST",
                f"/v1/integrations/{segment(type)}/connect",
                {202: ChangeShown},
                query={"source": source, "wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def enable(self, ref: str, *, wait: float | None = None, idempotency_key: str | None = None) -> ChangeShown:
        """Enable. Commit `enabled: true`. For the opposite, see disconnect."""
        return self._wire.do(
            Ask[ChangeShown](
                "POST",
                f"/v1/integrations/{segment(ref)}/enable",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def set_schedule(
        self,
        ref: str,
        body: Schedule | Mapping[str, Any],
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Set the schedule. Commit when it syncs: a cron expression or an interval; neither: only when asked."""
        return self._wire.do(
            Ask[ChangeShown](
                "PUT",
                f"/v1/integrations/{segment(ref)}/schedule",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def disconnect(
        self,
        ref: str,
        body: DisconnectRequest | Mapping[str, Any] | None = None,
        *,
        beyond_guard: bool | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> Disconnected | ChangeShown:
        """Disconnect. Commit `enabled: false`. Syncs under way are cancelled, remote objects removed, credentials
        revoked.
        """
        return self._wire.do(
            Ask[Disconnected | ChangeShown](
                "DELETE",
                f"/v1/integrations/{segment(ref)}/disconnect",
                {200: Disconnected, 202: ChangeShown},
                query={"beyond_guard": beyond_guard, "wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def get_status(self, ref: str) -> IntegrationStatus:
        """How it fares. As in the list, with conditions, uptime, syncs, freshness against its objective, drift and
        deliveries.
        """
        return self._wire.do(
            Ask[IntegrationStatus]("GET", f"/v1/integrations/{segment(ref)}/status", {200: IntegrationStatus})
        )

    def list_logs(
        self,
        ref: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        level: Literal["debug", "info", "warn", "error"] | None = None,
        sync_job_id: str | None = None,
        since: datetime | str | None = None,
    ) -> LogPage:
        """What it did. Lines about syncs, signing in, deliveries and errors, with details; the newest first."""
        return self._wire.do(
            Ask[LogPage](
                "GET",
                f"/v1/integrations/{segment(ref)}/logs",
                {200: LogPage},
                query={"limit": limit, "cursor": cursor, "level": level, "sync_job_id": sync_job_id, "since": since},
            )
        )

    def all_logs(
        self,
        ref: str,
        *,
        limit: int | None = None,
        level: Literal["debug", "info", "warn", "error"] | None = None,
        sync_job_id: str | None = None,
        since: datetime | str | None = None,
    ) -> Generator[LogLine, None, None]:
        """What it did. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list_logs(ref, limit=limit, level=level, sync_job_id=sync_job_id, since=since, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def sync(
        self,
        ref: str,
        body: SyncRequest | Mapping[str, Any] | None = None,
        *,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> SyncQueued:
        """Start a sync. Queued at once, before all that is due by schedule; one of an integration runs at a time."""
        return self._wire.do(
            Ask[SyncQueued](
                "POST",
                f"/v1/integrations/{segment(ref)}/sync",
                {202: SyncQueued},
                headers={"last-event-id": last_event_id, "idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def sync_events(
        self,
        ref: str,
        body: SyncRequest | Mapping[str, Any] | None = None,
        *,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> Generator[SyncEvent, None, None]:
        """Start a sync. What it tells, as it happens. Where the connection is cut it is taken up again."""
        return self._wire.listen(
            Ask[SyncEvent](
                "POST",
                f"/v1/integrations/{segment(ref)}/sync",
                headers={"last-event-id": last_event_id, "idempotency-key": idempotency_key or new_key()},
                body=body,
            ),
            OF_SYNC,
        )

    def test(self, ref: str, *, idempotency_key: str | None = None) -> TestResult:
        """Test the connection. Signs in and tells who we are there, what we may do, and what can be read. A remote
        that refuses, or is not there, is a result (`ok` false). Nothing of it is stored but that it was asked
        for.
        """
        return self._wire.do(
            Ask[TestResult](
                "POST",
                f"/v1/integrations/{segment(ref)}/test",
                {200: TestResult},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def suspend(
        self, ref: str, body: SuspendRequest | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> SuspensionState:
        """Suspend. Nothing is changed, synced or delivered until it is resumed; syncs under way end."""
        return self._wire.do(
            Ask[SuspensionState](
                "POST",
                f"/v1/integrations/{segment(ref)}/suspend",
                {200: SuspensionState},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def resume(self, ref: str, *, idempotency_key: str | None = None) -> SuspensionState:
        """Resume. Ends a suspension that a person ordered; one of the manifest is ended in Git."""
        return self._wire.do(
            Ask[SuspensionState](
                "POST",
                f"/v1/integrations/{segment(ref)}/resume",
                {200: SuspensionState},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )

    def create_key(
        self, ref: str, body: NewKeyRequest | Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> NewIngestKey:
        """Make one more inbound key. It is shown this once. Two may open at most: 409 `key-limit` where there are
        two already.
        """
        return self._wire.do(
            Ask[NewIngestKey](
                "POST",
                f"/v1/integrations/{segment(ref)}/api-keys",
                {201: NewIngestKey},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def list_keys(self, ref: str, *, limit: int | None = None, cursor: str | None = None) -> IngestKeys:
        """List inbound keys. The newest first, also those that count no more. No key is ever shown again."""
        return self._wire.do(
            Ask[IngestKeys](
                "GET",
                f"/v1/integrations/{segment(ref)}/api-keys",
                {200: IngestKeys},
                query={"limit": limit, "cursor": cursor},
            )
        )

    def all_keys(self, ref: str, *, limit: int | None = None) -> Generator[IngestKey, None, None]:
        """List inbound keys. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list_keys(ref, limit=limit, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def regenerate_key(
        self,
        ref: str,
        body: RegenerateRequest | Mapping[str, Any] | None = None,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
    ) -> NewIngestKey:
        """Replace an inbound key. The new key is shown this once. The old one ends at once, or after
        `grace_seconds`; what was on its way out ends.
        """
        return self._wire.do(
            Ask[NewIngestKey](
                "POST",
                f"/v1/integrations/{segment(ref)}/regenerate-key",
                {200: NewIngestKey},
                headers={"if-match": if_match, "idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    def revoke_key(self, ref: str, key_id: str, *, idempotency_key: str | None = None) -> None:
        """Revoke an inbound key. From the next request on."""
        return self._wire.do(
            Ask[None](
                "DELETE",
                f"/v1/integrations/{segment(ref)}/api-keys/{segment(key_id)}",
                {204: None},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )
