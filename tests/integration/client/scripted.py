"""A server on loopback that answers as a test says, also wrongly; and both clients behind one face."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from reconciler.client import AsyncClient, Client, Patience

TOKEN = "rt_canary-of-a-token-4711"
HURRIED = Patience(timeout=10, first_pause=0.01, longest_pause=0.02, retries=3)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Scripted:
    """`answers` are given one after the other, byte for byte, each on a connection that ends with it."""

    answers: list[bytes]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            method, path, _ = first.split(" ")
            self.asked.append(Asked(method, path, headers, body))
            writer.write(self.answers.pop(0) if self.answers else problem(500, "no-more-answers"))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port. At the end every connection has been closed."""
    open_ones: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_ones.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async with await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*open_ones)


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[Scripted]:
    made = Scripted([*answers])
    async with listening(made.serve) as made.port:
        yield made


def answer(status: int, body: Any = None, kind: str = "application/json", **headers: str) -> bytes:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(content)}\r\nconnection: close\r\n{more}\r\n"
    return head.encode() + content


def problem(status: int, code: str, detail: str = "why", **headers: str) -> bytes:
    body = {
        "type": "about:blank",
        "title": "X",
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": "req-1",
    }
    return answer(status, body, "application/problem+json", **headers)


def stream(*pieces: str | bytes) -> bytes:
    """It ends where the connection does, as one that was cut."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head + b"".join(piece.encode() if isinstance(piece, str) else piece for piece in pieces)


@dataclass
class Either:
    """A client of one of both kinds: `call` what gives an answer, `every` what gives many."""

    kind: type[Client] | type[AsyncClient]

    @asynccontextmanager
    async def client(self, url: str, token: Any = TOKEN, **more: Any) -> AsyncIterator[Any]:
        made = self.kind(url, token, **{"patience": HURRIED, "trust_env": False, **more})
        try:
            yield made
        finally:
            await self.call(made.close)

    async def call(self, do: Callable[[], Any]) -> Any:
        if self.kind is Client:
            return await asyncio.to_thread(do)
        return await do()

    async def every(self, do: Callable[[], Any]) -> Sequence[Any]:
        if self.kind is Client:
            return await asyncio.to_thread(lambda: list(do()))
        return [one async for one in do()]


EITHER = pytest.mark.parametrize("either", [Either(Client), Either(AsyncClient)], ids=["blocking", "awaited"])
