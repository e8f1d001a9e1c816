"""Requests and answers about suspending."""

from pydantic import BaseModel, ConfigDict, Field

from reconciler.api.integrations import Shown, Suspension
from reconciler.api.paging import Moment


class SuspendRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=500, pattern=r"\S", description="Why, for whoever wonders later.")
    until: Moment | None = Field(None, description="Resumes by itself then.")


class SuspensionState(Shown):
    id: str
    suspended: Suspension | None
