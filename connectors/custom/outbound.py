"""What becomes of an event that was posted: the words of the place that takes it, as errors of the contract. Pure.

408, 425, 429 and 5xx are tried again, when the place says or by the schedule; 410 ends all sending to it; everything else that is
not 2xx ends this event. Its text is in no message: what it answered is kept with the delivery.
"""

from datetime import datetime, timedelta

from reconciler.sdk.contract import Answer, Retries
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    GoneError,
    RateLimitedError,
    RejectedError,
    TransientError,
)
from reconciler.sdk.quota import retry_after

RETRIES = Retries(
    pauses=tuple(timedelta(seconds=s) for s in (5, 30, 120, 600, 3_600, 21_600)), jitter=0.2, is_overruled=True
)
LONGEST_WAIT = timedelta(hours=6)
DEADLINE = timedelta(seconds=10)


def judged(answer: Answer, now: datetime) -> ConnectorError | None:
    """None where it was taken."""
    status = answer.status
    said = f"the place that events go to answered {status}"
    if 200 <= status < 300:
        return None
    if status == 410:
        message = f"{said} (Gone): nothing more is sent until the manifest changes, or a delivery is retried"
        return GoneError(message, status=status)
    if status < 400:
        return RejectedError(f"{said}: a redirect is not followed; name its goal in config.outbound.url", status=status)
    if status in (408, 425, 429) or status >= 500:
        return _later(said, status, _asked(answer, now))
    return RejectedError(said, status=status)


def _later(said: str, status: int, wait: timedelta | None) -> TransientError:
    """An error of the server may hide that it was taken; then a repeat has to bear the same id."""
    if status == 429:
        return RateLimitedError(said, retry_after=wait, status=status)
    if status >= 500:
        return AmbiguousError(said, retry_after=wait, status=status)
    return TransientError(said, retry_after=wait, status=status)


def _asked(answer: Answer, now: datetime) -> timedelta | None:
    seconds = retry_after(answer.headers, now)
    return None if seconds is None else timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds()))
