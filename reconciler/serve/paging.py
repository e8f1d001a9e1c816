"""Pages of lists that come from the store or from memory: cursors as places, and the body that all lists have.

A cursor is the place after which to go on, as JSON in URL-safe base64: rows that come and go neither repeat nor hide
others. Called by `routes` and `listing`.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from starlette.responses import Response

from reconciler.model.clock import rfc3339
from reconciler.serve.forms import to_json
from reconciler.serve.problem import ProblemError

T = TypeVar("T")


def as_text(at: datetime | None) -> str | None:
    """As the store compares times."""
    return rfc3339(at) if at is not None else None


def encode(place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def decode(cursor: str, kind: type[T]) -> T:
    """The place of that kind; raises ProblemError for what `encode` did not make."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(text, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise _NONE_OF_OURS from None
    if b"\\u0000" in text:  # PostgreSQL refuses such a text
        raise _NONE_OF_OURS
    return place


_NONE_OF_OURS = ProblemError(
    400, "invalid-cursor", "cursor is none of ours; pass next_cursor of the page before as it is"
)


def number_of(cursor: str | None) -> int | None:
    """The place in a list by id."""
    if cursor is None:
        return None
    (number,) = decode(cursor, tuple[int])
    if not 0 <= number < 1 << 62:
        raise _NONE_OF_OURS
    return number


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """One page; `place` is that of its last row, None where there are no more."""

    rows: Sequence[T]
    place: Any = None


def cut(rows: Sequence[T], limit: int, place_of: Any) -> Listed[T]:
    """Of one row more than the limit, as they were asked for."""
    if len(rows) <= limit:
        return Listed(rows)
    return Listed(rows[:limit], place_of(rows[limit - 1]))


def answer(data: Sequence[Any], place: Any, **more: Any) -> Response:
    """The body of every list; `data` may hold finished JSON as `msgspec.Raw`."""
    body = {"data": data, "has_more": place is not None, "next_cursor": encode(place) if place is not None else None}
    return Response(to_json({**body, **more}), media_type="application/json")
