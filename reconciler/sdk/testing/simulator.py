"""Base of vendor simulators: a real HTTP server on loopback with state in memory, faults and a strict gate.

In: requests of a connector. Out: a vendor's answers, a journal (`requests`) and `violations`: every request that the
vendor would not know (path, query parameter, header, body), and every answer of the simulator itself that its vendor
would not give. Violations are judged by the routes' own declarations and, where it is there, by the vendor's API
description, so that a wrong path or parameter in a connector fails its test also where only the package is installed.
Used by tests (a thread with a loop of its own, `with Vendor() as sim:`) and by the demo (`python -m simulators`).
Deliberately not done: HTTP/2, virtual hosts, multipart.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from reconciler.sdk.testing.faults import Armed, Effect, Fault, Faults
from reconciler.sdk.testing.openapi import Description

T = TypeVar("T")
VIOLATION = "x-simulator-violation"
_RST = struct.pack("ii", 1, 0)
_HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please sign in to continue.</body></html>"


@dataclass(eq=False)
class Call:
    """One request as the simulator got it. `path` holds the values of the route's placeholders."""

    method: str
    url_path: str
    query_list: Sequence[tuple[str, str]]
    headers: Headers
    body: bytes
    path: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[Armed, ...] = ()

    @cached_property
    def query(self) -> dict[str, str]:
        """The last value of each query parameter; `query_list` has all of them."""
        return dict(self.query_list)

    @cached_property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None

    @cached_property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    def fault(self, effect: Effect) -> Fault | None:
        """The fault of this kind that strikes this request; asking counts as being struck."""
        for aimed in self.faults:
            if aimed.fault.effect is effect:
                aimed.struck += 1
                return aimed.fault
        return None

    def size(self, asked: int) -> int:
        """How many records a page may have: what was asked for, or less where a fault caps it."""
        cap = self.fault(Effect.CAPPED)
        return min(asked, cap.records) if cap else asked

    def wants_empty(self) -> bool:
        """Whether this page must come without records although more follow."""
        return self.fault(Effect.EMPTY_PAGE) is not None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. `json` is encoded unless `body` is given."""

    status: int = 200
    json: Any = None
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    @cached_property
    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        return b"" if self.json is None else json.dumps(self.json, ensure_ascii=False).encode()


@dataclass(frozen=True, kw_only=True)
class Route:
    """What a vendor's endpoint takes. `query` and `fields` may end in `*`; `required` are query parameters.

    `headers` maps required header names to shell patterns of their value. `body` is "json", "form" or "" for none;
    `fields`, where given, are the only top-level fields a body may have. `is_open` needs no credential.
    """

    method: str
    template: str
    query: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    fields: tuple[str, ...] | None = None
    is_open: bool = False
    is_described: bool = True

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        parts = re.split(r"\{(\w+)(:path)?\}", self.template)
        text = "".join(
            re.escape(p) if i % 3 == 0 else f"(?P<{p}>{'.+' if parts[i + 1] else '[^/]+'})"
            for i, p in enumerate(parts)
            if i % 3 != 2
        )
        return re.compile(text)

    def complaints(self, call: Call) -> Iterator[str]:
        """What this endpoint would not take."""
        for name, _ in call.query_list:
            if not any(fnmatchcase(name, known) for known in (*self.query, *self.required)):
                yield f"query parameter {name} is not declared"
        for name in self.required:
            if name not in call.query:
                yield f"required query parameter {name} is missing"
        for name, pattern in self.headers.items():
            if not fnmatchcase(call.headers.get(name, "\0"), pattern):
                yield f"header {name} must be {pattern}, is {call.headers.get(name, 'missing')}"
        yield from self._body_complaints(call)

    def _body_complaints(self, call: Call) -> Iterator[str]:
        kind = call.headers.get("content-type", "")
        if not self.body:
            if call.body:
                yield "no body is taken here"
            return
        wanted = "application/x-www-form-urlencoded" if self.body == "form" else "json"
        if wanted not in kind:
            yield f"content type must be {wanted}, is {kind or 'missing'}"
            return
        try:
            given = call.form if self.body == "form" else call.json
        except ValueError as error:
            yield f"the body is not {self.body}: {error}"
            return
        for name in given if self.fields is not None and isinstance(given, dict) else ():
            if not any(fnmatchcase(name, known) for known in self.fields or ()):
                yield f"body field {name} is not declared"


Endpoint = Callable[[Any, Call], Reply]
E = TypeVar("E", bound=Endpoint)


def route(method: str, template: str, **more: Any) -> Callable[[E], E]:
    """Declares a method of a simulator as an endpoint; `more` are the fields of `Route`."""

    def mark(endpoint: E) -> E:
        declared = getattr(endpoint, "routes", ())
        endpoint.routes = (Route(method=method, template=template, **more), *declared)  # type: ignore[attr-defined]
        return endpoint

    return mark


class _Protocol(H11Protocol):
    """Hands the connection to the application, so that a fault can reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        application = self.app

        async def with_connection(scope: Any, receive: Any, send: Any) -> None:
            await application({**scope, "connection": transport}, receive, send)

        self.app = with_connection


class _ResetError(Exception):
    """The connection is gone; there is nothing to answer."""


class Simulator:
    """Subclass it: `@route` methods, state in `__init__`, and `admit`, `error`, `base_url` where the vendor differs."""

    descriptions: ClassVar[tuple[Path | Mapping[str, Any], ...]] = ()

    def __init__(
        self, *, now: Callable[[], datetime] | None = None, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.now = now or (lambda: datetime.now(UTC))
        self.faults = Faults()
        self.requests: list[Call] = []
        self.violations: list[str] = []
        self.checks_answers = True
        self._tls = tls
        self._port = port
        self._given: dict[tuple[str, str], Reply] = {}
        self._described = [self._load(d) for d in self.descriptions]
        self._routes = [
            (r, getattr(self, n)) for n in dir(type(self)) for r in getattr(getattr(type(self), n), "routes", ())
        ]
        self._routes.sort(key=lambda pair: pair[0].template.count("{"))

    @staticmethod
    def _load(source: Path | Mapping[str, Any]) -> Description:
        return Description(source) if isinstance(source, Mapping) else Description.load(source)

    # What a vendor's simulator says.

    def admit(self, call: Call) -> Reply | None:
        """Judge the credential: None lets the request pass."""
        return None

    def error(self, status: int) -> Reply:
        """The vendor's own error body for a status."""
        return Reply(status=status, json={"error": f"simulated {status}"})

    def lets_pass(self, operation: str, complaint: str) -> bool:
        """Whether the vendor is laxer than its description here. `operation` is like `GET /users/{id}`."""
        return False

    def usual_headers(self, call: Call) -> Mapping[str, str]:
        """Headers of every answer, such as what is left of a rate limit."""
        return {}

    # The way of a request.

    def answer(self, call: Call) -> Reply:
        """Judge, then strike or answer. Raises for faults that end the connection."""
        self.requests.append(call)
        found = self._find(call)
        complaints = list(self._complaints(found[0] if found else None, call))
        if complaints or found is None:
            return self._refuse(
                call, complaints or [f"{call.method} {call.url_path} is not an endpoint of this vendor"]
            )
        early = self._struck_early(call)
        if early is not None:
            return early
        rule, endpoint = found
        refused = None if rule.is_open else self.admit(call)
        reply: Reply = refused or endpoint(call)
        self._judge(rule, call, reply)
        key = (call.method, call.url_path)
        if call.fault(Effect.REPLAY) and key in self._given:
            return self._given[key]
        self._given[key] = reply
        return self._struck_late(call, reply)

    def _find(self, call: Call) -> tuple[Route, Callable[[Call], Reply]] | None:
        for rule, endpoint in self._routes:
            match = rule.pattern.fullmatch(call.url_path) if rule.method == call.method else None
            if match:
                call.path = match.groupdict()
                return rule, endpoint
        return None

    def _complaints(self, rule: Route | None, call: Call) -> Iterator[str]:
        if rule is None:
            return
        yield from rule.complaints(call)
        if not rule.is_described or not self._described:
            return
        judged = [
            d.request(call.method, call.url_path, call.query_list, call.headers, call.body) for d in self._described
        ]
        operation, found = next((j for j in judged if j[0]), judged[0])
        yield from (c for c in found if not self.lets_pass(operation, c))

    def _refuse(self, call: Call, complaints: Sequence[str]) -> Reply:
        said = [f"{call.method} {call.url_path}: {c}" for c in complaints]
        self.violations.extend(said)
        return Reply(
            status=400, json={"message": f"SIMULATOR REFUSES: {'; '.join(said)}"}, headers={VIOLATION: "request"}
        )

    def _judge(self, rule: Route, call: Call, reply: Reply) -> None:
        if not self.checks_answers or not rule.is_described:
            return
        for description in self._described:
            operation, found = description.answer(
                call.method, call.url_path, reply.status, reply.content_type, reply.content
            )
            self.violations.extend(
                f"own answer {reply.status} to {operation}: {c}" for c in found if not self.lets_pass(operation, c)
            )

    def _struck_early(self, call: Call) -> Reply | None:
        if call.fault(Effect.RESET):
            raise _ResetError
        struck = call.fault(Effect.STATUS)
        if struck:
            shaped = self.error(struck.status)
            return replace(shaped, headers={**shaped.headers, **dict(struck.headers)})
        struck = call.fault(Effect.HTML)
        return Reply(status=struck.status, body=_HTML, content_type="text/html; charset=utf-8") if struck else None

    @staticmethod
    def _struck_late(call: Call, reply: Reply) -> Reply:
        if call.fault(Effect.LOST_ANSWER):
            raise _ResetError
        if call.fault(Effect.TRUNCATED):
            return replace(reply, body=reply.content[: len(reply.content) // 2])
        return reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        query = parse_qsl(scope["query_string"].decode(), keep_blank_values=True)
        faults = tuple(self.faults.striking(scope["method"], scope["path"]))
        call = Call(scope["method"], scope["path"], query, request.headers, await request.body(), {}, faults)
        try:
            reply = await self._answer_or_wait(call)
        except _ResetError:
            _abort(scope["connection"])
            await receive()
            return
        headers = {"date": format_datetime(self.now(), usegmt=True), **self.usual_headers(call), **reply.headers}
        content = b"" if call.method == "HEAD" else reply.content
        media = reply.content_type if content else None
        await Response(content, reply.status, headers, media)(scope, receive, send)

    async def _answer_or_wait(self, call: Call) -> Reply:
        if call.fault(Effect.STALL):
            self.requests.append(call)
            await self._over.wait()
            raise _ResetError
        struck = call.fault(Effect.SLOW)
        if struck:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), struck.seconds)
        return self.answer(call)

    # Start and stop.

    @property
    def url(self) -> str:
        """Root of the server, without a trailing slash."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen in a thread of its own; returns when requests are taken."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        if not ready.wait(120):
            raise TimeoutError("the simulator does not start")
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        application: ASGIApp = self
        config = Config(application, log_config=None, lifespan="off", date_header=False, server_header=False)
        config.load()
        state = ServerState()
        server = await self._loop.create_server(
            lambda: _Protocol(config=config, server_state=state, app_state={}), "127.0.0.1", self._port, ssl=self._tls
        )
        self._port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._over.wait()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


def _abort(transport: asyncio.Transport) -> None:
    """Close with RST, as a crashed peer does."""
    raw = transport.get_extra_info("socket")
    if raw is not None and transport.get_extra_info("sslcontext") is None:
        with suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    transport.abort()
