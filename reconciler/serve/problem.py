"""What every answer has in common: problem+json for errors, a request id, headers that keep browsers out, bounded requests.

`Envelope` wraps the application. An exception that nobody foresaw becomes a problem without details and one log line with
the request's id. HEAD is answered as GET, without the body. Not done here: authentication.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from secrets import token_hex
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.api.problem import PROBLEMS, title_of
from reconciler.serve.buckets import Headers
from reconciler.serve.forms import to_json

MAX_BODY = 2**20
LARGE_BODIES = (("/v1/inbound/", 25 * 1024 * 1024), ("/ingest/v1/", 5 * 1024 * 1024))
"""What others send to us may be larger; by the beginning of the path."""
PATIENCE = timedelta(seconds=60)
SAID = "answer_headers"
"""In a scope: headers that its answer bears, whatever it is."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000")


class ProblemError(Exception):
    """An answer other than success; `more` are further members of the problem."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.more = more or {}
        self.headers = headers or {}


def problem_response(problem: ProblemError, request_id: str) -> Response:
    body = {
        "type": PROBLEMS + problem.code,
        "title": title_of(problem.code),
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id,
        **problem.more,
    }
    return Response(to_json(body), problem.status, dict(problem.headers), "application/problem+json")


def faulty(status: int, code: str, errors: Sequence[Mapping[str, str]]) -> ProblemError:
    """The request does not fit; each error has a pointer, a code and a detail."""
    told = "; ".join(f"{one['pointer'] or 'the body'}: {one['detail']}" for one in errors[:5])
    return ProblemError(status, code, told, {"errors": errors})


UNFORESEEN = ProblemError(500, "internal", "the request failed; the daemon's log has its request id")
_LATER = {"retry-after": "5"}
_TOO_SLOW = ProblemError(
    503, "timed-out", "there was no answer in time; the daemon is overloaded or its store hangs", headers=_LATER
)
_STOPPING = ProblemError(503, "stopping", "the daemon is being stopped; ask again when it has started", headers=_LATER)


def _nothing(_: Scope) -> Headers:
    return ()


def as_it_is(app: ASGIApp) -> ASGIApp:
    return app


class Envelope:
    """`hosts`: those whose requests are answered. The server listens on loopback, so one for any other comes from a rebound name.
    None where it listens elsewhere: any.

    `patience`: a client that does not take its answer within this time is cut off, and the answer's memory is free again. A
    route that streams calls `scope["unhurried"]()` and bounds each of its pieces itself.
    `max_body`: bytes of a request, also of one that does not say how long it is.
    `said`: headers of the answer to a request of which nothing else is known yet.
    `shown`: what lets others read answers, whether they come from the application or from here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str] | None = LOOPBACK,
        patience: timedelta = PATIENCE,
        max_body: int = MAX_BODY,
        said: Callable[[Scope], Headers] = _nothing,
        shown: Callable[[ASGIApp], ASGIApp] = as_it_is,
    ) -> None:
        self._app = shown(app)
        self._shown = shown
        self._said = said
        self._hosts = hosts
        self._max_body = max_body
        self._patience = patience.total_seconds()
        self._logger = structlog.get_logger("api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req-{token_hex(8)}"
        scope["request_id"] = request_id
        scope[SAID] = self._said(scope)
        is_bodiless = scope["method"] == "HEAD"
        if is_bodiless:
            scope = {**scope, "method": "GET", "is_bodiless": True}
        answer = _Answer(send, scope, request_id, self._shown, is_bodiless=is_bodiless)
        try:
            most = self._most(scope["path"])
            self._check(scope, headers, most)
            async with asyncio.timeout(self._patience) as patience:
                scope["unhurried"] = lambda: patience.reschedule(None)
                await self._app(scope, _Body(receive, most, answer), answer)
        except ProblemError as problem:
            await answer.end(problem, receive)
        except asyncio.CancelledError:
            # Only the server cancels, when it stops, and the task ends here: what it wants is an answer and no traceback.
            await answer.end(_STOPPING, receive)
        except TimeoutError:
            self._logger.warning("request cut off: it took too long", request_id=request_id, path=scope["path"])
            await answer.end(_TOO_SLOW, receive)
        except ClientDisconnect:
            pass  # nobody is there to be answered, and anybody could fill the log with it
        except Exception as error:
            # What becomes of a refusal on its way through the framework is no failure.
            if answer.refusal is None:
                self._logger.exception("request failed", request_id=request_id, path=scope["path"], exc_info=error)
            await answer.end(UNFORESEEN, receive)

    def _most(self, path: str) -> int:
        return next((most for start, most in LARGE_BODIES if path.startswith(start)), self._max_body)

    def _check(self, scope: Scope, headers: Mapping[bytes, str], most: int) -> None:
        if sum(name == b"host" for name, _ in scope["headers"]) > 1:
            raise ProblemError(400, "invalid-request", "a request names one host")
        if self._hosts is not None and _host(headers.get(b"host", "localhost")) not in self._hosts:
            message = "this address serves localhost and the host of public_url; ask for it by that name"
            raise ProblemError(421, "host-not-served", message)
        length = headers.get(b"content-length", "0")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > most:
            raise _too_large(most)


def _too_large(most: int) -> ProblemError:
    return ProblemError(413, "too-large", f"a request to this address may have {most} bytes")


def _host(value: str) -> str:
    """Without the port; a literal IPv6 address without its brackets."""
    return value[1:].partition("]")[0] if value.startswith("[") else value.partition(":")[0].lower()


class _Body:
    """Counts what comes; beyond the limit the request ends, whatever the application makes of the exception."""

    def __init__(self, receive: Receive, most: int, answer: "_Answer") -> None:
        self._receive = receive
        self._most = most
        self._answer = answer
        self._come = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._come += len(message.get("body", b""))
            if self._come > self._most:
                self._answer.refusal = _too_large(self._most)
                raise self._answer.refusal
        return message


class _Answer:
    """Adds the headers that every answer bears, and knows whether it has begun. `refusal`: what is to be answered instead."""

    def __init__(
        self, send: Send, scope: Scope, request_id: str, shown: Callable[[ASGIApp], ASGIApp], *, is_bodiless: bool
    ) -> None:
        self._send = send
        self._shown = shown
        self._scope = scope
        self._request_id = request_id
        self.is_bodiless = is_bodiless
        self.is_started = False
        self.refusal: ProblemError | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.refusal is not None and message["status"] != self.refusal.status:
                raise self.refusal
            self.is_started = True
            own = {name for name, _ in message["headers"]}
            common = [header for header in _HEADERS if header[0] not in own]
            message["headers"] = [*message["headers"], *common, *self._more()]
        elif self.is_bodiless and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def end(self, problem: ProblemError, receive: Receive) -> None:
        """Answer with the problem, where nothing was answered yet."""
        if not self.is_started:
            response = problem_response(self.refusal or problem, self._request_id)
            await self._shown(response)(self._scope, receive, self)

    def _more(self) -> Iterator[tuple[bytes, bytes]]:
        yield b"x-request-id", self._request_id.encode()
        if self._scope.get("scheme") == "https":
            yield _HSTS
        yield from self._scope.get(SAID, ())
