"""Errors as RFC 9457 has them, and where the OpenAPI document says that they may come."""

from typing import Any

from pydantic import BaseModel, Field

PROBLEMS = "https://reconciler.invalid/problems/"
"""What `type` begins with, followed by the code. A name, not an address: nothing is served there."""
_TITLES = {"invalid-key": "Invalid API key", "expired-key": "Expired API key", "invalid-json": "Invalid JSON"}


def title_of(code: str) -> str:
    return _TITLES.get(code) or code.replace("-", " ").capitalize()


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body, or the name of the parameter.")
    code: str
    detail: str
    file: str | None = Field(None, description="Where a file is wrong, and not the request.")
    line: int | None = None
    column: int | None = None
    remedy: str | None = None


class Problem(BaseModel):
    """Why a request was not answered. Members beside these depend on `code`."""

    type: str = Field(description=f"`{PROBLEMS}` and the code.")
    title: str = Field(description="The code in words.")
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field(description="For people; says what to do.")
    request_id: str
    errors: list[Fault] = []


_WHY = {
    400: "A parameter cannot be understood.",
    401: "No token, or one that does not count.",
    403: "The caller may not do this.",
    404: "There is nothing like that that the caller may see.",
    409: "The state of things does not allow it.",
    412: "It is not what the caller saw.",
    413: "The body is too large.",
    415: "The body is of another kind.",
    422: "The body or a header is wrong.",
    429: "Too many requests.",
    503: "Not now: ask again.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses` of a route: these, and those that any route under `/v1` may give."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": _WHY[status], "content": content} for status in sorted({*statuses, 401, 403, 429, 503})
    }
