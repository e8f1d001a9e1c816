"""The audit of what commands on this machine order, written with the answer. Called by `orders`.

In: an order and what became of it. Out: a line with the user of the operating system as the one who asked. What came over the API
has its line there, with who was let in, and gets none here.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from reconciler.model.clock import rfc3339
from reconciler.store import deliveries, integrations, journal, requests, runs
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import OperatorRequest
from reconciler.store.requests import AuditLine, Outcome

_STATUS: Mapping[Outcome, int] = {"done": 200, "refused": 409, "failed": 500}
"""As the API would have answered."""


def note(tx: Tx, order: OperatorRequest, now: datetime, outcome: Outcome, told: Mapping[str, Any]) -> None:
    """What an order to erase or publish names is told nowhere: see `journal.answer`."""
    if not order.is_of_command:
        return
    about = _about(tx, order)
    asked = {} if order.kind in journal.NOT_KEPT else {name: value for name, value in order.params.items() if value}
    named = order.params.get("workspace")
    line = AuditLine(
        at=rfc3339(now),
        workspace=about.workspace if about else str(named) if named else None,
        caller=order.requested_by,
        identity=f"{requests.OS_USER}:{order.requested_by}",
        request_id=order.public_id,
        action=f"order {order.kind}",
        outcome=outcome,
        status=_STATUS[outcome],
        target=about.public_id if about else "",
        detail={**asked, **told},
    )
    requests.write_audit(tx, line)


def _about(tx: Tx, order: OperatorRequest) -> IntegrationRow | None:
    """Of a run or delivery, the integration whose it is."""
    found = order.integration_id
    if found is None and (run := runs.find(tx, str(order.params.get("run", "")))):
        found = run.integration_id
    if found is None and (delivery := deliveries.find(tx, str(order.params.get("delivery", "")))):
        found = delivery.integration_id
    return integrations.get(tx, found) if found is not None else None
