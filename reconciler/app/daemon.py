"""The daemon: every room wired together, its loops, its start and its orderly end. `reconciler run` and `apply` use it.

Start: lock the state directory, open the store, give unfinished work its rows back, start the job engine, then the
loops. Stop (SIGTERM): no new work, running work gets a bounded time, the rest is due again for the next start.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from random import SystemRandom
from typing import Any

import structlog

from reconciler.app.announce import announce
from reconciler.app.attended import Attended
from reconciler.app.book import AppliedSpec, SourceBook
from reconciler.app.complaints import Complaints
from reconciler.app.connections import ConnectionPool, Workshop
from reconciler.app.keeping import FLUSH_SECONDS, StoreBlocks, StoreJournal
from reconciler.app.leadership import Leadership
from reconciler.app.observed import Kind, ObservedJobs
from reconciler.app.parts import host_guard, network_settings, source_inputs, source_settings, tenant_policy
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
from reconciler.control.stopping import Stopper
from reconciler.desired.polling import poll
from reconciler.desired.resolve import Resolver
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import Keyring, keys_at_hand
from reconciler.desired.source import Source, SourceState, open_source
from reconciler.events.deliver import Deliverer
from reconciler.events.route import Router
from reconciler.events.subscriptions import Subscription, compile_subscriptions
from reconciler.model.clock import Clock, SystemClock, rfc3339
from reconciler.model.condition import Truth
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.record import LogLevel
from reconciler.plan.render import summary
from reconciler.sdk import registry
from reconciler.sdk.budget import Budgets
from reconciler.sdk.network import TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.serve.metrics import Metrics
from reconciler.settings import Settings, database_url
from reconciler.settings import Source as SourceOptions
from reconciler.store import integrations, journal, shown
from reconciler.store.database import Database
from reconciler.store.errors import StoreError
from reconciler.store.job_store import StoredJobs
from reconciler.store.journal import SourceRow
from reconciler.store.location import Location, backend
from reconciler.store.migrations import migrate
from reconciler.store.scrub import scrub
from reconciler.store.state_directory import StateDirectory
from reconciler.sync.run import Syncer
from reconciler.work.engine import Work
from reconciler.work.settings import WorkSettings, new_owner

SECONDS_SCHEDULE = 1.0
SECONDS_FRESHNESS = 15.0
SECONDS_ORDERS = 0.25
SECONDS_ROUTE = 2.0
SECONDS_RETENTION = 3600.0
SECONDS_SECRETS = 30.0
SECONDS_SCRUB = 2.0
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
    """One process of `reconciler run`. `start`, then `stop`.

    `stands_by`: where another one leads on the same database, wait for it to end instead of raising StateLockedError.
    """

    def __init__(
        self,
        settings: Settings,
        env: Mapping[str, str],
        *,
        is_observing: bool = False,
        stands_by: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self._stands_by = stands_by
        self._env = env
        self._is_observing = is_observing
        self.clock = clock or SystemClock()
        self.random = SystemRandom()
        self.redactor = Redactor()
        self._logger = structlog.get_logger("daemon")
        self._routing = asyncio.Event()
        self._triggers: dict[str, asyncio.Event] = {s.name: asyncio.Event() for s in settings.sources}
        self.state = StateDirectory(settings.state_dir)
        url = database_url(env)
        self._location: Location = url or self.state.database
        self._engine_url = url.reveal() if url else f"sqlite:///{self.state.jobs}"
        self._is_shared = url is not None
        self.loops = Loops(self.clock)
        self.plan_summary = ""
        self.intaken: Intaken | None = None
        self.planned: dict[str, str] = {}
        self.taken = asyncio.Event()

    async def start(self) -> None:
        """Everything up and running; raises SettingsError, StoreError or OSError with a message for a person."""
        self.state.acquire()
        self.database = Database(backend(self._location, self.clock))
        await migrate(self.database)
        self.leadership = Leadership(self.database, self.clock, new_owner()) if self._is_shared else None
        if self.leadership is not None:
            await self._lead(self.leadership)
        await self._note_observing()
        self._wire()
        if not self._is_observing:
            await self.database.write(lambda tx: recover(tx, self.clock.now()))
            await self.work.launch()
        self._start_loops()
        await self.window.start()
        gc.collect()
        self._logger.info("started", state=self.database.where, listening=self.window.address or "nowhere")
        gc.freeze()  # what a daemon starts with lives as long as it does: collections need not walk it again

    async def _lead(self, leadership: Leadership) -> None:
        """Nothing else runs yet: who is told to go meanwhile, or may not wait, leaves nothing open."""
        try:
            await leadership.lead(waits=self._stands_by)
        except BaseException:
            self.database.close()
            self.state.release()
            raise

    async def _note_observing(self) -> None:
        """For `reconciler status`."""
        if await self.database.read(shown.is_observed) is not self._is_observing:
            await self.database.write(lambda tx: shown.note_observing(tx, is_observing=self._is_observing))

    def _wire(self) -> None:
        settings, database, clock, random = self.settings, self.database, self.clock, self.random
        vault = Vault(load_key(settings, self._env, self.state.keys, is_shared=self._is_shared))
        self.journal = StoreJournal(database, clock, self.redactor)
        self.budgets = Budgets(clock, shared=StoreBlocks(database))
        self.metrics = Metrics(self.budgets.states, lambda: database.refused)
        self.sources: dict[str, Source] = {s.name: self._source(s) for s in settings.sources}
        keyring = self._keys()
        for fault in keyring.faults:
            self._logger.warning("a key is missing; what only it can open waits for it", why=fault)
        policy = tenant_policy(settings)
        resolver = Resolver(
            keyring=keyring,
            env=self._env,
            policy=policy,
            hash_key=vault.fingerprint_key,
            registry=registry,
            cache=DecryptionCache(),
        )
        self.book = SourceBook(source_inputs(settings, policy), resolver, self.redactor)
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
        fence = self.leadership.check if self.leadership else None
        self.intake = Intake(database, self.book, clock, fence, is_observing=self._is_observing)
        self.router = Router(database, self.subscribers, clock, self._wake)
        self.scheduler = Scheduler(database, self.book, clock, random, self._wake)
        self.prober = Prober(database, self.connections, clock, random, self.settings.probe_interval)
        self.orders = Orders(database, clock, is_observing=self._is_observing)
        self.lateness = DeliveryLateness(database, self.book, clock)
        self.jumps = JumpWatch(database, clock)
        self.stopper = Stopper(database, self.journal, clock, self._halt)
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
        work = WorkSettings(engine_url=self._engine_url)
        self.work = Work(StoredJobs(database), kinds, work, clock, Complaints(clock, self._logger))

    def _once_known(self, kind: Kind) -> Kind:
        """Work that an earlier process left is due before Git was read: it waits, else it would fail for want of a spec."""

        async def job(job: Job, claim: Claim) -> Outcome:
            if self.book.state is None:
                return Outcome(self.clock.now() + NOT_YET_KNOWN)
            return await kind(job, claim)

        return job

    def _wake(self, _: int = 0) -> None:
        self.work.wake()

    def _keys(self) -> Keyring:
        path = self.settings.age_key_file
        return keys_at_hand({**self._env, "SOPS_AGE_KEY_FILE": str(path)} if path else self._env)

    def _source(self, source: SourceOptions) -> Source:
        opened = open_source(source_settings(source, self._env), self.state.path / "git", self.clock)
        return Attended(opened, self._note_source, self.metrics, self.clock)

    def _start_loops(self) -> None:
        loops = self.loops
        if self.leadership is not None:
            loops.forever("leadership", self.leadership.keep)
        for name, source in self.sources.items():
            loops.forever(f"source {name}", partial(self._follow, name, source))
        loops.every("orders", SECONDS_ORDERS, self._orders)
        loops.every("journal", FLUSH_SECONDS, self.journal.flush)
        loops.every("retention", SECONDS_RETENTION, self._retain)
        loops.every("scrub", SECONDS_SCRUB, partial(scrub, self.database))
        loops.forever("loop lag", self.metrics.watch_loop)
        loops.every("board", SECONDS_SCHEDULE, self.window.refresh)
        if self._is_observing:
            return
        loops.every("schedule", SECONDS_SCHEDULE, self.scheduler.tick)
        loops.every("freshness", SECONDS_FRESHNESS, self.scheduler.state_freshness)
        loops.every("lateness", SECONDS_FRESHNESS, self.lateness.tick)
        loops.every("probe", SECONDS_SCHEDULE, self.prober.tick)
        loops.every("clock", SECONDS_SCHEDULE, self._watch_clock)
        loops.every("secrets", SECONDS_SECRETS, self._look_for_secrets)
        loops.when("route", self._routing, SECONDS_ROUTE, self.router.route)

    async def _follow(self, name: str, source: Source) -> None:
        async with aclosing(poll(source, self.clock, self.random, self._triggers[name])) as stream:
            async for found in stream:
                if isinstance(found, SourceState):
                    await self._note_source(source)
                    self._tell(found)
                else:
                    await self._take(name, source, found)
                self.loops.works(f"source {name}")

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
        desired = self.book.wished
        if desired is None:
            return None
        if not self.taken.is_set():
            await self._remember()
        taken = await self.intake.take(desired)
        await self.stopper.end(taken.stopped)
        await self.subscribers.compile(self.database, self.book)
        self.plan_summary, self.intaken = summary(taken.plan), taken
        self.metrics.set_plan(taken.plan.counts)
        announce(self._logger, taken.plan, is_observing=self._is_observing)
        self._tell_secrets(taken)
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

    def _tell_secrets(self, taken: Intaken) -> None:
        """To the log of each integration, when its secrets cease to be readable and when they are again.

        One that has no last good spec to go on with is told of by its reconcile, which stops.
        """
        for row, said in taken.turned:
            if row.ref in self.book.unread and not self.book.unread[row.ref].kept:
                continue
            self.journal.name(row.id, str(row.ref))
            level = LogLevel.INFO if said.truth is Truth.TRUE else LogLevel.WARN
            self.journal(row.id, level, said.message, reason=said.reason)

    async def _remember(self) -> None:
        """What an earlier process connected goes on, or is let go, with the spec it was connected with."""
        rows = await self.database.read(integrations.every)
        connected = [row for row in rows if row.is_connected]
        self.book.remember({r.ref: AppliedSpec(r.applied_revision, r.applied_hash) for r in connected})

    async def _look_for_secrets(self) -> None:
        """While something cannot be read: a key, a file or a program may be there by now. Git is not asked again."""
        if self.book.unread:
            self.book.rekey(await asyncio.to_thread(self._keys))
        if await self.book.is_turned():
            await self.replan()

    async def _orders(self) -> None:
        for carried in await self.orders.tick():
            await self._obey(carried)

    async def _obey(self, carried: Carried) -> None:
        self._logger.info("order", what=carried.kind, by=carried.by, **carried.result)
        await self.stopper.end([int(asked.ref) for asked in carried.stop])
        if carried.is_replan:
            for trigger in self._triggers.values():
                trigger.set()
            await self.replan()
        for asked in carried.start:
            if not self._is_observing:
                await self.work.ask(asked.kind, asked.ref)

    async def _halt(self, run_ids: Sequence[int]) -> None:
        for run_id in () if self._is_observing else run_ids:
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

    async def until(self, stop: asyncio.Event) -> bool:
        """Waits for `stop`, or for the loss of the lease; True for the former."""
        ends = [stop] if self.leadership is None else [stop, self.leadership.lost]
        waiting = [asyncio.create_task(event.wait()) for event in ends]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return stop.is_set()

    async def stop(self) -> None:
        """Bounded by `stop_timeout` plus what closing files takes."""
        await self.loops.stop()
        await self.window.stop()
        if not self._is_observing:
            await self.work.stop(self.settings.stop_timeout)
        await self.connections.close()
        await self._last_lines()
        self.book.close()
        if self.leadership is not None:
            await self.leadership.leave()
        self.database.close()
        self.state.release()
        self._logger.info("stopped")

    async def _last_lines(self) -> None:
        try:
            await self.journal.flush()
        except StoreError as error:
            self._logger.error("the last log lines could not be stored", error=str(error))  # noqa: TRY400 the disk, not we


async def run_until_signal(daemon: Daemon, started: Callable[[Daemon], Any] = lambda _: None) -> bool:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once. False where it had to end by itself."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(130) if stop.is_set() else stop.set())
    starting = asyncio.create_task(daemon.start())
    if not await _before(starting, stop):
        return True
    starting.result()
    started(daemon)
    try:
        return await daemon.until(stop)
    finally:
        await daemon.stop()


async def _before(starting: "asyncio.Task[None]", stop: asyncio.Event) -> bool:
    """Whether the start came to its end first: a daemon that only stands by can be told to go."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    return True
