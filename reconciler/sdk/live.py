"""A connector in use: what the rooms above share when they reconcile, sync or deliver. The composition root makes it."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from reconciler.model.condition import Reason
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration
from reconciler.model.record import LogLevel
from reconciler.sdk.contract import Connector

current_run: ContextVar[int | None] = ContextVar("current_run", default=None)
"""The run on whose behalf this task works: log lines of the connector are kept with it."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Live:
    """An integration with its connector, made from one decrypted spec. Valid until the spec changes."""

    integration_id: int
    ref: Ref
    manifest: Integration
    connector: Connector[Any, Any]
    source_hash: str
    effective_hash: str
    fingerprints: dict[str, str]
    revision: str


class NotConnectableError(Exception):
    """There is no usable spec: not in Git, not decryptable, or its connector cannot run here. Retrying does not help."""

    def __init__(self, reason: Reason, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.findings = tuple(findings)


class Connections(Protocol):
    async def live(self, integration_id: int) -> Live:
        """The connector of the integration as Git wants it now; raises NotConnectableError."""
        ...

    async def drop(self, integration_id: int) -> None:
        """Close the connector, if there is one."""
        ...


class Journal(Protocol):
    """Keeps log lines of an integration, redacted, with the current run."""

    def __call__(self, integration_id: int, level: LogLevel, message: str, /, **detail: Any) -> None: ...

    async def flush(self) -> None:
        """All lines so far are stored."""
        ...
