"""Token buckets in memory, per process: so many at once, and so many a second after that. Called by `limits` and `gatekeeper`.

In: a key, and what flows into its bucket. Out: what is left, and how long to wait. Where too many keys are remembered, those not
seen for longest are forgotten. What is answered to whoever has to wait is said in `limits`.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass

from reconciler.model.clock import Clock

MOST_KEPT = 10_000
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """`burst` at once, then `per_second`."""

    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Left:
    """After a request: how many more there may be now, seconds until all may be again, and until one may (0: it was granted)."""

    flow: Flow
    remaining: int
    full_in: float
    wait: float

    @property
    def headers(self) -> Headers:
        """What an answer says of it, however it ends."""
        said = (
            (b"ratelimit-limit", self.flow.burst),
            (b"ratelimit-remaining", self.remaining),
            (b"ratelimit-reset", math.ceil(self.full_in)),
        )
        return tuple((name, str(value).encode()) for name, value in said)

    @property
    def retry_after(self) -> int:
        return max(1, math.ceil(self.wait))


class Buckets:
    """One bucket for each key; a key that is not known has a full one."""

    def __init__(self, clock: Clock, most: int = MOST_KEPT) -> None:
        self._clock = clock
        self._most = most
        self._kept: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str, flow: Flow) -> Left:
        level = self._level(key, flow)
        is_granted = level >= 1
        level -= is_granted
        self._keep(key, level)
        wait = 0.0 if is_granted else (1 - level) / flow.per_second
        return Left(flow, max(0, int(level)), (flow.burst - level) / flow.per_second, wait)

    def look(self, key: str, flow: Flow) -> Left:
        """What is left, without taking any."""
        level = self._level(key, flow)
        return Left(flow, max(0, int(level)), (flow.burst - level) / flow.per_second, 0.0)

    def wait(self, key: str, flow: Flow) -> float:
        """Seconds until there is one to take, without taking it."""
        return max(0.0, (1 - self._level(key, flow)) / flow.per_second)

    def charge(self, key: str, flow: Flow, most_debt: int) -> None:
        """Take one whether or not there is one."""
        self._keep(key, max(self._level(key, flow) - 1, -most_debt))

    def _level(self, key: str, flow: Flow) -> float:
        level, at = self._kept.get(key, (float(flow.burst), 0.0))
        return min(float(flow.burst), level + (self._clock.monotonic() - at) * flow.per_second)

    def _keep(self, key: str, level: float) -> None:
        self._kept[key] = (level, self._clock.monotonic())
        self._kept.move_to_end(key)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
