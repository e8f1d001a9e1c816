"""What a process that runs jobs is made of: the kinds, what is told of them, and the job engine that calls them.

In: the parts that all roles share. Out: `work`, which the daemon launches and stops. Where several processes share a
database, a job waits until this process knows the spec that is in force: whoever leads read Git for itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from reconciler.app.complaints import Complaints
from reconciler.app.following import Following
from reconciler.app.ground import Ground
from reconciler.app.observed import Kind, ObservedJobs
from reconciler.control.authorize import Exchanger
from reconciler.control.consent import Consent
from reconciler.control.reconcile import Pace, Reconciler
from reconciler.events.deliver import Deliverer
from reconciler.model.condition import ConditionType, Truth
from reconciler.model.job import Claim, Job, Outcome
from reconciler.store import conditions, integrations
from reconciler.store.database import Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.job_store import StoredJobs
from reconciler.sync.run import Syncer
from reconciler.work.engine import Work
from reconciler.work.ports import Kinds
from reconciler.work.settings import WorkSettings

NOT_YET_KNOWN = (0.52, 0.7)  # seconds: a bit more than `idle_poll`, so that others look first, who may know it


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What jobs need. `is_shared`: other processes work on the same database."""

    ground: Ground
    following: Following
    changed: Callable[[], None]
    is_shared: bool


def make_work(bench: Bench, settings: WorkSettings) -> Work:
    """The job engine of this process; `settings` name its own database."""
    ground = bench.ground
    complaints = Complaints(ground.clock, structlog.get_logger("daemon"))
    return Work(StoredJobs(ground.database), _kinds(bench), settings, ground.clock, complaints)


def _kinds(bench: Bench) -> Kinds:
    ground = bench.ground
    database, connections, journal = ground.database, ground.connections, ground.journal
    clock, random = ground.clock, ground.random
    pace = Pace(ground.probe_interval, warn_before=ground.credential_warning)
    consent = Consent(database, ground.redirect_uri)
    reconciler = Reconciler(
        database, ground.book, connections, journal, clock, random, ground.halt, pace, consent=consent
    )
    exchanger = Exchanger(database, connections, journal, clock, ground.unseal)
    syncer = Syncer(database, connections, journal, clock, random, bench.changed)
    observed, in_force = ObservedJobs(database, ground.metrics, clock, bench.changed), InForce(bench)
    deliverer = Deliverer(database, connections, journal, clock, random, attempted=observed.attempted)
    coroutines = {
        "reconcile": reconciler.run,
        "sync": syncer.run,
        "deliver": deliverer.run,
        "authorize": exchanger.run,
    }
    return {name: in_force.wrap(observed.wrap(run)) for name, run in coroutines.items()}


class InForce:
    """Jobs wait until their integration's spec here is the one in force, else they would fail, or undo what is newer."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._ground = bench.ground
        self._seen: dict[int, tuple[str, float]] = {}  # a wish that is not known here, and since when
        self._told: dict[int, str] = {}
        self._logger = structlog.get_logger("daemon")

    def wrap(self, kind: Kind) -> Kind:
        async def job(job: Job, claim: Claim) -> Outcome:
            if await self._is_known(int(job.key)):
                return await kind(job, claim)
            return Outcome(self._ground.clock.now() + timedelta(seconds=self._ground.random.uniform(*NOT_YET_KNOWN)))

        return job

    async def _is_known(self, integration_id: int) -> bool:
        if self._ground.book.state is None:
            return False
        if not self._bench.is_shared:
            return True
        row, is_readable = await self._ground.database.read(lambda tx: _in_force(tx, integration_id))
        if row is None or not row.is_desired:
            self._seen.pop(integration_id, None)
            return True
        is_same = self._is_same(row)
        if not is_same and not self._is_newer(row):
            return False
        can = self._can_read(row) or (is_same and not is_readable)
        if not can:
            self._tell(row)
        return can

    def _is_same(self, row: IntegrationRow) -> bool:
        known = self._ground.book.get(row.ref)
        is_same = known is not None and known.source_hash == row.desired_hash
        if is_same:
            self._seen.pop(row.id, None)
        return is_same

    def _is_newer(self, row: IntegrationRow) -> bool:
        """Asked again after the difference was seen, Git gave us nothing older than the leader has.

        What the leader then takes in is another generation, and reconciled again. Git is asked once for each wish: where it
        does not answer, how often to try is its source's business.
        """
        following, now = self._bench.following, self._ground.clock.monotonic()
        wish, seen_at = self._seen.get(row.id, ("", now))
        if wish != row.desired_hash:
            self._seen[row.id] = row.desired_hash, now
            following.look()
            return False
        return following.is_fresh_since(seen_at)

    def _can_read(self, row: IntegrationRow) -> bool:
        """Else the spec here is an old one, or none: who can read it does the work, and states what it came to."""
        book = self._ground.book
        return row.ref not in book.unread and book.get(row.ref) is not None

    def _tell(self, row: IntegrationRow) -> None:
        """Once for each wish."""
        if self._told.get(row.id) != row.desired_hash:
            self._told[row.id] = row.desired_hash
            unread = self._ground.book.unread.get(row.ref)
            why = str(unread.findings[0]) if unread else "the sources of this process do not name it"
            self._logger.warning(
                "left to other processes: what is in force is not known here", integration=str(row.ref), why=why
            )


def _in_force(tx: Tx, integration_id: int) -> tuple[IntegrationRow | None, bool]:
    """With whether its secrets can be read by anybody, as far as the leader knows."""
    said = conditions.conditions(tx, integration_id).get(ConditionType.SECRETS_DECRYPTED)
    return integrations.get(tx, integration_id), said is None or said.truth is not Truth.FALSE
