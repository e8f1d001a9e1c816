"""Made by tools/client.py from docs/openapi.json: the calls of `plan`."""

from collections.abc import Mapping
from typing import Any

from reconciler.api.plans import PlanRequest, PlanShown
from reconciler.client.ask import Ask
from reconciler.client.blocking.wire import Group


class PlanCalls(Group):
    def pending(self) -> PlanShown:
        """What is pending. What Git asks for and is not applied yet."""
        return self._wire.do(Ask[PlanShown]("GET", "/v1/plan", {200: PlanShown}))

    def of(self, body: PlanRequest | Mapping[str, Any]) -> PlanShown:
        """Plan a change. Of a Git revision, or of files as they would be. Nothing is changed, and no secret is
        decrypted.
        """
        return self._wire.do(Ask[PlanShown]("POST", "/v1/plan", {200: PlanShown}, body=body))
