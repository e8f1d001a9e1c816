"""One call, described: what goes over the wire and how its answers are read. Made by the generated methods.

Nothing here sends anything: `conversation` and `listening` say when, `blocking` and `awaited` do it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from secrets import token_urlsafe
from typing import Any, Generic, TypeVar, cast
from urllib.parse import quote, urlencode

import httpx
from pydantic import BaseModel, ValidationError

from reconciler.api.integrations import Shown
from reconciler.client.errors import AnswerError

T = TypeVar("T")
KEY = "idempotency-key"
JSON = "application/json"
MOST_BYTES = 64_000_000
"""Of an answer."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
Given = BaseModel | Mapping[str, Any]


@dataclass(frozen=True)
class Ask(Generic[T]):
    """`answers`: status -> shape, None for an answer without a body. Query and headers that are None are not sent."""

    method: str
    path: str
    answers: Mapping[int, type[BaseModel] | None] = field(default_factory=dict)
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    body: Given | bytes | list[Any] | None = field(default=None, repr=False)

    @property
    def may_repeat(self) -> bool:
        """Sent twice it does one thing."""
        return self.method in _SAFE or bool(self.headers.get(KEY))

    @property
    def target(self) -> str:
        """Path and query. The HTTP library would drop a query that the path brings along."""
        given = urlencode([(name, text) for name, value in self.query.items() for text in _texts(value)])
        return f"{self.path}{'&' if '?' in self.path else '?'}{given}" if given else self.path

    def sent_headers(self) -> dict[str, str]:
        kind = {} if self.body is None else {"content-type": JSON}
        return {"accept": JSON, **kind, **{name: value for name, value in self.headers.items() if value is not None}}

    def sent_body(self) -> bytes | None:
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return _json(self.body)


def _texts(value: Any) -> Iterable[str]:
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [_text(value)]
    return [_text(one) for one in value]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)


class _Any(BaseModel):
    value: Any


def _json(value: Any) -> bytes:
    """What was set of a shape, and only that: what is not there means something else than null."""
    if isinstance(value, BaseModel):
        return value.model_dump_json(by_alias=True, exclude_unset=True).encode()
    wrapped = _Any.model_construct(value=value).model_dump_json(by_alias=True, exclude_unset=True)
    return wrapped.removeprefix('{"value":').removesuffix("}").encode()


def segment(value: object) -> str:
    """One part of a path. An empty one would be another address: ValueError."""
    text = str(value)
    if not text or text in {".", ".."}:
        raise ValueError(f"{text!r} cannot be part of an address")
    return quote(text, safe="")


def new_key() -> str:
    return token_urlsafe(24)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it came, read to its end."""

    status: int
    headers: httpx.Headers
    content: bytes = field(repr=False)


def answer_of(ask: Ask[T], reply: Reply) -> T:
    """In its declared shape; members that are not known yet are left out. Raises AnswerError."""
    if reply.status not in ask.answers:
        raise AnswerError(f"{ask.method} {ask.path}: an answer with status {reply.status}, which is not expected")
    shape = ask.answers[reply.status]
    if shape is None:
        return cast("T", None)
    try:
        made = shape.model_validate_json(reply.content, extra="ignore")
    except ValidationError as error:
        # without the values: there are answers that hold a new key
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise AnswerError(f"{ask.method} {ask.path}: {where} of the answer: {first['msg']}") from None
    if isinstance(made, Shown):
        made.note_etag(reply.headers.get("etag"))
    return cast("T", made)
