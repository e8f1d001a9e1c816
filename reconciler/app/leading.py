"""What one process does for all: take desired states in, make work due, obey orders, probe, route events, clean up.

In: the book and the store. Out: due rows, which whoever runs jobs picks up. Called by the daemon once it leads. Not here:
the lease itself, and running jobs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random

import structlog

from reconciler.app.announce import announce
from reconciler.app.book import SourceBook
from reconciler.app.connections import ConnectionPool
from reconciler.app.keeping import StoreJournal
from reconciler.app.recover import recover
from reconciler.app.tasks import Loops
from reconciler.control.intake import Intake, Intaken
from reconciler.control.jump import JumpWatch
from reconciler.control.lateness import DeliveryLateness
from reconciler.control.orders import Carried, Orders
from reconciler.control.probe import Prober
from reconciler.control.retaining import Retaining
from reconciler.control.schedule import Scheduler
from reconciler.control.stopping import Halt, Stopper
from reconciler.events.route import Router
from reconciler.events.subscriptions import Subscription, compile_subscriptions
from reconciler.model.clock import Clock
from reconciler.model.condition import Truth
from reconciler.model.record import LogLevel
from reconciler.plan.render import summary
from reconciler.sdk import registry
from reconciler.serve.metrics import Metrics
from reconciler.store import integrations, shown
from reconciler.store.database import Database, Tx
from reconciler.store.scrub import scrub
from reconciler.work.ports import Dispatch

SECONDS_SCHEDULE = 1.0
SECONDS_FRESHNESS = 15.0
SECONDS_ORDERS = 0.25
SECONDS_RETENTION = 3600.0
SECONDS_SECOND_THOUGHTS = 60.0
SECONDS_SCRUB = 2.0


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


@dataclass(frozen=True, kw_only=True)
class Office:
    """What leading needs. `route_every`: how soon changes are found that another process stored."""

    database: Database
    book: SourceBook
    connections: ConnectionPool
    journal: StoreJournal
    metrics: Metrics
    clock: Clock
    random: Random
    dispatch: Dispatch
    halt: Halt
    look: Callable[[], None]
    settle: Callable[[], Awaitable[object]]
    probe_interval: timedelta
    route_every: timedelta
    fence: Callable[[Tx], None] | None
    is_observing: bool


class Leading:
    """`recover` and `start` once this process leads; `settle` after each change of what Git wants."""

    def __init__(self, office: Office) -> None:
        self._office = office
        database, clock = office.database, office.clock
        self.routing = asyncio.Event()
        self.taken = asyncio.Event()
        self.intaken: Intaken | None = None
        self._subscribers = Subscribers()
        self._intake = Intake(database, office.book, clock, office.fence, is_observing=office.is_observing)
        self._router = Router(database, self._subscribers, clock, self._wake)
        self._scheduler = Scheduler(database, office.book, clock, office.random, self._wake)
        self._prober = Prober(database, office.connections, clock, office.random, office.probe_interval)
        self._orders = Orders(database, clock, is_observing=office.is_observing)
        self._lateness = DeliveryLateness(database, office.book, clock)
        self._jumps = JumpWatch(database, clock)
        self._stopper = Stopper(database, office.journal, clock, office.halt)
        self._retaining = Retaining(database, clock)
        self._logger = structlog.get_logger("daemon")

    async def recover(self) -> None:
        """What an earlier leader left unfinished is due again."""
        office = self._office
        if await office.database.read(shown.is_observed) is not office.is_observing:  # for `reconciler status`
            await office.database.write(lambda tx: shown.note_observing(tx, is_observing=office.is_observing))
        if not office.is_observing:
            await office.database.write(lambda tx: recover(tx, office.clock.now()))

    def start(self, loops: Loops) -> None:
        office = self._office
        loops.every("orders", SECONDS_ORDERS, self._obey_orders)
        loops.when("retention", self._retaining.turned, SECONDS_RETENTION, self._retain)
        loops.every("scrub", SECONDS_SCRUB, partial(scrub, office.database))
        if not office.is_observing:
            self._start_acting(loops)

    def _start_acting(self, loops: Loops) -> None:
        loops.every("schedule", SECONDS_SCHEDULE, self._scheduler.tick)
        loops.every("freshness", SECONDS_FRESHNESS, self._scheduler.state_freshness)
        loops.every("lateness", SECONDS_FRESHNESS, self._lateness.tick)
        loops.every("probe", SECONDS_SCHEDULE, self._prober.tick)
        loops.every("clock", SECONDS_SCHEDULE, self._watch_clock)
        loops.when("route", self.routing, self._office.route_every.total_seconds(), self._router.route)

    async def settle(self) -> Intaken | None:
        """Compare what Git wants with what is applied, and make the difference due."""
        office = self._office
        desired = office.book.wished
        if desired is None:
            return None
        taken = await self._intake.take(desired)
        self._retaining.note(desired)
        await self._stopper.end(taken.stopped)
        await self._subscribers.compile(office.database, office.book)
        self.intaken = taken
        office.metrics.set_plan(taken.plan.counts)
        announce(self._logger, taken.plan, is_observing=office.is_observing)
        self._tell_secrets(taken)
        self.taken.set()
        if not office.is_observing:
            self._wake()
            self.routing.set()
        return taken

    @property
    def plan_summary(self) -> str:
        return summary(self.intaken.plan) if self.intaken else ""

    def _wake(self, _: int = 0) -> None:
        self._office.dispatch.wake()

    def _tell_secrets(self, taken: Intaken) -> None:
        """To the log of each integration, when its secrets cease to be readable and when they are again.

        One that has no last good spec to go on with is told of by its reconcile, which stops.
        """
        unread = self._office.book.unread
        for row, said in taken.turned:
            if row.ref in unread and not unread[row.ref].kept:
                continue
            self._office.journal.name(row.id, str(row.ref))
            level = LogLevel.INFO if said.truth is Truth.TRUE else LogLevel.WARN
            self._office.journal(row.id, level, said.message, reason=said.reason)

    async def _watch_clock(self) -> None:
        back = await self._jumps.tick()
        if back is not None:
            self._logger.warning("the clock was set back; due times come forward", seconds=round(back.total_seconds()))
            self._wake()

    async def _obey_orders(self) -> None:
        for carried in await self._orders.tick():
            await self._obey(carried)

    async def _obey(self, carried: Carried) -> None:
        self._logger.info("order", what=carried.kind, by=carried.by, **carried.result)
        await self._stopper.end([int(asked.ref) for asked in carried.stop])
        if carried.is_replan:
            self._office.look()
            await self._office.settle()
        for asked in carried.start:
            if not self._office.is_observing:
                await self._office.dispatch.ask(asked.kind, asked.ref)

    async def _retain(self) -> None:
        """A while after a start or a change, in which Git is asked again: a commit may just have made it longer."""
        await self._office.clock.sleep(SECONDS_SECOND_THOUGHTS)
        await self._retaining.tick(self._office.book.wished)
