"""The last request of an attempt and its answer, kept for people who look at a delivery that went wrong.

In: what the HTTP client sends and gets while `current_trail` is set. Out: `exchange`, plain values without secrets: by the names
of fields where a body is JSON or a form, by their values everywhere. Headers are not kept: that is where credentials are. Made
only when asked for, so the request itself waits for nothing.
"""

import json
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from reconciler.sdk.redact import Redactor

EXCERPT = 2000
_MOST_READ = 64 * 1024


class Trail:
    """Of one attempt; made anew for each."""

    def __init__(self) -> None:
        self._asked: tuple[str, str, bytes | None, Redactor] | None = None
        self._answered: tuple[int, bytes] | None = None

    def asked(self, method: str, url: str, body: bytes | None, redactor: Redactor) -> None:
        self._asked, self._answered = (method, url, body, redactor), None

    def answered(self, status: int, body: bytes) -> None:
        self._answered = status, body

    @property
    def exchange(self) -> Mapping[str, Any] | None:
        """None where nothing was asked over HTTP. `status` is None where no answer came."""
        if self._asked is None:
            return None
        method, url, body, redactor = self._asked
        status, answer = self._answered or (None, None)
        return {
            "method": method,
            "url": redactor.text(_without_query(url)),
            "status": status,
            "request": _excerpt(body, redactor),
            "response": _excerpt(answer, redactor),
        }


current_trail: ContextVar[Trail | None] = ContextVar("current_trail", default=None)


def _without_query(url: str) -> str:
    """A query may hold a token, and userinfo does."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _excerpt(body: bytes | None, redactor: Redactor) -> str | None:
    """Redacted as a whole before it is cut: of a value that is cut in two, nobody would know what it is."""
    if not body:
        return None
    text = _plain(body[:_MOST_READ], redactor)
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}…"


def _plain(body: bytes, redactor: Redactor) -> str:
    try:
        return redactor.text(json.dumps(redactor.value(msgspec.json.decode(body)), ensure_ascii=False))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="replace")
    form = parse_qsl(text) if "=" in text and not any(c in text for c in "\n<{ ") else []
    return redactor.text(urlencode(_masked(form, redactor), safe="*") if form else text)


def _masked(form: list[tuple[str, str]], redactor: Redactor) -> list[tuple[str, str]]:
    return [(name, str(redactor.value({name: value}).popitem()[1])) for name, value in form]
