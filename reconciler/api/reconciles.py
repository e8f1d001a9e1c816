"""Requests and answers about looks at Git: asked for, and what became of revisions."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.integrations import Shown
from reconciler.api.syncs import IntegrationNamed
from reconciler.model.finding import Code, Severity


class ReconcileRequest(BaseModel):
    """Without a body: all of Git."""

    model_config = ConfigDict(extra="forbid")

    integration: str | None = Field(None, max_length=200, description="A reference, as in paths; default: all of Git.")
    token: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        pattern=r"^[A-Za-z0-9._~-]+$",
        description="To find it again, such as a commit; the same one again asks for nothing more. Default: one is made.",
    )


class SourceRead(Shown):
    """`error`: why it could not be read; the last good revision stays in force."""

    name: str
    revision: str | None
    error: str | None


class ReconcileProgress(Shown):
    token: str
    status: Literal["queued", "running", "done"] = Field(description="queued: nobody has taken it up yet.")
    requested_at: datetime
    integration: IntegrationNamed | None = Field(description="Null: all of Git.")
    revision: str | None = Field(
        description="What it came to: what is applied of the integration, or read of the only source; null until then."
    )
    sources: list[SourceRead] = Field(description="Read since; of one integration none.")


class Revision(Shown):
    """`findings`, `actions` and `plan_digest` are of the whole installation: null for the caller of a workspace."""

    revision: str
    source: str | None = Field(description="Null where several are in it.")
    at: datetime
    outcome: str = Field(examples=["applied", "observed", "blocked"])
    plan_digest: str | None
    findings: int | None
    actions: dict[str, int] | None


class RevisionList(Shown):
    """Those that changed something, the newest first."""

    data: list[Revision]
    has_more: bool
    next_cursor: str | None


class FindingShown(Shown):
    """Something to mend. `workspace` null: nobody can say whose it is."""

    file: str
    line: int
    column: int
    severity: Severity
    code: Code
    message: str
    remedy: str | None
    workspace: str | None


class FindingList(Shown):
    data: list[FindingShown]
    has_more: bool
    next_cursor: str | None
