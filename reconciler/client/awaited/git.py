"""Made by tools/client.py from docs/openapi.json: the calls of `git`."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from reconciler.api.reconciles import FindingList, ReconcileProgress, ReconcileRequest, Revision, RevisionList
from reconciler.api.reconciles import FindingShown as ReconcilesFindingShown
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.awaited.wire import Group


class AsyncGitCalls(Group):
    async def reconcile_now(
        self, body: ReconcileRequest | Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> ReconcileProgress:
        """Look at Git now. All of it, or one integration with what is known of Git. What becomes of it is at
        `/v1/reconcile/{token}`.
        """
        return await self._wire.do(
            Ask[ReconcileProgress](
                "POST",
                "/v1/reconcile",
                {202: ReconcileProgress},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    async def get_reconcile(self, token: str) -> ReconcileProgress:
        """What became of a look at Git. Whether it was taken up, and which revision it came to."""
        return await self._wire.do(
            Ask[ReconcileProgress]("GET", f"/v1/reconcile/{segment(token)}", {200: ReconcileProgress})
        )

    async def list_revisions(self, *, limit: int | None = None, cursor: str | None = None) -> RevisionList:
        """List revisions. What became of each commit that changed something; kept for 90 days."""
        return await self._wire.do(
            Ask[RevisionList]("GET", "/v1/revisions", {200: RevisionList}, query={"limit": limit, "cursor": cursor})
        )

    async def all_revisions(self, *, limit: int | None = None) -> AsyncGenerator[Revision, None]:
        """List revisions. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list_revisions(limit=limit, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return

    async def list_findings(self, *, limit: int | None = None, cursor: str | None = None) -> FindingList:
        """List findings. What is wrong in the revision in force, by file and line. A workspace's caller gets those
        that are its own for certain.
        """
        return await self._wire.do(
            Ask[FindingList]("GET", "/v1/findings", {200: FindingList}, query={"limit": limit, "cursor": cursor})
        )

    async def all_findings(self, *, limit: int | None = None) -> AsyncGenerator[ReconcilesFindingShown, None]:
        """List findings. Every one, page after page."""
        cursor: str | None = None
        while True:
            page = await self.list_findings(limit=limit, cursor=cursor)
            for one in page.data:
                yield one
            if (cursor := page.next_cursor) is None:
                return
