"""What operators ask for over the store: sync, cancel, reconcile, suspend, approve, retry or cancel a delivery, and more.

The command line writes a request row; the daemon does it here and answers in the row. The same functions serve a
command that finds no daemon running.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from reconciler.control import dataset_orders, event_orders, holdup, witness
from reconciler.control.carried import ASKED_PRIO, Asked, Carried, NotYetError, OrderError, integration_of
from reconciler.control.credentials import renewable
from reconciler.control.schedule import make_run
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.record import Scope
from reconciler.store import integrations, inventory, jobs, journal, rejects, runs
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError
from reconciler.store.journal import OperatorRequest
from reconciler.store.requests import Outcome
from reconciler.store.runs import NewRun

__all__ = ["Carried", "OrderError", "Orders", "carry_out", "obey"]


def carry_out(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """Do what was asked; raises OrderError."""
    known: Mapping[str, Callable[[Tx, OperatorRequest, datetime], Carried]] = {
        "sync": _sync,
        "cancel-sync": _cancel_sync,
        "replay": _replay,
        "rollback": _roll_back,
        "erase": dataset_orders.erase,
        "purge": dataset_orders.purge,
        "reconcile": _reconcile,
        "renew-credentials": _renew,
        "suspend": _suspend,
        "resume": _resume,
        "approve": _approve,
        **event_orders.KNOWN,
    }
    if order.kind not in known:
        raise OrderError(
            f"this daemon does not know the order {order.kind}; is the command line newer than the daemon?"
        )
    return known[order.kind](tx, order, now)


def obey(tx: Tx, order: OperatorRequest, now: datetime, *, is_observing: bool) -> Carried:
    """Carry it out and answer it, in the caller's transaction; raises OrderError, and what a wrong parameter raises."""
    if is_observing and _acts(order):
        raise OrderError("this daemon only observes (--observe): it changes, syncs and sends nothing")
    carried = carry_out(tx, order, now)
    witness.note(tx, order, now, "done", carried.result)
    journal.answer(tx, order.id, {"ok": True, **carried.result}, rfc3339(now))
    return carried


def _acts(order: OperatorRequest) -> bool:
    """Whether a job has to be done for it; a reconcile of all begins with a look at Git."""
    return order.kind in {"sync", "replay", "rollback", "renew-credentials", *event_orders.SENDING} or (
        order.kind == "reconcile" and order.integration_id is not None
    )


def _sync(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    row = integration_of(tx, order)
    held = holdup.of_integration(tx, row)
    if held is not None:
        raise OrderError(f"{row.ref} cannot be synced now: {held}")
    p = order.params
    since = p.get("since")
    new = NewRun(
        row.id,
        Scope(p.get("scope", "incremental")),
        "person",
        p.get("entities"),
        rfc3339(from_rfc3339(since)) if since else None,
        bool(p.get("allow_deletes")),
        accepts_schema=bool(p.get("accept_schema")),
    )
    public_id = make_run(tx, new, ASKED_PRIO, now)
    run = runs.find(tx, public_id)
    return Carried({"run": public_id}, start=(Asked("sync", str(run.id)),) if run else ())


def _replay(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """A run in the integration's lane, like a sync: what passes is a dataset version."""
    row = integration_of(tx, order)
    held = holdup.of_integration(tx, row)
    if held is not None:
        raise OrderError(f"rejects of {row.ref} cannot be tried again now: {held}")
    kept, wanted = rejects.tally(tx, row.id), order.params.get("entity")
    entities = [name for name in kept if wanted in (None, name)]
    if not entities:
        raise OrderError(f"{row.ref} has no rejects{f' of {wanted}' if wanted else ''}")
    accepts = bool(order.params.get("accept_schema"))
    new = NewRun(row.id, Scope.INCREMENTAL, runs.REPLAY, entities, accepts_schema=accepts)
    public_id = make_run(tx, new, ASKED_PRIO, now)
    run = runs.find(tx, public_id)
    return Carried({"run": public_id}, start=(Asked("sync", str(run.id)),) if run else ())


def _cancel_sync(tx: Tx, order: OperatorRequest, _: datetime) -> Carried:
    run_id = str(order.params.get("run", ""))
    run = runs.find(tx, run_id)
    if run is None:
        raise OrderError(f"no run {run_id}; `reconciler status NAME` lists those of an integration")
    if not runs.cancel(tx, run.id, Reason.CANCELLED):
        raise OrderError(f"{run.public_id} is done already")
    return Carried({"run": run.public_id}, stop=(Asked("sync", str(run.id)),))


def _reconcile(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    if order.integration_id is None:
        return Carried({"all": True, "at": rfc3339(now)}, is_replan=True)
    row = integration_of(tx, order)
    key = str(row.id)
    jobs.put(tx, kind="reconcile", ref=key, key=key, prio=ASKED_PRIO, due_at=now)
    return Carried({"integration": str(row.ref)}, start=(Asked("reconcile", key),))


def _renew(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """What can be obtained again without a person is: the reconcile that follows has to."""
    row = integration_of(tx, order)
    held = holdup.of_integration(tx, row)
    if held is not None:
        raise OrderError(f"credentials of {row.ref} cannot be renewed now: {held}")
    names = renewable(tx, row.id)
    if not names:
        raise OrderError(
            f"{row.ref} has no credential that can be renewed here: put a new one into its manifest, "
            f"or, where a person allowed it: reconciler authorize {row.ref}"
        )
    inventory.expire_credentials(tx, row.id, names, rfc3339(now))
    return _reconcile(tx, order, now)


def _suspend(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    row = integration_of(tx, order)
    until = order.params.get("until")
    if until and from_rfc3339(until) <= now:
        raise OrderError(f"{until} is in the past")
    integrations.suspend(tx, row.id, order.requested_by or "operator", str(order.params.get("reason", "")), until)
    stopped = runs.open_syncs(tx, row.id)
    for run in stopped:
        runs.cancel(tx, run.id, Reason.SUSPENDED)
    return replace(_reconcile(tx, order, now), stop=tuple(Asked("sync", str(run.id)) for run in stopped))


def _resume(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    row = integration_of(tx, order)
    if row.suspended_by == "git":
        raise OrderError(f"{row.ref} is suspended by its manifest; set spec.suspend to false in Git")
    integrations.suspend(tx, row.id, "", "", None)
    return _reconcile(tx, order, now)


def _roll_back(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    """With `suspend` the next sync cannot undo it before somebody has looked."""
    carried = dataset_orders.roll_back(tx, order, now)
    if not order.params.get("suspend"):
        return carried
    params = {"reason": f"rolled back to version {order.params['version']}"}
    suspended = _suspend(tx, replace(order, params=params), now)
    return replace(carried, start=suspended.start + carried.start)


def _approve(tx: Tx, order: OperatorRequest, now: datetime) -> Carried:
    digest = str(order.params.get("digest", ""))
    journal.approve(tx, digest, order.requested_by, rfc3339(now))
    return Carried({"digest": digest}, is_replan=True)


class Orders:
    """`tick` carries out every open request, each in a transaction of its own with its answer.

    `is_observing`: what would not be done by a daemon that only looks is refused. `aside` takes, by kind, what lasts too long
    for a transaction, and answers it itself; it is handed each of these at every tick until then.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        is_observing: bool = False,
        aside: Mapping[str, Callable[[OperatorRequest], None]] | None = None,
    ) -> None:
        self._aside = aside or {}
        self._database = database
        self._clock = clock
        self._is_observing = is_observing

    async def tick(self) -> list[Carried]:
        """What was carried out; where the store fails in between, the rest stays open for the next call."""
        done: list[Carried] = []
        for order in await self._database.read(journal.open_requests):
            if order.kind in self._aside:
                self._aside[order.kind](order)
                continue
            try:
                done.append(replace(await self._carry_out(order), kind=order.kind, by=order.requested_by))
            except NotYetError:
                continue
            except StoreError:
                if not done:
                    raise
                break
        return done

    async def _carry_out(self, order: OperatorRequest) -> Carried:
        now = self._clock.now()
        outcome: Outcome = "refused"
        try:
            return await self._database.write(lambda tx: obey(tx, order, now, is_observing=self._is_observing))
        except (StoreError, NotYetError):
            raise
        except (OrderError, ValueError) as error:
            refusal = {"ok": False, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - one order that cannot be read must not keep all others waiting
            outcome = "failed"
            refusal = {"ok": False, "error": f"the order {order.kind} cannot be understood: {type(error).__name__}"}

        def refuse(tx: Tx) -> None:
            witness.note(tx, order, now, outcome, {"code": outcome})
            journal.answer(tx, order.id, refusal, rfc3339(now))

        await self._database.write(refuse)
        return Carried(refusal)
