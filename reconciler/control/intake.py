"""A new desired state -> plan -> rows and due jobs. Nothing remote is touched here.

What changed raises its generation and becomes a due reconcile; what Git no longer names is let go unless the guard blocks
it; what is broken, or cannot be decrypted, keeps its last good spec and says so. The plan is the same pure function that
`reconciler plan` runs.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.control.book import Resolution, Resolver
from reconciler.control.schedule import reads
from reconciler.control.stating import Stating
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.model.ids import Ref
from reconciler.model.plan import Plan
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import compare
from reconciler.store import conditions, integrations, jobs, journal, runs
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import DesiredChange, IntegrationRow

Author = Callable[[DesiredIntegration], DesiredIntegration]
RECONCILE_PRIO = 10
DISCONNECT_PRIO = 1


@dataclass(frozen=True, slots=True)
class Intaken:
    """The plan of a revision, which integrations now have work due, and the runs that must not go on.

    `turned` are those whose secrets ceased to be readable, or are readable again.
    """

    plan: Plan
    changed: tuple[int, ...]
    removed: tuple[int, ...]
    stopped: tuple[int, ...] = ()
    turned: tuple[tuple[IntegrationRow, Condition], ...] = ()


class Intake:
    """Takes desired states over. With `is_observing` it plans and reports, but leaves rows and remotes as they are.

    `fence` raises inside the transaction where this process may not decide any more.
    """

    def __init__(
        self,
        database: Database,
        resolver: Resolver,
        clock: Clock,
        fence: Callable[[Tx], None] | None = None,
        *,
        is_observing: bool = False,
    ) -> None:
        self._database = database
        self._resolver = resolver
        self._clock = clock
        self._fence = fence
        self._is_observing = is_observing
        self._turn = asyncio.Lock()

    async def take(self, desired: DesiredState) -> Intaken:
        """Called for every new revision, after restarts, and when a prune was approved.

        One after another: an older state that was slow to decrypt never comes after a newer one.
        """
        async with self._turn:
            return await self._take(desired)

    async def _take(self, desired: DesiredState) -> Intaken:
        resolution = await self._resolver.resolve(desired)
        observed = await self._database.read(integrations.observed_state)
        approved = await self._database.read(journal.approvals)
        plan = compare(_with_all_findings(resolution), observed, resolved=resolution.resolved, approved=approved)
        now = self._clock.now()
        if self._is_observing:
            await self._database.write(lambda tx: _report(tx, plan, "observed", now))
            return Intaken(plan, (), ())
        return await self._database.write(lambda tx: self._write(tx, plan, resolution, now))

    def _write(self, tx: Tx, plan: Plan, resolution: Resolution, now: datetime) -> Intaken:
        """Not what a process read that no longer leads: it may be older than what is in force."""
        if self._fence is not None:
            self._fence(tx)
        return _take(tx, plan, resolution, self._resolver.authored, now)


def _take(tx: Tx, plan: Plan, resolution: Resolution, author: Author, now: datetime) -> Intaken:
    at, desired = rfc3339(now), resolution.state
    known = {row.ref: row for row in integrations.every(tx, with_removed=True)}
    changes = [
        DesiredChange(author(d), _effective(resolution, ref))
        for ref, d in desired.integrations.items()
        if _is_changed(known.get(ref), d.source_hash, _effective(resolution, ref))
    ]
    stating = Stating(tx, resolution, at)
    ids = integrations.want(tx, changes, at)
    for integration_id in ids.values():
        stating.changed(integration_id)
        _due(tx, integration_id, RECONCILE_PRIO, now)
    moved = [
        DesiredChange(author(d), known[ref].desired_effective)
        for ref, d in desired.integrations.items()
        if ref not in ids and _is_moved(known[ref], d, author)
    ]
    integrations.want(tx, moved, at)
    for integration_id in stating.unchanged([row for ref, row in known.items() if ref not in ids]):
        _due(tx, integration_id, RECONCILE_PRIO, now)
    removed = _remove(tx, known, plan, desired, now)
    off = {ids[ref]: _why_off(d) for ref, d in desired.integrations.items() if ref in ids and not reads(d.manifest)}
    why = dict.fromkeys(removed, Reason.PRUNED) | off
    stopped = [run_id for i, reason in why.items() for run_id in _stop_runs(tx, i, reason)]
    outcome = "blocked" if plan.blocks else "applied"
    _report(tx, plan, outcome, now)
    if not plan.blocks:
        integrations.set_applied_revision(tx, desired.revision)
    return Intaken(plan, tuple(ids.values()), removed, tuple(stopped), tuple(stating.turned))


def _why_off(desired: DesiredIntegration) -> Reason:
    spec = desired.manifest.spec
    return Reason.DISABLED if not spec.enabled else Reason.SUSPENDED if spec.suspend else Reason.CANCELLED


def _stop_runs(tx: Tx, integration_id: int, reason: Reason) -> list[int]:
    """Now, because the reconcile that lets go, disables or suspends waits for the lane that a run holds."""
    is_all = reason in {Reason.PRUNED, Reason.DISABLED}
    ids = [run.id for run in (runs.open_runs if is_all else runs.open_syncs)(tx, integration_id)]
    for run_id in ids:
        runs.cancel(tx, run_id, reason)
    return ids


def _effective(resolution: Resolution, ref: Ref) -> str:
    found = resolution.resolved.get(ref)
    return found.effective_hash if found else ""


def _is_changed(row: IntegrationRow | None, source_hash: str, effective_hash: str) -> bool:
    """What cannot be decrypted is not known to have changed, unless Git says so."""
    if row is None or not row.is_desired or row.removed_at is not None:
        return True
    return row.desired_hash != source_hash or (bool(effective_hash) and row.desired_effective != effective_hash)


def _is_moved(row: IntegrationRow, desired: DesiredIntegration, author: Author) -> bool:
    """The same wish in another place, with other labels, or by an author now known: noted, nothing to reconcile."""
    if (row.file, row.line) != (desired.origin.file, desired.origin.line):
        return True
    return row.labels != desired.manifest.metadata.labels or (not row.created_by and bool(author(desired).created_by))


def _due(tx: Tx, integration_id: int, prio: int, now: datetime) -> None:
    key = str(integration_id)
    jobs.put(tx, kind="reconcile", ref=key, key=key, prio=prio, due_at=now)


def _remove(
    tx: Tx, known: Mapping[Ref, IntegrationRow], plan: Plan, desired: DesiredState, now: datetime
) -> tuple[int, ...]:
    gone = [
        row
        for ref, row in known.items()
        if row.is_desired and row.removed_at is None and ref not in desired.integrations and ref not in desired.held
    ]
    blocked = {ref: block for block in plan.blocks for ref in block.refs}
    for row in gone:
        if row.ref in blocked:
            block = blocked[row.ref]
            message = f"{block.message}; {block.remedy}"
            conditions.say(
                tx,
                row.id,
                row.generation,
                [Say(ConditionType.VALID, Truth.FALSE, Reason.PRUNE_BLOCKED, message)],
                rfc3339(now),
            )
    # an incomplete checkout removes nothing, also what was never applied and is in no plan
    free = [row for row in gone if row.ref not in blocked and desired.is_complete]
    integrations.unwant(tx, [row.id for row in free], desired.revision, rfc3339(now))
    for row in free:
        _due(tx, row.id, DISCONNECT_PRIO, now)
    return tuple(row.id for row in free)


def _report(tx: Tx, plan: Plan, outcome: str, now: datetime) -> None:
    journal.replace_findings(tx, plan.findings)
    if plan.actions or plan.blocks:
        counts = {str(action): count for action, count in plan.counts.items()}
        journal.record_revision(tx, plan.head_revision, outcome, plan.digest, counts, rfc3339(now))


def _with_all_findings(resolution: Resolution) -> DesiredState:
    """Those of secrets too; what holds a manifest may be both."""
    secrets = [finding for unread in resolution.unread.values() for finding in unread.findings]
    if not secrets:
        return resolution.state
    return replace(resolution.state, findings=tuple(dict.fromkeys([*resolution.state.findings, *secrets])))
