"""What rooms are handed to keep things with: log lines, run-time tokens and shared rate blocks, on the store."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any

import structlog

from reconciler.app.vault import Vault
from reconciler.model.clock import Clock, from_rfc3339, rfc3339
from reconciler.model.condition import Reason
from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.sdk.authorize import IRREPLACEABLE
from reconciler.sdk.contract import KeptToken
from reconciler.sdk.errors import TransientError
from reconciler.sdk.live import current_run
from reconciler.sdk.redact import Redactor
from reconciler.store import budgets, inventory, leases
from reconciler.store.database import Database, Tx
from reconciler.store.inventory import Sealed
from reconciler.store.journal import LogLine, write_logs
from reconciler.store.leases import Lease

MOST_WAITING = 10_000
FLUSH_SECONDS = 0.5  # how soon the daemon stores a line
RENEWAL = timedelta(seconds=60)  # how long the process that renews a token may take
RENEWAL_POLL_SECONDS = 0.2


class StoreJournal:
    """Implements `Journal`: lines are redacted at once, shown in the daemon's log, and stored in batches."""

    def __init__(self, database: Database, clock: Clock, redactor: Redactor) -> None:
        self._database = database
        self._clock = clock
        self._redactor = redactor
        self._names: dict[int, str] = {}
        self._waiting: deque[LogLine] = deque(maxlen=MOST_WAITING)
        self._logger = structlog.get_logger("integration")

    def name(self, integration_id: int, name: str) -> None:
        """How the daemon's log calls the integration."""
        self._names[integration_id] = name

    def __call__(self, integration_id: int, level: LogLevel, message: str, /, **detail: Any) -> None:
        text = self._redactor.text(message)
        safe = self._redactor.value({k: v for k, v in detail.items() if v not in (None, "")})
        run_id = current_run.get()
        at = rfc3339(self._clock.now())
        self._waiting.append(LogLine(integration_id, at, level, text, safe, run_id))
        shown = {k: v for k, v in safe.items() if k not in {"event", "level", "integration"}}
        name = self._names.get(integration_id, str(integration_id))
        getattr(self._logger, _METHOD[level])(text, integration=name, **shown)

    async def flush(self) -> None:
        """All lines so far are stored; a store that is full keeps them waiting, the oldest going first."""
        if not self._waiting:
            return
        lines = list(self._waiting)
        self._waiting.clear()
        try:
            await self._database.write(lambda tx: write_logs(tx, lines))
        except Exception:
            self._waiting = deque((*lines, *self._waiting), maxlen=MOST_WAITING)
            raise


_METHOD = {LogLevel.DEBUG: "debug", LogLevel.INFO: "info", LogLevel.WARN: "warning", LogLevel.ERROR: "error"}


class StoreTokens:
    """Implements `Tokens` for one integration: sealed by the vault, registered for redaction.

    `is_shared`: other processes work with the same tokens.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        redactor: Redactor,
        clock: Clock,
        integration_id: int,
        *,
        is_shared: bool = False,
    ) -> None:
        self._is_shared = is_shared
        self._database = database
        self._vault = vault
        self._redactor = redactor
        self._clock = clock
        self._id = integration_id
        self._hidden: dict[str, tuple[Secret, ...]] = {}

    async def get(self, name: str) -> tuple[Secret, datetime | None] | None:
        sealed = await self._database.read(lambda tx: inventory.credential(tx, self._id, name))
        if sealed is None:
            return None
        if not self._vault.opens(sealed.key_id):
            _demand(name, sealed.key_id)
            return None
        value = self._vault.open(sealed.ciphertext, self._place(name), sealed.key_id)
        self._hide(name, value)
        return value, from_rfc3339(sealed.expires_at) if sealed.expires_at else None

    async def put(self, name: str, value: Secret, expires_at: datetime | None) -> None:
        await self.put_all(KeptToken(name, value, expires_at))

    async def put_all(self, *tokens: KeptToken) -> None:
        """Durable: a single-use refresh token must not be lost to a power cut."""
        for token in tokens:
            self._hide(token.name, token.value)
        sealed = {token.name: self._sealed(token) for token in tokens}
        at = rfc3339(self._clock.now())

        def put(tx: Tx) -> None:
            for name, one in sealed.items():
                inventory.put_credential(tx, self._id, name, one, at)

        await self._database.write(put, durable=True)

    def _sealed(self, token: KeptToken) -> Sealed:
        vault, until = self._vault, token.expires_at
        ciphertext = vault.seal(token.value, self._place(token.name))
        mark = token.value.fingerprint(vault.fingerprint_key)
        return Sealed(ciphertext, vault.key_id, rfc3339(until) if until else None, token.scopes, mark)

    async def scopes(self, name: str) -> tuple[str, ...] | None:
        sealed = await self._database.read(lambda tx: inventory.credential(tx, self._id, name))
        return sealed.scopes if sealed else None

    async def drop(self, name: str) -> None:
        await self._database.write(lambda tx: inventory.drop_credentials(tx, self._id, name))

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        if not self._is_shared:  # within one process, whoever renews sees to it
            yield
            return
        lease = await self._taken(f"token {self._place(name)}")
        try:
            yield
        finally:
            await self._database.write(lambda tx: leases.release(tx, lease), guarded=True)

    async def _taken(self, name: str) -> Lease:
        owner = token_hex(8)
        while True:
            lease = await self._database.write(lambda tx: leases.take(tx, name, owner, tx.now(), RENEWAL), guarded=True)
            if lease is not None:
                return lease
            await self._clock.sleep(RENEWAL_POLL_SECONDS)

    def _hide(self, name: str, value: Secret) -> None:
        """This token and the one before it, which a late answer may quote; older ones are dead, and would add up."""
        before = self._hidden.get(name, ())[-1:]
        if value not in before:
            self._hidden[name] = (*before, value)
            self._redactor.register(f"tokens:{self._place(name)}", self._hidden[name])

    def _place(self, name: str) -> str:
        return f"{self._id}/{name}"


def _demand(name: str, key_id: str) -> None:
    """What can be obtained again is as good as absent; for what only a person can give again, the key must come back."""
    if name.startswith(IRREPLACEABLE):
        raise TransientError(
            f"a token kept by the daemon was sealed with master key {key_id}, which this process does not have; give it that "
            "key as well, or authorize again",
            reason=Reason.KEY_MISSING,
        )


class StoreBlocks:
    """Implements `SharedBlocks`: until when a remote wants to be left alone, shared by all processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, key: str) -> datetime | None:
        return await self._database.read(lambda tx: budgets.blocked_until(tx, key))

    async def save(self, key: str, until: datetime) -> None:
        await self._database.write(lambda tx: budgets.block(tx, key, until))
