"""A real room for a connector under test: the HTTP client that the daemon uses, with time and chance under control.

In: a connector class, `config` and `auth` as a manifest has them. Out: a live connector whose waiting costs no time, and
everything it said: log lines, tokens, requests. Secrets of `auth` are known to the redactor, as in the daemon, and
`leaks` looks for them in what came out. Called by the conformance kit and by tests of single connectors.
"""

import asyncio
import hmac
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, Self

from pydantic import BaseModel

from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.sdk.budget import Budgets
from reconciler.sdk.contract import AuthSettings, Connector, KeptToken, NoAuth, Room
from reconciler.sdk.guard import GuardSettings, HostGuard
from reconciler.sdk.http import Attempt, HttpClient, HttpSettings
from reconciler.sdk.network import GuardedNetwork, NetworkSettings, TlsContexts
from reconciler.sdk.redact import Redactor

START = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
LOOPBACK = ("127.0.0.0/8", "::1")


class VirtualClock:
    """Time that stands still until somebody sleeps or `advance`s it. `slept` holds every wait, in seconds."""

    def __init__(self, start: datetime = START) -> None:
        self._now = start
        self._ticks = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._ticks

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)

    def advance(self, by: timedelta) -> None:
        self._now += by
        self._ticks += by.total_seconds()


class MemoryTokens:
    """`Tokens` without a store; every value becomes known to the redactor."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.kept: dict[str, tuple[Secret, datetime | None]] = {}
        self.granted: dict[str, tuple[str, ...] | None] = {}

    async def get(self, name: str) -> tuple[Secret, datetime | None] | None:
        return self.kept.get(name)

    async def put(self, name: str, value: Secret, expires_at: datetime | None) -> None:
        self._redactor.add("tokens", value)
        self.kept[name] = (value, expires_at)

    async def put_all(self, *tokens: KeptToken) -> None:
        for token in tokens:
            await self.put(token.name, token.value, token.expires_at)
            self.granted[token.name] = token.scopes

    async def scopes(self, name: str) -> tuple[str, ...] | None:
        return self.granted.get(name)

    async def drop(self, name: str) -> None:
        self.kept.pop(name, None)

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        """Nobody else is there."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class LogLine:
    level: LogLevel
    message: str
    detail: Mapping[str, Any]


@dataclass
class Bench(AbstractAsyncContextManager["Bench"]):
    """`async with Bench() as bench: connector = bench.connector(ServiceNow, config, auth)`.

    `read_timeout` is real time: how long a stalled answer holds a test up.
    """

    clock: VirtualClock = field(default_factory=VirtualClock)
    contexts: TlsContexts = field(default_factory=TlsContexts)
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    marker: str = "kit/under-test"
    inbound_url: str | None = "https://reconciler.example/hooks/kit/under-test"
    read_timeout: timedelta = timedelta(seconds=5)
    tries: int = 3
    log: list[LogLine] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.redactor = Redactor()
        self.tokens = MemoryTokens(self.redactor)
        self._clients: list[HttpClient] = []
        self._connectors: list[Connector[Any, Any]] = []

    def say(self, level: LogLevel, message: str, **detail: Any) -> None:
        """The sink of the connector's log: redacts, as the daemon's does."""
        self.log.append(LogLine(level, self.redactor.text(message), self.redactor.value(detail)))

    def room(self, kind: type[Connector[Any, Any]]) -> Room:
        settings = NetworkSettings(
            read_timeout=self.read_timeout,
            ca_file=self.ca_file,
            client_cert=self.client_cert,
            client_key=self.client_key,
        )
        network = GuardedNetwork(settings, HostGuard(GuardSettings(allow=LOOPBACK)), self.contexts)
        client = HttpClient(
            network=network,
            budgets=Budgets(self.clock),
            clock=self.clock,
            random=Random(7),
            log=self.say,
            redactor=self.redactor,
            observe=self.attempts.append,
            credential="under-test",
            limits=kind.limits,
            settings=HttpSettings(tries=self.tries),
        )
        self._clients.append(client)
        return Room(
            http=client,
            network=network,
            tokens=self.tokens,
            clock=self.clock,
            random=Random(11),
            log=self.say,
            marker=self.marker,
            inbound_url=self.inbound_url,
            fingerprint=lambda secret: hmac.digest(b"kit", secret.reveal().encode(), "sha256").hex()[:16],
        )

    def connector(
        self, kind: type[Connector[Any, Any]], config: Mapping[str, Any], auth: Mapping[str, Any]
    ) -> Connector[Any, Any]:
        """A connector as the daemon makes it; raises pydantic's ValidationError for wrong settings."""
        settings = auth_settings(kind, auth)
        self.redactor.register("auth", secrets_in(settings))
        made = kind(kind.Config.model_validate(dict(config)), settings, self.room(kind))
        self._connectors.append(made)
        return made

    def leaks(self, canary: str, *more: object) -> list[str]:
        """Where a secret that begins with `canary` came out: log lines and the `more` values and errors given."""
        said = [f"{line.level} {line.message} {line.detail}" for line in self.log]
        return [text for text in (*said, *map(_shown, more)) if canary in text]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for connector in self._connectors:
            await connector.close()
        for client in self._clients:
            await client.close()


def auth_settings(kind: type[Connector[Any, Any]], auth: Mapping[str, Any]) -> AuthSettings:
    """`spec.auth` as the connector's own model, found by `type` or one of its aliases."""
    wanted = auth.get("type", "")
    for model in kind.auth_types:
        own = model.model_fields["type"].default if "type" in model.model_fields else ""
        if wanted in (own, *model.aliases) or (model is NoAuth and not auth):
            return model.model_validate({**auth, "type": own} if own else {})
    raise LookupError(f"{kind.type} has no auth type {wanted!r}")


def secrets_in(settings: BaseModel) -> Iterator[Secret]:
    """Every secret inside settings, however deep."""
    yield from _secrets([getattr(settings, name) for name in type(settings).model_fields])


def _secrets(values: Sequence[Any]) -> Iterator[Secret]:
    for value in values:
        if isinstance(value, Secret):
            yield value
        elif isinstance(value, BaseModel):
            yield from secrets_in(value)
        elif isinstance(value, Mapping):
            yield from _secrets(list(value.values()))
        elif isinstance(value, list | tuple):
            yield from _secrets(value)


def _shown(value: object) -> str:
    """Everything a log could show of a value: its repr and text, and of an error the traceback and the detail."""
    if isinstance(value, BaseException):
        trace = "".join(traceback.format_exception(value))
        return f"{value!r} {value} {getattr(value, 'detail', '')} {trace}"
    return f"{value!r} {value}"


def digest(payload: bytes) -> str:
    """A record's content hash, as the kit compares it."""
    return sha256(payload).hexdigest()
