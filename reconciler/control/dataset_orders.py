"""Orders about what was synced: bring an earlier version back, erase a record, purge everything.

Called by `orders`, each in a transaction of its own. A rollback becomes a run, which takes its turn in the integration's lane
like a sync; syncs under way end first, because half of what they read would undo it. Erasing and purging are done when
the transaction is; what is left of it in the file is scrubbed by the daemon afterwards.
"""

from dataclasses import asdict
from datetime import datetime

from reconciler.control.carried import (
    ASKED_PRIO,
    Asked,
    Carried,
    NotYetError,
    OrderError,
    integration_of,
    state_delivering,
)
from reconciler.model.clock import rfc3339
from reconciler.model.condition import Reason
from reconciler.model.record import LogLevel
from reconciler.store import erasure, jobs, journal, pushed, rollback, runs
from reconciler.store.database import Tx
from reconciler.store.erasure import Erased
from reconciler.store.history import NotKeptError
from reconciler.store.journal import LogLine, OperatorRequest
from reconciler.store.runs import Run


def roll_back(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`version`, `emit_events`. Ends syncs under way; what they stored stays, in a version of its own."""
    row = integration_of(tx, order)
    stopped = _end_runs(tx, row.id, now)
    try:
        run = rollback.begin(
            tx, row.id, int(order.params["version"]), rfc3339(now), emits_events=bool(order.params.get("emit_events"))
        )
    except NotKeptError as error:
        raise OrderError(str(error)) from None
    pushed.forget_contents(tx, row.id)
    jobs.put(tx, kind="sync", ref=str(run.id), key=str(row.id), prio=ASKED_PRIO, due_at=now)
    return Carried({"run": run.public_id}, start=(Asked("sync", str(run.id)),), stop=stopped)


def erase(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """`keys`, `entity`."""
    row = integration_of(tx, order, with_removed=True)
    erased = erasure.erase(tx, row.id, order.params["keys"], order.params.get("entity"), rfc3339(now))
    return _forgotten(tx, order, row.id, erased, "records erased", now)


def purge(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """With `once_disconnected` it waits for that, and is refused where it has not come by then."""
    row = integration_of(tx, order, with_removed=True)
    patience = order.params.get("once_disconnected")
    if patience and row.is_connected:
        if rfc3339(now) < patience:
            raise NotYetError
        raise OrderError(f"{row.ref} is still connected: nothing was purged")
    stopped = _end_runs(tx, row.id, now)
    erased = erasure.purge(tx, row.id, rfc3339(now))
    forgotten = _forgotten(tx, order, row.id, erased, "all records purged", now)
    return Carried(forgotten.result, stop=stopped)


def _forgotten(
    tx: Tx, order: OperatorRequest, integration_id: int, erased: Erased, message: str, now: datetime, /
) -> Carried:
    """The log says that it was done, how much went and for whom, never what."""
    counts = asdict(erased.traces)
    line = LogLine(integration_id, rfc3339(now), LogLevel.INFO, message, {**counts, "requested_by": order.requested_by})
    journal.write_logs(tx, [line])
    for target in erased.targets:
        state_delivering(tx, target, rfc3339(now))
    return Carried(counts)


def _end_runs(tx: Tx, integration_id: int, now: datetime) -> tuple[Asked, ...]:
    """Closed and told of at once: from here on no page of theirs can commit; the daemon stops their tasks."""
    at, open_runs = rfc3339(now), runs.open_runs(tx, integration_id)
    for run in open_runs:
        runs.cancel(tx, run.id, Reason.CANCELLED)
    runs.close_cancelled(tx, [run.id for run in open_runs], at)
    journal.write_logs(tx, [_cancelled(run, at) for run in open_runs])
    return tuple(Asked("sync", str(run.id)) for run in open_runs)


def _cancelled(run: Run, at: str) -> LogLine:
    detail = {"reason": Reason.CANCELLED, **run.told}
    return LogLine(run.integration_id, at, LogLevel.INFO, f"{run.title} cancelled", detail, run.id)
