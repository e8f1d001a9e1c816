"""What a remote's own request to us means, once a connector has checked and read it. Plain values, no I/O.

`Verifies.receive` makes an `Inbound`; the engine stores it before the remote is answered. Records that it names are read
again through `Rereads`, because what a request says of a record may be older than the record. Connectors that are pushed
records (`Accepts`) hand nothing of it here: those arrive under `/ingest/v1/` with a key of ours.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import msgspec

from reconciler.model.record import Page
from reconciler.sdk.errors import RejectedError

if TYPE_CHECKING:
    from reconciler.sdk.contract import Entity

EVENT_BYTES = 256 * 1024
"""Larger ones are refused: an event is told to others, a record is what holds much."""


def json_object(body: bytes | str) -> dict[str, Any]:
    """What a remote sent, as an object. Raises RejectedError."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise RejectedError("the body is no JSON") from None
    if not isinstance(said, dict):
        raise RejectedError("the body is no JSON object")
    return said


@dataclass(frozen=True, slots=True)
class Reply:
    """What the remote wants to hear, where it wants more than a status."""

    body: bytes = b""
    media_type: str = "text/plain"


@dataclass(frozen=True, slots=True)
class Touched:
    """A record that is to be read again. `place` is what the connector needs to find it, as JSON; it comes back as it is.

    Those of one `listing` are asked for together, and fail together.
    """

    entity: str
    key: str
    place: Mapping[str, Any] = field(default_factory=dict)
    listing: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """An event of the remote. `id` is unique at the integration; told twice it is one event."""

    id: str
    type: str
    at: datetime
    subject: str = ""
    data: Mapping[str, Any]

    def detail(self) -> dict[str, Any]:
        """What subscribers see as `event.detail`."""
        return {"id": self.id, "subject": self.subject, "data": dict(self.data)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """`delivery_id` is the remote's, the same when it sends once more; `is_handshake`: nothing follows but the reply.

    An empty id: only the same body counts as a repeat.
    """

    delivery_id: str = ""
    reply: Reply | None = None
    is_handshake: bool = False
    touched: Sequence[Touched] = ()
    events: Sequence[Told] = ()


@runtime_checkable
class Rereads(Protocol):
    def reread(self, entity: "Entity", touched: Sequence[Touched]) -> AsyncGenerator[Page, None]:
        """These records as a sync would bring them, and those that are gone; others may come along."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """How much may be pushed, how it is signed, and how its keys are replaced. `signature`: required, optional or off."""

    requests_per_minute: int = 600
    burst: int = 60
    max_delete_ratio: float = 0.3
    signature: str = "off"
    grace: timedelta = timedelta()
    max_age: timedelta | None = None


@runtime_checkable
class Accepts(Protocol):
    """Records and events are pushed to us. `check_*` say what is wrong with one, without repeating values; "" is good."""

    @property
    def intake(self) -> Intake: ...

    @property
    def pinned_hashes(self) -> Sequence[str]:
        """SHA-256 of keys that the manifest brings along."""
        ...

    def pushed_entity(self, name: str) -> "Entity": ...

    def check_record(self, entity: str, data: Mapping[str, Any]) -> str: ...

    def check_event(self, event_type: str, data: Mapping[str, Any]) -> str: ...
