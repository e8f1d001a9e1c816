"""How deliveries to an integration stand: what its condition `Delivering` says after each of them ended or failed."""

from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import DeliveryStatus
from reconciler.store import conditions, deliveries, integrations
from reconciler.store.conditions import Say
from reconciler.store.database import Tx


def state_delivering(
    tx: Tx,
    integration_id: int,
    status: DeliveryStatus,
    reason: str,
    message: str,
    at: str,
    generation: int | None = None,
) -> None:
    """False while something is to be tried again, and when a message was lost; true when the next one arrives.

    `generation` is that of what it was sent under; by default what is wanted now. That the remote wants no more is not said
    of a newer one, and stays until something arrives, or is taken back.
    """
    if status is DeliveryStatus.DELIVERED and conditions.stands(tx, integration_id, ConditionType.DELIVERING):
        return  # as after almost every delivery
    row = integrations.get(tx, integration_id)
    if row is None or row.removed_at is not None or status is DeliveryStatus.CANCELLED:
        return
    if status is not DeliveryStatus.DELIVERED and reason != Reason.GONE and conditions.gone(tx, integration_id):
        return
    failing, error = deliveries.failing(tx, integration_id)
    if status in {DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN}:
        say = Say(ConditionType.DELIVERING, Truth.FALSE, Reason(reason), message)
    elif failing:
        told = f"{failing} to be tried again: {error}"
        say = Say(ConditionType.DELIVERING, Truth.FALSE, Reason.DELIVERY_FAILING, told)
    else:
        say = Say(ConditionType.DELIVERING, Truth.TRUE, Reason.SUCCEEDED, "deliveries arrive")
    if generation is None or reason != Reason.GONE:
        generation = row.generation
    conditions.say(tx, integration_id, generation, [say], at)
