"""Is the process alive, is it ready: checks in, reasons out. Called by `api` for `/healthz` and `/readyz`.

Alive means that the loop answers and the store's writer gets on; neither a full disk nor a database that is away makes a process
dead, because a restart would not mend it. Ready means that the store takes a real write and every check that the daemon handed in
has no complaint.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from reconciler.model.clock import Clock, rfc3339
from reconciler.store.database import Database, Tx
from reconciler.store.errors import StoreError
from reconciler.store.shown import check_writable

Check = Callable[[], str | None]
"""None where all is well, else the reason for a person."""

PATIENCE = timedelta(seconds=0.5)
STUCK_AFTER = timedelta(seconds=30)
WRITE_TIMEOUT = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Reasons by check; None where all is well."""

    checks: Mapping[str, str | None]

    @property
    def is_good(self) -> bool:
        return not any(self.checks.values())


class Health:
    """`checks` are named, cheap and synchronous, e.g. `{"desired_state": ..., "jobs": ...}`."""

    def __init__(self, database: Database, clock: Clock, checks: Mapping[str, Check] | None = None) -> None:
        self._database = database
        self._clock = clock
        self._checks = {} if checks is None else checks
        self._asked: asyncio.Task[str | None] | None = None
        self._asked_at = 0.0

    async def live(self) -> Verdict:
        return Verdict({"writer": await self._writer()})

    async def ready(self) -> Verdict:
        return Verdict({"store": await self._store(), **{name: check() for name, check in self._checks.items()}})

    async def _writer(self) -> str | None:
        """A transaction may rightly take longer than a probe waits: only one that never ends is a complaint."""
        if self._asked is None:
            self._asked = asyncio.create_task(self._gets_on())
            self._asked_at = self._clock.monotonic()
        asked = self._asked
        await asyncio.wait([asked], timeout=PATIENCE.total_seconds())
        if asked.done():
            self._asked = None if self._asked is asked else self._asked
            return asked.result()
        busy = self._clock.monotonic() - self._asked_at
        return f"no write has been possible for {busy:.0f} s" if busy > STUCK_AFTER.total_seconds() else None

    async def _gets_on(self) -> str | None:
        """That the store refuses is an answer, too."""
        try:
            await self._database.write(lambda _: None)
        except StoreError:
            return None
        except RuntimeError as error:
            return _closed(error)
        return None

    async def _store(self) -> str | None:
        at = rfc3339(self._clock.now())
        try:
            async with asyncio.timeout(WRITE_TIMEOUT.total_seconds()):
                return await self._write(lambda tx: check_writable(tx, at))
        except TimeoutError:
            return f"no write was possible within {WRITE_TIMEOUT.total_seconds():.0f} s"

    async def _write(self, query: Callable[[Tx], None]) -> str | None:
        try:
            await self._database.write(query)
        except StoreError as error:
            return str(error)
        except RuntimeError as error:
            return _closed(error)
        return None


def _closed(error: RuntimeError) -> str:
    """The daemon is stopping."""
    return f"the store is closed: {error}"
