"""Answers about callers and what they did."""

from datetime import datetime
from typing import Any, Literal

from reconciler.api.integrations import Shown
from reconciler.api.paging import Moment, Paging
from reconciler.model.access import Permission


class Whoami(Shown):
    """`workspace` null: the whole installation."""

    name: str
    workspace: str | None
    permissions: list[Permission]


class AuditQuery(Paging):
    since: Moment | None = None


class AuditLine(Shown):
    """A change that was asked for. `action`: the call, the command or its order. `revision`: the commit that it made."""

    at: datetime
    workspace: str | None
    caller: str
    request_id: str
    action: str
    target: str | None
    outcome: Literal["done", "refused", "failed"]
    status: int
    revision: str | None
    detail: dict[str, Any]


class AuditPage(Shown):
    """The newest first. Lines are kept for a year."""

    data: list[AuditLine]
    has_more: bool
    next_cursor: str | None
