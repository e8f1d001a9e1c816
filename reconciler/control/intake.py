"""A new desired state -> plan -> rows and due jobs. Nothing remote is touched here.

What changed raises its generation and becomes a due reconcile; what Git no longer names is let go unless the guard blocks
it; what is broken, or cannot be decrypted, keeps its last good spec and says so. The plan is the same pure function that
`reconciler plan` runs. Only names in question are looked at (`question`), so the cost is that of what changed.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler.control.book import Resolution, Resolver
from reconciler.control.question import Taken, in_question
from reconciler.control.schedule import reads
from reconciler.control.stating import Stating
from reconciler.model.clock import Clock, rfc3339
from reconciler.model.condition import Condition, ConditionType, Reason, Truth
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref, new_id
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

    `turned` are those whose secrets ceased to be readable, or are readable again; `asked` the names that were looked at,
    None for all.
    """

    plan: Plan
    changed: tuple[int, ...]
    removed: tuple[int, ...]
    stopped: tuple[int, ...] = ()
    turned: tuple[tuple[IntegrationRow, Condition], ...] = ()
    asked: Collection[Ref] | None = None


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
        self._last: Taken | None = None

    async def take(self, desired: DesiredState) -> Intaken:
        """Called for every new revision, after restarts, and when a prune was approved.

        One after another: an older state that was slow to decrypt never comes after a newer one.
        """
        async with self._turn:
            return await self._take(desired)

    async def _take(self, desired: DesiredState) -> Intaken:
        resolution = await self._resolver.resolve(desired)
        now = self._clock.now()
        if self._is_observing:
            plan = await self._database.read(lambda tx: _plan(tx, resolution, None))
            await self._database.write(lambda tx: _report(tx, plan, "observed", now, None))
            return Intaken(plan, (), ())
        last, self._last = self._last, None  # unless all of it is written, nobody knows what stands there
        taken, self._last = await self._database.write(lambda tx: self._write(tx, resolution, last, now))
        return taken

    def _write(self, tx: Tx, resolution: Resolution, last: Taken | None, now: datetime) -> tuple[Intaken, Taken]:
        """Not what a process read that no longer leads: it may be older than what is in force."""
        if self._fence is not None:
            self._fence(tx)
        asked = in_question(tx, resolution, last)
        plan = _plan(tx, resolution, asked)
        rows = integrations.every(tx, with_removed=True) if asked is None else integrations.some(tx, asked)
        round_ = _Round(resolution, plan, asked, {row.ref: row for row in rows})
        taken = _take(tx, round_, self._resolver.authored, now)
        stored = last.findings if last and asked is not None else None
        _report(tx, plan, "blocked" if plan.blocks else "applied", now, stored)
        mark = new_id("take")
        integrations.note_taken(tx, mark)
        return taken, Taken(resolution.number, mark, plan.findings)


@dataclass(frozen=True, slots=True)
class _Round:
    """One revision as it is written: what is wanted, the plan, the names in question and their rows."""

    resolution: Resolution
    plan: Plan
    asked: Collection[Ref] | None
    known: Mapping[Ref, IntegrationRow]

    @property
    def wishes(self) -> Mapping[Ref, DesiredIntegration]:
        """Those in question."""
        every = self.resolution.state.integrations
        return every if self.asked is None else {ref: every[ref] for ref in sorted(self.asked) if ref in every}


def _plan(tx: Tx, resolution: Resolution, asked: Collection[Ref] | None) -> Plan:
    state = _with_all_findings(resolution)
    if asked is None:
        observed = integrations.observed_state(tx)
    else:
        observed = integrations.observed_of(
            tx, asked, lambda ref: ref not in state.integrations and ref not in state.held
        )
    return compare(state, observed, resolved=resolution.resolved, approved=journal.approvals(tx), names=asked)


def _take(tx: Tx, one: _Round, author: Author, now: datetime) -> Intaken:
    at, resolution, plan, known, wishes = rfc3339(now), one.resolution, one.plan, one.known, one.wishes
    desired = resolution.state
    changes = [
        DesiredChange(author(d), _effective(resolution, ref))
        for ref, d in wishes.items()
        if _is_changed(known.get(ref), d.source_hash, _effective(resolution, ref))
    ]
    stating = Stating(tx, resolution, at)
    ids = integrations.want(tx, changes, at)
    for integration_id in ids.values():
        stating.changed(integration_id)
        _due(tx, integration_id, RECONCILE_PRIO, now)
    moved = [
        DesiredChange(author(d), known[ref].desired_effective)
        for ref, d in wishes.items()
        if ref not in ids and _is_moved(known[ref], d, author)
    ]
    integrations.want(tx, moved, at)
    for integration_id in stating.unchanged([row for ref, row in known.items() if ref not in ids]):
        _due(tx, integration_id, RECONCILE_PRIO, now)
    removed = _remove(tx, known, plan, desired, now)
    off = {ids[ref]: _why_off(d) for ref, d in wishes.items() if ref in ids and not reads(d.manifest)}
    why = dict.fromkeys(removed, Reason.PRUNED) | off
    stopped = [run_id for i, reason in why.items() for run_id in _stop_runs(tx, i, reason)]
    if not plan.blocks:
        integrations.set_applied_revision(tx, desired.revision)
    return Intaken(plan, tuple(ids.values()), removed, tuple(stopped), tuple(stating.turned), one.asked)


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


def _report(tx: Tx, plan: Plan, outcome: str, now: datetime, stored: Sequence[Finding] | None) -> None:
    """`stored` are the findings that the store has already, None where nobody knows."""
    if plan.findings != stored:
        journal.replace_findings(tx, plan.findings)
    if plan.actions or plan.blocks:
        counts = {str(action): count for action, count in plan.counts.items()}
        journal.record_revision(tx, plan.head_revision, outcome, plan.digest, counts, len(plan.findings), rfc3339(now))


def _with_all_findings(resolution: Resolution) -> DesiredState:
    """Those of secrets too; what holds a manifest may be both."""
    secrets = [finding for unread in resolution.unread.values() for finding in unread.findings]
    if not secrets:
        return resolution.state
    return replace(resolution.state, findings=tuple(dict.fromkeys([*resolution.state.findings, *secrets])))
