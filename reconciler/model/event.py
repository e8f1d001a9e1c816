"""Events and deliveries: a change that happened, and the obligation to tell one integration of it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

EVENT_TYPE = r"^[a-z0-9_]+(\.[a-z0-9_]+)+$"
"""Of an event that somebody publishes."""
LONGEST_TYPE = 128
MOST_AT_ONCE = 500


class Operation(StrEnum):
    """What a record version did. RESTORE (of a rollback) becomes no event unless asked, and then one of the others."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    RESTORE = "restore"


EVENT_OF = {Operation.CREATE: "created", Operation.UPDATE: "updated", Operation.DELETE: "deleted"}


class Lifecycle(StrEnum):
    """Events about an integration itself, not about a record of its remote."""

    CONNECTED = "integration.connected"
    UPDATED = "integration.updated"
    ERROR = "integration.error"
    RECOVERED = "integration.recovered"
    DEGRADED = "integration.degraded"
    DRIFTED = "integration.drifted"
    EXPIRING = "integration.expiring"
    SUSPENDED = "integration.suspended"
    DISCONNECTED = "integration.disconnected"
    SYNC_COMPLETED = "sync.completed"
    SYNC_FAILED = "sync.failed"
    SCHEMA_CHANGED = "schema.changed"


_OWN = frozenset(Lifecycle)


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DEAD = "dead"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


_S = DeliveryStatus
TRANSITIONS: Mapping[DeliveryStatus, frozenset[DeliveryStatus]] = {
    _S.PENDING: frozenset({_S.SENDING, _S.DEAD, _S.CANCELLED}),
    _S.SENDING: frozenset({_S.DELIVERED, _S.FAILED, _S.DEAD, _S.UNKNOWN, _S.CANCELLED}),
    _S.FAILED: frozenset({_S.SENDING, _S.DEAD, _S.CANCELLED}),
    _S.DELIVERED: frozenset(),
    _S.DEAD: frozenset(),
    _S.UNKNOWN: frozenset(),
    _S.CANCELLED: frozenset(),
}


_WORST_FIRST = (_S.UNKNOWN, _S.DEAD, _S.FAILED, _S.SENDING, _S.PENDING, _S.DELIVERED, _S.CANCELLED)


def summary_status(statuses: Collection[DeliveryStatus]) -> str:
    """One word for the deliveries of an event: that of the one most in need of attention; `none` where there are none."""
    return next((str(status) for status in _WORST_FIRST if status in statuses), "none")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `record` and `previous` are empty for lifecycle events; `changed` names top-level fields.

    `source` is record, lifecycle or published; what was published has its payload as `record`, and `subject`. `at` is when
    we took it down, `occurred_at` when it happened where a publisher said so.
    """

    id: str
    type: str
    at: datetime
    workspace: str
    integration: str
    entity: str = ""
    key: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    previous: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    source: str = "record"
    subject: str = ""
    occurred_at: datetime | None = None

    @property
    def about(self) -> str:
        """`order/1001`, what its publisher said, or the integration that it is of: `integration/erp`."""
        if self.source == "record":
            return f"{self.type.partition('.')[0]}/{self.key}"
        said = self.detail.get("subject", "") if self._is_of_remote else self.subject
        return str(said) or (f"integration/{self.integration}" if self.integration else "")

    @property
    def said(self) -> Mapping[str, Any]:
        """The record, or what was published or a remote told; of what an integration tells of itself, the details."""
        if self._is_of_remote:
            return dict(self.detail.get("data") or {})
        return self.detail if self.source == "lifecycle" else self.record

    @property
    def _is_of_remote(self) -> bool:
        """What a remote tells is in the log beside what integrations tell of themselves."""
        return self.source == "lifecycle" and self.type not in _OWN


@dataclass(frozen=True, slots=True)
class Message:
    """What a channel is asked to send. `delivery_id` and `event_id` stay the same over all attempts of one delivery.

    `fields` were rendered and checked against the channel's model. `progress` is what an earlier, partly successful
    attempt handed back. `is_repeat` is true when an earlier attempt may have reached the remote. `event_at` is when we took
    the event down.
    """

    delivery_id: str
    event_id: str
    event_type: str
    fields: Mapping[str, Any]
    progress: Mapping[str, Any] = field(default_factory=dict)
    is_repeat: bool = False
    first_attempt_at: datetime | None = None
    event_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the remote gave back: its own id of what we sent, and where a person can look at it."""

    remote_id: str
    url: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def singular(entity: str) -> str:
    """The entity's name in an event type: `incidents` -> `incident`, `replies` -> `reply`, `statuses` -> `status`."""
    for plural, one in (
        ("ies", "y"),
        ("sses", "ss"),
        ("uses", "us"),
        ("xes", "x"),
        ("ches", "ch"),
        ("ss", "ss"),
        ("us", "us"),
    ):
        if entity.endswith(plural):
            return entity[: -len(plural)] + one
    return entity.removesuffix("s")


def plurals(one: str) -> tuple[str, ...]:
    """Every entity name whose `singular` this is."""
    candidates = (one, f"{one}s", f"{one}es", f"{one[:-1]}ies")
    return tuple(name for name in candidates if singular(name) == one)
