"""Requests of remotes to us: verified by the connector, stored, and answered; what follows is done from the store.

In: where it is for, headers, body. Out: what to answer, and the run that reads again what the request named. Called by `serve`
in processes that follow Git, because a signature can only be checked with the integration's secrets. Whatever is wrong before
the signature holds looks the same from outside: no such integration, disabled, no connector that verifies, a bad signature.
Not done here: reading records (`sync`), routing events (`route`).
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from hmac import digest as hmac_digest
from typing import TypeVar

from reconciler.model.clock import Clock, rfc3339
from reconciler.model.ids import Ref
from reconciler.model.record import LogLevel
from reconciler.sdk.contract import Verifies
from reconciler.sdk.errors import ConnectorError, place_of
from reconciler.sdk.inbound import Inbound, Reply, Told, Touched
from reconciler.sdk.live import Connections, Journal, Live, NotConnectableError
from reconciler.store import inbox, integrations, journal
from reconciler.store.database import Database, Tx
from reconciler.store.inbox import Item
from reconciler.store.integrations import IntegrationRow

T = TypeVar("T")
LARGE = 64 * 1024
TELL_SECONDS = 60.0
STEP_SECONDS = 0.02
MOST_HUGE = 4
HUGE = 1024 * 1024
"""Bodies beyond this are held in memory a few at a time: nobody has to sign in to send one."""
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


class NotVerifiedError(Exception):
    """Nothing may be said of why: not even whether there is such an integration."""


class TooLargeError(Exception):
    """The sender is known; the request is larger than its connector takes."""


class FullError(Exception):
    """So much waits already that nothing more is taken for now."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`receipt` is its public id; `run_id` the run to start at once; `tells`: events are to be routed."""

    receipt: str
    reply: Reply | None = None
    is_repeat: bool = False
    run_id: int | None = None
    tells: bool = False


class Reception:
    """`take` each request when it `is_ready`; before, Git was not read, and a refusal would be believed. `close` at the end."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        journal: Journal,
        clock: Clock,
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self._database = database
        self._connections = connections
        self._journal = journal
        self._clock = clock
        self.is_ready = is_ready
        self._decoy = secrets.token_bytes(32)
        self._told: dict[int, float] = {}
        self.huge = asyncio.Semaphore(MOST_HUGE)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="inbound")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def take(self, ref: Ref, headers: Mapping[str, str], body: bytes) -> Taken:
        """Raises NotVerifiedError, TooLargeError and FullError; StoreError where it could not be kept."""
        started = self._clock.monotonic()
        try:
            return await self._take(ref, headers, body)
        except NotVerifiedError:
            await self.even_out(started)
            raise

    async def even_out(self, started: float) -> None:
        """A refusal comes at a full step after its request: what was found, or not, takes less than one and cannot be told."""
        await self._clock.sleep(STEP_SECONDS - (self._clock.monotonic() - started) % STEP_SECONDS)

    async def _take(self, ref: Ref, headers: Mapping[str, str], body: bytes) -> Taken:
        row = await self._database.read(lambda tx: integrations.find(tx, ref))
        live = await self.live_of(row)
        if row is None or live is None or not live.manifest.spec.enabled or not isinstance(live.connector, Verifies):
            await self.aside(len(body), lambda: hmac_digest(self._decoy, body, "sha256"))
            raise NotVerifiedError
        given = {name: value for name, value in headers.items() if name.lower() not in SECRET_HEADERS}
        await self._verified(live, live.connector, given, body)
        if len(body) > live.connector.max_inbound:
            raise TooLargeError(f"{live.connector.type} takes at most {live.connector.max_inbound} bytes")
        found = await self._understood(live, live.connector, given, body)
        if isinstance(found, Inbound) and found.is_handshake:
            return Taken("", found.reply)
        return await self._store(row, live, found, sha256(body).hexdigest())

    async def live_of(self, row: IntegrationRow | None) -> Live | None:
        """With its secrets; None where Git does not name it, or it cannot be used."""
        if row is None or not row.is_desired or row.removed_at is not None:
            return None
        try:
            return await self._connections.live(row.id)
        except NotConnectableError:
            return None

    async def _verified(self, live: Live, connector: Verifies, headers: Mapping[str, str], body: bytes) -> None:
        try:
            await self.aside(len(body), lambda: connector.verify(headers, body))
        except ConnectorError as error:
            self._tell_refused(live, error.message)
            raise NotVerifiedError from None
        except Exception as error:  # noqa: BLE001 - a connector's own fault must not open the door
            self._tell_refused(live, place_of(error))
            raise NotVerifiedError from None

    def _tell_refused(self, live: Live, why: str) -> None:
        """At most once a minute: anybody can send anything here."""
        now = self._clock.monotonic()
        if now - self._told.get(live.integration_id, -TELL_SECONDS) >= TELL_SECONDS:
            self._told[live.integration_id] = now
            self._journal(live.integration_id, LogLevel.WARN, f"inbound request refused: {why}")

    async def _understood(
        self, live: Live, connector: Verifies, headers: Mapping[str, str], body: bytes
    ) -> Inbound | str:
        """Or why it cannot be: kept as failed, so that somebody sees it and the remote does not send it for ever."""
        try:
            found = await self.aside(len(body), lambda: connector.receive(headers, body))
        except ConnectorError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - a body that the connector cannot take must not hold up others
            self._journal(live.integration_id, LogLevel.ERROR, f"{place_of(error)}: an inbound request failed")
            return f"unexpected {place_of(error)}"
        return found

    async def aside(self, size: int, call: Callable[[], T]) -> T:
        """What takes long does not hold the loop."""
        if size <= LARGE:
            return call()
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _store(self, row: IntegrationRow, live: Live, found: Inbound | str, digest: str) -> Taken:
        now = self._clock.now()
        is_ready = row.is_connected and not row.is_suspended
        wanted = _wanted(live, found.touched) if isinstance(found, Inbound) else ()

        def store(tx: Tx) -> Taken:
            at = rfc3339(now)
            named = f"delivery:{found.delivery_id}" if isinstance(found, Inbound) and found.delivery_id else ""
            identities = [one for one in (named, f"body:{digest}") if one]
            before = inbox.taken_by(tx, row.id, identities)
            if before is not None:
                return Taken(before, _reply(found), is_repeat=True)
            if inbox.is_full(tx, row.id):
                raise FullError
            number, public_id = inbox.open_request(tx, row.id, "webhook", at)
            is_first = [inbox.is_new(tx, row.id, one, number, at) for one in identities]
            if not all(is_first):  # another process was faster by a moment
                raise _TwiceError
            if isinstance(found, str):
                inbox.close_request(tx, number, 0, error=found)
                return Taken(public_id)
            told = emit_new(tx, row.id, found.events, number, at)
            inbox.put_items(tx, row.id, number, [_item(n, one) for n, one in enumerate(wanted)])
            inbox.close_request(tx, number, len(wanted) + told, len(found.events) - told)
            run_id = inbox.ask_run(tx, row.id, now) if wanted and is_ready else None
            return Taken(public_id, found.reply, run_id=run_id, tells=told > 0)

        try:
            taken = await self._database.write(store, durable=True)
        except _TwiceError:
            taken = await self._database.write(store, durable=True)
        self._tell(live, found, taken)
        return taken

    def _tell(self, live: Live, found: Inbound | str, taken: Taken) -> None:
        if isinstance(found, str):
            self._journal(
                live.integration_id, LogLevel.WARN, f"inbound request not understood: {found}", receipt=taken.receipt
            )
        elif not taken.is_repeat:
            counts = {"records": len(found.touched), "events": len(found.events)}
            self._journal(live.integration_id, LogLevel.DEBUG, "inbound request", receipt=taken.receipt, **counts)


class _TwiceError(Exception):
    """Seen by the index only: look again."""


def emit_new(tx: Tx, integration_id: int, events: Sequence[Told], inbox_id: int, at: str) -> int:
    """How many of these events were not told before: they are in the log now."""
    told = 0
    for event in events:
        if inbox.is_new(tx, integration_id, f"event:{event.id}", inbox_id, at):
            journal.emit_own(tx, integration_id, event.type, rfc3339(event.at), event.detail())
            told += 1
    return told


def _wanted(live: Live, touched: Sequence[Touched]) -> tuple[Touched, ...]:
    """Of what is read at all."""
    spec, connector = live.manifest.spec, live.connector
    if spec.sync_direction == "outbound":
        return ()
    offered = connector.entities_of(connector.config)
    read = {e.name for e in offered if (e.by_default if spec.sync.entities is None else e.name in spec.sync.entities)}
    return tuple(one for one in touched if one.entity in read)


def _item(position: int, one: Touched) -> Item:
    return Item(
        entity=one.entity, key=one.key, op="read", payload=inbox.as_place(one.listing, one.place), position=position
    )


def _reply(found: Inbound | str) -> Reply | None:
    return found.reply if isinstance(found, Inbound) else None
