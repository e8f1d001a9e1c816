"""Our tables are the truth: after any restart every unfinished thing gets its job row back, whatever was lost."""

from datetime import datetime

from reconciler.control.authorize import PRIO as AUTHORIZE_PRIO
from reconciler.model.clock import from_rfc3339
from reconciler.store import authorizations, deliveries, integrations, jobs, runs
from reconciler.store.database import Tx


def recover(tx: Tx, now: datetime) -> int:
    """Called once at start, before work begins. Returns how many unfinished things there are."""
    open_runs, open_deliveries = runs.unfinished(tx), deliveries.unfinished(tx)
    for run_id, integration_id in open_runs:
        jobs.put(tx, kind="sync", ref=str(run_id), key=str(integration_id), prio=50, due_at=now)
    for delivery_id, target, due in open_deliveries:
        jobs.put(tx, kind="deliver", ref=str(delivery_id), key=str(target), prio=30, due_at=from_rfc3339(due))
    for attempt_id, integration_id in authorizations.unfinished(tx):
        ref, key = str(attempt_id), str(integration_id)
        jobs.put(tx, kind="authorize", ref=ref, key=key, prio=AUTHORIZE_PRIO, due_at=now)
    for integration_id, again in integrations.unsettled(tx):
        at = from_rfc3339(again) if again else now
        jobs.put(tx, kind="reconcile", ref=str(integration_id), key=str(integration_id), prio=10, due_at=at)
    return len(open_runs) + len(open_deliveries)
