"""What may go wrong with a call. No message holds a token, and none what was sent."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reconciler.api.problem import Fault


class ClientError(Exception):
    """Base of all errors of the client."""


class SettingError(ClientError):
    """The client was made with something that cannot be used: an address, a token, a certificate."""


class UnreachableError(ClientError):
    """No answer came, or only a part of one. What was asked may have been done."""


class AnswerError(ClientError):
    """An answer came that is none of this API: perhaps the server is of another release, or something else answered."""


class ApiError(ClientError):
    """The server refused. `code` is stable and for programs, `detail` for people; `more` has the other members."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Fault] = (),
        request_id: str = "",
        *,
        retry_after: float | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.request_id = request_id
        self.retry_after = retry_after
        self.more = more or {}

    def as_json(self) -> dict[str, Any]:
        errors = [one.model_dump() for one in self.errors]
        known = {"status": self.status, "code": self.code, "detail": self.detail, "request_id": self.request_id}
        return {**known, **self.more, "errors": errors}

    def __str__(self) -> str:
        said = [f"{one.pointer}: {one.detail}" if one.pointer else one.detail for one in self.errors]
        request = f" [{self.request_id}]" if self.request_id else ""
        return "; ".join([f"{self.detail} ({self.status} {self.code})", *said]) + request


class InvalidError(ApiError):
    """400 or 422: a parameter or the body is wrong; see `errors`."""


class UnauthorizedError(ApiError):
    """401: no token, or one that does not count."""


class ForbiddenError(ApiError):
    """403: the token's permissions do not suffice."""


class NotFoundError(ApiError):
    """404: nothing like that that the caller may see."""


class ConflictError(ApiError):
    """409: the state of things does not allow it."""


class ChangedError(ApiError):
    """412: somebody changed it since the caller saw it."""


class RateLimitedError(ApiError):
    """429: too many requests; `retry_after` seconds are to pass."""


class UnavailableError(ApiError):
    """503: not now."""


_KINDS: dict[int, type[ApiError]] = {
    400: InvalidError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    412: ChangedError,
    422: InvalidError,
    429: RateLimitedError,
    503: UnavailableError,
}


class _Told(BaseModel):
    """A problem as it comes, of any release."""

    model_config = ConfigDict(extra="allow")

    code: str
    detail: str = ""
    title: str = ""
    request_id: str = ""
    errors: list[Fault] = []


def api_error(status: int, content: bytes, request_id: str = "", retry_after: float | None = None) -> ApiError:
    """What the body says, where it is a problem; else that something answered so that is not the API."""
    kind = _KINDS.get(status, ApiError)
    try:
        told = _Told.model_validate_json(content)
    except ValidationError:
        what = (
            "moved: use the address that it has now"
            if 300 <= status < 400
            else "something that is not the API answered"
        )
        return kind(status, "not-a-problem", what, request_id=request_id, retry_after=retry_after)
    more = {name: value for name, value in (told.model_extra or {}).items() if name not in {"type", "status"}}
    detail = told.detail or told.title or told.code
    told_id = told.request_id or request_id
    return kind(status, told.code, detail, told.errors, told_id, retry_after=retry_after, more=more)
