"""Server-sent events: read from bytes, and taken up again where they were cut. Sends nothing and waits for nothing.

The last event id is that of the last event that came whole, so that nothing is lost and nothing told twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, cast

import httpx
from pydantic import TypeAdapter, ValidationError

from reconciler.api.stream_events import StreamEvent
from reconciler.client.ask import Ask, Reply
from reconciler.client.conversation import Patience, asked_for, failure, passes, unreachable
from reconciler.client.errors import AnswerError, ClientError, UnreachableError, api_error

E = TypeVar("E")
LAST_EVENT_ID = "last-event-id"
MEDIA_TYPE = "text/event-stream"
MOST_BYTES = 16_000_000
_ANY: TypeAdapter[Any] = TypeAdapter(Any)


@dataclass(frozen=True, slots=True)
class ServerEvent:
    kind: str
    id: str
    body: str


@dataclass(slots=True)
class EventReader:
    """Bytes in, events out, as WHATWG's HTML describes it.

    Not by `str.splitlines`: JSON text may hold what that takes for the end of a line.
    """

    last_id: str = ""
    _rest: bytes = b""
    _kind: str = ""
    _id: str = ""
    _said: list[str] = field(default_factory=list)
    _is_first: bool = True

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Raises AnswerError for one that is too long."""
        text, self._rest = self._rest + chunk, b""
        if self._is_first and text:
            text, self._is_first = text.removeprefix(b"\xef\xbb\xbf"), False
        if text.endswith(b"\r"):  # whether a newline follows is in the next chunk
            text, self._rest = text[:-1], b"\r"
        *lines, rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = rest + self._rest
        if len(self._rest) + sum(map(len, self._said)) > MOST_BYTES:
            raise AnswerError("an event is longer than any that the API sends")
        return [event for line in lines if (event := self._take(line.decode("utf-8", "replace"))) is not None]

    def _take(self, line: str) -> ServerEvent | None:
        if not line:
            return self._end()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._said.append(value)
        elif name == "event":
            self._kind = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _end(self) -> ServerEvent | None:
        self.last_id = self._id
        kind, said, self._kind, self._said = self._kind or "message", self._said, "", []
        return ServerEvent(kind, self.last_id, "\n".join(said)) if said else None

    def resumed(self) -> "EventReader":
        """For the next connection: what came of an event that was cut is forgotten."""
        return EventReader(self.last_id, _id=self.last_id)


@dataclass(frozen=True, slots=True)
class Kinds(Generic[E]):
    """What a stream tells: event name -> shape. `last`: those after which nothing comes. Unknown ones are left out."""

    shapes: Mapping[str, type[StreamEvent]]
    last: frozenset[str] = frozenset()


class Listening(Generic[E]):
    """A stream over all its connections. `is_over`: nothing more will come."""

    def __init__(self, ask: Ask[E], kinds: Kinds[E], patience: Patience) -> None:
        self.is_over = False
        self._ask = replace(ask, headers={**ask.headers, "accept": MEDIA_TYPE})
        self._kinds = kinds
        self._patience = patience
        self._failures = 0
        self._reader = EventReader(ask.headers.get(LAST_EVENT_ID) or "")
        self._reader = self._reader.resumed()

    def ask(self) -> Ask[E]:
        """For the next connection."""
        self._reader = self._reader.resumed()
        return replace(self._ask, headers={**self._ask.headers, LAST_EVENT_ID: self._reader.last_id or None})

    def opened(self, status: int, headers: httpx.Headers) -> None:
        """Raises AnswerError where a good answer is no stream."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == 204:
            self.is_over = True
        elif kind != MEDIA_TYPE:
            raise AnswerError(f"{self._ask.method} {self._ask.path}: this server does not stream it")

    def take(self, chunk: bytes) -> list[E]:
        """What is new. Raises ClientError where the server says on the stream that it refuses."""
        found = [event for event in self._reader.feed(chunk) if not self.is_over and self._is_known(event)]
        self._failures = 0 if found else self._failures
        return [self._shaped(event) for event in found]

    def _is_known(self, event: ServerEvent) -> bool:
        if event.kind == "error":
            self._refuse(event)
        is_known = event.kind in self._kinds.shapes
        self.is_over = self.is_over or event.kind in self._kinds.last
        return is_known

    def _refuse(self, event: ServerEvent) -> None:
        """A problem has a status; an error that is told of a sync has none, and is an event like others."""
        try:
            said = _ANY.validate_json(event.body)
        except ValidationError:
            raise AnswerError("the stream told an error that cannot be read") from None
        if isinstance(said, dict) and isinstance(said.get("status"), int):
            raise api_error(said["status"], event.body.encode())

    def _shaped(self, event: ServerEvent) -> E:
        try:
            made = self._kinds.shapes[event.kind].model_validate_json(event.body, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise AnswerError(f"{self._ask.path}: event {event.kind}: {where}: {first['msg']}") from None
        made.note_event_id(event.id)
        return cast("E", made)

    def cut(self, came: Reply | Exception | None) -> float:
        """How long to wait before it is taken up again, after a bad answer, an error, or an end without its last event (None).

        Raises ClientError when it was tried often enough, or need not be tried.
        """
        if isinstance(came, ClientError):
            return self._again(came)
        if isinstance(came, Reply):
            return self._again(failure(self._ask, came))
        return self._again(unreachable(self._ask, came or UnreachableError("the stream ended")))

    def _again(self, error: ClientError) -> float:
        self._failures += 1
        pause = max(self._patience.pause(self._failures - 1), asked_for(error))
        is_over = self._failures > self._patience.retries or pause > self._patience.timeout
        if is_over or not self._ask.may_repeat or not passes(error):
            raise error
        return pause
