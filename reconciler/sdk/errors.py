"""Errors of connectors. The class says what happens next; nobody parses messages to decide on a retry.

ConnectorError
├── TransientError            tried again with backoff, not before `retry_after`
│   ├── RateLimitedError      the same, and the budget of the credential is blocked until then
│   ├── AmbiguousError        something was sent and no answer came: only a safe channel repeats it
│   └── PartialDeliveryError  some of it arrived: `progress` is handed to the next attempt
├── UnauthorizedError         wrong credential: stops until the credential changes
├── ForbiddenError            one right is missing: the entity is skipped, visibly; the rest goes on
├── RejectedError             the remote refuses what was asked: stops until the manifest or the event changes
│   └── GoneError             it wants no more, ever: no event is sent until the manifest changes or a person asks
└── UnsupportedError          not on this machine or not by this remote: stops until something is installed or changed
"""

import traceback
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from reconciler.model.condition import Reason


def place_of(fault: Exception) -> str:
    """Where an error that nobody foresaw came from. Without its text, which may hold anything."""
    frames = traceback.extract_tb(fault.__traceback__)
    where = f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{where}"


class ConnectorError(Exception):
    """`message` is for a person and holds no secret; `detail` goes to the log of the run."""

    reason: ClassVar[Reason] = Reason.INTERNAL_ERROR

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        status: int | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.why = reason or self.reason
        self.status = status
        self.detail = dict(detail or {})


class TransientError(ConnectorError):
    reason = Reason.REMOTE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after: timedelta | None = None, **more: Any) -> None:
        super().__init__(message, **more)
        self.retry_after = retry_after


class RateLimitedError(TransientError):
    reason = Reason.RATE_LIMITED


class AmbiguousError(TransientError):
    """Whoever met a deadline says so; by itself this is an answer that tells nothing, or none."""


class PartialDeliveryError(TransientError):
    reason = Reason.PARTIAL

    def __init__(self, message: str, *, progress: Mapping[str, Any], **more: Any) -> None:
        super().__init__(message, **more)
        self.progress = dict(progress)


class UnauthorizedError(ConnectorError):
    reason = Reason.AUTHENTICATION_FAILED


class ForbiddenError(ConnectorError):
    reason = Reason.PERMISSION_DENIED


class RejectedError(ConnectorError):
    reason = Reason.REJECTED


class GoneError(RejectedError):
    reason = Reason.GONE


class UnsupportedError(ConnectorError):
    reason = Reason.MISSING_DEPENDENCY
