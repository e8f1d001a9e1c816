"""The HTTP client that connectors get as `room.http`: a request in, an `Answer` or an error of the contract out.

One per integration and job, made by the composition root. It takes a turn of the rate budget, sends, follows redirects
on the same host, reads refusals by the connector's `classify` first and the general rules then, and repeats safe
requests shortly; what takes longer than that is the engine's to repeat. Importing this module imports no HTTP library.
Not done here: signing requests, paging, page and run deadlines.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler import __version__
from reconciler.model.clock import Clock
from reconciler.model.record import LogLevel
from reconciler.sdk.answer import HttpAnswer, Rules, request_ids
from reconciler.sdk.budget import Budget, Budgets, BudgetSpentError, Lane
from reconciler.sdk.contract import Answer, Classify, Limit, RunLog
from reconciler.sdk.errors import ConnectorError, RateLimitedError, RejectedError, TransientError
from reconciler.sdk.exchange import current_trail
from reconciler.sdk.network import GuardedNetwork
from reconciler.sdk.quota import retry_after
from reconciler.sdk.redact import Redactor

if TYPE_CHECKING:
    import httpx

    from reconciler.sdk.transport import Prepared, Wire

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
USER_AGENT = f"reconciler/{__version__}"
MAX_REDIRECTS = 5
# A segment with a digit in it, but no version such as v2, 3 or 1.1.
_IDENTIFIER = re.compile(r"(?!v?\d(?:\.\d+)?$).*\d.*")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request on the wire, for metrics. `status` is None where no answer came; `retry` counts from 0."""

    method: str
    host: str
    status: int | None
    seconds: float
    retry: int
    lane: Lane


Observe = Callable[[Attempt], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """`tries` of a safe request in all; a requested wait above `max_wait` is left to the engine.

    `keep`: how long connections stay open unused.
    """

    tries: int = 3
    backoff: timedelta = timedelta(seconds=1)
    max_wait: timedelta = timedelta(seconds=20)
    max_body: int = 64 * 2**20
    keep: timedelta = timedelta(seconds=15)


@dataclass(frozen=True, slots=True)
class _Order:
    """What one call of `send` wants, besides the request itself."""

    request: "Prepared"
    expect: tuple[int, ...]
    classify: Classify | None
    lane: Lane

    @property
    def host(self) -> str:
        return self.request.url.netloc.decode()

    @property
    def what(self) -> str:
        """Without the query, which may hold a token."""
        return f"{self.request.method} {self.host}{self.request.url.path}"


class HttpClient:
    """Implements `Http`. `credential` is the fingerprint that budgets are shared by; `limits` are the connector's."""

    def __init__(
        self,
        *,
        network: GuardedNetwork,
        budgets: Budgets,
        clock: Clock,
        random: Random,
        log: RunLog,
        redactor: Redactor,
        observe: Observe,
        credential: str = "",
        limits: tuple[Limit, ...] = (),
        settings: HttpSettings | None = None,
    ) -> None:
        self._network = network
        self._budgets = budgets
        self._clock = clock
        self._random = random
        self._log = log
        self._redactor = redactor
        self._observe = observe
        self._credential = credential
        self._limits = limits
        self._settings = settings or HttpSettings()
        self._wires: dict[bool, Wire] = {}
        self._opening = asyncio.Lock()

    async def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        safe: bool | None = None,
        expect: tuple[int, ...] = (),
        classify: Classify | None = None,
        lane: Lane = "sync",
        public_only: bool = False,
    ) -> Answer:
        is_safe = method in SAFE if safe is None else safe
        body, kind = (content, {}) if content is not None else _body(json, form)
        sent = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            "Accept-Encoding": "gzip, deflate",
            **kind,
            **(headers or {}),
        }
        wire = await self._open(public_only)
        from reconciler.sdk.transport import Prepared

        request = Prepared(method, _url(url, params), _checked(sent), body, is_safe)
        return await self._retried(wire, _Order(request, expect, classify, lane))

    async def close(self) -> None:
        """Closes kept connections; the client opens new ones if it is used again."""
        wires, self._wires = self._wires, {}
        for wire in wires.values():
            await wire.close()

    async def _open(self, public_only: bool) -> "Wire":
        async with self._opening:
            if public_only not in self._wires:
                # Loading the library and the trust store takes milliseconds of CPU and disk.
                self._wires[public_only] = await asyncio.to_thread(self._make_wire, public_only)
            return self._wires[public_only]

    def _make_wire(self, public_only: bool) -> "Wire":
        from reconciler.sdk.transport import Wire

        kept, network = self._settings, self._network
        return Wire(network, network.tls(), max_body=kept.max_body, keep=kept.keep, public_only=public_only)

    async def _retried(self, wire: "Wire", order: _Order) -> Answer:
        tries = self._settings.tries if order.request.is_safe else 1
        retry = 0
        while True:
            try:
                return await self._followed(wire, order, retry)
            except BudgetSpentError:
                raise
            except TransientError as error:
                retry += 1
                delay = self._delay(error, retry)
                if retry >= tries or delay is None:
                    raise
                self._log_retry(order, error, retry, delay)
            await self._clock.sleep(delay)

    def _delay(self, error: TransientError, retry: int) -> float | None:
        """Full jitter, at least what the remote asks for; None where that is too long to wait here."""
        asked = error.retry_after.total_seconds() if error.retry_after else 0.0
        if asked > self._settings.max_wait.total_seconds():
            return None
        return max(asked, self._random.uniform(0, self._settings.backoff.total_seconds() * 2 ** (retry - 1)))

    def _log_retry(self, order: _Order, error: TransientError, retry: int, delay: float) -> None:
        self._log(
            LogLevel.WARN,
            f"{order.what} failed and is tried again: {error.message}",
            retry_attempt=retry,
            max_retries=self._settings.tries - 1,
            retry_after_ms=round(delay * 1000),
            status=error.status,
            reason=str(error.why),
        )

    async def _followed(self, wire: "Wire", order: _Order, retry: int) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._turn(wire, order, retry)
            target = _redirect(order, answer)
            if target is None:
                return answer
            order = replace(order, request=replace(order.request, url=target))
        raise RejectedError(f"{order.what} was redirected more than {MAX_REDIRECTS} times")

    async def _turn(self, wire: "Wire", order: _Order, retry: int) -> Answer:
        """One attempt inside the budget."""
        budget = self._budgets.of(order.host, self._credential, self._limits)
        scope = _scope(order.request.url.path)
        async with budget.turn(order.lane, scope, order.request.method):
            answer = await self._exchange(wire, order, retry)
            budget.observe(answer.headers, scope)
            error = self._judged(order, answer)
            await self._block(budget, scope, answer, error)
        if error is not None:
            raise error
        return answer

    async def _exchange(self, wire: "Wire", order: _Order, retry: int) -> Answer:
        started, status = self._clock.monotonic(), None
        trail = current_trail.get()
        if trail is not None:
            trail.asked(order.request.method, str(order.request.url), order.request.body, self._redactor)
        try:
            got = await wire.exchange(order.request)
            status = got.status
        finally:
            seconds = self._clock.monotonic() - started
            self._observe(Attempt(order.request.method, order.host, status, seconds, retry, order.lane))
        if trail is not None:
            trail.answered(got.status, got.body)
        return HttpAnswer(got.status, got.headers, got.body, got.url)

    def _judged(self, order: _Order, answer: Answer) -> ConnectorError | None:
        error = order.classify(answer) if order.classify else None
        if error is not None:
            for name, value in request_ids(answer.headers).items():
                error.detail.setdefault(name, value)
            return error
        if answer.status in order.expect:
            return None
        rules = Rules(self._redactor.text, self._clock.now())
        return rules.error(answer, order.what, is_safe=order.request.is_safe)

    async def _block(self, budget: Budget, scope: str, answer: Answer, error: ConnectorError | None) -> None:
        """What the remote asks to wait holds for everybody with this credential; some ask along with a success."""
        wait = retry_after(answer.headers, self._clock.now()) if answer.status < 300 else None
        asked = error.retry_after if isinstance(error, TransientError) else None
        if asked is not None and (isinstance(error, RateLimitedError) or answer.status == 503):
            wait = asked.total_seconds()
        if wait:
            await budget.block(wait, scope)


def _body(json: Any, form: Mapping[str, Any] | None) -> tuple[bytes | None, dict[str, str]]:
    if form is not None:
        from urllib.parse import urlencode

        pairs = {k: v for k, v in form.items() if v is not None}
        return urlencode(pairs, doseq=True).encode(), {"Content-Type": "application/x-www-form-urlencoded"}
    if json is not None:
        return msgspec.json.encode(json), {"Content-Type": "application/json"}
    return None, {}


def _url(url: str, params: Mapping[str, Any] | None) -> "httpx.URL":
    """`params` are added to what the URL has already; None values are left out."""
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        # The library's text quotes the part it stumbles over, which may be a password.
        raise RejectedError(
            "what should be a URL is none; check for unbalanced brackets and ports that are no number"
        ) from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise RejectedError("a URL must begin with https:// or http:// and name a host")
    if parsed.userinfo:
        raise RejectedError(f"the URL of {parsed.host} holds user or password: put them under auth")
    given = {k: v for k, v in (params or {}).items() if v is not None}
    return parsed.copy_merge_params(given) if given else parsed


def _checked(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Refuses values that HTTP cannot carry without quoting them: they are mostly credentials with a line break."""
    for name, value in headers.items():
        if not value.isascii() or any(c in value for c in "\r\n\0"):
            raise RejectedError(f"header {name} holds a line break or a character outside ASCII; check the credential")
    return headers


def _redirect(order: _Order, answer: Answer) -> "httpx.URL | None":
    """Where to go on; None where the answer is no redirect or is expected."""
    location = answer.headers.get("location", "")
    if answer.status not in _REDIRECTS or answer.status in order.expect or not location:
        return None
    request = order.request
    import httpx

    try:
        target = request.url.join(location)
    except httpx.InvalidURL:
        raise RejectedError(f"{order.what} was redirected to something that is no URL", status=answer.status) from None
    if request.method not in ("GET", "HEAD"):
        message = f"{order.what} was answered with a redirect to {target.host}; use that URL in the manifest"
        raise RejectedError(message, status=answer.status)
    if not _is_same_host(request.url, target):
        there = f"{target.scheme}://{target.host}"
        message = f"{order.what} was redirected to another host, {there}: credentials do not go there"
        raise RejectedError(message, status=answer.status)
    return target


def _is_same_host(asked: "httpx.URL", target: "httpx.URL") -> bool:
    """Scheme, host and port are the same, or only the scheme rose from http to https on the usual ports."""
    if target.host != asked.host or target.userinfo:
        return False
    is_upgrade = (asked.scheme, target.scheme) == ("http", "https") and asked.port is None and target.port is None
    return is_upgrade or (target.scheme, target.port) == (asked.scheme, asked.port)


def _scope(path: str) -> str:
    """A method for per-method budgets: the path with its identifiers taken out, so that scopes stay few."""
    return "/".join("*" if _IDENTIFIER.fullmatch(part) else part for part in path.split("/"))
