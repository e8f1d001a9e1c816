"""Rate budgets: one per (host, credential), shared by every client of the process.

The HTTP client takes a turn before each attempt and hands back the answer's headers; waiting uses the clock handed in.
Three things bound a turn: declared limits, kept as sliding windows (never more than N requests, or points that requests
take by their HTTP verb, in any window, where a token bucket would let a full burst and a full refill into one); quotas
that the remote reported, per resource it named; and `blocked_until` after a refusal. Syncs stop when a share is left,
which deliveries and probes may use. A wait longer than `max_wait` is a BudgetSpentError (a RateLimitedError) at once: a
run ends and is resumed, it does not sleep in memory.
Not done here: retries, and turning answers into errors.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Literal, Protocol

from reconciler.model.clock import Clock
from reconciler.sdk.contract import Limit
from reconciler.sdk.errors import RateLimitedError
from reconciler.sdk.quota import Quota, quotas

Lane = Literal["sync", "deliver", "probe"]
METHOD_SCOPES = frozenset({"method", "endpoint", "channel"})
"""Values of `Limit.scope` that count per `scope` argument; every other limit counts for the whole credential."""

_SLOTS = 20
_MAX_SCOPES = 512
_IDLE = 7200.0
_WAKE_AFTER = 0.001  # past the edge of a window, so that rounding never asks for a second wait


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """`reserved` is the part of every limit that syncs leave to other lanes."""

    max_wait: timedelta = timedelta(seconds=30)
    reserved: float = 0.2
    concurrency: int = 10
    concurrency_reserved: int = 2
    shared_every: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class BudgetState:
    """The newest reading of one quota, for metrics and status. `quota` is the remote's name for it, often empty."""

    host: str
    credential: str
    quota: str
    limit: int | None
    remaining: int | None
    reset_at: datetime | None
    blocked_until: datetime | None
    in_flight: int


class BudgetSpentError(RateLimitedError):
    """Nothing was asked: the wait for a turn would be too long."""


class SharedBlocks(Protocol):
    """Blocks that all processes obey, kept by the store. `key` is opaque; `until` only ever moves forward."""

    async def load(self, key: str) -> datetime | None: ...

    async def save(self, key: str, until: datetime) -> None: ...


@dataclass(slots=True)
class Share:
    """This process's part of every declared limit. Whoever counts the processes sets it; it may change at any time."""

    part: float

    def of(self, limit: Limit) -> tuple[int, float]:
        """Requests and seconds. What cannot be divided, one a second, is taken at longer intervals."""
        requests, seconds = limit.requests * self.part, limit.window.total_seconds()
        return (int(requests), seconds) if requests >= 1 else (1, seconds / requests)


class _Window:
    """One limit, or a share of it, counted in slots; a slot counts until all of it has left the window."""

    def __init__(self, limit: Limit, share: Share) -> None:
        self.limit = limit
        self._share = share
        self._slots: deque[list[float]] = deque()  # [end of slot, count]
        self._used = 0.0
        self.line = asyncio.Lock()

    def points(self, verb: str) -> int:
        """What a request takes."""
        said = self.limit.points
        return said.get(verb, said.get("*", 1))

    def delay(self, now: float, points: int, reserved: float) -> float:
        """Seconds until that many points fit, leaving the reserved share."""
        requests, seconds = self._share.of(self.limit)
        while self._slots and self._slots[0][0] + seconds <= now:
            self._used -= self._slots.popleft()[1]
        room = max(points, requests - math.floor(requests * reserved))
        excess = self._used + points - room
        for end, count in self._slots:
            if excess <= 0:
                break
            excess -= count
            if excess <= 0:
                return end + seconds - now + _WAKE_AFTER
        return 0.0

    def take(self, now: float, points: int) -> None:
        width = self._share.of(self.limit)[1] / _SLOTS
        if not self._slots or self._slots[-1][0] <= now:
            self._slots.append([now + width, 0])
        self._slots[-1][1] += points
        self._used += points

    def answered(self, now: float) -> None:
        """The request that was taken last is over: the window begins here."""
        if self._slots:
            self._slots[-1][0] = max(self._slots[-1][0], now)


@dataclass(slots=True)
class _Reported:
    """What the remote said last, less what we asked since."""

    limit: int | None
    remaining: int | None
    reset_at: float | None

    def delay(self, now: float, reserved: float) -> float:
        if self.remaining is None or self.reset_at is None or self.reset_at <= now:
            return 0.0
        kept = math.floor((self.limit or 0) * reserved)
        return self.reset_at - now + _WAKE_AFTER if self.remaining <= kept else 0.0


@dataclass(slots=True)
class _Scope:
    """What is known of one method or path: the windows that count it, its block, which reported quotas it draws on."""

    windows: tuple[_Window, ...]
    names: tuple[str, ...] = ()
    blocked: float = 0.0


class Budget:
    """One remote account's allowance. Made by `Budgets` only."""

    def __init__(
        self,
        host: str,
        credential: str,
        clock: Clock,
        settings: BudgetSettings,
        share: Share,
        shared: SharedBlocks | None,
    ) -> None:
        self.host = host
        self.credential = credential
        self._clock = clock
        self._settings = settings
        self._share = share
        self._shared = shared
        self._limits: tuple[Limit, ...] = ()
        self._windows: tuple[_Window, ...] = ()
        self._scopes: OrderedDict[str, _Scope] = OrderedDict()
        self._reported: dict[str, _Reported] = {}
        self._blocked = 0.0
        self._loaded: dict[str, float] = {}
        self._all_slots = asyncio.Semaphore(settings.concurrency)
        self._sync_slots = asyncio.Semaphore(max(1, settings.concurrency - settings.concurrency_reserved))
        self.in_flight = 0
        self.used_at = clock.monotonic()

    def declare(self, limits: Iterable[Limit]) -> None:
        """Add limits that are not known yet; those known keep their count."""
        fresh = tuple(limit for limit in limits if limit not in self._limits)
        if fresh:
            self._limits += fresh
            self._windows += self._make(limit for limit in fresh if limit.scope not in METHOD_SCOPES)
            self._scopes.clear()

    @property
    def is_per_method(self) -> bool:
        """Whether a refusal speaks of one method only."""
        return any(limit.scope in METHOD_SCOPES for limit in self._limits)

    @asynccontextmanager
    async def turn(self, lane: Lane = "sync", scope: str = "", verb: str = "GET") -> AsyncIterator[None]:
        """Wait for and take the right to one request; raises BudgetSpentError when the wait would be too long."""
        since = self._clock.monotonic()
        serial = [window for window, _ in self._counting(scope, verb) if window.limit.is_serial]
        async with AsyncExitStack() as held:
            for window in serial:
                await held.enter_async_context(window.line)
            await self._wait(lane, scope, verb, since)
            if lane == "sync":
                await held.enter_async_context(self._sync_slots)
            await held.enter_async_context(self._all_slots)
            with self._counted(serial):
                yield

    def observe(self, headers: Mapping[str, str], scope: str = "") -> None:
        """Correct the count by what an answer says. Called inside the turn."""
        seen = quotas(headers, self._clock.now())
        for quota in seen:
            self._reported[quota.name] = self._corrected(quota)
        if seen:
            self._of(scope).names = tuple(quota.name for quota in seen)

    async def block(self, seconds: float, scope: str = "") -> None:
        """No request before this many seconds have passed: of this method where limits are per method, else at all."""
        key = scope if self.is_per_method else ""
        self._block_locally(key, self._clock.monotonic() + seconds)
        if self._shared is not None:
            await self._shared.save(self._key(key), self._clock.now() + timedelta(seconds=seconds))

    def states(self) -> tuple[BudgetState, ...]:
        """One per quota that the remote reported; one without figures where it reported none."""
        reported = self._reported or {"": _Reported(None, None, None)}
        blocked = max([self._blocked, *(s.blocked for s in self._scopes.values())])
        return tuple(
            BudgetState(
                self.host, self.credential, name, r.limit, r.remaining,
                self._as_time(r.reset_at), self._as_time(blocked), self.in_flight,
            )
            for name, r in reported.items()
        )  # fmt: skip

    @property
    def is_idle(self) -> bool:
        now = self._clock.monotonic()
        return not self.in_flight and self._blocked <= now and now - self.used_at > _IDLE

    async def _wait(self, lane: Lane, scope: str, verb: str, since: float) -> None:
        """`since` is when the wait began: the time in a line counts."""
        waited, longest = self._clock.monotonic() - since, self._settings.max_wait.total_seconds()
        while True:
            await self._load_blocks(scope)
            delay = self._delay(lane, scope, verb)
            if delay <= 0:
                return self._take(scope, verb)
            if waited + delay > longest:
                raise BudgetSpentError(
                    f"the rate budget of {self.host} is used up for {math.ceil(delay)} s",
                    retry_after=timedelta(seconds=delay),
                )
            await self._clock.sleep(delay)
            waited += delay

    def _delay(self, lane: Lane, scope: str, verb: str) -> float:
        now, own = self._clock.monotonic(), self._of(scope)
        reserved = self._settings.reserved if lane == "sync" else 0.0
        delays = [window.delay(now, points, reserved) for window, points in self._counting(scope, verb)]
        delays += [quota.delay(now, reserved) for quota in self._quotas_of(own)]
        return max([max(self._blocked, own.blocked) - now, *delays])

    def _take(self, scope: str, verb: str) -> None:
        now, own = self._clock.monotonic(), self._of(scope)
        self.used_at = now
        for window, points in self._counting(scope, verb):
            window.take(now, points)
        for reported in self._quotas_of(own):
            if reported.remaining:
                reported.remaining -= 1

    def _counting(self, scope: str, verb: str) -> list[tuple[_Window, int]]:
        """The windows that count a request of this HTTP verb, and how much it takes of each."""
        return [(window, points) for window in self._of(scope).windows if (points := window.points(verb))]

    def _quotas_of(self, own: _Scope) -> list[_Reported]:
        """A quota without a name is the whole credential's."""
        return [self._reported[name] for name in dict.fromkeys(("", *own.names)) if name in self._reported]

    def _of(self, scope: str) -> _Scope:
        found = self._scopes.get(scope)
        if found is None:
            shared = tuple(window for window in self._windows if fnmatchcase(scope, window.limit.path))
            own = (limit for limit in self._limits if limit.scope in METHOD_SCOPES and fnmatchcase(scope, limit.path))
            found = self._scopes[scope] = _Scope((*shared, *self._make(own)))
            if len(self._scopes) > _MAX_SCOPES:
                self._scopes.popitem(last=False)
        self._scopes.move_to_end(scope)
        return found

    def _make(self, limits: Iterable[Limit]) -> tuple[_Window, ...]:
        return tuple(_Window(limit, self._share) for limit in limits)

    def _corrected(self, quota: Quota) -> _Reported:
        """Requests in flight beside this one are not in the remote's figure yet."""
        now = self._clock.monotonic()
        remaining = None if quota.remaining is None else max(0, quota.remaining - max(0, self.in_flight - 1))
        reset_in = quota.reset_in
        if reset_in is None and self._limits:
            reset_in = max(limit.window for limit in self._limits).total_seconds()
        return _Reported(quota.limit, remaining, None if reset_in is None else now + reset_in)

    @contextmanager
    def _counted(self, serial: Iterable[_Window]) -> Iterator[None]:
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            for window in serial:
                window.answered(self._clock.monotonic())

    def _block_locally(self, scope: str, until: float) -> None:
        if scope:
            own = self._of(scope)
            own.blocked = max(own.blocked, until)
        else:
            self._blocked = max(self._blocked, until)

    async def _load_blocks(self, scope: str) -> None:
        if self._shared is None:
            return
        now, every = self._clock.monotonic(), self._settings.shared_every.total_seconds()
        for name in {"", scope} if self.is_per_method else {""}:
            if now - self._loaded.get(name, -every) < every:
                continue
            self._loaded[name] = now
            until = await self._shared.load(self._key(name))
            if until is not None:
                self._block_locally(name, now + (until - self._clock.now()).total_seconds())

    def _key(self, scope: str) -> str:
        return f"{self.host} {self.credential} {scope}".rstrip()

    def _as_time(self, monotonic: float | None) -> datetime | None:
        left = (monotonic or 0.0) - self._clock.monotonic()
        return self._clock.now() + timedelta(seconds=left) if left > 0 else None


class Budgets:
    """All budgets of this process; made once by the composition root and handed to every client."""

    def __init__(
        self, clock: Clock, *, settings: BudgetSettings | None = None, shared: SharedBlocks | None = None
    ) -> None:
        self._clock = clock
        self._settings = settings or BudgetSettings()
        self._shared = shared
        self.share = Share(1.0)
        self._kept: dict[tuple[str, str], Budget] = {}
        self._sweep_at = 1024

    def of(self, host: str, credential: str, limits: Iterable[Limit] = ()) -> Budget:
        """The budget of this account at this host (`host` or `host:port`); `credential` is a fingerprint, never a value."""
        budget = self._kept.get((host, credential))
        if budget is None:
            self._sweep()
            budget = Budget(host, credential, self._clock, self._settings, self.share, self._shared)
            self._kept[host, credential] = budget
        budget.declare(limits)
        return budget

    def states(self) -> tuple[BudgetState, ...]:
        return tuple(state for budget in self._kept.values() for state in budget.states())

    def _sweep(self) -> None:
        if len(self._kept) >= self._sweep_at:
            self._kept = {key: budget for key, budget in self._kept.items() if not budget.is_idle}
            self._sweep_at = max(1024, 2 * len(self._kept))
