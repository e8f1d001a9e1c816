"""Real servers on loopback that misbehave on command, and a client wired for them. Used by the tests of this folder."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from reconciler.model.record import LogLevel
from reconciler.sdk.budget import Budgets
from reconciler.sdk.guard import GuardSettings, HostGuard, Resolve
from reconciler.sdk.http import Attempt, HttpClient, HttpSettings
from reconciler.sdk.network import GuardedNetwork, NetworkSettings, TlsContexts
from reconciler.sdk.redact import Redactor
from tests.unit.sdk.virtual_clock import VirtualClock

SECRET = "canary-7f3a9c51d2e84b06"


@dataclass(frozen=True)
class Seen:
    """A request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


Play = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """`plays` are used up one per request; the last one stays."""

    plays: list[Play]
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # The client going away, or the test ending, is the normal end of a connection.
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError, ssl.SSLError):
            while not writer.is_closing():
                seen = await read_request(reader)
                self.seen.append(seen)
                play = self.plays.pop(0) if len(self.plays) > 1 else self.plays[0]
                await play(seen, writer)
                await writer.drain()
        writer.close()
        self.ended.set()


async def read_request(reader: asyncio.StreamReader) -> Seen:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return Seen(method, target, headers, await reader.readexactly(int(headers.get("content-length", 0))))


@contextlib.asynccontextmanager
async def listening(*plays: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(list(plays))
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    socket = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    server.port = socket.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        socket.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await socket.wait_closed()


def reply(status: int = 200, body: bytes | str = b"{}", **headers: str) -> Play:
    """An ordinary answer; `content_type="text/html"` becomes a header."""
    raw = body.encode() if isinstance(body, str) else body
    sent = {"content_type": "application/json", "content_length": str(len(raw)), **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())

    async def play(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} Status\r\n{head}\r\n".encode() + (b"" if seen.method == "HEAD" else raw))

    return play


def raw(data: bytes, *, close: bool = True, reset: bool = False) -> Play:
    """Bytes as they are, then the end of the connection."""

    async def play(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if reset:
            writer.transport.abort()
        elif close:
            writer.close()

    return play


async def stall(seen: Seen, writer: asyncio.StreamWriter) -> None:
    """Never answers; ends with the server."""
    await asyncio.Event().wait()


@dataclass
class Logged:
    """A RunLog that keeps its lines."""

    lines: list[tuple[LogLevel, str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, level: LogLevel, message: str, **detail: Any) -> None:
        self.lines.append((level, message, detail))


@dataclass
class Rig:
    """A client and everything around it that a test looks at."""

    client: HttpClient
    clock: VirtualClock
    log: Logged
    attempts: list[Attempt]
    budgets: Budgets

    async def get(self, url: str, **more: Any) -> Any:
        return await self.client.send("GET", url, **more)

    async def post(self, url: str, **more: Any) -> Any:
        return await self.client.send("POST", url, **{"json": {}, **more})


async def loopback_only(host: str, port: int) -> Sequence[str]:
    """A resolver for which every name is this machine."""
    return ("127.0.0.1",)


@contextlib.asynccontextmanager
async def rigged(
    *,
    network: NetworkSettings | None = None,
    guard: GuardSettings | None = None,
    resolve: Resolve = loopback_only,
    settings: HttpSettings | None = None,
    redactor: Redactor | None = None,
    budgets: Budgets | None = None,
    **more: Any,
) -> AsyncIterator[Rig]:
    clock, log, attempts = VirtualClock(), Logged(), list[Attempt]()
    registry = budgets or Budgets(clock)
    host_guard = HostGuard(guard or GuardSettings(allow=("127.0.0.0/8",)), resolve)
    client = HttpClient(
        network=GuardedNetwork(network or NetworkSettings(), host_guard, TlsContexts()),
        budgets=registry,
        clock=clock,
        random=Random(7),
        log=log,
        redactor=redactor or Redactor(),
        observe=attempts.append,
        settings=settings,
        **more,
    )
    try:
        yield Rig(client, clock, log, attempts, registry)
    finally:
        await client.close()
