"""One process leads: a lease in the database, by the database's clock. Others wait and take over within seconds.

In: a database that several processes share. Out: `leads` is set when this process leads, `lost` when it must stop at once.
Called by the daemon, which ends then: its supervisor starts it anew, and it waits its turn. A leader that cannot renew
stops by its own monotonic clock before anybody else may begin; what it still was about to write is refused by `check`. One that
stood still for longer, with its machine, goes on where the database says that nobody has begun.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from reconciler.model.clock import Clock
from reconciler.store import leases
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StateLockedError, StoreError
from reconciler.store.leases import Lease, NotLeadingError

LENGTH = timedelta(seconds=8)
RENEW = timedelta(seconds=2)
_SILENT = "the database did not answer in time"


class Leadership:
    """`ask` once, then `keep` as a loop, `leave` at the end. `leads` is set when the lease is ours, `lost` when it was."""

    def __init__(self, database: Database, clock: Clock, owner: str) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._lease: Lease | None = None
        self._safe_until = 0.0
        self._said = ""
        self.leads = asyncio.Event()
        self.lost = asyncio.Event()
        self._logger = structlog.get_logger("daemon")

    async def ask(self, *, must: bool = False) -> None:
        """Take the lease where it is free; with `must`, raises StateLockedError where somebody else has it."""
        if await self._renewed():
            self.leads.set()
            self._logger.info("leading", term=self._lease.term if self._lease else 0)
            return
        holder = await self._database.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now()))
        if must:
            raise StateLockedError(
                f"daemon {holder or 'unknown'} works on {self._database.where}; tell it what to do "
                "(reconciler reconcile), or stop it first"
            )
        if holder and holder != self._said:
            self._logger.info("standing by, another daemon leads", leader=holder)
            self._said = holder

    async def keep(self) -> None:
        """Take it when it gets free, then renew it for as long as the process lives."""
        while not self.lost.is_set():
            await self._clock.sleep(RENEW.total_seconds())
            if self.leads.is_set():
                await self._renew()
            else:
                await self._ask_again()
        await asyncio.Event().wait()

    async def _ask_again(self) -> None:
        with suppress(StoreError):  # said by whoever else needs the store; who comes next begins as soon as it is back
            await self.ask()

    async def _renew(self) -> None:
        """Where the whole process stood still too long, it asks once more: nobody may have taken over."""
        left = self._safe_until - self._clock.monotonic()
        try:
            async with asyncio.timeout(left if left > 0 else RENEW.total_seconds()):
                if not await self._renewed():
                    self._lose("another daemon leads")
        except TimeoutError:
            self._lose(_SILENT)
        except StoreError:  # said by whoever else needs the store; only the time counts here
            if left <= 0:
                self._lose(_SILENT)

    def check(self, tx: Tx) -> None:
        """Raises NotLeadingError where another process may have begun."""
        if self._lease is None:
            raise NotLeadingError("this process does not lead")
        leases.check(tx, self._lease)

    async def leave(self) -> None:
        """At the end of the process: the next one begins at once."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(StoreError):
                await self._database.write(lambda tx: leases.release(tx, lease), guarded=True)

    async def _renewed(self) -> bool:
        asked = self._clock.monotonic()
        lease = await self._database.write(
            lambda tx: leases.take(tx, leases.CONTROLLER, self._owner, tx.now(), LENGTH), guarded=True
        )
        if lease is None or (self._lease is not None and lease != self._lease):
            return False
        self._lease, self._safe_until = lease, asked + (LENGTH - RENEW).total_seconds()
        return True

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self._lease = None
            self._logger.error("no longer leading, this process ends", why=why)
            self.lost.set()
