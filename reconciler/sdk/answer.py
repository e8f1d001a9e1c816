"""HTTP answers as values, and what a refusal means: an answer in, an error of the contract or None out.

Used by the HTTP client. Vendor text in messages is an excerpt, redacted and bounded. The general rules here hold for
any remote; what a vendor means otherwise is its connector's `classify`, which is asked first. No I/O, no HTTP library.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import msgspec

from reconciler.model.condition import Reason
from reconciler.sdk.contract import Answer
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.quota import exhausted_for, retry_after

EXCERPT = 300
_REQUEST_IDS = (
    "x-request-id", "x-github-request-id", "x-correlation-id", "x-arequestid", "x-slack-req-id", "x-zendesk-request-id",
    "x-transaction-id", "x-ms-request-id", "request-id", "x-amzn-requestid", "x-b3-traceid", "x-trace-id", "cf-ray",
)  # fmt: skip
_SAYING = (
    "message",
    "error_description",
    "detail",
    "title",
    "error",
    "errors",
    "errorMessages",
    "description",
    "reason",
)
# A gateway that got no answer from what is behind it: the request may have been carried out.
_LOST_BEHIND_GATEWAY = frozenset({502, 504, 520, 524})


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer, fully read; `headers` is case-insensitive."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    url: str

    def json(self) -> Any:
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TransientError(
                f"{host_of(self.url)} answered {self.status} with {_described(self)} where JSON was expected: {error}",
                reason=Reason.PROTOCOL_ERROR,
                status=self.status,
                detail={"content_type": self.headers.get("content-type", ""), **request_ids(self.headers)},
            ) from None


def host_of(url: str) -> str:
    """Host and port of a URL, without userinfo."""
    return re.sub(r"^[a-z+.-]+://", "", url).split("/", 1)[0].split("?", 1)[0].rsplit("@", 1)[-1]


def _described(answer: Answer) -> str:
    kind = answer.headers.get("content-type", "").split(";", 1)[0].strip() or "no content type"
    if not answer.body.strip():
        return f"an empty body ({kind})"
    return f"an HTML page ({kind})" if answer.body.lstrip()[:1] == b"<" else f"a broken body ({kind})"


def request_ids(headers: Mapping[str, str]) -> dict[str, str]:
    """The vendor's names for this request: what its support asks for."""
    return {name: headers[name][:200] for name in _REQUEST_IDS if headers.get(name)}


def explanation(answer: Answer) -> str:
    """The vendor's own words about a refusal, in one line, not redacted and not bounded; empty where there are none."""
    text = answer.body[:65536].decode(errors="replace").strip()
    if text[:1] in ("{", "["):
        try:
            return " ".join(_words(msgspec.json.decode(answer.body)).split())
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return " ".join(text.split())
    if text[:1] == "<":
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        text = unescape(title[1]) if title else "an HTML page"
    return " ".join(text.split())


def _words(value: Any, depth: int = 0) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    if depth > 4:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in value[:3])))
    if isinstance(value, Mapping):
        said = [_words(value[key], depth + 1) for key in _SAYING if value.get(key)]
        if not any(said) and depth:
            said = [f"{k}: {_words(v, depth + 1)}" for k, v in list(value.items())[:3]]
        return ": ".join(dict.fromkeys(filter(None, said)))
    return ""


@dataclass(frozen=True, slots=True)
class Rules:
    """The general meaning of refusals. `redact` masks secrets; `now` is when the answer came."""

    redact: Callable[[str], str]
    now: datetime

    def error(self, answer: Answer, what: str, *, is_safe: bool) -> ConnectorError | None:
        """The error of an answer of 400 and above, None for others. `what` is `METHOD host/path`."""
        status = answer.status
        if status < 400:
            return None
        message = f"{what} was answered {status}"
        said = excerpt(self.redact(explanation(answer)))
        more: dict[str, Any] = {"status": status, "detail": request_ids(answer.headers)}
        message = f"{message}: {said}" if said else message
        if status == 401:
            return UnauthorizedError(message, **more)
        if status == 429 or (status == 403 and "retry-after" in answer.headers):
            return RateLimitedError(message, retry_after=self._wait(answer), **more)
        if status == 403:
            return ForbiddenError(message, **more)
        if not is_safe and status in _LOST_BEHIND_GATEWAY:
            return AmbiguousError(message, retry_after=self._wait(answer), **more)
        if status in (408, 425) or status >= 500:
            return TransientError(message, retry_after=self._wait(answer), **more)
        return RejectedError(message, **more)

    def _wait(self, answer: Answer) -> timedelta | None:
        seconds = retry_after(answer.headers, self.now)
        if seconds is None and answer.status == 429:
            seconds = exhausted_for(answer.headers, self.now)
        return None if seconds is None else timedelta(seconds=seconds)


def excerpt(text: str) -> str:
    """Bounded for a message. Redact first: a cut secret is no longer recognised."""
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"
