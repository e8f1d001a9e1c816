"""Made by tools/client.py from docs/openapi.json: the calls of `syncs`."""

from collections.abc import Generator, Sequence
from datetime import datetime
from typing import Literal

from reconciler.api.integrations import Sync
from reconciler.api.syncs import SyncCancelled, SyncDetail, SyncList
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.blocking.wire import Group


class SyncsCalls(Group):
    def list(
        self,
        ref: str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        status: Sequence[Literal["queued", "running", "success", "partial", "failed", "cancelled"]] | None = None,
        scope: Sequence[Literal["incremental", "delta", "full", "keys"]] | None = None,
        since: datetime | str | None = None,
    ) -> SyncList:
        """List syncs. Runs under way, waiting and done; kept for 90 days unless the workspace says otherwise."""
        return self._wire.do(
            Ask[SyncList](
                "GET",
                f"/v1/integrations/{segment(ref)}/syncs",
                {200: SyncList},
                query={"limit": limit, "cursor": cursor, "status": status, "scope": scope, "since": since},
            )
        )

    def all(
        self,
        ref: str,
        *,
        limit: int | None = None,
        status: Sequence[Literal["queued", "running", "success", "partial", "failed", "cancelled"]] | None = None,
        scope: Sequence[Literal["incremental", "delta", "full", "keys"]] | None = None,
        since: datetime | str | None = None,
    ) -> Generator[Sync, None, None]:
        """List syncs. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = self.list(ref, limit=limit, status=status, scope=scope, since=since, cursor=cursor)
            yield from page.data
            if (cursor := page.next_cursor) is None:
                return

    def get(self, id: str) -> SyncDetail:
        """One sync and its progress. How far it is in each entity, what it changed, how long it took, and why it
        failed.
        """
        return self._wire.do(Ask[SyncDetail]("GET", f"/v1/syncs/{segment(id)}", {200: SyncDetail}))

    def cancel(self, id: str, *, idempotency_key: str | None = None) -> SyncCancelled:
        """Cancel a sync. It stores no further page. What it stored before stays, in a dataset version of its own."""
        return self._wire.do(
            Ask[SyncCancelled](
                "POST",
                f"/v1/syncs/{segment(id)}/cancel",
                {202: SyncCancelled},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )
