"""The parameters that lists share: how many, after which place, and times."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class Paging(BaseModel):
    """Parameters of a list; a route's own are added in a subclass. One that nobody knows is refused."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT)
    cursor: str | None = Field(None, max_length=4096, description="`next_cursor` of the page before.")


def _not_far_out(at: datetime) -> datetime:
    """Beyond these, a time zone leads out of what can be computed with."""
    if not 1970 <= at.year <= 9000:
        raise ValueError("expected a time between the years 1970 and 9000")
    return at


def _written_out(at: object) -> object:
    """Not as seconds, a number or one in quotes, which the library would take as well."""
    if not isinstance(at, datetime) and not (isinstance(at, str) and "-" in at[1:]):
        raise ValueError("expected RFC 3339, such as 2026-03-01T12:00:00Z")
    return at


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_not_far_out),
    Field(json_schema_extra={"pattern": "^(19[7-9][0-9]|[2-8][0-9]{3})-"}),
]
"""RFC 3339 with a zone."""
