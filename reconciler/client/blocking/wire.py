"""Sends what the generated methods ask, and waits for it. The rules are those of `conversation` and `listening`."""

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
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
        self._http = httpx.Client(verify=terms.verify, trust_env=terms.trust_env, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def do(self, ask: Ask[T]) -> T:
        """In the declared shape. Raises ClientError."""
        return answer_of(ask, self.send(ask))

    def send(self, ask: Ask[Any]) -> Reply:
        """As it came, with a good status. Raises ClientError."""
        talk = conversation(ask, self.terms.patience)
        try:
            step = next(talk)
            while True:
                if isinstance(step, Try):
                    step = talk.send(self._tried(ask, step))
                else:
                    time.sleep(step.seconds)
                    step = talk.send(None)
        except StopIteration as end:
            reply: Reply = end.value
            return reply

    def _tried(self, ask: Ask[Any], step: Try) -> Outcome:
        limits = httpx.Timeout(step.left, connect=min(step.connect, step.left))
        try:
            with self._opened(ask, limits) as answer:
                return _read(answer, step)
        except (httpx.HTTPError, TimeoutError) as error:
            return error

    @contextmanager
    def _opened(self, ask: Ask[Any], limits: httpx.Timeout) -> Iterator[httpx.Response]:
        headers = {**ask.sent_headers(), **self.terms.headers()}
        address = f"{self.terms.url}{ask.target}"
        with self._http.stream(ask.method, address, headers=headers, content=ask.sent_body(), timeout=limits) as answer:
            yield answer

    def listen(self, ask: Ask[T], kinds: Kinds[T]) -> Generator[T, None, None]:
        """Events until nothing more will come, over as many connections as it takes. Raises ClientError."""
        listening = Listening(ask, kinds, self.terms.patience)
        patience = self.terms.patience
        limits = httpx.Timeout(patience.timeout, connect=patience.connect, read=patience.silence)
        while not listening.is_over:
            came: Reply | Exception | None = None
            try:
                with self._opened(listening.ask(), limits) as answer:
                    if answer.is_success:
                        yield from _told(answer, listening)
                    else:
                        came = Reply(answer.status_code, answer.headers, answer.read())
            except (httpx.HTTPError, ClientError) as error:
                came = error
            if not listening.is_over:
                time.sleep(listening.cut(came))


def _told(answer: httpx.Response, listening: Listening[T]) -> Iterator[T]:
    listening.opened(answer.status_code, answer.headers)
    for chunk in answer.iter_bytes():
        yield from listening.take(chunk)
        if listening.is_over:
            return


def _read(answer: httpx.Response, step: Try) -> Reply:
    content = bytearray()
    for chunk in answer.iter_bytes():
        content += chunk
        if time.monotonic() > step.deadline:
            raise TimeoutError
        if len(content) > MOST_BYTES:
            raise AnswerError(f"an answer of more than {MOST_BYTES} bytes")
    return Reply(answer.status_code, answer.headers, bytes(content))


class Group:
    """Base of the groups of calls."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
