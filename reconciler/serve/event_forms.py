"""Events and deliveries as JSON: rows in, plain values out. What is data is left out unless the caller may see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from reconciler.store import delivery_list
from reconciler.store.deliveries import Attempt, Delivery
from reconciler.store.delivery_list import Standing
from reconciler.store.events import StoredEvent
from reconciler.store.integrations import Named
from reconciler.store.replays import Part, Replay

Names = Mapping[int, Named]


def event_form(event: StoredEvent, standing: Sequence[Standing], names: Names) -> dict[str, Any]:
    about = names.get(event.integration_id) if event.integration_id is not None else None
    return {
        "id": event.public_id,
        "type": event.type,
        "source": event.source,
        "at": event.at,
        "workspace": event.workspace,
        "integration": about.name if about else None,
        "integration_id": about.public_id if about else None,
        "subject": event.subject or None,
        "occurred_at": event.occurred_at,
        "published_by": event.published_by or None,
        "status": delivery_list.status_of(standing),
        "deliveries": len(standing),
    }


@dataclass(frozen=True, slots=True)
class Told:
    """A delivery with all that is known of it. `originals` and `again` are public ids."""

    delivery: Delivery
    tries: Sequence[Attempt]
    retry_of: str | None
    again: Sequence[str]


def delivery_form(delivery: Delivery, retry_of: str | None, names: Names) -> dict[str, Any]:
    target = names[delivery.integration_id]
    return {
        "id": delivery.public_id,
        "status": delivery.status,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "integration": target.name,
        "integration_id": target.public_id,
        "synchronization": delivery.synchronization or None,
        "channel": delivery.channel,
        "attempts": delivery.attempts,
        "reason": delivery.reason or None,
        "error": delivery.error or None,
        "retry_of": retry_of,
        "created_at": delivery.created_at,
        "first_attempt_at": delivery.first_attempt_at,
        "next_at": delivery.next_at,
        "finished_at": delivery.finished_at,
    }


def told_form(told: Told, names: Names, *, with_content: bool) -> dict[str, Any]:
    return delivery_form(told.delivery, told.retry_of, names) | {
        "fields": dict(told.delivery.fields) if with_content else None,
        "receipt": dict(told.delivery.receipt),
        "tries": [attempt_form(one, with_content=with_content) for one in told.tries],
        "retried_as": list(told.again),
    }


def attempt_form(one: Attempt, *, with_content: bool) -> dict[str, Any]:
    exchange = dict(one.exchange) or None
    if exchange is not None and not with_content:
        exchange |= {"request": None, "response": None}
    return {
        "number": one.number,
        "at": one.at,
        "seconds": one.seconds,
        "outcome": one.outcome,
        "reason": one.reason or None,
        "message": one.message or None,
        "exchange": exchange,
    }


def payload_form(payload: bytes | str | None) -> Any:
    return msgspec.json.decode(payload) if payload else None


def replay_form(replay: Replay, left: Sequence[Part], names: Names) -> dict[str, Any]:
    target = names[replay.integration_id]
    return {
        "id": replay.public_id,
        "state": replay.state,
        "integration": target.name,
        "integration_id": target.public_id,
        "since": replay.since,
        "until": replay.until or None,
        "types": list(replay.types),
        "synchronizations": list(replay.synchronizations),
        "events": replay.events,
        "deliveries": replay.deliveries,
        "left": sum(part.ceiling - part.position for part in left) if replay.state == "running" else 0,
        "requested_by": replay.requested_by,
        "requested_at": replay.requested_at,
        "finished_at": replay.finished_at,
    }
