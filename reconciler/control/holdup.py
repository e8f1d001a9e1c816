"""Why a sync cannot start now, and whether it will by itself.

In: rows, in the transaction of whoever asks. Out: a `Holdup`, or None where nothing stands in the way. Called by `orders`,
which refuses what cannot start, and by the command line while it waits. Nothing is decided here: a run that is due starts
whenever the job engine gets to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from reconciler.control.leaving import BY_GIT
from reconciler.model.clock import rfc3339
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.store import conditions, integrations, jobs, journal, runs
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.runs import Run

_GATES = (ConditionType.VALID, ConditionType.SECRETS_DECRYPTED)


@dataclass(frozen=True, slots=True)
class Holdup:
    """`remedy` is what somebody has to do; empty where it passes by itself."""

    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


def of_integration(tx: Tx, row: IntegrationRow) -> Holdup | None:
    """What keeps any sync of it from starting."""
    said = conditions.conditions(tx, row.id)
    if not row.is_desired:
        return Holdup("Git does not name it any more, it is being let go", "restore its manifest in Git")
    return _suspended(row) or _stalled(row, said) or (None if row.is_connected else _unconnected(row, said))


def _suspended(row: IntegrationRow) -> Holdup | None:
    if not row.is_suspended:
        return None
    why = f": {row.suspend_reason}" if row.suspend_reason else ""
    until = f" until {row.suspended_until[:19]}Z" if row.suspended_until else ""
    end = f"set spec.suspend to false in {row.file}" if row.suspended_by == BY_GIT else f"reconciler resume {row.ref}"
    return Holdup(f"suspended by {row.suspended_by}{until}{why}", f"end it: {end}")


def _stalled(row: IntegrationRow, said: Mapping[ConditionType, Condition]) -> Holdup | None:
    stalled = said.get(ConditionType.STALLED)
    if stalled is None:
        return None
    return Holdup(f"stalled: {_told(stalled)}", f"mend that, then: reconciler reconcile {row.ref} --wait")


def _unconnected(row: IntegrationRow, said: Mapping[ConditionType, Condition]) -> Holdup:
    progressing, connected = said.get(ConditionType.RECONCILING), said.get(ConditionType.CONNECTED)
    shut = _shut(said)
    if progressing is not None:
        failed = f"{_told(connected)}; " if connected and connected.truth is Truth.FALSE else ""
        return Holdup(f"not connected yet: {failed}{progressing.message}")
    if shut is not None:
        return Holdup(_told(shut), f"mend {row.file} in Git")
    if connected is not None and connected.reason is Reason.DISABLED:
        return Holdup("disabled", f"set spec.enabled to true in {row.file}")
    if connected is not None and connected.reason is Reason.AWAITING_AUTHORIZATION:
        return Holdup("a person has to allow it first", f"reconciler authorize {row.ref}")
    return Holdup(f"not connected yet: {_told(connected) if connected else 'waiting for its first reconcile'}")


def _shut(said: Mapping[ConditionType, Condition]) -> Condition | None:
    return next((said[t] for t in _GATES if t in said and said[t].truth is Truth.FALSE), None)


def _told(condition: Condition) -> str:
    return f"{condition.reason}: {condition.message}"


def of_run(tx: Tx, run: Run, now: datetime) -> Holdup | None:
    """What keeps this run waiting. None where it is under way or done, or where its turn comes in a moment."""
    if run.state != "due":
        return None
    if run.restores is not None:  # asks no remote
        return _behind(tx, run, now)
    row = integrations.get(tx, run.integration_id)
    if row is None:
        return None
    return of_integration(tx, row) or _put_off(tx, run) or _behind(tx, run, now) or _unread(tx)


def _put_off(tx: Tx, run: Run) -> Holdup | None:
    """It began, or was about to, and had to give its place back."""
    if not run.error:
        return None
    shut = _shut(conditions.conditions(tx, run.integration_id))
    if run.reason == Reason.PENDING and shut is not None:
        return Holdup(f"{run.error}; {_told(shut)}", "mend it in Git")
    again_at = jobs.due_at(tx, "sync", str(run.id))
    then = f"; goes on at {rfc3339(again_at)[:19]}Z" if again_at else ""
    return Holdup(f"{run.reason}: {run.error}{then}")


def _behind(tx: Tx, run: Run, now: datetime) -> Holdup | None:
    first = next((r for r in runs.open_runs(tx, run.integration_id) if r.id != run.id and r.state == "running"), None)
    if first is not None:
        return Holdup(f"{first.public_id} of the same integration is under way")
    if str(run.integration_id) in jobs.pending(tx, "reconcile", now):
        return Holdup("the integration is being reconciled first")
    return None


def _unread(tx: Tx) -> Holdup | None:
    """After a start no work begins before Git was read."""
    broken = next((s for s in journal.sources(tx) if s.error_reason), None)
    return Holdup(f"source {broken.name} cannot be read: {broken.error_message}") if broken else None
