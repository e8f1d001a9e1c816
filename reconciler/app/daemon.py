"""The daemon: every room wired together, its loops, its start and its orderly end. `reconciler run` and `apply` use it.

Start: lock the state directory, open the store, give unfinished work its rows back, start the job engine, then the
loops. Stop (SIGTERM): no new work, running work gets a bounded time, the rest is due again for the next start.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from random import SystemRandom
from typing import Any

import structlog

from reconciler.app.attended import Attended
from reconciler.app.book import SourceBook
from reconciler.app.connections import ConnectionPool, Workshop
from reconciler.app.keeping import StoreBlocks, StoreJournal
from reconciler.app.observed import Kind, ObservedJobs
from reconciler.app.parts import host_guard, network_settings, source_settings, tenant_policy
from reconciler.app.recover import recover
from reconciler.app.tasks import Loops
from reconciler.app.vault import Vault, load_key
from reconciler.app.window import Window
from reconciler.control.intake import Intake, Intaken
from reconciler.control.jump import JumpWatch
from reconciler.control.lateness import DeliveryLateness
from reconciler.control.orders import Carried, Orders
from reconciler.control.probe import Prober
from reconciler.control.reconcile import Pace, Reconciler
from reconciler.control.schedule import Scheduler
from reconciler.desired.polling import poll
from reconciler.desired.resolve import Resolver
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import keyring_from_env
from reconciler.desired.source import Source, SourceState, open_source
from reconciler.desired.validate import Inputs
from reconciler.events.deliver import Deliverer
from reconciler.events.route import Router
from reconciler.events.subscriptions import Subscription, compile_subscriptions
from reconciler.model.clock import Clock, SystemClock, rfc3339
from reconciler.model.job import Claim, Job, Outcome
from reconciler.plan.render import summary
from reconciler.sdk import registry
from reconciler.sdk.budget import Budgets
from reconciler.sdk.network import TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.serve.metrics import Metrics
from reconciler.settings import Settings
from reconciler.settings import Source as SourceOptions
from reconciler.store import integrations, journal, runs
from reconciler.store.database import Database
from reconciler.store.job_store import StoredJobs
from reconciler.store.journal import SourceRow
from reconciler.store.migrations import migrate
from reconciler.store.state_directory import StateDirectory
from reconciler.sync.run import Syncer
from reconciler.work.engine import Work
from reconciler.work.settings import WorkSettings

SECONDS_SCHEDULE = 1.0
SECONDS_FRESHNESS = 15.0
SECONDS_ORDERS = 0.25
SECONDS_ROUTE = 2.0
SECONDS_RETENTION = 3600.0
NOT_YET_KNOWN = timedelta(seconds=0.5)
RETENTION_DAYS = 90


class Subscribers:
    """Implements `Subscriptions`: compiled from the book, again after each change of desired state."""

    def __init__(self) -> None:
        self._every: tuple[Subscription, ...] | None = None

    def every(self) -> Sequence[Subscription] | None:
        return self._every

    async def compile(self, database: Database, book: SourceBook) -> None:
        """Also of what is still connected though its manifest is broken, or missing and its prune blocked."""
        made: list[Subscription] = []
        for row in await database.read(integrations.every):
            desired = book.get(row.ref) if row.is_desired else None
            if desired is not None and desired.manifest.spec.synchronizations:
                made += compile_subscriptions(row.id, desired.manifest, registry.load(desired.manifest.spec.type))
        self._every = tuple(made)


class Daemon:
    """One process of `reconciler run`. `start`, then `stop`; or `once` for a single pass."""

    def __init__(
        self, settings: Settings, env: Mapping[str, str], *, is_observing: bool = False, clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self._env = env
        self._is_observing = is_observing
        self.clock = clock or SystemClock()
        self.random = SystemRandom()
        self.redactor = Redactor()
        self._logger = structlog.get_logger("daemon")
        self._routing, self._boarding = asyncio.Event(), asyncio.Event()
        self._triggers: dict[str, asyncio.Event] = {s.name: asyncio.Event() for s in settings.sources}
        self.state = StateDirectory(settings.state_dir)
        self.loops = Loops(self.clock)
        self.plan_summary = ""
        self.intaken: Intaken | None = None
        self.planned: dict[str, str] = {}
        self.taken = asyncio.Event()

    async def start(self) -> None:
        """Everything up and running; raises SettingsError, StoreError or OSError with a message for a person."""
        self.state.acquire()
        self.database = Database.open_sqlite(self.state.database, self.clock)
        await migrate(self.database)
        self._wire()
        if not self._is_observing:
            await self.database.write(lambda tx: recover(tx, self.clock.now()))
            await self.work.launch()
        self._start_loops()
        await self.window.start()
        gc.collect()
        self._logger.info("started", state=str(self.state.path), listening=self.window.address or "nowhere")
        gc.freeze()  # what a daemon starts with lives as long as it does: collections need not walk it again

    def _wire(self) -> None:
        settings, database, clock, random = self.settings, self.database, self.clock, self.random
        vault = Vault(load_key(settings, self._env, self.state.keys))
        self.journal = StoreJournal(database, clock, self.redactor)
        self.budgets = Budgets(clock, shared=StoreBlocks(database))
        self.metrics = Metrics(self.budgets.states)
        self.sources: dict[str, Source] = {s.name: self._source(s) for s in settings.sources}
        keyring = keyring_from_env(self._key_env())
        policy = tenant_policy(settings)
        inputs = {name: Inputs(source=name, registry=registry, policy=policy) for name in self.sources}
        resolver = Resolver(
            keyring=keyring,
            env=self._env,
            policy=policy,
            hash_key=vault.fingerprint_key,
            registry=registry,
            cache=DecryptionCache(),
        )
        self.book = SourceBook(inputs, resolver, self.redactor)
        self.connections = ConnectionPool(
            Workshop(
                database=database,
                book=self.book,
                vault=vault,
                redactor=self.redactor,
                journal=self.journal,
                clock=clock,
                random=random,
                budgets=self.budgets,
                guard=host_guard(settings),
                contexts=TlsContexts(),
                network=network_settings(settings),
                policy=policy,
                public_url=settings.public_url,
                observe=self.metrics.observe_http,
            )
        )
        self._wire_rooms()
        self.window = Window(self, self.metrics)

    def _wire_rooms(self) -> None:
        database, clock, random = self.database, self.clock, self.random
        self.subscribers = Subscribers()
        self.intake = Intake(database, self.book, clock, is_observing=self._is_observing)
        self.router = Router(database, self.subscribers, clock, self._wake)
        self.scheduler = Scheduler(database, self.book, clock, random, self._wake)
        self.prober = Prober(database, self.connections, clock, random, self.settings.probe_interval)
        self.orders = Orders(database, clock)
        self.lateness = DeliveryLateness(database, self.book, clock)
        self.jumps = JumpWatch(database, clock)
        pace = Pace(self.settings.probe_interval)
        reconciler = Reconciler(database, self.book, self.connections, self.journal, clock, random, self._halt, pace)
        syncer = Syncer(database, self.connections, self.journal, clock, random, self._routing.set)
        deliverer = Deliverer(database, self.connections, self.journal, clock, random)
        observed = ObservedJobs(database, self.metrics, clock, self._after_job)
        kinds = {
            "reconcile": self._once_known(observed.wrap(reconciler.run)),
            "sync": self._once_known(observed.wrap(syncer.run)),
            "deliver": self._once_known(observed.wrap(deliverer.run)),
        }
        work = WorkSettings(engine_url=f"sqlite:///{self.state.jobs}")
        self.work = Work(StoredJobs(database), kinds, work, clock, self._report)

    def _once_known(self, kind: Kind) -> Kind:
        """Work that an earlier process left is due before Git was read: it waits, else it would fail for want of a spec."""

        async def job(job: Job, claim: Claim) -> Outcome:
            if self.book.state is None:
                return Outcome(self.clock.now() + NOT_YET_KNOWN)
            return await kind(job, claim)

        return job

    def _wake(self, _: int = 0) -> None:
        self.work.wake()

    def _key_env(self) -> Mapping[str, str]:
        path = self.settings.age_key_file
        return {**self._env, "SOPS_AGE_KEY_FILE": str(path)} if path else self._env

    def _source(self, source: SourceOptions) -> Source:
        opened = open_source(source_settings(source, self._env), self.state.path / "git", self.clock)
        return Attended(opened, self._note_source, self.metrics, self.clock)

    def _start_loops(self) -> None:
        loops = self.loops
        for name, source in self.sources.items():
            loops.forever(f"source {name}", partial(self._follow, name, source))
        loops.every("orders", SECONDS_ORDERS, self._orders)
        loops.forever("journal", self.journal.keep_flushing)
        loops.every("retention", SECONDS_RETENTION, self._retain)
        loops.forever("loop lag", self.metrics.watch_loop)
        loops.every("board", SECONDS_SCHEDULE, self.window.refresh)
        if self._is_observing:
            return
        loops.every("schedule", SECONDS_SCHEDULE, self.scheduler.tick)
        loops.every("freshness", SECONDS_FRESHNESS, self.scheduler.state_freshness)
        loops.every("lateness", SECONDS_FRESHNESS, self.lateness.tick)
        loops.every("probe", SECONDS_SCHEDULE, self.prober.tick)
        loops.every("clock", SECONDS_SCHEDULE, self._watch_clock)
        loops.when("route", self._routing, SECONDS_ROUTE, self.router.route)

    async def _follow(self, name: str, source: Source) -> None:
        async for found in poll(source, self.clock, self.random, self._triggers[name]):
            if isinstance(found, SourceState):
                await self._note_source(source)
                self._tell(found)
            else:
                await self._take(name, source, found)

    async def _note_source(self, source: Source) -> None:
        state, error = source.state, source.state.error
        row = SourceRow(
            name=state.name,
            url=self.redactor.text(source.settings.remote),
            revision=state.revision,
            attempted_revision=state.attempted_revision,
            fetched_at=rfc3339(state.fetched_at) if state.fetched_at else None,
            error_reason=error.reason if error else "",
            error_message=error.message if error else "",
            error_since=rfc3339(error.since) if error else None,
        )
        await self.database.write(lambda tx: journal.put_source(tx, row, rfc3339(self.clock.now())))

    def _tell(self, state: SourceState) -> None:
        error = state.error
        if error:
            self._logger.warning("source not readable", source=state.name, reason=error.reason, error=error.message)

    async def _take(self, name: str, source: Source, snapshot: Snapshot) -> None:
        desired = await self.book.take(name, snapshot)
        if desired is not None:
            await self.replan()
        self.planned[name] = snapshot.revision
        await self._note_source(source)

    async def replan(self) -> Intaken | None:
        """Compare what is in force with what is applied, and make the difference due."""
        desired = self.book.state
        if desired is None:
            return None
        if not self.taken.is_set():
            await self._recall()
        taken = await self.intake.take(desired)
        await self._end_runs(taken.stopped)
        await self.subscribers.compile(self.database, self.book)
        self.plan_summary, self.intaken = summary(taken.plan), taken
        log = self._logger.warning if taken.plan.blocks or desired.findings else self._logger.info
        log(self.plan_summary, revision=desired.revision[:12], findings=len(desired.findings))
        for block in taken.plan.blocks:
            self._logger.warning("blocked", why=block.message, remedy=block.remedy)
        self.taken.set()
        if not self._is_observing:
            self.work.wake()
            self._routing.set()
        return taken

    async def _watch_clock(self) -> None:
        back = await self.jumps.tick()
        if back is not None:
            self._logger.warning("the clock was set back; due times come forward", seconds=round(back.total_seconds()))
            self.work.wake()

    async def _recall(self) -> None:
        """What an earlier process connected and Git no longer names is let go with the spec it was connected with."""
        for row in await self.database.read(integrations.every):
            if row.is_connected and self.book.get(row.ref) is None:
                await self.book.recall(row.ref, row.applied_revision)

    async def _orders(self) -> None:
        for carried in await self.orders.tick():
            await self._obey(carried)

    async def _obey(self, carried: Carried) -> None:
        await self._end_runs([int(asked.ref) for asked in carried.stop])
        if carried.is_replan:
            for trigger in self._triggers.values():
                trigger.set()
            await self.replan()
        for asked in carried.start:
            if not self._is_observing:
                await self.work.ask(asked.kind, asked.ref)

    async def _end_runs(self, run_ids: Sequence[int]) -> None:
        """Cancelled runs: their tasks stop now, and their rows close."""
        if run_ids and not self._is_observing:
            await self._halt(run_ids)
            at = rfc3339(self.clock.now())
            await self.database.write(lambda tx: runs.close_cancelled(tx, run_ids, at))

    async def _halt(self, run_ids: Sequence[int]) -> None:
        for run_id in run_ids:
            await self.work.cancel("sync", str(run_id))

    async def _retain(self) -> None:
        before = rfc3339(self.clock.now() - timedelta(days=RETENTION_DAYS))
        while await self.database.write(lambda tx: journal.drop_old(tx, before, before, before)):
            await self.clock.sleep(0.05)

    async def _after_job(self, job: Job) -> None:
        if job.kind == "reconcile":
            row = await self.database.read(lambda tx: integrations.get(tx, int(job.ref)))
            if row is not None and row.removed_at is not None:
                self.book.forget(row.ref)
        self._routing.set()
        self.work.wake()

    def _report(self, message: str, error: BaseException, job: Job | None) -> None:
        self._logger.error(message, job=job.workflow_id if job else None, exc_info=error)

    async def stop(self) -> None:
        """Bounded by `stop_timeout` plus what closing files takes."""
        await self.loops.stop()
        await self.window.stop()
        if not self._is_observing:
            await self.work.stop(self.settings.stop_timeout)
        await self.connections.close()
        await self.journal.flush()
        self.book.close()
        self.database.close()
        self.state.release()
        self._logger.info("stopped")


async def run_until_signal(daemon: Daemon, started: Callable[[Daemon], Any] = lambda _: None) -> None:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(130) if stop.is_set() else stop.set())
    await daemon.start()
    started(daemon)
    try:
        await stop.wait()
    finally:
        await daemon.stop()
