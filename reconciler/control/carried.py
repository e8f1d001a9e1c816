"""What carrying out an operator's order means: its answer, what is to be started or stopped, and how it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model.condition import ConditionType, Reason
from reconciler.store import conditions, deliveries, integrations
from reconciler.store.conditions import Say
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import OperatorRequest

ASKED_PRIO = 20


class OrderError(Exception):
    """The order cannot be carried out; the message says why and what to do instead."""


class NotYetError(Exception):
    """The order stays open: what it waits for has not come."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Work that a person waits for: it is started at once. `cancelled` runs are stopped."""

    kind: str
    ref: str


@dataclass(frozen=True, slots=True)
class Carried:
    """What an order came to: the answer for the person, and what the daemon has to start or stop now.

    `has_events`: there is something to route. `kind` and `by` are of the order, for the log.
    """

    result: Mapping[str, Any]
    start: tuple[Asked, ...] = ()
    stop: tuple[Asked, ...] = ()
    is_replan: bool = False
    has_events: bool = False
    kind: str = ""
    by: str = ""


def integration_of(tx: Tx, order: OperatorRequest, *, with_removed: bool = False) -> IntegrationRow:
    """The integration that the order is about; `with_removed` also one that Git no longer names."""
    row = integrations.get(tx, order.integration_id) if order.integration_id is not None else None
    if row is None or (row.removed_at is not None and not with_removed):
        raise OrderError("no such integration")
    return row


def lift_gone(tx: Tx, integration_id: int, at: str) -> None:
    """A person wants it tried again, although the remote said that it wants no more."""
    row = integrations.get(tx, integration_id)
    if row is not None and conditions.gone(tx, integration_id):
        conditions.say(tx, integration_id, row.generation, [Say(ConditionType.DELIVERING, None)], at)


def state_delivering(tx: Tx, integration_id: int, at: str) -> None:
    """Nothing is to be tried again any more: what was said of it goes, until the next delivery tells."""
    row = integrations.get(tx, integration_id)
    said = conditions.conditions(tx, integration_id).get(ConditionType.DELIVERING)
    is_over = (
        said is not None and said.reason is Reason.DELIVERY_FAILING and not deliveries.failing(tx, integration_id)[0]
    )
    if row is not None and is_over:
        conditions.say(tx, integration_id, row.generation, [Say(ConditionType.DELIVERING, None)], at)
