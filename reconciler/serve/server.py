"""The web server inside the daemon's own event loop: an address and an application in, answers over HTTP out.

`start` binds, `stop` ends within a bounded time. It installs no signal handlers and writes no access log. Clients that are
slow to send their request are cut off after a while, and a request's head is bounded: neither takes part in blocking others.
"""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 32 * 1024
MOST_CONNECTIONS = 1000


class ListenError(OSError):
    """The address cannot be listened on; the message says why and what to change."""


@dataclass(frozen=True, slots=True)
class Patience:
    """`head`: until a request has arrived whole; `idle`: between requests; `stop`: for answers under way at the end."""

    head: timedelta = timedelta(seconds=10)
    idle: timedelta = timedelta(seconds=60)
    stop: timedelta = timedelta(seconds=5)


class Server:
    """`listen` is `host:port`; port 0 takes any free one, which `address` tells after `start`."""

    def __init__(self, listen: str, app: ASGIApp, patience: Patience | None = None) -> None:
        self._listen = listen
        self._app = app
        self._patience = patience or Patience()
        self._task: asyncio.Task[None] | None = None
        self._uvicorn: _Uvicorn | None = None
        self.address = listen

    async def start(self) -> None:
        """Raises ListenError. Requests are answered as soon as this returns."""
        listening = _bind(self._listen)
        self.address = _shown(listening)
        self._uvicorn = _Uvicorn(self._config())
        self._task = asyncio.create_task(self._uvicorn.serve([listening]), name="http server")
        while not self._uvicorn.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Answers under way get `Patience.stop`; may be called twice, and without `start`."""
        if self._task is None or self._uvicorn is None:
            return
        task, self._task = self._task, None
        self._uvicorn.should_exit = True
        done, _ = await asyncio.wait([task], timeout=self._patience.stop.total_seconds() + 2)
        if not done:
            self._uvicorn.force_exit = True
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            http=_protocol(self._patience.head.total_seconds()),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=int(self._patience.idle.total_seconds()),
            timeout_graceful_shutdown=max(1, int(self._patience.stop.total_seconds())),
        )


def is_loopback(listen: str) -> bool:
    """Whether only this machine can connect to `host:port`."""
    host = _host_and_port(listen)[0]
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals are the daemon's."""
        yield


def _host_and_port(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _bind(listen: str) -> socket.socket:
    try:
        return _listening(*_host_and_port(listen))
    except OSError as error:
        raise ListenError(
            f"cannot listen on {listen}: {error.strerror or error}; end what uses this address, or set `listen`"
            " (RECONCILER_LISTEN) to another one"
        ) from error


def _listening(host: str, port: int) -> socket.socket:
    """The protocol is named because asyncio turns delayed sending off only where it is: 40 ms an answer otherwise."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
        bound.listen(512)
    except OSError:
        bound.close()
        raise
    return bound


def _shown(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{host}:{port}"


def _protocol(head_timeout: float) -> type[asyncio.Protocol]:
    """The library's protocol with a deadline and a limit for what comes before a request is complete."""

    class Protocol(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _unread = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect()

        def data_received(self, data: bytes) -> None:
            self._unread += len(data)
            if self._deadline is None:
                self._expect()
            super().data_received(data)
            if self._unread > MAX_HEAD and not self.transport.is_closing():
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
                self.transport.close()

        def on_message_complete(self) -> None:
            self._arrived()
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def _expect(self) -> None:
            self._deadline = self.loop.call_later(head_timeout, self.transport.abort)

        def _arrived(self) -> None:
            self._unread = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Protocol
