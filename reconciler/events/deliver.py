"""One attempt at one delivery: the coroutine behind job kind `deliver`.

`sending` is committed before the remote call. Found in that state later, the attempt was interrupted and nobody knows
whether the remote took it: a channel that drops repeats gets it again, one that can be searched is searched first, and
for any other the delivery ends as `unknown`, visible and never doubled. Retries follow the schedule of Standard Webhooks
(spec v1.0.0), a `Retry-After` moves them back, and after the last one the delivery is dead.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from random import Random

from reconciler.events.standing import state_delivering
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import ConditionType, Reason
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
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError
from reconciler.store import conditions, deliveries, integrations, jobs
from reconciler.store.database import Database, Tx
from reconciler.store.deliveries import Delivery
from reconciler.store.integrations import IntegrationRow

SCHEDULE = tuple(timedelta(seconds=s) for s in (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400))
# a target that is connected again wakes what waits for it; this is a safety net
NOT_CONNECTED_PAUSE = timedelta(minutes=5)
NOT_KNOWN_PAUSE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A delivery that is ours to send, and the connector to send it with."""

    delivery: Delivery
    live: Live
    channel: Channel
    is_repeat: bool


class _UnknowableError(AmbiguousError):
    """Whether an earlier attempt arrived cannot be found out with this credential: it is not sent again."""


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
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self._random = random
        self._deadline = deadline

    async def run(self, job: Job, claim: Claim) -> Outcome:
        """Do one attempt; asks to be called again when the delivery is to be tried again."""
        delivery_id = int(job.ref)
        waiting = await self._database.read(lambda tx: deliveries.get(tx, delivery_id))
        if waiting is None or waiting.finished_at is not None:
            return Outcome()
        target = await self._database.read(lambda tx: integrations.get(tx, waiting.integration_id))
        if target is None or target.removed_at is not None:
            return await self._abandon(waiting, claim)
        try:
            live = await self._live(target)
        except NotConnectableError as error:
            is_known = error.reason is not Reason.PENDING
            pause = NOT_CONNECTED_PAUSE * self._random.uniform(1, 2) if is_known else NOT_KNOWN_PAUSE
            return Outcome(again_at=self._clock.now() + pause)
        channel = live.connector.channel(waiting.channel)
        ready = await self._begin(waiting, claim, live, channel)
        if ready is None:
            return Outcome()
        return await self._attempt(ready)

    async def _live(self, target: IntegrationRow) -> Live:
        """Waiting for a target to be connected, resumed or given a good credential is no attempt."""
        said = await self._database.read(lambda tx: conditions.conditions(tx, target.id))
        if not target.is_connected or target.is_suspended or ConditionType.STALLED in said:
            raise NotConnectableError(Reason.DEPENDENCY_NOT_READY, "the target is not connected")
        return await self._connections.live(target.id)

    async def _abandon(self, waiting: Delivery, claim: Claim) -> Outcome:
        """Nobody is left to send it to: taken back, or unknown where an attempt had begun."""
        at, message = rfc3339(self._clock.now()), "the target was let go before anybody knew whether it had arrived"
        await self._database.write(lambda tx: deliveries.abandon(tx, waiting, claim.fence, Reason.PRUNED, message, at))
        return Outcome()

    async def _begin(self, waiting: Delivery, claim: Claim, live: Live, channel: Channel | None) -> _Ready | None:
        at = rfc3339(self._clock.now())

        def begin(tx: Tx) -> tuple[Delivery | None, bool, bool]:
            is_doubtful = deliveries.is_doubtful(tx, waiting.id)
            interrupted = deliveries.take_over(tx, waiting.id, claim.fence)
            begun = interrupted or deliveries.begin(tx, waiting.id, claim.fence, at)
            return begun, interrupted is not None, is_doubtful

        delivery, is_interrupted, is_doubtful = await self._database.write(begin)
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

    async def _attempt(self, ready: _Ready) -> Outcome:
        started = self._clock.monotonic()
        delivery = ready.delivery
        patience = (self._deadline or ready.channel.deadline).total_seconds()
        try:
            async with asyncio.timeout(patience):
                receipt = await self._send(ready)
        except TimeoutError:
            error: ConnectorError = AmbiguousError(f"no answer within {patience:.0f} s", reason=Reason.TIMED_OUT)
            return await self._failed(ready, error, started)
        except ConnectorError as raised:
            return await self._failed(ready, raised, started)
        except Exception as raised:  # noqa: BLE001 - a connector's own fault: it may or may not have been sent
            return await self._failed(ready, self._fault(ready, raised), started)
        values = {"remote_id": receipt.remote_id, "url": receipt.url, **receipt.detail}
        outcome = deliveries.Outcome(
            DeliveryStatus.DELIVERED, Reason.SUCCEEDED, receipt=values, seconds=self._clock.monotonic() - started
        )
        await self._record(delivery, outcome)
        return Outcome()

    def _fault(self, ready: _Ready, error: Exception) -> ConnectorError:
        """Its text may hold anything, so it goes to the redacted log alone."""
        where = place_of(error)
        self._journal(ready.delivery.integration_id, LogLevel.ERROR, f"{where}: {error}")
        return AmbiguousError(f"unexpected {where}; the log has more", reason=Reason.INTERNAL_ERROR)

    async def _send(self, ready: _Ready) -> Receipt:
        delivery, connector = ready.delivery, ready.live.connector
        first = delivery.first_attempt_at
        message = Message(
            delivery_id=delivery.public_id,
            event_id=delivery.event_id,
            event_type=delivery.event_type,
            fields=delivery.fields,
            progress=delivery.progress,
            is_repeat=ready.is_repeat,
            first_attempt_at=from_rfc3339(first) if first else None,
        )
        if ready.is_repeat and ready.channel.repeat is Repeat.FIND and isinstance(connector, Finds):
            try:
                found = await connector.find(ready.channel, message)
            except UnsupportedError as error:
                raise _UnknowableError(f"an earlier attempt may have arrived, and {error.message}") from None
            if found is not None:
                return replace(found, detail={**found.detail, "found": True})
        return await connector.deliver(ready.channel, message)

    async def _failed(self, ready: _Ready, error: ConnectorError, started: float) -> Outcome:
        if isinstance(error, BudgetSpentError) and not ready.is_repeat:
            return await self._put_off(ready.delivery, error)
        delivery, seconds = ready.delivery, self._clock.monotonic() - started
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
        outcome = deliveries.Outcome(
            status,
            Reason.DELIVERY_UNKNOWN if status is DeliveryStatus.UNKNOWN else error.why,
            error.message,
            progress=error.progress if isinstance(error, PartialDeliveryError) else None,
            next_at=rfc3339(next_at) if next_at else None,
            seconds=seconds,
            is_doubtful=isinstance(error, AmbiguousError),
        )
        await self._record(delivery, outcome, is_refused=isinstance(error, UnauthorizedError))
        return Outcome(again_at=next_at)

    async def _put_off(self, delivery: Delivery, error: BudgetSpentError) -> Outcome:
        """Nothing was asked, because too much is to be sent: waiting its turn is no attempt, or a long queue would die."""
        next_at = self._clock.now() + (error.retry_after or NOT_KNOWN_PAUSE)
        self._journal(
            delivery.integration_id, LogLevel.DEBUG, f"delivery waits: {error.message}", delivery=delivery.public_id
        )
        await self._database.write(lambda tx: deliveries.take_back(tx, delivery))
        await self._journal.flush()
        return Outcome(again_at=next_at)

    def _fate(self, ready: _Ready, error: ConnectorError) -> tuple[DeliveryStatus, datetime | None]:
        """What becomes of the delivery after this error, and when it is tried again."""
        is_unsafe = isinstance(error, AmbiguousError) and ready.channel.repeat is Repeat.UNSAFE
        if is_unsafe or isinstance(error, _UnknowableError):
            return DeliveryStatus.UNKNOWN, None
        if isinstance(error, RejectedError) or ready.delivery.attempts > len(SCHEDULE):
            return DeliveryStatus.DEAD, None
        pause = SCHEDULE[ready.delivery.attempts - 1] * self._random.uniform(0.9, 1.1)
        asked = error.retry_after if isinstance(error, TransientError) else None
        return DeliveryStatus.FAILED, self._clock.now() + max(pause, asked or timedelta())

    async def _settle(self, delivery: Delivery, status: DeliveryStatus, reason: Reason, message: str) -> None:
        await self._record(delivery, deliveries.Outcome(status, reason, message))

    async def _record(self, delivery: Delivery, outcome: deliveries.Outcome, *, is_refused: bool = False) -> None:
        """A receipt survives a power cut: it is what keeps the message from being sent twice."""
        now = self._clock.now()

        def record(tx: Tx) -> None:
            if not deliveries.settle(tx, delivery, outcome, rfc3339(now)):
                return
            state_delivering(tx, delivery.integration_id, outcome.status, outcome.reason, outcome.message, rfc3339(now))
            if is_refused:
                key = str(delivery.integration_id)
                jobs.put(tx, kind="reconcile", ref=key, key=key, prio=10, due_at=now)

        await self._database.write(record, durable=outcome.status is DeliveryStatus.DELIVERED)
        if outcome.status in {DeliveryStatus.DEAD, DeliveryStatus.UNKNOWN}:
            self._journal(
                delivery.integration_id,
                LogLevel.ERROR,
                f"delivery {outcome.status}: {outcome.message}",
                delivery=delivery.public_id,
                reason=outcome.reason,
            )
        await self._journal.flush()
