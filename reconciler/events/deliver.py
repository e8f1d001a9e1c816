"""One attempt at one delivery: the coroutine behind job kind `deliver`.

`sending` is committed before the remote call. Found in that state later, the attempt was interrupted and nobody knows
whether the remote took it: a channel that drops repeats gets it again, one that can be searched is searched first, and
for any other the delivery ends as `unknown`, visible and never doubled. Retries follow the schedule of the channel, and after the
last one the delivery is dead. So is all that waits or comes, without being sent, once the remote has said that it wants no more.

Who has delivered goes on with what waits for the same target (`_Row`): it is told that the one arrived and begins the next in
one transaction, which several targets share.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from reconciler.events.standing import state_delivering
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Condition, ConditionType, Reason
from reconciler.model.event import DeliveryStatus, Message, Receipt
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.record import LogLevel
from reconciler.sdk.budget import BudgetSpentError
from reconciler.sdk.contract import Channel, Finds, Repeat
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    PartialDeliveryError,
    RejectedError,
    TransientError,
    UnauthorizedError,
    UnsupportedError,
    place_of,
)
from reconciler.sdk.exchange import Trail, current_trail
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError
from reconciler.store import conditions, deliveries, integrations, jobs, lanes
from reconciler.store.database import Database, Tx
from reconciler.store.deliveries import Delivery
from reconciler.store.integrations import IntegrationRow
from reconciler.store.together import Together

# a target that is connected again wakes what waits for it; this is a safety net
NOT_CONNECTED_PAUSE = timedelta(minutes=5)
NOT_KNOWN_PAUSE = timedelta(seconds=5)
MOST_IN_A_ROW = 200
LONGEST_ROW = 3.0  # seconds; a daemon that stops waits for it
TOGETHER = 32
Attempted = Callable[[str, Delivery, DeliveryStatus, float], None]
"""Told of what was sent beside the delivery of a job itself: connector, delivery, its status, seconds."""


def tell_nobody(_: str, __: Delivery, ___: DeliveryStatus, ____: float) -> None:
    """For those who count nothing."""


@dataclass(frozen=True, slots=True)
class _Ready:
    """A delivery that is ours to send, and the connector to send it with."""

    delivery: Delivery
    live: Live
    channel: Channel
    is_repeat: bool


@dataclass(slots=True)
class _Row:
    """Deliveries to one target one after the other, under one claim. `own` is the job's: the engine settles its row."""

    claim: Claim
    own: int
    generation: int
    live: Live
    until: float
    left: int
    following: _Ready | None = None


class _UnknowableError(AmbiguousError):
    """Whether an earlier attempt arrived cannot be found out with this credential: it is not sent again."""


_Record = Callable[[Tx], tuple[Delivery, bool] | None]
_Begin = Callable[[Tx], tuple[Delivery | None, bool, bool]]


class Deliverer:
    """`run` is the job; everything it needs is handed in."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        journal: Journal,
        clock: Clock,
        random: Random,
        deadline: timedelta | None = None,
        attempted: Attempted = tell_nobody,
        in_a_row: int = MOST_IN_A_ROW,
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._random = random
        self._deadline = deadline
        self._attempted = attempted
        self._in_a_row = in_a_row
        self._arrivals = Together(self._record_all, TOGETHER)
        self._beginnings = Together(self._begin_all, TOGETHER)

    async def run(self, job: Job, claim: Claim) -> Outcome:
        """Do one attempt; asks to be called again when the delivery is to be tried again."""
        delivery_id = int(job.ref)
        waiting = await self._database.read(lambda tx: deliveries.get(tx, delivery_id))
        if waiting is None or waiting.finished_at is not None:
            return Outcome()
        target = await self._database.read(lambda tx: integrations.get(tx, waiting.integration_id))
        if target is None or target.removed_at is not None:
            return await self._abandon(waiting, claim)
        said = await self._database.read(lambda tx: conditions.conditions(tx, target.id))
        if gone := _gone(target, said.get(ConditionType.DELIVERING)):
            return await self._bury(waiting, claim, gone)
        try:
            live = await self._live(target, said)
        except NotConnectableError as error:
            is_known = error.reason is not Reason.PENDING
            pause = NOT_CONNECTED_PAUSE * self._random.uniform(1, 2) if is_known else NOT_KNOWN_PAUSE
            return Outcome(again_at=self._clock.now() + pause)
        channel = live.connector.channel(waiting.channel)
        ready = await self._begin(waiting, claim, live, channel)
        if ready is None:
            return Outcome()
        until = self._clock.monotonic() + LONGEST_ROW
        row = _Row(claim, waiting.id, target.generation, live, until, self._in_a_row)
        outcome = await self._attempt(ready, row)
        while row.following is not None:
            ready, row.following = row.following, None
            await self._attempt(ready, row)
        return outcome

    async def _live(self, target: IntegrationRow, said: Mapping[ConditionType, Condition]) -> Live:
        """Waiting for a target to be connected, resumed or given a good credential is no attempt."""
        if not target.is_connected or target.is_suspended or ConditionType.STALLED in said:
            raise NotConnectableError(Reason.DEPENDENCY_NOT_READY, "the target is not connected")
        return await self._connections.live(target.id)

    async def _abandon(self, waiting: Delivery, claim: Claim) -> Outcome:
        """Nobody is left to send it to: taken back, or unknown where an attempt had begun."""
        at, message = rfc3339(self._clock.now()), "the target was let go before anybody knew whether it had arrived"
        await self._database.write(lambda tx: deliveries.abandon(tx, waiting, claim.fence, Reason.PRUNED, message, at))
        return Outcome()

    async def _bury(self, waiting: Delivery, claim: Claim, gone: str) -> Outcome:
        """The remote wants no more, and nobody has changed that: it is not asked again for each of them."""
        at, message = rfc3339(self._clock.now()), f"not sent: {gone}"
        doubt = f"interrupted, and nobody knows whether it had arrived; it is not sent again: {gone}"

        def bury(tx: Tx) -> None:
            if not deliveries.bury(tx, waiting.id, Reason.GONE, message, at):
                deliveries.abandon(tx, waiting, claim.fence, Reason.GONE, doubt, at)

        await self._database.write(bury)
        self._journal(
            waiting.integration_id, LogLevel.INFO, f"delivery {message}", delivery=waiting.public_id, reason=Reason.GONE
        )
        await self._journal.flush()
        return Outcome()

    async def _begin(self, waiting: Delivery, claim: Claim, live: Live, channel: Channel | None) -> _Ready | None:
        now = self._clock.now()
        until = rfc3339(now + self._patience(channel)) if channel is not None else None

        def begin(tx: Tx) -> tuple[Delivery | None, bool, bool]:
            is_doubtful = deliveries.is_doubtful(tx, waiting.id)
            interrupted = deliveries.take_over(tx, waiting.id, claim.fence, until)
            begun = interrupted or deliveries.begin(tx, waiting.id, claim.fence, rfc3339(now), until)
            return begun, interrupted is not None, is_doubtful

        delivery, is_interrupted, is_doubtful = await self._beginnings(begin)
        if delivery is None:
            return None
        if channel is None:
            message = f"{live.connector.type} has no channel {waiting.channel} any more"
            await self._settle(delivery, DeliveryStatus.DEAD, Reason.VALIDATION_FAILED, message)
            return None
        if is_interrupted and channel.repeat is Repeat.UNSAFE:
            message = "the attempt was interrupted after it may have been sent; the channel cannot tell"
            await self._settle(delivery, DeliveryStatus.UNKNOWN, Reason.DELIVERY_UNKNOWN, message)
            return None
        return _Ready(delivery, live, channel, is_interrupted or is_doubtful)

    def _patience(self, channel: Channel) -> timedelta:
        return self._deadline or channel.deadline

    async def _attempt(self, ready: _Ready, row: _Row) -> Outcome:
        """What it came to is recorded; the outcome is that of the row of its job."""
        started, trail = self._clock.monotonic(), Trail()
        before = current_trail.set(trail)
        try:
            came_to = await self._tried(ready)
        finally:
            current_trail.reset(before)
        if isinstance(came_to, BudgetSpentError):
            return await self._put_off(ready, came_to, row)
        outcome = replace(came_to, exchange=trail.exchange, seconds=self._clock.monotonic() - started)
        await self._record(ready.delivery, outcome, row)
        if ready.delivery.id != row.own:
            self._attempted(row.live.connector.type, ready.delivery, outcome.status, outcome.seconds or 0.0)
        return Outcome(again_at=from_rfc3339(outcome.next_at) if outcome.next_at else None)

    async def _tried(self, ready: _Ready) -> deliveries.Outcome | BudgetSpentError:
        """The error where it was not sent because it has to wait its turn."""
        patience = self._patience(ready.channel).total_seconds()
        try:
            async with asyncio.timeout(patience):
                receipt = await self._send(ready)
        except TimeoutError:
            error: ConnectorError = AmbiguousError(f"no answer within {patience:.0f} s", reason=Reason.TIMED_OUT)
            return self._failed(ready, error)
        except BudgetSpentError as raised:
            # Nothing was asked, because too much is to be sent: waiting its turn is no attempt, or a long queue would die.
            return self._failed(ready, raised) if ready.is_repeat else raised
        except ConnectorError as raised:
            return self._failed(ready, raised)
        except Exception as raised:  # noqa: BLE001 - a connector's own fault: it may or may not have been sent
            return self._failed(ready, self._fault(ready, raised))
        values = {"remote_id": receipt.remote_id, "url": receipt.url, **receipt.detail}
        return deliveries.Outcome(DeliveryStatus.DELIVERED, Reason.SUCCEEDED, receipt=values)

    def _fault(self, ready: _Ready, error: Exception) -> ConnectorError:
        """Its text may hold anything, so it goes to the redacted log alone."""
        where = place_of(error)
        self._journal(ready.delivery.integration_id, LogLevel.ERROR, f"{where}: {error}")
        return AmbiguousError(f"unexpected {where}; the log has more", reason=Reason.INTERNAL_ERROR)

    async def _send(self, ready: _Ready) -> Receipt:
        delivery, connector = ready.delivery, ready.live.connector
        first = delivery.first_attempt_at
        message = Message(
            delivery_id=delivery.message_id or delivery.public_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            fields=delivery.fields,
            progress=delivery.progress,
            is_repeat=ready.is_repeat,
            first_attempt_at=from_rfc3339(first) if first else None,
            event_at=from_rfc3339(delivery.event_at),
        )
        if ready.is_repeat and ready.channel.repeat is Repeat.FIND and isinstance(connector, Finds):
            try:
                found = await connector.find(ready.channel, message)
            except UnsupportedError as error:
                raise _UnknowableError(f"an earlier attempt may have arrived, and {error.message}") from None
            if found is not None:
                return replace(found, detail={**found.detail, "found": True})
        return await connector.deliver(ready.channel, message)

    def _failed(self, ready: _Ready, error: ConnectorError) -> deliveries.Outcome:
        delivery = ready.delivery
        self._journal(
            delivery.integration_id,
            LogLevel.WARN,
            f"delivery failed: {error.message}",
            **{
                **error.detail,
                "delivery": delivery.public_id,
                "reason": error.why,
                "attempt": delivery.attempts,
            },
        )
        status, next_at = self._fate(ready, error)
        return deliveries.Outcome(
            status,
            Reason.DELIVERY_UNKNOWN if status is DeliveryStatus.UNKNOWN else error.why,
            error.message,
            progress=error.progress if isinstance(error, PartialDeliveryError) else None,
            next_at=rfc3339(next_at) if next_at else None,
            is_doubtful=isinstance(error, AmbiguousError),
            is_refused=isinstance(error, UnauthorizedError),
        )

    async def _put_off(self, ready: _Ready, error: BudgetSpentError, row: _Row) -> Outcome:
        delivery, next_at = ready.delivery, self._clock.now() + (error.retry_after or NOT_KNOWN_PAUSE)
        self._journal(
            delivery.integration_id, LogLevel.DEBUG, f"delivery waits: {error.message}", delivery=delivery.public_id
        )

        def take_back(tx: Tx) -> None:
            deliveries.take_back(tx, delivery)
            if delivery.id != row.own:
                lanes.put_off(tx, delivery.id, next_at)

        await self._database.write(take_back)
        await self._journal.flush()
        return Outcome(again_at=next_at)

    def _fate(self, ready: _Ready, error: ConnectorError) -> tuple[DeliveryStatus, datetime | None]:
        """What becomes of the delivery after this error, and when it is tried again."""
        is_unsafe = isinstance(error, AmbiguousError) and ready.channel.repeat is Repeat.UNSAFE
        if is_unsafe or isinstance(error, _UnknowableError):
            return DeliveryStatus.UNKNOWN, None
        retries = ready.channel.retries
        if isinstance(error, RejectedError) or ready.delivery.attempts > len(retries.pauses):
            return DeliveryStatus.DEAD, None
        pause = retries.pauses[ready.delivery.attempts - 1] * self._random.uniform(
            1 - retries.jitter, 1 + retries.jitter
        )
        asked = error.retry_after if isinstance(error, TransientError) else None
        if asked:
            pause = asked if retries.is_overruled else max(pause, asked)
        return DeliveryStatus.FAILED, self._clock.now() + pause

    async def _settle(self, delivery: Delivery, status: DeliveryStatus, reason: Reason, message: str) -> None:
        await self._record(delivery, deliveries.Outcome(status, reason, message), None)

    async def _record(self, delivery: Delivery, outcome: deliveries.Outcome, row: _Row | None) -> None:
        """A receipt survives a power cut: it is what keeps the message from being sent twice."""
        now = self._clock.now()
        goes_on = row if row is not None and row.left > 0 and self._clock.monotonic() < row.until else None

        def record(tx: Tx) -> tuple[Delivery, bool] | None:
            if not deliveries.settle(tx, delivery, outcome, rfc3339(now)):
                return None
            said = (outcome.status, outcome.reason, outcome.message, rfc3339(now))
            state_delivering(tx, delivery.integration_id, *said, row.generation if row else None)
            if outcome.is_refused:
                key = str(delivery.integration_id)
                jobs.put(tx, kind="reconcile", ref=key, key=key, prio=10, due_at=now)
            if row is not None and delivery.id != row.own:
                _free(tx, delivery.id, outcome.next_at)
            if outcome.status is not DeliveryStatus.DELIVERED or goes_on is None:
                return None
            return self._next(tx, goes_on, now)

        if outcome.status is DeliveryStatus.DELIVERED:
            begun = await self._arrivals(record)
        else:
            begun = await self._database.write(record)
        if begun is not None and row is not None:
            self._queue(row, *begun)
        self._tell(delivery, outcome)
        await self._journal.flush()

    def _next(self, tx: Tx, row: _Row, now: datetime) -> tuple[Delivery, bool] | None:
        def deadline_of(name: str) -> timedelta | None:
            channel = row.live.connector.channel(name)
            return None if channel is None else self._patience(channel)

        return lanes.go_on(tx, row.claim, row.generation, now, deadline_of)

    def _queue(self, row: _Row, delivery: Delivery, is_doubtful: bool) -> None:
        channel = row.live.connector.channel(delivery.channel)
        assert channel is not None  # noqa: S101 - it was asked for its deadline
        row.left -= 1
        row.following = _Ready(delivery, row.live, channel, is_doubtful)

    def _tell(self, delivery: Delivery, outcome: deliveries.Outcome) -> None:
        if outcome.status in {DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN}:
            self._journal(
                delivery.integration_id,
                LogLevel.ERROR,
                f"delivery {outcome.status}: {outcome.message}",
                delivery=delivery.public_id,
                reason=outcome.reason,
            )

    async def _record_all(self, records: Sequence[_Record]) -> Sequence[tuple[Delivery, bool] | None]:
        """Each holds the lane of its target, so they do not interfere."""
        return await self._database.write(lambda tx: [one(tx) for one in records], durable=True, guarded=True)

    async def _begin_all(self, begins: Sequence[_Begin]) -> Sequence[tuple[Delivery | None, bool, bool]]:
        return await self._database.write(lambda tx: [one(tx) for one in begins], guarded=True)


def _gone(target: IntegrationRow, said: Condition | None) -> str:
    """What the remote said when it wanted no more, of the manifest that there is now; empty where it did not."""
    is_gone = said is not None and said.reason is Reason.GONE and said.generation == target.generation
    return said.message if said is not None and is_gone else ""


def _free(tx: Tx, delivery_id: int, next_at: str | None) -> None:
    """Of a delivery that this job is not about: its own need not be done, or waits."""
    if next_at is None:
        lanes.strike_out(tx, delivery_id)
    else:
        lanes.put_off(tx, delivery_id, from_rfc3339(next_at))
