"""What the seam needs from outside: where job rows live, and whom to tell about errors.

The composition root hands both over; this room knows neither the store nor the domain.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from reconciler.model.job import Claim, Job, Outcome, Pulse, QueueName, Window

Kind = Callable[[Job, Claim], Awaitable[Outcome]]
Kinds = Mapping[str, Kind]
# What went wrong, the exception, and the job it happened to where there is one.
Report = Callable[[str, BaseException, Job | None], None]

# Whether a time goes on from the last beat's, or the clock has jumped in between. Asked from any thread.
Steady = Callable[[datetime], bool]


class EngineError(Exception):
    """The engine's own database refuses: full, locked, unreachable. Nothing is lost, our rows decide."""


class Dispatch(Protocol):
    """How a process gets jobs done, whether or not it runs any itself."""

    async def ask(self, kind: str, ref: str) -> bool:
        """A person waits: due now, before all others. False where no such row exists (put it first)."""
        ...

    async def cancel(self, kind: str, ref: str) -> bool:
        """Never start it, or stop it at once here and within a second elsewhere. False where there was nothing."""
        ...

    def wake(self) -> None:
        """Rows may be due: look now instead of at the next round."""
        ...


class JobStore(Protocol):
    """Job rows: the truth about work. Every call is one transaction."""

    async def take_due(self, queue: QueueName, window: Window, ttl: timedelta) -> list[Job]:
        """Due rows that may start now, at most one a lane, as many as the window of all live processes allows."""
        ...

    async def ask(self, kind: str, ref: str) -> bool:
        """Due now and before all others; false where there is no such row."""
        ...

    async def drop(self, kind: str, ref: str) -> Job | None:
        """Forget the row; whoever runs it has lost its claim."""
        ...

    async def give_back(self, taken: Sequence[Job]) -> None:
        """Taken, but the engine did not get them: due again."""
        ...

    async def start(self, job_id: int, attempt: int, owner: str, lease: timedelta) -> tuple[Job, Claim] | None:
        """The claim; none where this start is stale or the lane busy."""
        ...

    async def finish(self, claim: Claim, again_at: datetime | None, *, failed: bool) -> bool:
        """Leave the lane and settle the row; false where the claim was lost."""
        ...

    async def beat(self, owner: str, claims: Sequence[Claim], lease: timedelta) -> Pulse:
        """We live, and still run exactly these."""
        ...

    async def lost(self, owner: str, claims: Sequence[Claim]) -> list[Claim]:
        """Which of them have no row any more, or one that is not ours; cheaper than a beat, and writes nothing."""
        ...

    async def dead(self, ttl: timedelta, is_steady: Steady) -> list[str]:
        """Processes that are gone; what they were running is due again. None where the time it judges by is not steady."""
        ...

    async def forget(self, owner: str) -> None:
        """No longer count this process."""
        ...

    async def stranded(self, is_steady: Steady) -> list[Job]:
        """Rows nobody works on any more, now due again. None where the time it judges by is not steady."""
        ...

    async def waiting(self, age: timedelta) -> list[Job]:
        """Rows taken longer ago than `age` and not started."""
        ...

    async def reset(self) -> list[Job]:
        """All taken rows are due again: only where nobody else can be working."""
        ...
