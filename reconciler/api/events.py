"""Requests and answers about events and deliveries."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WrapValidator

from reconciler.api.integrations import Shown
from reconciler.api.paging import DEFAULT_LIMIT, MAX_LIMIT, Moment, Paging
from reconciler.model.event import EVENT_TYPE, LONGEST_TYPE, MOST_AT_ONCE, DeliveryStatus
from reconciler.model.manifest import Name

Line = StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
Pattern = Annotated[str, StringConstraints(max_length=LONGEST_TYPE, pattern=r"^[a-z0-9_.*]+$")]
Standing = DeliveryStatus | Literal["none"]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NewEvent(BaseModel):
    """An event of one's own."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(
        max_length=LONGEST_TYPE,
        pattern=EVENT_TYPE,
        description="Words joined by dots. What integrations tell of themselves, and their records, are reserved.",
        examples=["order.created"],
    )
    id: Annotated[str, Line] | None = Field(
        None, description="Your own id of it: within the workspace it is kept once under this."
    )
    subject: Annotated[str, Line] | None = Field(None, description="What it is about, in your words.")
    occurred_at: Moment | None = None
    data: dict[str, Any] = Field(default_factory=dict, description="`record` in templates and conditions.")
    integration: Reference | None = Field(
        None, description="The integration that it is about: synchronizations that name it in `from` hear it."
    )
    workspace: Name | None = Field(
        None, description="Only for callers of the whole installation; default: that of the integration, or `default`."
    )


def _one_or_many(value: Any, many: Callable[[Any], list[NewEvent]]) -> list[NewEvent]:
    return many(value) if isinstance(value, list) else [NewEvent.model_validate(value)]


NewEvents = Annotated[
    list[NewEvent],
    Field(min_length=1, max_length=MOST_AT_ONCE),
    WrapValidator(
        _one_or_many,
        json_schema_input_type=NewEvent | Annotated[list[NewEvent], Field(min_length=1, max_length=MOST_AT_ONCE)],
    ),
]


class PublishedEvent(Shown):
    id: str = Field(examples=["evt_7xKpQ2mR4wVb"])
    type: str
    is_new: bool = Field(description="False where an event with this id of yours was kept before: it is that one.")


class PublishedEvents(Shown):
    data: list[PublishedEvent]


class EventSummary(Shown):
    id: str
    type: str
    source: Literal["lifecycle", "published", "record", "sent"]
    at: datetime
    workspace: str
    integration: str | None = Field(description="The one that it is about.")
    integration_id: str | None
    subject: str | None
    occurred_at: datetime | None
    published_by: str | None
    status: Standing = Field(description="The worst of its deliveries; what was sent again counts as the last.")
    deliveries: int


class EventList(Shown):
    data: list[EventSummary]
    has_more: bool = Field(description="A page may be short, or empty, though there are more.")
    next_cursor: str | None


class Exchange(Shown):
    """The last request of an attempt. Excerpts have at most 2,000 characters, without secrets."""

    method: str
    url: str
    status: int | None = Field(description="Null where no answer came.")
    request: str | None
    response: str | None


class AttemptShown(Shown):
    number: int
    at: datetime
    seconds: float | None
    outcome: str
    reason: str | None
    message: str | None
    exchange: Exchange | None = Field(description="Null where nothing was asked over HTTP.")


class DeliverySummary(Shown):
    id: str = Field(examples=["dlv_7xKpQ2mR4wVb"])
    status: DeliveryStatus
    event_id: str
    event_type: str
    integration: str = Field(description="The target.")
    integration_id: str
    synchronization: str | None = Field(description="Null for a message that was sent without an event.")
    channel: str
    attempts: int
    reason: str | None
    error: str | None
    retry_of: str | None
    created_at: datetime
    first_attempt_at: datetime | None
    next_at: datetime | None
    finished_at: datetime | None


class DeliveryDetail(DeliverySummary):
    """`fields` and the excerpts of `tries` are data: null without a grant."""

    fields: dict[str, Any] | None
    receipt: dict[str, Any]
    tries: list[AttemptShown]
    retried_as: list[str]


class DeliveryList(Shown):
    data: list[DeliverySummary]
    has_more: bool
    next_cursor: str | None


class EventDetail(EventSummary):
    """`payload` is data: null without the grant `read` on its integration, unless the caller published it."""

    payload: Any
    has_payload: bool = Field(description="Whether it is still kept.")
    attempts: list[DeliveryDetail] = Field(description="Its deliveries, oldest first, with their attempts.")


class EventFilter(Paging):
    """Any of each kind; all kinds together."""

    limit: int = Field(DEFAULT_LIMIT, strict=True, ge=1, le=MAX_LIMIT)
    integrations: list[Reference] = Field([], max_length=100, description="That the events are about.")
    types: list[Pattern] = Field([], max_length=100, description="`*` stands for anything.")
    statuses: list[Standing] = Field([], max_length=8)
    from_: Moment | None = Field(None, alias="from")
    to: Moment | None = None


class EventQuery(Paging):
    """The same as parameters."""

    integration: list[Reference] = Field([], max_length=100)
    type: list[Pattern] = Field([], max_length=100)
    status: list[Standing] = Field([], max_length=8)
    from_: Moment | None = Field(None, alias="from")
    to: Moment | None = None


class DeliveryQuery(Paging):
    integration: list[Reference] = Field([], max_length=100, description="The target.")
    status: list[DeliveryStatus] = Field([], max_length=7)


class Retried(Shown):
    delivery: str
    retry_of: str


class EventRetried(Shown):
    event: str
    deliveries: list[Retried]
    skipped: list[str] = Field(description="Why others could not be sent again.")


class EventCancelled(Shown):
    event: str
    deliveries: list[str]


class DeliveryRetried(Shown):
    delivery: str
    retry_of: str | None = Field(description="Null where the same delivery, which was to be tried again, is tried now.")


class DeliveryCancelled(Shown):
    delivery: str


class ReplayRequest(BaseModel):
    """Tell an integration once more what happened since a time, as its synchronizations want it now."""

    model_config = ConfigDict(extra="forbid")

    integration: Reference = Field(description="The target.")
    since: Moment
    until: Moment | None = None
    types: list[Pattern] = Field([], max_length=100)
    synchronizations: list[Name] = Field([], max_length=100, description="Default: all of the target.")


class ReplayShown(Shown):
    id: str = Field(examples=["rpl_7xKpQ2mR4wVb"])
    state: Literal["running", "done", "cancelled"]
    integration: str
    integration_id: str
    since: datetime
    until: datetime | None
    types: list[str]
    synchronizations: list[str]
    events: int = Field(description="Told so far.")
    deliveries: int
    left: int = Field(description="Entries of logs still to be looked at; 0 when done.")
    requested_by: str
    requested_at: datetime
    finished_at: datetime | None


class SendRequest(BaseModel):
    """One message through a channel of the integration."""

    model_config = ConfigDict(extra="forbid")

    channel: str = Field(max_length=100)
    fields: dict[str, Any]


class Sent(Shown):
    delivery: str
    event: str
    status: DeliveryStatus
    receipt: dict[str, Any]
    reason: str | None
    error: str | None
