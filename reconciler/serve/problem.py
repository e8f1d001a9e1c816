"""What every answer has in common: problem+json for errors, a request id, headers that keep browsers out, bounded requests.

`Envelope` wraps the application. An exception that nobody foresaw becomes a problem without details and one log line with
the request's id. Not done here: authentication; whoever may connect may read.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reconciler.serve.forms import to_json

MAX_BODY = 64 * 1024
PATIENCE = timedelta(seconds=60)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


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
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id,
        **problem.more,
    }
    return Response(to_json(body), problem.status, dict(problem.headers), "application/problem+json")


UNFORESEEN = ProblemError(500, "internal-error", "the request failed; the daemon's log has its request id")
_TOO_SLOW = ProblemError(503, "timed-out", "there was no answer in time; the daemon is overloaded or its store hangs")
_STOPPING = ProblemError(503, "stopping", "the daemon is being stopped; ask again when it has started")


class Envelope:
    """`is_local`: the server listens on loopback, so a request for any other host comes from a rebound name.

    `patience`: a client that does not take its answer within this time is cut off, and the answer's memory is free again.
    """

    def __init__(self, app: ASGIApp, *, is_local: bool = True, patience: timedelta = PATIENCE) -> None:
        self._app = app
        self._is_local = is_local
        self._patience = patience.total_seconds()
        self._logger = structlog.get_logger("api")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = headers.get(b"x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else f"req-{token_hex(8)}"
        scope["request_id"] = request_id
        answer = _Answer(send, request_id)
        try:
            self._check(headers)
            async with asyncio.timeout(self._patience):
                await self._app(scope, receive, answer)
        except ProblemError as problem:
            await problem_response(problem, request_id)(scope, receive, answer)
        except asyncio.CancelledError:
            # Only the server cancels, when it stops, and the task ends here: what it wants is an answer and no traceback.
            if not answer.is_started:
                await problem_response(_STOPPING, request_id)(scope, receive, answer)
        except TimeoutError:
            self._logger.warning("request cut off: it took too long", request_id=request_id, path=scope["path"])
            if not answer.is_started:
                await problem_response(_TOO_SLOW, request_id)(scope, receive, answer)
        except Exception as error:
            self._logger.exception("request failed", request_id=request_id, path=scope["path"], exc_info=error)
            if not answer.is_started:
                await problem_response(UNFORESEEN, request_id)(scope, receive, answer)

    def _check(self, headers: Mapping[bytes, str]) -> None:
        if self._is_local and _host(headers.get(b"host", "localhost")) not in _LOOPBACK:
            raise ProblemError(421, "host-not-served", "this address serves localhost only; ask for it by that name")
        length = headers.get(b"content-length", "0")
        if b"transfer-encoding" in headers or not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY:
            raise ProblemError(413, "body-too-large", "requests to this address bear no body")


def _host(value: str) -> str:
    """Without the port; a literal IPv6 address without its brackets."""
    return value[1:].partition("]")[0] if value.startswith("[") else value.partition(":")[0].lower()


class _Answer:
    """Adds the headers that every answer bears, and knows whether it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.is_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", self._request_id.encode())]
        await self._send(message)
