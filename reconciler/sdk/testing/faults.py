"""Faults a simulator is told to show: what real remotes do on bad days.

In: `sim.faults.add(status(429, retry_after="7"), path="/api/*", first=2)`. Out: for each request, the fault that strikes
it. The simulator's base carries faults out, except for `capped` and `empty_page`: only a vendor's simulator knows how its
pages are cut, so it asks `call.size()` and `call.wants_empty()`. Every fault counts how often it struck: a test whose
fault never struck proves nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase


class Effect(StrEnum):
    STATUS = "status"
    STALL = "stall"
    RESET = "reset"
    SLOW = "slow"
    LOST_ANSWER = "lost_answer"
    TRUNCATED = "truncated"
    HTML = "html"
    REPLAY = "replay"
    CAPPED = "capped"
    EMPTY_PAGE = "empty_page"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens; make it with the functions below."""

    effect: Effect
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    seconds: float = 0.0
    records: int = 0


def status(code: int, *, retry_after: str | None = None) -> Fault:
    """An error of the vendor's own shape. `retry_after` is seconds or an HTTP date, as text; None sends no header."""
    headers = (("retry-after", retry_after),) if retry_after is not None else ()
    return Fault(effect=Effect.STATUS, status=code, headers=headers)


def stall() -> Fault:
    """Takes the request, does nothing, and never answers."""
    return Fault(effect=Effect.STALL)


def reset() -> Fault:
    """Closes the connection with RST before doing anything."""
    return Fault(effect=Effect.RESET)


def lost_answer() -> Fault:
    """Does what was asked, then resets the connection: the remote has it, the caller cannot know."""
    return Fault(effect=Effect.LOST_ANSWER)


def slow(seconds: float) -> Fault:
    return Fault(effect=Effect.SLOW, seconds=seconds)


def truncated() -> Fault:
    """Half of the body: JSON that breaks off."""
    return Fault(effect=Effect.TRUNCATED)


def html(code: int = 200) -> Fault:
    """A proxy's or login page instead of the answer."""
    return Fault(effect=Effect.HTML, status=code)


def replay() -> Fault:
    """The answer that the same path gave before: a duplicate page, and where the page names its successor a repeated token."""
    return Fault(effect=Effect.REPLAY)


def capped(records: int) -> Fault:
    """Pages hold at most `records`, whatever was asked for."""
    return Fault(effect=Effect.CAPPED, records=records)


def empty_page() -> Fault:
    """A page without records although more follow, the way this vendor does it."""
    return Fault(effect=Effect.EMPTY_PAGE)


@dataclass(slots=True)
class Armed:
    """A fault with its aim: matching requests from the `first` on, `times` of them (None: all)."""

    fault: Fault
    method: str
    path: str
    first: int
    times: int | None
    seen: int = 0
    struck: int = 0

    def aims_at(self, method: str, path: str) -> bool:
        return fnmatchcase(method, self.method) and fnmatchcase(path, self.path)

    def strikes(self) -> bool:
        """Counts one matching request."""
        self.seen += 1
        return self.seen >= self.first and (self.times is None or self.seen < self.first + self.times)


@dataclass(slots=True)
class Faults:
    """The faults of one simulator."""

    armed: list[Armed] = field(default_factory=list)

    def add(
        self, fault: Fault, *, method: str = "*", path: str = "*", first: int = 1, times: int | None = None
    ) -> Armed:
        """`path` is a shell pattern; `first` counts matching requests from now on; `times=None` means from then on always."""
        aimed = Armed(fault, method, path, first, times)
        self.armed.append(aimed)
        return aimed

    def clear(self) -> None:
        self.armed.clear()

    def striking(self, method: str, path: str) -> Iterator[Armed]:
        for aimed in self.armed:
            if aimed.aims_at(method, path) and aimed.strikes():
                yield aimed
