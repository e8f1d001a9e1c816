"""The web server inside the daemon's own event loop: an address and an application in, answers over HTTP out.

`start` binds, `stop` ends within a bounded time. It installs no signal handlers and writes no access log. Clients that are
slow to send their request are cut off after a while, and a request's head is bounded: neither takes part in blocking others.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reconciler.serve.errors import ListenError
from reconciler.serve.problem import LARGE_BODIES, MAX_BODY
from reconciler.serve.tls import Certificate, CertificateFiles

MAX_HEAD = 32 * 1024
LINGER = 8 * 2**20
"""Bytes of a body that was refused and are still taken, so that its sender comes to read why."""
MOST_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True)
class Patience:
    """`head`: until a request's head has arrived, `body`: until all of it has; `idle`: between requests; `stop`: for answers
    under way at the end."""

    head: timedelta = timedelta(seconds=10)
    body: timedelta = timedelta(seconds=60)
    idle: timedelta = timedelta(seconds=60)
    stop: timedelta = timedelta(seconds=5)


class Server:
    """`listen` is `host:port`; port 0 takes any free one, which `address` tells after `start`. `tls` None: plain HTTP.

    `ending` is called when the stop begins: for answers that would not end by themselves.
    """

    def __init__(
        self,
        listen: str,
        app: ASGIApp,
        patience: Patience | None = None,
        *,
        tls: CertificateFiles | None = None,
        max_body: int = MAX_BODY,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        self._ending = ending
        self._listen = listen
        self._app = app
        self._patience = patience or Patience()
        self._tls = tls
        self._max_body = max_body
        self._certificate: Certificate | None = None
        self._task: asyncio.Task[None] | None = None
        self._uvicorn: _Uvicorn | None = None
        self.address = listen

    async def start(self) -> None:
        """Raises ListenError. Requests are answered as soon as this returns."""
        self._certificate = Certificate(self._tls) if self._tls else None
        listening = _bind(self._listen)
        self.address = _shown(listening)
        self._uvicorn = _Uvicorn(self._config())
        self._task = asyncio.create_task(self._uvicorn.serve([listening]), name="http server")
        while not self._uvicorn.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    def renew(self) -> None:
        """Serve a certificate that changed on disk; call it about every second."""
        if self._certificate is not None:
            self._certificate.renew()

    async def stop(self) -> None:
        """Answers under way get `Patience.stop`; may be called twice, and without `start`."""
        if self._task is None or self._uvicorn is None:
            return
        task, self._task = self._task, None
        self._uvicorn.should_exit = True
        self._ending()
        done, _ = await asyncio.wait([task], timeout=self._patience.stop.total_seconds() + 2)
        if not done:
            self._uvicorn.force_exit = True
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _config(self) -> uvicorn.Config:
        certificate = self._certificate
        return uvicorn.Config(
            self._app,
            http=_protocol(self._patience, self._max_body),
            ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
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


class _Protocol(HttpToolsProtocol):
    """The library's protocol with a deadline and a limit for a request's head, and others for its body."""

    _patience = Patience()
    _most = 0
    _deadline: asyncio.TimerHandle | None = None
    _unread = 0
    _is_body = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect(self._patience.head)

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        if self._deadline is None:
            self._expect(self._patience.head)
        super().data_received(data)
        if self._unread > (self._most if self._is_body else MAX_HEAD) and not self.transport.is_closing():
            if not self._is_body:
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def on_message_begin(self) -> None:
        """An application can give up a connection whose client takes nothing: to close it would wait for that client."""
        super().on_message_begin()
        self.scope["abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        self._is_body = True
        self._expect(self._patience.body)

    def on_message_complete(self) -> None:
        self._arrived()
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            # It was answered before all of it had come, as what is too large is; the rest has put the library's timer out.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _unsupported_upgrade_warning(self) -> None:
        """A request to speak something else is answered as if it had not been made, which is no news."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._arrived()
        super().connection_lost(exc)

    def _expect(self, patience: timedelta) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(patience.total_seconds(), self.transport.abort)

    def _arrived(self) -> None:
        self._unread = 0
        self._is_body = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _protocol(patience: Patience, max_body: int) -> type[asyncio.Protocol]:
    most = max(max_body, *(size for _, size in LARGE_BODIES))
    return type("Protocol", (_Protocol,), {"_patience": patience, "_most": most + LINGER})
