"""Reconcile one integration: the coroutine behind job kind `reconcile`, the heart of the loop.

Level-triggered: it looks at what Git wants now and what is recorded, and takes the integration there, whatever happened
in between. Each outcome ends in conditions, an event where the state turned, and the time of the next try. Ways out are
in `leaving`, what a failure means in `failing`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random

from reconciler.control.book import Book, secrets_said
from reconciler.control.consent import WARNING, Consent, expiring, probed, turned
from reconciler.control.failing import Failures
from reconciler.control.leaving import BY_GIT, Leaver
from reconciler.control.objects import ObjectChanges, Objects
from reconciler.control.probe import probe_record
from reconciler.control.schedule import SYNC_PRIO, make_run, next_due, plan_listing, reads
from reconciler.control.stopping import Halt
from reconciler.control.visit import Dependents, Visit, tell_good
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import Lifecycle
from reconciler.model.ids import Ref
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.record import LogLevel, Scope
from reconciler.model.state import DesiredIntegration
from reconciler.sdk.announced import synchronizations
from reconciler.sdk.contract import Deletes, Entity, Probe, Subscribes
from reconciler.sdk.errors import ConnectorError, TransientError
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError
from reconciler.store import conditions, dataset, deliveries, integrations, jobs, journal, listings, probes, runs
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError
from reconciler.store.integrations import Applied, IntegrationRow
from reconciler.store.runs import NewRun

UNKNOWN_PAUSE = timedelta(seconds=1)
DEPENDENCY_PAUSE = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a connected integration is looked at, and how long one look may take."""

    probe_every: timedelta = timedelta(minutes=5)
    deadline: timedelta = timedelta(minutes=3)
    warn_before: timedelta = WARNING
    """How long before a credential ends a person is told of it."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the remote said, and what was done there."""

    live: Live
    probe: Probe
    latency: float
    changes: ObjectChanges


class Reconciler:
    """`run` is the job; everything it needs is handed in."""

    def __init__(
        self,
        database: Database,
        book: Book,
        connections: Connections,
        journal: Journal,
        clock: Clock,
        random: Random,
        halt: Halt,
        pace: Pace | None = None,
        *,
        consent: Consent | None = None,
    ) -> None:
        self._database = database
        self._book = book
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._random = random
        self._pace = pace or Pace()
        self._consent = consent or Consent(database, "")
        self._dependents = Dependents()
        self._failures = Failures(database, journal, clock, random)
        self._leaver = Leaver(database, connections, journal, clock, halt)

    async def run(self, job: Job, claim: Claim) -> Outcome:
        """Take integration `job.ref` to what Git wants; asks to be called again after what may pass by itself."""
        integration_id = int(job.ref)
        row = await self._database.read(lambda tx: integrations.get(tx, integration_id))
        if row is None or self._book.state is None:
            return Outcome(self._clock.now() + UNKNOWN_PAUSE) if row else Outcome()
        try:
            return await self._guarded(Visit(row, claim))
        finally:
            await self._journal.flush()

    async def _guarded(self, visit: Visit) -> Outcome:
        """Every way to fail ends in a condition; only a store that does not answer is left to the job engine."""
        try:
            return await self._reconcile(visit)
        except NotConnectableError as error:
            return await self._failures.stop(visit, error.reason, error.message)
        except TransientError as error:
            secrets = self._secrets(visit.row.ref)
            return await self._failures.retry(visit, error.why, error.message, secrets, retry_after=error.retry_after)
        except ConnectorError as error:
            return await self._failures.stop(visit, error.why, error.message, self._secrets(visit.row.ref))
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - a fault in one connector must not go unsaid
            return await self._failures.internal(visit, error)

    async def _reconcile(self, visit: Visit) -> Outcome:
        row = visit.row
        desired = self._book.get(row.ref)
        if not row.is_desired:
            return await self._leaver.let_go(visit, desired)
        if desired is None:
            return Outcome()
        spec = desired.manifest.spec
        if spec.suspend or (row.is_suspended and not self._is_over(row)):
            return await self._leaver.suspend(visit, desired)
        if row.is_suspended:
            await self._database.write(lambda tx: integrations.suspend(tx, row.id, "", "", None))
        if not spec.enabled:
            return await self._leaver.disable(visit, desired)
        waiting = await self._waiting_for(row.ref, desired)
        if waiting:
            return await self._wait(visit, waiting)
        return await self._connected(visit, desired, await self._look(row))

    def _secrets(self, ref: Ref) -> Say:
        """Of what Git wants: to be connected with a last good spec does not make it readable."""
        return secrets_said(self._book.unread.get(ref))

    def _is_over(self, row: IntegrationRow) -> bool:
        """Git's suspension ends with its field, a person's with its time."""
        until = row.suspended_until
        return row.suspended_by == BY_GIT or (until is not None and from_rfc3339(until) <= self._clock.now())

    async def _look(self, row: IntegrationRow) -> _Seen:
        """Probe the remote and bring our objects there to what is wanted."""
        limit = self._pace.deadline.total_seconds()
        try:
            async with asyncio.timeout(limit):
                live = await self._connections.live(row.id)
                await self._consent.offer(live, row.generation)
                started = self._clock.monotonic()
                probe = await probed(live)
                latency = self._clock.monotonic() - started
                return _Seen(live, probe, latency, await self._objects(live))
        except TimeoutError:
            raise TransientError(f"not connected within {limit:.0f} s", reason=Reason.TIMED_OUT) from None

    async def _objects(self, live: Live) -> ObjectChanges:
        if not isinstance(live.connector, Subscribes):
            return ObjectChanges()
        changes = await Objects(self._database, self._clock, live, live.connector).correct()
        if changes:
            self._journal(
                live.integration_id,
                LogLevel.INFO,
                "remote objects",
                created=changes.created,
                adopted=changes.adopted,
                repaired=changes.repaired,
                removed=changes.removed,
            )
        return changes

    async def _connected(self, visit: Visit, desired: DesiredIntegration, seen: _Seen) -> Outcome:
        now, row = self._clock.now(), visit.row
        at = rfc3339(now)
        waiting = self._dependents.of(self._book.state, row.ref)
        changed = _other_identity(row, seen.probe)

        def record(tx: Tx) -> bool:
            if not visit.is_current(tx) or not integrations.record_applied(
                tx, row.id, _applied(row, desired, seen), at
            ):
                return False
            next_probe = rfc3339(now + self._pace.probe_every * self._random.uniform(0.9, 1.1))
            probes.record_probe(tx, row.id, probe_record(seen.probe, seen.latency), at, next_probe)
            integrations.record_drift(tx, row.id, seen.changes.drifted)
            ending = expiring(seen.probe.credential_expires_at, now, self._pace.warn_before)
            before = conditions.conditions(tx, row.id).get(ConditionType.CREDENTIAL_EXPIRING)
            said = [self._secrets(row.ref), *_good(seen, changed), ending, *_outdated(tx, visit, seen.live)]
            conditions.say(tx, row.id, row.generation, said, at)
            tell_good(tx, visit, at, {"identity": seen.probe.identity, **changed})
            if ending.truth is not None and turned(ending, before):
                journal.emit(tx, row.id, Lifecycle.EXPIRING, at, {"message": ending.message})
            if seen.changes.drifted and list(row.drifted) != seen.changes.drifted:
                journal.emit(tx, row.id, Lifecycle.DRIFTED, at, {"objects": seen.changes.drifted})
            self._plan_syncs(tx, visit, seen.live, now)
            _wake_dependents(tx, waiting, now)
            _wake_deliveries(tx, row.id, now)
            return True

        if await self._database.write(record):
            latency_ms, level = round(seen.latency * 1000), LogLevel.WARN if changed else LogLevel.INFO
            who = {"identity": seen.probe.identity, **changed}
            self._journal(row.id, level, "connected", **who, latency_ms=latency_ms)
        return Outcome()

    def _plan_syncs(self, tx: Tx, visit: Visit, live: Live, now: datetime) -> None:
        """A new connection syncs at once, and so does a mended or changed one that has something to catch up on."""
        row, sync = visit.row, live.manifest.spec.sync
        entities = _entities(live)
        names = [e.name for e in entities]
        lists_keys = any(e.deletes is Deletes.KEYS for e in entities)
        if not lists_keys:
            listings.set_next(tx, row.id, None)
        if not names:
            integrations.set_next_sync(tx, row.id, None)
            return
        is_turned = not row.is_connected or visit.was_failing or row.observed_generation != row.generation
        is_behind = not row.is_connected or row.last_sync_result in {"failed", "partial"}
        if is_turned and (is_behind or dataset.unread(tx, row.id, names)) and not runs.open_run(tx, row.id):
            make_run(tx, NewRun(row.id, Scope(sync.scope), "initial"), SYNC_PRIO, now)
        if is_turned or row.next_sync_at is None:
            following = next_due(sync, now, self._random)
            integrations.set_next_sync(tx, row.id, rfc3339(following) if following else None)
        if lists_keys and (is_turned or row.next_keys_at is None):
            plan_listing(tx, row, sync, now, self._random)

    async def _waiting_for(self, ref: Ref, desired: DesiredIntegration) -> list[Ref]:
        needs = [Ref(ref.workspace, name) for name in desired.manifest.spec.depends_on]
        return await self._database.read(lambda tx: [need for need in needs if not _is_ready(tx, need)])

    async def _wait(self, visit: Visit, waiting: Sequence[Ref]) -> Outcome:
        """The dependency's own reconcile wakes us; the pause is a safety net. What is connected stays so meanwhile."""
        row, at = visit.row, rfc3339(self._clock.now())
        message = f"waiting for {', '.join(map(str, waiting))}"
        statements = [
            Say(ConditionType.RECONCILING, Truth.TRUE, Reason.DEPENDENCY_NOT_READY, message),
            Say(ConditionType.STALLED, None),
        ]
        if not row.is_connected:
            unknown = Say(ConditionType.CONNECTED, Truth.UNKNOWN, Reason.DEPENDENCY_NOT_READY, message)
            statements.append(unknown)
        await self._database.write(lambda tx: conditions.say(tx, row.id, row.generation, statements, at))
        return Outcome(self._clock.now() + DEPENDENCY_PAUSE)


def _applied(row: IntegrationRow, desired: DesiredIntegration, seen: _Seen) -> Applied:
    return Applied(
        generation=row.generation,
        tree=desired.tree,
        source_hash=seen.live.source_hash,
        effective_hash=seen.live.effective_hash,
        fingerprints=seen.live.fingerprints,
        revision=desired.origin.revision,
        type=seen.live.connector.type,
        deletion_policy=desired.manifest.spec.deletion_policy,
    )


def _other_identity(row: IntegrationRow, probe: Probe) -> dict[str, str]:
    """Another account than before, as after somebody else authorized it: what it may see and who is named may differ."""
    if row.identity in ("", probe.identity):
        return {}
    return {"identity_before": row.identity}


def _good(seen: _Seen, changed: Mapping[str, str]) -> list[Say]:
    probe = seen.probe
    before = f", before as {changed['identity_before']}" if changed else ""
    missing = f"; missing: {', '.join(probe.missing)}" if probe.missing else ""
    drifted = ", ".join(seen.changes.drifted)
    return [
        Say(ConditionType.CONNECTED, Truth.TRUE, Reason.SUCCEEDED, f"connected as {probe.identity}{before}{missing}"),
        Say(ConditionType.RECONCILING, None),
        Say(ConditionType.STALLED, None),
        Say(ConditionType.DRIFTED, Truth.TRUE if drifted else None, Reason.DRIFT_DETECTED, drifted),
    ]


def _outdated(tx: Tx, visit: Visit, live: Live) -> list[Say]:
    """What spoke of a former wish: freshness of what is not read any more, deliveries under the manifest before."""
    statements = [] if _entities(live) else [Say(ConditionType.FRESH, None)]
    row, spec = visit.row, live.manifest.spec
    said = conditions.conditions(tx, row.id).get(ConditionType.DELIVERING)
    was_gone = said is not None and said.reason is Reason.GONE
    is_changed = row.observed_generation != row.generation and (was_gone or not deliveries.failing(tx, row.id)[0])
    is_idle = not synchronizations(type(live.connector), spec) and not was_gone
    if (is_changed or is_idle) and not conditions.gone(tx, row.id):
        statements.append(Say(ConditionType.DELIVERING, None))
    return statements


def _entities(live: Live) -> list[Entity]:
    """What the integration reads; nothing where it does not read at all."""
    offered = live.connector.entities_of(live.connector.config)
    if not reads(live.manifest):
        return []
    names = live.manifest.spec.sync.entities
    return [e for e in offered if (e.by_default if names is None else e.name in names)]


def _is_ready(tx: Tx, ref: Ref) -> bool:
    row = integrations.find(tx, ref)
    return row is not None and row.is_connected and row.is_desired and not row.is_suspended


def _wake_dependents(tx: Tx, waiting: Sequence[Ref], now: datetime) -> None:
    for ref in waiting:
        row = integrations.find(tx, ref)
        if row is not None and (not row.is_connected or row.observed_generation != row.generation):
            jobs.put(tx, kind="reconcile", ref=str(row.id), key=str(row.id), prio=10, due_at=now)


def _wake_deliveries(tx: Tx, integration_id: int, now: datetime) -> None:
    key = str(integration_id)
    for delivery_id in deliveries.pending(tx, integration_id):
        jobs.put(tx, kind="deliver", ref=str(delivery_id), key=key, prio=30, due_at=now)
