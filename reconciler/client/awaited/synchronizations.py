"""Made by tools/client.py from docs/openapi.json: the calls of `synchronizations`."""

from collections.abc import Mapping
from typing import Any

from reconciler.api.manifests import ChangeShown, SynchronizationGiven, Synchronizations
from reconciler.client.ask import Ask, new_key, segment
from reconciler.client.awaited.wire import Group


class AsyncSynchronizationsCalls(Group):
    async def list(self, ref: str) -> Synchronizations:
        """List synchronizations. As they stand in the manifest."""
        return await self._wire.do(
            Ask[Synchronizations]("GET", f"/v1/integrations/{segment(ref)}/synchronizations", {200: Synchronizations})
        )

    async def put(
        self,
        ref: str,
        name: str,
        body: SynchronizationGiven | Mapping[str, Any],
        *,
        wait: float | None = None,
        idempotency_key: str | None = None,
    ) -> ChangeShown:
        """Set one. Replace the one of that name, or add it."""
        return await self._wire.do(
            Ask[ChangeShown](
                "PUT",
                f"/v1/integrations/{segment(ref)}/synchronizations/{segment(name)}",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
                body=body,
            )
        )

    async def remove(
        self, ref: str, name: str, *, wait: float | None = None, idempotency_key: str | None = None
    ) -> ChangeShown:
        """Remove one. It is told nothing more under this name; deliveries that were made stay."""
        return await self._wire.do(
            Ask[ChangeShown](
                "DELETE",
                f"/v1/integrations/{segment(ref)}/synchronizations/{segment(name)}",
                {202: ChangeShown},
                query={"wait": wait},
                headers={"idempotency-key": idempotency_key or new_key()},
            )
        )
