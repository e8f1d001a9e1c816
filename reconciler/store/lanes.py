"""Which delivery is next in a lane: who has sent one may go on with what waits for the same target, without a job for each.

Called within the transaction that records the one before, so both cost one commit. The rows of jobs decide as ever: what is
taken here is struck out when it has ended, and found due by others if this process ends before.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from reconciler.model.clock import rfc3339
from reconciler.model.job import Claim
from reconciler.store import deliveries, jobs
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery

# the text is joined with nothing so that SQLite takes the index of the lane, not that of due times
_NEXT = """
SELECT d.id, d.channel, d.message_id IS NOT NULL OR (SELECT a.number FROM attempt a
    WHERE a.delivery_id = d.id AND a.outcome IN ('sending', 'unknown') LIMIT 1) IS NOT NULL AS is_doubtful
FROM job JOIN delivery d ON d.id = CAST(job.ref AS bigint)
WHERE job.queue = :queue AND job.key = :key AND job.state = 'due' AND job.due_at || '' <= :now
  AND EXISTS (SELECT 1 FROM integration n WHERE n.id = :target AND n.generation = :generation AND n.is_connected = 1
    AND n.suspended_by = '' AND n.removed_at IS NULL
    AND NOT EXISTS (SELECT 1 FROM condition c WHERE c.integration_id = n.id AND c.type = 'Stalled'))
ORDER BY job.asked DESC, job.prio, job.due_at, job.id LIMIT 1
"""


def go_on(
    tx: Tx, claim: Claim, generation: int, now: datetime, deadline_of: Callable[[str], timedelta | None]
) -> tuple[Delivery, bool] | None:
    """The next delivery, begun under the claim, and whether an earlier attempt at it may have arrived; None where there is none.

    Nor where the claim is lost, the target is not as it was, or an attempt was interrupted: that is for a job of its own.
    `deadline_of` says how long an attempt through a channel may last, None for one that there is not.
    """
    if not jobs.holds(tx, claim):
        return None
    params = {"queue": claim.queue, "key": claim.key, "now": rfc3339(now), "target": int(claim.key)}
    row = tx.one(_NEXT, **params, generation=generation)
    deadline = deadline_of(row["channel"]) if row is not None else None
    if row is None or deadline is None:
        return None
    begun = deliveries.begin(tx, row["id"], claim.fence, rfc3339(now), rfc3339(now + deadline))
    return None if begun is None else (begun, bool(row["is_doubtful"]))


def strike_out(tx: Tx, delivery_id: int) -> None:
    """It has ended: its job need not be done."""
    jobs.drop(tx, kind="deliver", ref=str(delivery_id))


def put_off(tx: Tx, delivery_id: int, until: datetime) -> None:
    """It is to be tried again: its job waits."""
    tx.execute(
        "UPDATE job SET due_at = :at, asked = 0 WHERE kind = 'deliver' AND ref = :ref AND state = 'due'",
        {"at": rfc3339(until), "ref": str(delivery_id)},
    )
