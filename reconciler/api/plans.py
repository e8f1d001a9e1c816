"""Plans as JSON: what `reconciler plan --output json` prints, and what may be submitted for one."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reconciler.api.integrations import Shown
from reconciler.model.finding import Code, Severity
from reconciler.model.plan import Action, DueCode, Risk


class Change(Shown):
    path: str
    before: str | None = Field(description="JSON text; a remark where the field is secret.")
    after: str | None
    is_secret: bool


class ActionShown(Shown):
    workspace: str
    name: str
    type: str
    action: Action
    reason: str
    risk: Risk
    file: str
    line: int
    depends_on: list[str]
    changes: list[Change]


class FindingShown(Shown):
    severity: Severity
    code: Code
    file: str
    line: int
    column: int
    message: str
    remedy: str


class BlockShown(Shown):
    code: str
    message: str
    remedy: str
    integrations: list[str]


class DueShown(Shown):
    """What a person has to do, because applying does not. No change, and in no exit code."""

    workspace: str
    name: str
    code: DueCode
    message: str
    remedy: str


class PlanShown(Shown):
    format_version: int
    digest: str
    base_revision: str
    head_revision: str
    summary: dict[Action, int]
    exit_code: Literal[0, 1, 2, 3] = Field(
        description="As of `reconciler plan`: 1 errors, 3 blocked, 2 changes, 0 none."
    )
    actions: list[ActionShown]
    findings: list[FindingShown]
    blocks: list[BlockShown]
    dues: list[DueShown]


class FileSubmitted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1, max_length=4096, pattern=r"^[^/\x00][^\x00]*$", description="As in the repository.")
    content: str | None = Field(max_length=1_000_000, description="Null: the file would be gone.")


class PlanRequest(BaseModel):
    """A revision, or files as they would be."""

    model_config = ConfigDict(extra="forbid")

    source: str | None = Field(None, description="Name of the source; needed where there are several.")
    revision: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]*$",
        description="Branch, tag or commit.",
    )
    files: list[FileSubmitted] | None = Field(None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.revision is None) == (self.files is None):
            raise ValueError("give either revision or files")
        return self
