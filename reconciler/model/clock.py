"""Time as a value that is handed in. Nothing below the composition root reads the wall clock itself."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Aware UTC time, a monotonic reading in seconds, and the only way to wait."""

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clock; made once, in the composition root."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        import asyncio  # 15 ms that `plan` does without

        await asyncio.sleep(seconds)


def rfc3339(at: datetime) -> str:
    """`at` in UTC with microseconds and `Z`: sorts as text, so the store compares it as text."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def from_rfc3339(text: str) -> datetime:
    """The aware UTC time of `text`; raises ValueError where it has no zone or is no time."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"time without a zone: {text}")
    return at.astimezone(UTC)
