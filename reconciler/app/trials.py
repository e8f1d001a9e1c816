"""Probes that a person asks for over the API: in this process where it knows the spec in force, else in the one that leads.

In: the id of an integration. Out: what `control.trial` tells, within less time than a request has. A process that has no
connectors (role `api`), or has not read yet what is in force, leaves an order; whoever leads carries it out beside its other
orders, and nobody waits for more than the order's own deadline.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from reconciler.app.book import SourceBook
from reconciler.app.connections import ConnectionPool
from reconciler.control.trial import Trial, fault, trial_form, try_out
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.sdk.redact import Redactor
from reconciler.store import integrations, journal
from reconciler.store.database import Database
from reconciler.store.errors import StoreError
from reconciler.store.journal import OperatorRequest

KIND = "test"
DEADLINE = timedelta(seconds=40)
PATIENCE = timedelta(seconds=50)
AT_ONCE = 16
POLL_SECONDS = 0.1


class Tester:
    """Probes here: for a process that follows Git. `is_leader`: what it knows is in force."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        redactor: Redactor,
        connections: ConnectionPool,
        book: SourceBook,
        is_leader: Callable[[], bool],
    ) -> None:
        self._database = database
        self._clock = clock
        self._redactor = redactor
        self._connections = connections
        self._book = book
        self._is_leader = is_leader
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._taken: set[int] = set()
        self._orders: asyncio.Queue[OperatorRequest] = asyncio.Queue()

    async def knows(self, integration_id: int) -> bool:
        """Whether the spec in force is the one that this process has."""
        row = await self._database.read(lambda tx: integrations.get(tx, integration_id))
        known = self._book.get(row.ref) if row is not None else None
        return self._is_leader() or (row is not None and known is not None and known.source_hash == row.desired_hash)

    async def probe(self, integration_id: int) -> Mapping[str, Any]:
        """Raises StoreError only."""
        trial = await self._tried(integration_id)
        found: Mapping[str, Any] = self._redactor.value(trial_form(trial))
        return found

    async def _tried(self, integration_id: int) -> Trial:
        try:
            async with asyncio.timeout(DEADLINE.total_seconds()), self._slots:
                live = self._connections.live(integration_id)
                return await try_out(live, self._clock, self._redactor, DEADLINE)
        except StoreError:
            raise
        except TimeoutError:
            return Trial(reason=Reason.TIMED_OUT, error=f"no answer within {DEADLINE.seconds} s")
        except Exception as error:  # noqa: BLE001 - a connector's own fault is a result of the probe, too
            return fault(error)

    def take(self, order: OperatorRequest) -> None:
        """An order of another process; looked at again and again until it is answered."""
        if order.id not in self._taken:
            self._taken.add(order.id)
            self._orders.put_nowait(order)

    async def run(self) -> None:
        """A loop of the daemon: carries out what was taken, several at once."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._answer(await self._orders.get()))

    async def _answer(self, order: OperatorRequest) -> None:
        """Where the store fails the order stays, and is taken again."""
        try:
            result = await self._result(order)
            at = rfc3339(self._clock.now())
            await self._database.write(lambda tx: journal.answer(tx, order.id, result, at))
        except StoreError:
            pass
        finally:
            self._taken.discard(order.id)

    async def _result(self, order: OperatorRequest) -> Mapping[str, Any]:
        until = order.params.get("until")
        if order.integration_id is None or not until or from_rfc3339(until) <= self._clock.now():
            return {"ok": False, "error": "nobody waits for it any more"}
        return {"ok": True, "trial": await self.probe(order.integration_id)}


class Trials:
    """`probe` is what the API calls. `tester` is None in a process without connectors."""

    def __init__(self, database: Database, clock: Clock, tester: Tester | None) -> None:
        self._database = database
        self._clock = clock
        self._tester = tester

    async def probe(self, integration_id: int) -> Mapping[str, Any]:
        if self._tester is not None and await self._tester.knows(integration_id):
            return await self._tester.probe(integration_id)
        return await self._by_order(integration_id)

    async def _by_order(self, integration_id: int) -> Mapping[str, Any]:
        now = self._clock.now()
        params = {"until": rfc3339(now + PATIENCE)}
        asked = await self._database.write(
            lambda tx: journal.ask(tx, KIND, integration_id, params, "api", rfc3339(now))
        )
        ends_at = self._clock.monotonic() + PATIENCE.total_seconds()
        while self._clock.monotonic() < ends_at:
            answer = await self._database.read(lambda tx: journal.answer_of(tx, asked))
            if answer is not None and answer.get("ok"):
                trial: Mapping[str, Any] = answer["trial"]
                return trial
            if answer is not None:
                return trial_form(Trial(reason=Reason.PENDING, error=str(answer.get("error", "refused"))))
            await self._clock.sleep(POLL_SECONDS)
        error = f"no process that leads has answered within {PATIENCE.seconds} s; is a controller running?"
        return trial_form(Trial(reason=Reason.TIMED_OUT, error=error))
