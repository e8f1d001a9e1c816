"""Events of one's own: what may be published, and by which rules it is kept. Called by the API and by an order of a command.

A publisher cannot pose as somebody else. Types that integrations tell of themselves (`integration.*`, `sync.*`, `schema.*`) are
refused, and so is every type that begins with a kind of record which an integration of the workspace reads: only a change that
was read becomes such an event. One that is about an integration is heard by those who name it in `from`; one that is about none,
by those who name nobody.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.control.carried import OrderError
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.event import EVENT_TYPE, LONGEST_TYPE, MOST_AT_ONCE, Lifecycle
from reconciler.store import events
from reconciler.store.database import Tx
from reconciler.store.events import NewEvent, Published

RESERVED = frozenset(one.partition(".")[0] for one in Lifecycle) | {"message"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """`dedupe`: the publisher's own id of it; within the workspace it is kept once under that."""

    workspace: str
    type: str
    payload: Mapping[str, Any]
    dedupe: str | None = None
    subject: str = ""
    occurred_at: str | None = None
    integration_id: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    place: int
    field: str
    message: str


class PublishError(OrderError):
    """None of them is kept; `faults` say which are wrong, and why."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"event {one.place + 1}, {one.field}: {one.message}" for one in faults[:5]))
        self.faults = tuple(faults)


def publish(tx: Tx, drafts: Sequence[Draft], by: str, now: datetime) -> list[Published]:
    """Kept when the transaction is; raises PublishError. `by` is whoever published them."""
    known: dict[tuple[str, str], bool] = {}
    faults = [Fault(place, "type", why) for place, draft in enumerate(drafts) if (why := _wrong_type(tx, draft, known))]
    if faults or not 0 < len(drafts) <= MOST_AT_ONCE:
        raise PublishError(faults or [Fault(0, "events", f"expected 1 to {MOST_AT_ONCE} of them")])
    return events.publish(tx, [_new(draft, by) for draft in drafts], rfc3339(now))


def _wrong_type(tx: Tx, draft: Draft, known: dict[tuple[str, str], bool]) -> str:
    if not re.fullmatch(EVENT_TYPE, draft.type) or len(draft.type) > LONGEST_TYPE:
        return "expected lower-case words joined by dots, such as order.created"
    subject = draft.type.partition(".")[0]
    if subject in RESERVED:
        return f"{subject}.* is reserved for what integrations tell of themselves"
    asked = (draft.workspace, subject)
    if asked not in known:
        known[asked] = events.is_record_subject(tx, *asked)
    if known[asked]:
        return f"{subject}.* are changes of records that an integration of {draft.workspace} reads; take another word"
    return ""


def _new(draft: Draft, by: str) -> NewEvent:
    return NewEvent(
        workspace=draft.workspace,
        type=draft.type,
        payload=json.dumps(draft.payload),
        published_by=by,
        integration_id=draft.integration_id,
        subject=draft.subject,
        occurred_at=rfc3339(from_rfc3339(draft.occurred_at)) if draft.occurred_at else None,
        dedupe=draft.dedupe,
    )
