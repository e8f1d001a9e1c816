"""What one process does for all: take desired states in, make work due, obey orders, probe, route events, clean up.

In: the book and the store. Out: due rows, which whoever runs jobs picks up. Called by the daemon once it leads. Not here:
the lease itself, and running jobs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import structlog

from reconciler.app.announce import announce
from reconciler.app.book import SourceBook
from reconciler.app.ground import Ground
from reconciler.app.recover import recover
from reconciler.app.tasks import Loops
from reconciler.control.declaring import Declaring
from reconciler.control.intake import Intake, Intaken
from reconciler.control.jump import JumpWatch
from reconciler.control.lateness import DeliveryLateness
from reconciler.control.orders import Carried, Orders
from reconciler.control.probe import Prober
from reconciler.control.retaining import Retaining
from reconciler.control.schedule import Scheduler
from reconciler.control.stopping import Stopper
from reconciler.control.stranded import Stranded
from reconciler.events.route import Router
from reconciler.events.subscriptions import Subscription, compile_subscriptions
from reconciler.model.condition import Truth
from reconciler.model.ids import Ref
from reconciler.model.record import LogLevel
from reconciler.plan.render import summary
from reconciler.sdk import registry
from reconciler.store import integrations, shown
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.journal import OperatorRequest
from reconciler.store.scrub import scrub
from reconciler.work.ports import Dispatch

SECONDS_SCHEDULE = 1.0
SECONDS_FRESHNESS = 15.0
SECONDS_ORDERS = 0.25
SECONDS_RETENTION = 3600.0
SECONDS_SECOND_THOUGHTS = 60.0
SECONDS_SCRUB = 2.0


class Subscribers:
    """Implements `Subscriptions`: compiled from the book; after each change of desired state those it was about again."""

    def __init__(self) -> None:
        self._of: dict[Ref, Sequence[Subscription]] = {}
        self._due: Collection[Ref] | None = None
        self._every: tuple[Subscription, ...] | None = None

    def every(self) -> Sequence[Subscription] | None:
        return self._every

    def note(self, names: Collection[Ref] | None) -> None:
        """They are not what they were, until compiled again; None for all."""
        self._due = None if names is None or self._due is None else {*self._due, *names}

    async def compile(self, database: Database, book: SourceBook) -> None:
        """Also of what is still connected though its manifest is broken, or missing and its prune blocked."""
        due = self._due
        rows = await database.read(integrations.every if due is None else lambda tx: integrations.some(tx, due))
        made = {row.ref: found for row in rows if (found := _subscriptions(row, book))}
        before = self._of if due is not None else {}
        if due is None or made or any(ref in before for ref in due):
            kept = {ref: found for ref, found in before.items() if due is not None and ref not in due}
            self._of = dict(sorted((kept | made).items()))
            self._every = tuple(one for found in self._of.values() for one in found)
        self._due = ()


def _subscriptions(row: IntegrationRow, book: SourceBook) -> Sequence[Subscription]:
    desired = book.get(row.ref) if row.is_desired and row.removed_at is None else None
    if desired is None:
        return ()
    try:
        connector = registry.load(desired.manifest.spec.type)
    except (registry.UnknownTypeError, ImportError):
        return ()  # not installed any more: its reconcile says so
    return compile_subscriptions(row.id, desired.manifest, connector)


@dataclass(frozen=True, kw_only=True)
class Office:
    """What leading needs. `route_every`: how soon changes are found that another process stored. `aside`: see `Orders`."""

    ground: Ground
    dispatch: Dispatch
    look: Callable[[], None]
    settle: Callable[[], Awaitable[object]]
    route_every: timedelta
    fence: Callable[[Tx], None] | None
    is_observing: bool
    aside: Mapping[str, Callable[[OperatorRequest], None]] = field(default_factory=dict)


class Leading:
    """`recover` and `start` once this process leads; `settle` after each change of what Git wants."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._ground = ground = office.ground
        database, clock = ground.database, ground.clock
        self.routing = asyncio.Event()
        self.taken = asyncio.Event()
        self.ordered = asyncio.Event()
        self.intaken: Intaken | None = None
        self._subscribers = Subscribers()
        self._intake = Intake(database, ground.book, clock, office.fence, is_observing=office.is_observing)
        self._router = Router(database, self._subscribers, clock, self._wake)
        self._scheduler = Scheduler(database, ground.book, clock, ground.random, self._wake)
        self._prober = Prober(
            database, ground.connections, clock, ground.random, ground.probe_interval, ground.credential_warning
        )
        self._orders = Orders(database, clock, is_observing=office.is_observing, aside=office.aside)
        self._lateness = DeliveryLateness(database, ground.book, clock)
        self._jumps = JumpWatch(database, clock)
        self._stranded = Stranded(database, clock)
        self._stopper = Stopper(database, ground.journal, clock, ground.halt)
        self._retaining = Retaining(database, clock)
        self._declaring = Declaring(database, clock)
        self._logger = structlog.get_logger("daemon")

    async def recover(self) -> None:
        """What an earlier leader left unfinished is due again."""
        office, ground = self._office, self._ground
        if await ground.database.read(shown.is_observed) is not office.is_observing:  # for `reconciler status`
            await ground.database.write(lambda tx: shown.note_observing(tx, is_observing=office.is_observing))
        if not office.is_observing:
            await ground.database.write(lambda tx: recover(tx, ground.clock.now()))

    def start(self, loops: Loops) -> None:
        office, ground = self._office, self._ground
        loops.when("orders", self.ordered, SECONDS_ORDERS, self._obey_orders)
        loops.when("retention", self._retaining.turned, SECONDS_RETENTION, self._retain)
        loops.every("scrub", SECONDS_SCRUB, partial(scrub, ground.database))
        if not office.is_observing:
            self._start_acting(loops)

    def _start_acting(self, loops: Loops) -> None:
        loops.every("schedule", SECONDS_SCHEDULE, self._scheduler.tick)
        loops.every("freshness", SECONDS_FRESHNESS, self._scheduler.state_freshness)
        loops.every("lateness", SECONDS_FRESHNESS, self._lateness.tick)
        loops.every("probe", SECONDS_SCHEDULE, self._prober.tick)
        loops.every("clock", SECONDS_SCHEDULE, self._watch_clock)
        loops.every("inbox", SECONDS_FRESHNESS, self._take_stranded)
        loops.when("route", self.routing, self._office.route_every.total_seconds(), self._route)

    async def _route(self) -> None:
        await self._router.route()
        if self._router.has_more:
            self.routing.set()

    async def settle(self) -> Intaken | None:
        """Compare what Git wants with what is applied, and make the difference due."""
        office, ground = self._office, self._ground
        desired = ground.book.wished
        if desired is None:
            return None
        taken = await self._intake.take(desired)
        self._subscribers.note(taken.asked)
        self._retaining.note(desired)
        await self._stopper.end(taken.stopped)
        await self._subscribers.compile(ground.database, ground.book)
        self.intaken = taken
        ground.metrics.set_plan(taken.plan.counts)
        announce(self._logger, taken.plan, is_observing=office.is_observing)
        self._tell_secrets(taken)
        self.taken.set()
        if not office.is_observing:
            self._wake()
            self.routing.set()
        await self._declaring.take(desired)
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
        unread = self._ground.book.unread
        for row, said in taken.turned:
            if row.ref in unread and not unread[row.ref].kept:
                continue
            self._ground.journal.name(row.id, str(row.ref))
            level = LogLevel.INFO if said.truth is Truth.TRUE else LogLevel.WARN
            self._ground.journal(row.id, level, said.message, reason=said.reason)

    async def _take_stranded(self) -> None:
        if await self._stranded.tick():
            self._wake()

    async def _watch_clock(self) -> None:
        back = await self._jumps.tick()
        if back is not None:
            self._logger.warning("the clock was set back; due times come forward", seconds=round(back.total_seconds()))
            self._wake()

    async def _obey_orders(self) -> None:
        for carried in await self._orders.tick():
            await self.obey(carried)

    async def obey(self, carried: Carried) -> None:
        """Start and stop what an order that is carried out asks for."""
        if carried.kind != "inbound":  # as many as remotes like to send
            told = {"event_id" if name == "event" else name: value for name, value in carried.result.items()}
            self._logger.info(
                "order", what=carried.kind, by=carried.by, **told
            )  # what is logged is the logger's `event`
        await self._stopper.end([int(asked.ref) for asked in carried.stop])
        if carried.is_replan:
            self._office.look()
            await self._office.settle()
        if carried.has_events:
            self.routing.set()
        for asked in carried.start:
            if not self._office.is_observing:
                await self._office.dispatch.ask(asked.kind, asked.ref)

    async def _retain(self) -> None:
        """A while after a start or a change, in which Git is asked again: a commit may just have made it longer."""
        await self._ground.clock.sleep(SECONDS_SECOND_THOUGHTS)
        await self._retaining.tick(self._ground.book.wished)
