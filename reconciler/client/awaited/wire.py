"""Sends what the generated methods ask, on asyncio. The rules are those of `conversation` and `listening`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from reconciler.client.ask import MOST_BYTES, Ask, Reply, answer_of
from reconciler.client.conversation import Outcome, Try, conversation
from reconciler.client.errors import AnswerError, ClientError
from reconciler.client.listening import Kinds, Listening
from reconciler.client.terms import Terms

T = TypeVar("T")


class Wire:
    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._http = httpx.AsyncClient(verify=terms.verify, trust_env=terms.trust_env, follow_redirects=False)

    async def close(self) -> None:
        await self._http.aclose()

    async def do(self, ask: Ask[T]) -> T:
        """In the declared shape. Raises ClientError."""
        return answer_of(ask, await self.send(ask))

    async def send(self, ask: Ask[Any]) -> Reply:
        """As it came, with a good status. Raises ClientError."""
        talk = conversation(ask, self.terms.patience)
        try:
            step = next(talk)
            while True:
                if isinstance(step, Try):
                    step = talk.send(await self._tried(ask, step))
                else:
                    await asyncio.sleep(step.seconds)
                    step = talk.send(None)
        except StopIteration as end:
            reply: Reply = end.value
            return reply

    async def _tried(self, ask: Ask[Any], step: Try) -> Outcome:
        limits = httpx.Timeout(step.left, connect=min(step.connect, step.left))
        try:
            async with asyncio.timeout(step.left), self._opened(ask, limits) as answer:
                return await _read(answer)
        except (httpx.HTTPError, TimeoutError) as error:
            return error

    @asynccontextmanager
    async def _opened(self, ask: Ask[Any], limits: httpx.Timeout) -> AsyncIterator[httpx.Response]:
        headers = {**ask.sent_headers(), **self.terms.headers()}
        address = f"{self.terms.url}{ask.target}"
        async with self._http.stream(
            ask.method, address, headers=headers, content=ask.sent_body(), timeout=limits
        ) as answer:
            yield answer

    async def listen(self, ask: Ask[T], kinds: Kinds[T]) -> AsyncGenerator[T, None]:
        """Events until nothing more will come, over as many connections as it takes. Raises ClientError."""
        listening = Listening(ask, kinds, self.terms.patience)
        patience = self.terms.patience
        limits = httpx.Timeout(patience.timeout, connect=patience.connect, read=patience.silence)
        while not listening.is_over:
            came: Reply | Exception | None = None
            try:
                async with self._opened(listening.ask(), limits) as answer:
                    if answer.is_success:
                        async for event in _told(answer, listening):
                            yield event
                    else:
                        came = Reply(answer.status_code, answer.headers, await answer.aread())
            except (httpx.HTTPError, ClientError) as error:
                came = error
            if not listening.is_over:
                await asyncio.sleep(listening.cut(came))


async def _told(answer: httpx.Response, listening: Listening[T]) -> AsyncIterator[T]:
    listening.opened(answer.status_code, answer.headers)
    async for chunk in answer.aiter_bytes():
        for event in listening.take(chunk):
            yield event
        if listening.is_over:
            return


async def _read(answer: httpx.Response) -> Reply:
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > MOST_BYTES:
            raise AnswerError(f"an answer of more than {MOST_BYTES} bytes")
    return Reply(answer.status_code, answer.headers, bytes(content))


class Group:
    """Base of the groups of calls."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
