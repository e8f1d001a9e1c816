"""Server-sent events on the wire: frames, heartbeats, and streams that hold nothing up.

In: a source of frames. Out: an answer that lasts until the source is over, the client goes, its token no longer stands, it does
not take a piece in time, or the server stops; whichever it is, the stream ends at once and its connection with it. Sources keep
no transaction open while they wait. `sse-starlette` makes the frames; its response is not used, because what ends its streams
is one flag for all servers of a process, which nothing sets where signals are the daemon's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sse_starlette.event import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from reconciler.serve.forms import to_json
from reconciler.serve.problem import ProblemError
from reconciler.store.errors import StoreError

MEDIA_TYPE = "text/event-stream"
LAST_PIECE_SECONDS = 0.2
PING = ServerSentEvent(comment="ping").encode()


@dataclass(frozen=True, slots=True)
class Beat:
    """In seconds. `look`: how often it is asked whether the caller still may; `taken`: until a piece has to be taken."""

    look: float = 1.0
    ping: float = 15.0
    taken: float = 20.0
    most: int = 750


def frame(kind: str, body: bytes | str, event_id: str | None = None) -> bytes:
    text = body.decode() if isinstance(body, bytes) else body
    return ServerSentEvent(text, event=kind, id=event_id).encode()


def error_frame(problem: ProblemError) -> bytes:
    """A problem as the event `error`."""
    body = {"status": problem.status, "code": problem.code, "detail": problem.detail, **problem.more}
    return frame("error", to_json(body))


def refusal(problem: ProblemError) -> Response:
    """For a client that asked for a stream: the problem is all that it brings."""
    return Response(error_frame(problem), media_type=MEDIA_TYPE)


def wants_stream(accept: str | None) -> bool:
    return any(part.partition(";")[0].strip().lower() == MEDIA_TYPE for part in (accept or "").split(","))


class Source(Protocol):
    """Where frames come from. `more` may be cancelled at any time and loses nothing by it."""

    is_over: bool

    @property
    def ping(self) -> bytes:
        """What is sent so that the connection is not taken for dead."""

    async def more(self, within: float) -> Sequence[bytes]:
        """What is new, none where nothing is within that many seconds."""

    def close(self) -> None: ...


class OpenStreams:
    """All streams of a server. `end` ends them, and none begins after it."""

    def __init__(self, beat: Beat) -> None:
        self.beat = beat
        self.is_ending = False
        self._open: set[EventStream] = set()

    def __len__(self) -> int:
        return len(self._open)

    def demand_room(self) -> None:
        """Raises ProblemError where there are as many as may be: other requests need connections, too."""
        if len(self._open) >= self.beat.most:
            message = f"{len(self._open)} streams are open, which is as many as may be; try again later"
            raise ProblemError(503, "too-many-streams", message, headers={"retry-after": "10"})

    def end(self) -> None:
        self.is_ending = True
        for stream in [*self._open]:
            stream.end()

    @contextmanager
    def holding(self, stream: "EventStream") -> Iterator[None]:
        self._open.add(stream)
        if self.is_ending:
            stream.end()
        try:
            yield
        finally:
            self._open.discard(stream)


class EventStream(Response):
    """`stands` raises ProblemError once the caller may not have it any more."""

    def __init__(
        self,
        streams: OpenStreams,
        source: Source,
        stands: Callable[[], Awaitable[object]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(None, 200, {**(headers or {}), "x-accel-buffering": "no"}, MEDIA_TYPE)
        del self.headers["content-length"]
        self._streams = streams
        self._source = source
        self._stands = stands
        self._limit: asyncio.Timeout | None = None

    def end(self) -> None:
        """Whatever it waits for."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit.reschedule(asyncio.get_running_loop().time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["unhurried"]()
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if not scope.get("is_bodiless"):
                await self._last(receive, send)
        finally:
            self._source.close()
        await self._finish(scope, send)

    async def _last(self, receive: Receive, send: Send) -> None:
        watching = asyncio.create_task(self._until_gone(receive), name="event stream")
        try:
            # a store that does not answer ends the stream, too: the client asks again, from where it is
            with suppress(TimeoutError, StoreError):
                async with asyncio.timeout(None) as self._limit:
                    with self._streams.holding(self):
                        await self._flow(send)
        finally:
            self._limit = None
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end()

    async def _flow(self, send: Send) -> None:
        beat, now = self._streams.beat, asyncio.get_running_loop().time
        pinged_at = now()
        while not self._source.is_over:
            pieces = await self._source.more(beat.look)
            try:
                await self._stands()
            except ProblemError as problem:
                await self._give(send, error_frame(problem))
                return
            if not pieces and now() >= pinged_at + beat.ping:
                pieces = [self._source.ping]
            for piece in pieces:
                await self._give(send, piece)
                pinged_at = now()

    async def _give(self, send: Send, piece: bytes) -> None:
        async with asyncio.timeout(self._streams.beat.taken):
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _finish(self, scope: Scope, send: Send) -> None:
        """A client that takes nothing does not take this either: its connection goes, with what it was to get."""
        try:
            async with asyncio.timeout(LAST_PIECE_SECONDS):
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            abort: Callable[[], Any] = scope["abort"]
            abort()
