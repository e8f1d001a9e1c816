"""Answers about what an integration did: its log."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from reconciler.api.integrations import Shown
from reconciler.api.paging import Moment, Paging
from reconciler.model.record import LogLevel

LogKind = Literal["sync", "auth", "delivery", "lifecycle"]


class LogQuery(Paging):
    level: LogLevel | None = Field(None, description="Lines this bad or worse.")
    sync_job_id: str | None = Field(None, max_length=100, description="Lines of this run.")
    since: Moment | None = None
    limit: int = Field(50, ge=1, le=200)


class LogLine(Shown):
    at: datetime
    level: LogLevel
    kind: LogKind = Field(description="What it is about: a sync, signing in, a delivery, or the integration as such.")
    message: str
    sync_job_id: str | None
    detail: dict[str, Any]


class LogPage(Shown):
    """The newest first. Lines are kept for 90 days, unless the workspace says otherwise."""

    data: list[LogLine]
    has_more: bool
    next_cursor: str | None
