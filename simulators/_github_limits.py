"""GitHub's secondary limits: requests in, the seconds to wait out. Called by `simulators._github_state` before it answers.

By credential, as published: 900 points a minute (a read takes 1, a write 5), 80 requests a minute and 500 an hour that
create content, a second between writes. What was refused is not counted. Not done: CPU time, parallel requests.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    at: datetime
    method: str
    path: str

    @property
    def writes(self) -> int:
        return int(self.method not in ("GET", "HEAD", "OPTIONS"))

    @property
    def points(self) -> int:
        return 5 if self.writes else 1

    @property
    def creates(self) -> int:
        return int(self.method == "POST" and "/repos/" in self.path)


LIMITS: tuple[tuple[int, timedelta, Callable[[_Asked], int]], ...] = (
    (900, MINUTE, lambda asked: asked.points),
    (80, MINUTE, lambda asked: asked.creates),
    (500, HOUR, lambda asked: asked.creates),
    (1, SECOND, lambda asked: asked.writes),
)


class SecondaryLimits:
    """What each credential asked in the last hour."""

    def __init__(self) -> None:
        self._asked: dict[str, deque[_Asked]] = {}

    def wait(self, token: str, method: str, path: str, now: datetime) -> int | None:
        """Seconds for `retry-after`; None where the request fits, which counts it."""
        asked, lately = _Asked(now, method, path), self._asked.setdefault(token, deque())
        while lately and lately[0].at <= now - HOUR:
            lately.popleft()
        ends = [_fits_at(asked, lately, *limit) for limit in LIMITS]
        late = max((end for end in ends if end is not None), default=None)
        if late is not None:
            return max(1, math.ceil((late - now).total_seconds()))
        lately.append(asked)
        return None


def _fits_at(
    asked: _Asked, lately: deque[_Asked], most: int, window: timedelta, count: Callable[[_Asked], int]
) -> datetime | None:
    """When the request fits into this limit; None where it does now."""
    left = most - count(asked)
    if left == most:
        return None
    for before in reversed(lately):
        if before.at <= asked.at - window:
            break
        left -= count(before)
        if left < 0:
            return before.at + window
    return None
