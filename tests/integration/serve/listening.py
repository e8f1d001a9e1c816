"""A client of server-sent events over real HTTP, and a world whose runs it can watch."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.api import make_app
from reconciler.serve.health import Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.parts import Parts
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Server
from reconciler.serve.snapshot import Board
from reconciler.serve.streaming import Beat
from reconciler.serve.streams import Streams
from reconciler.store.database import Database
from tests.tokens import bearer, issue

STREAM = {"accept": "text/event-stream"}
PATIENCE = 60.0


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    body: Any


async def events_of(answer: httpx.Response) -> AsyncIterator[Event]:
    """Events as a browser reads them; comments are left out, and an id without an event counts for the next one."""
    kind, said, event_id = "message", "", ""
    async for line in answer.aiter_lines():
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif name == "data":
            said += value
        elif not line:
            if said:
                yield Event(kind, event_id, json.loads(said))
            kind, said, event_id = "message", "", ""


@asynccontextmanager
async def listening(
    client: httpx.AsyncClient, path: str, method: str = "GET", last: str = "", **more: Any
) -> AsyncIterator[AsyncIterator[Event]]:
    headers: Mapping[str, str] = {**STREAM, **({"last-event-id": last} if last else {}), **more.pop("headers", {})}
    async with client.stream(method, path, headers=headers, **more) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield events_of(answer)


async def heard(client: httpx.AsyncClient, path: str, method: str = "GET", last: str = "", **more: Any) -> list[Event]:
    """To the stream's own end."""
    async with asyncio.timeout(PATIENCE), listening(client, path, method, last, **more) as events:
        return [event async for event in events]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 what it waits for happens in a server, which tells nobody
            await asyncio.sleep(0.02)


async def raw(client: httpx.AsyncClient, path: str, until: bytes, last: str = "") -> bytes:
    """What a stream brings up to and with `until`, on a connection of its own: five hundred pools would take their time."""
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    resumed = f"last-event-id: {last}\r\n" if last else ""
    head = (
        f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {client.headers['authorization']}\r\n{resumed}\r\n"
    )
    writer.write(head.encode())
    try:
        found = await reader.readuntil(b"\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200"), found
        return await reader.readuntil(until)
    finally:
        writer.close()


async def next_of(events: AsyncIterator[Event], kind: str | None = None) -> Event:
    async with asyncio.timeout(PATIENCE):
        async for event in events:
            if kind in (None, event.kind):
                return event
    raise AssertionError(f"the stream ended without {kind}")


@dataclass
class Served:
    """The web side of a process on a database that others write."""

    database: Database
    server: Server
    streams: Streams
    board: Board
    client: httpx.AsyncClient


@asynccontextmanager
async def serving(database: Database, beat: Beat | None = None) -> AsyncIterator[Served]:
    clock, metrics = SystemClock(), Metrics()
    clear = await issue(database, "everything", None, Permission.ADMIN)
    board = Board(database, clock)
    scrape = Scrape(board, metrics, lambda: True)
    admission = Admission(database, clock)
    streams = Streams(database, clock, board, admission, beat)
    health = Health(database, clock, {})
    parts = Parts(database, clock, board, scrape, health, Redactor(), admission, streams=streams)
    server = Server("127.0.0.1:0", make_app(parts), ending=streams.end)
    await server.start()
    headers = bearer(clear)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{server.address}", trust_env=False, headers=headers, timeout=PATIENCE
        ) as client:
            yield Served(database, server, streams, board, client)
    finally:
        await server.stop()
        scrape.close()
