"""How deliveries to an integration stand: what its condition `Delivering` says after each of them ended or failed."""

from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import DeliveryStatus
from reconciler.store import conditions, deliveries, integrations
from reconciler.store.conditions import Say
from reconciler.store.database import Tx


def state_delivering(tx: Tx, integration_id: int, status: DeliveryStatus, reason: str, message: str, at: str) -> None:
    """False while something is to be tried again, and when a message was lost; true when the next one arrives."""
    if status is DeliveryStatus.DELIVERED and conditions.stands(tx, integration_id, ConditionType.DELIVERING):
        return  # as after almost every delivery
    row = integrations.get(tx, integration_id)
    if row is None or row.removed_at is not None or status is DeliveryStatus.CANCELLED:
        return
    failing, error = deliveries.failing(tx, integration_id)
    if status in {DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN}:
        say = Say(ConditionType.DELIVERING, Truth.FALSE, Reason(reason), message)
    elif failing:
        told = f"{failing} to be tried again: {error}"
        say = Say(ConditionType.DELIVERING, Truth.FALSE, Reason.DELIVERY_FAILING, told)
    else:
        say = Say(ConditionType.DELIVERING, Truth.TRUE, Reason.SUCCEEDED, "deliveries arrive")
    conditions.say(tx, integration_id, row.generation, [say], at)
