"""When a call is sent again, and when it is given up. Decides only: whoever drives it sends, and waits.

A conversation yields what is to be done next and is sent what came of it, so that the blocking and the asynchronous client do
the same. Sent again is only what may be: safe calls, and those with an Idempotency-Key.
"""

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import httpx

from reconciler.client.ask import Ask, Reply
from reconciler.client.errors import ApiError, ClientError, SettingError, UnreachableError, api_error


@dataclass(frozen=True, slots=True)
class Patience:
    """In seconds. `retries` after the first try, or one after the other without anything heard from a stream.

    `timeout` is for a whole call, with all that it waits; `connect` for a connection, `silence` until a stream counts as cut.
    """

    timeout: float = 60.0
    connect: float = 10.0
    silence: float = 60.0
    retries: int = 4
    first_pause: float = 0.25
    longest_pause: float = 10.0

    def pause(self, failures: int) -> float:
        """Twice as long each time, and at random between half of it and all of it."""
        most = min(self.longest_pause, self.first_pause * float(2 ** min(failures, 20)))
        return random.uniform(most / 2, most)


@dataclass(frozen=True, slots=True)
class Try:
    """Send it, and have the answer by `deadline` (monotonic)."""

    deadline: float
    connect: float

    @property
    def left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.001)


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Outcome = Reply | httpx.HTTPError | TimeoutError | None
Conversation = Generator[Try | Pause, Outcome, Reply]


def conversation(ask: Ask[Any], patience: Patience) -> Conversation:
    """Returns an answer with a good status. Raises ClientError."""
    deadline = time.monotonic() + patience.timeout
    failures = 0
    while True:
        outcome = yield Try(deadline, patience.connect)
        if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
            return outcome
        error = failure(ask, outcome)
        pause = max(patience.pause(failures), asked_for(error))
        failures += 1
        is_over = failures > patience.retries or time.monotonic() + pause >= deadline
        if is_over or not ask.may_repeat or not passes(error):
            raise error
        yield Pause(pause)


def failure(ask: Ask[Any], outcome: Outcome) -> ClientError:
    if isinstance(outcome, Reply):
        wait = _seconds(outcome.headers.get("retry-after"))
        return api_error(outcome.status, outcome.content, outcome.headers.get("x-request-id", ""), wait)
    return unreachable(ask, outcome)


def unreachable(ask: Ask[Any], error: Exception | None) -> ClientError:
    where, why = f"{ask.method} {ask.path}", str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return SettingError(
            f"the server's certificate is not trusted ({why}); name its authority with RECONCILER_CA_FILE"
        )
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return UnreachableError(f"{where}: no answer in time")
    return UnreachableError(f"{where}: {why}")


def passes(error: ClientError) -> bool:
    """The same may be answered otherwise in a moment."""
    if not isinstance(error, ApiError):
        return isinstance(error, UnreachableError)
    is_working = error.status == 409 and error.code == "in-progress"
    return error.status == 503 or ((error.status == 429 or is_working) and error.retry_after is not None)


def asked_for(error: ClientError) -> float:
    """By `Retry-After`."""
    return error.retry_after or 0.0 if isinstance(error, ApiError) else 0.0


def _seconds(text: str | None) -> float | None:
    """Of `Retry-After`; our server gives seconds, never a date."""
    return float(text) if text and text.isascii() and text.isdigit() and len(text) < 7 else None
