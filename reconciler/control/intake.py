"""A new desired state -> plan -> rows and due jobs. Nothing remote is touched here.

What changed raises its generation and becomes a due reconcile; what Git no longer names is let go unless the guard blocks
it; what is broken keeps its last good spec and says so. The plan is the same pure function that `reconciler plan` runs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from reconciler.control.book import Resolution, Resolver, reason_of
from reconciler.control.schedule import reads
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.finding import Finding, Severity
from reconciler.model.ids import Ref
from reconciler.model.plan import Plan
from reconciler.model.state import DesiredIntegration, DesiredState
from reconciler.plan.compare import compare
from reconciler.store import integrations, jobs, journal, runs
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import DesiredChange, IntegrationRow, Say

Author = Callable[[DesiredIntegration], DesiredIntegration]
RECONCILE_PRIO = 10
DISCONNECT_PRIO = 1


@dataclass(frozen=True, slots=True)
class Intaken:
    """The plan of a revision, which integrations now have work due, and the runs that must not go on."""

    plan: Plan
    changed: tuple[int, ...]
    removed: tuple[int, ...]
    stopped: tuple[int, ...] = ()


class Intake:
    """Takes desired states over. With `is_observing` it plans and reports, but leaves rows and remotes as they are."""

    def __init__(self, database: Database, resolver: Resolver, clock: Clock, *, is_observing: bool = False) -> None:
        self._database = database
        self._resolver = resolver
        self._clock = clock
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
        plan = compare(desired, observed, resolved=resolution.resolved, approved=approved)
        now = self._clock.now()
        if self._is_observing:
            await self._database.write(lambda tx: _report(tx, plan, desired, resolution, "observed", now))
            return Intaken(plan, (), ())
        return await self._database.write(lambda tx: _take(tx, plan, desired, resolution, self._resolver.authored, now))


def _take(tx: Tx, plan: Plan, desired: DesiredState, resolution: Resolution, author: Author, now: datetime) -> Intaken:
    at = rfc3339(now)
    known = {row.ref: row for row in integrations.every(tx, with_removed=True)}
    changes = [
        DesiredChange(author(d), _effective(resolution, ref))
        for ref, d in desired.integrations.items()
        if _is_changed(known.get(ref), d.source_hash, _effective(resolution, ref))
    ]
    ids = integrations.want(tx, changes, at)
    for ref, integration_id in ids.items():
        _state_valid(tx, integration_id, desired, resolution, ref, at)
        _due(tx, integration_id, RECONCILE_PRIO, now)
    moved = [
        DesiredChange(author(d), known[ref].desired_effective)
        for ref, d in desired.integrations.items()
        if ref not in ids and _is_moved(known[ref], d, author)
    ]
    integrations.want(tx, moved, at)
    _state_broken(tx, known, desired, resolution, ids, at)
    removed = _remove(tx, known, plan, desired, now)
    off = [ids[ref] for ref in ids if not reads(desired.integrations[ref].manifest)]
    stopped = [run_id for i in (*removed, *off) for run_id in _stop_runs(tx, i, at)]
    outcome = "blocked" if plan.blocks else "applied"
    _report(tx, plan, desired, resolution, outcome, now)
    if not plan.blocks:
        integrations.set_applied_revision(tx, desired.revision)
    return Intaken(plan, tuple(ids.values()), removed, tuple(stopped))


def _stop_runs(tx: Tx, integration_id: int, at: str) -> list[int]:
    """Now, because the reconcile that lets go, disables or suspends waits for the lane that a run holds."""
    ids = [run.id for run in runs.open_runs(tx, integration_id)]
    for run_id in ids:
        runs.cancel(tx, run_id, Reason.CANCELLED, at)
    return ids


def _effective(resolution: Resolution, ref: Ref) -> str:
    found = resolution.resolved.get(ref)
    return found.effective_hash if found else ""


def _is_changed(row: IntegrationRow | None, source_hash: str, effective_hash: str) -> bool:
    if row is None or not row.is_desired or row.removed_at is not None:
        return True
    return row.desired_hash != source_hash or row.desired_effective != effective_hash


def _is_moved(row: IntegrationRow, desired: DesiredIntegration, author: Author) -> bool:
    """The same wish in another place, with other labels, or by an author now known: noted, nothing to reconcile."""
    if (row.file, row.line) != (desired.origin.file, desired.origin.line):
        return True
    return row.labels != desired.manifest.metadata.labels or (not row.created_by and bool(author(desired).created_by))


def _due(tx: Tx, integration_id: int, prio: int, now: datetime) -> None:
    key = str(integration_id)
    jobs.put(tx, kind="reconcile", ref=key, key=key, prio=prio, due_at=now)


def _state_valid(tx: Tx, integration_id: int, desired: DesiredState, resolution: Resolution, ref: Ref, at: str) -> None:
    row = integrations.get(tx, integration_id)
    if row is None:
        return
    failed = resolution.failed.get(ref)
    statements = [_valid(desired, ref, row)]
    if failed:
        statements.append(_undecrypted(failed))
    elif ref not in desired.held:
        statements.append(
            Say(ConditionType.SECRETS_DECRYPTED, Truth.TRUE, Reason.SUCCEEDED, "all secrets are readable")
        )
        statements.append(Say(ConditionType.STALLED, None))
        statements.append(
            Say(ConditionType.RECONCILING, Truth.TRUE, Reason.PROGRESSING, f"applying {row.revision[:12]}")
        )
    integrations.say(tx, integration_id, row.generation, statements, at)


def _valid(desired: DesiredState, ref: Ref, row: IntegrationRow) -> Say:
    if ref not in desired.held:
        return Say(ConditionType.VALID, Truth.TRUE, Reason.SUCCEEDED, "the manifest is valid")
    file = desired.integrations[ref].origin.file if ref in desired.integrations else row.file
    wrong = [f for f in desired.findings if f.file == file and f.severity is Severity.ERROR]
    message = str(wrong[0]) if wrong else "the manifest is not valid; the last good one stays in force"
    return Say(ConditionType.VALID, Truth.FALSE, Reason.VALIDATION_FAILED, message)


def _undecrypted(failed: Sequence[Finding]) -> Say:
    return Say(ConditionType.SECRETS_DECRYPTED, Truth.FALSE, reason_of(failed), str(failed[0]))


def _state_broken(
    tx: Tx,
    known: Mapping[Ref, IntegrationRow],
    desired: DesiredState,
    resolution: Resolution,
    done: Mapping[Ref, int],
    at: str,
) -> None:
    """Conditions of what did not change in itself: broken or mended files, keys that came or went."""
    unwell = integrations.unwell(tx)
    for ref, row in known.items():
        is_told = row.id in unwell or ref in desired.held or ref in resolution.failed
        if ref in done or not row.is_desired or not is_told:
            continue
        statements = []
        if ref in desired.held or ref in desired.integrations:
            statements.append(_valid(desired, ref, row))
        if ref in resolution.failed:
            statements.append(_undecrypted(resolution.failed[ref]))
        integrations.say(tx, row.id, row.generation, statements, at)


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
            integrations.say(
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


def _report(tx: Tx, plan: Plan, desired: DesiredState, resolution: Resolution, outcome: str, now: datetime) -> None:
    findings = [*desired.findings, *(f for failed in resolution.failed.values() for f in failed)]
    journal.replace_findings(tx, findings)
    if plan.actions or plan.blocks:
        counts = {str(action): count for action, count in plan.counts.items()}
        journal.record_revision(tx, desired.revision, outcome, plan.digest, counts, rfc3339(now))
