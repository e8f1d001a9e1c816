"""What an answer's headers say about rate limits: headers in, `Quota`s and waiting times out. Pure.

Used by the budget and by the error rules. Understands `Retry-After`, the IETF drafts (`RateLimit`, `RateLimit-*`) and the
`X-RateLimit-*` families of GitHub, GitLab, Jira, Datadog, Zendesk, Freshservice, Linear and ServiceNow, whose resets are
seconds to wait, epoch seconds, epoch milliseconds, ISO 8601 or HTTP dates. Epochs are compared with the answer's own
`Date`, so a wrong clock on either side does no harm. Answers that only say so in the body are the connector's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Label, header of the limit, what stands before `-remaining` and `-reset`. Zendesk and Freshservice name the limit apart.
_FAMILIES = (
    ("", "ratelimit-limit", "ratelimit"),
    ("", "x-ratelimit-limit", "x-ratelimit"),
    ("", "x-ratelimit-total", "x-ratelimit"),
    ("", "x-rate-limit-limit", "x-rate-limit"),
    ("", "x-rate-limit", "x-rate-limit"),
    ("requests", "x-ratelimit-requests-limit", "x-ratelimit-requests"),
    ("complexity", "x-ratelimit-complexity-limit", "x-ratelimit-complexity"),
    ("endpoint", "x-ratelimit-endpoint-requests-limit", "x-ratelimit-endpoint-requests"),
)
_NAME_HEADERS = ("x-ratelimit-resource", "ratelimit-name", "x-ratelimit-name", "x-ratelimit-endpoint-name")
_DRAFT_ITEM = re.compile(r'"([^"]*)"((?:\s*;\s*[a-z]+=[^;,]+)*)')
_OLDEST_EPOCH = 1e9
_OLDEST_EPOCH_MS = 1e12


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit as the remote sees it. `name` tells several of one remote apart; `reset_in` is in seconds."""

    name: str
    limit: int | None
    remaining: int | None
    reset_in: float | None


def quotas(headers: Mapping[str, str], now: datetime) -> tuple[Quota, ...]:
    """Everything that the headers say; empty where they say nothing."""
    answered_at = _date(headers.get("date", "")) or now
    name = next((headers[n] for n in _NAME_HEADERS if headers.get(n)), "")
    found = {q.name: q for q in _draft(headers)}
    read = [_family(headers, label or name, limit, prefix, answered_at) for label, limit, prefix in _FAMILIES]
    # A family that names limit and remaining beats one that shares a header with it and names only one of them.
    for quota in sorted((q for q in read if q), key=lambda q: None in (q.limit, q.remaining)):
        found.setdefault(quota.name, quota)
    return tuple(found.values())


def _family(headers: Mapping[str, str], name: str, limit: str, prefix: str, answered_at: datetime) -> Quota | None:
    remaining, reset = headers.get(f"{prefix}-remaining", ""), headers.get(f"{prefix}-reset", "")
    quota = Quota(name, _first_int(headers.get(limit, "")), _first_int(remaining), _seconds(reset, answered_at))
    return None if quota.limit is None and quota.remaining is None else quota


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that `Retry-After` asks to wait; None where it is absent or nonsense."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    at = _date(text)
    return max(0.0, (at - (_date(headers.get("date", "")) or now)).total_seconds()) if at else None


def exhausted_for(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to the reset of a quota that is used up; None where none is. The latest reset counts."""
    resets = [q.reset_in for q in quotas(headers, now) if q.remaining == 0 and q.reset_in is not None]
    return max(resets, default=None)


def _draft(headers: Mapping[str, str]) -> list[Quota]:
    """The single-field drafts: `RateLimit: "default";r=50;t=30`, and before it `limit=100, remaining=50, reset=5`."""
    text = headers.get("ratelimit", "")
    old = dict(re.findall(r"(limit|remaining|reset)\s*=\s*(\d+)", text))
    if old:
        return [
            Quota(
                "",
                _first_int(old.get("limit", "")),
                _first_int(old.get("remaining", "")),
                _number(old.get("reset", "")),
            )
        ]
    allowed = {name: _parameters(rest) for name, rest in _DRAFT_ITEM.findall(headers.get("ratelimit-policy", ""))}
    return [
        Quota(name, _first_int(allowed.get(name, {}).get("q", "")), _first_int(said.get("r", "")), _number(said.get("t", "")))
        for name, said in ((name, _parameters(rest)) for name, rest in _DRAFT_ITEM.findall(text))
    ]  # fmt: skip


def _parameters(text: str) -> dict[str, str]:
    return dict(re.findall(r";\s*([a-z]+)=([^;,\s]+)", text))


def _first_int(text: str) -> int | None:
    found = re.match(r"\s*(\d{1,15})", text)
    return int(found[1]) if found else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text) else None


def _seconds(text: str, answered_at: datetime) -> float | None:
    number = _number(text)
    if number is None:
        at = _date(text)
        return max(0.0, (at - answered_at).total_seconds()) if at else None
    if number >= _OLDEST_EPOCH_MS:
        number /= 1000
    return max(0.0, number - answered_at.timestamp()) if number >= _OLDEST_EPOCH else number


def _date(text: str) -> datetime | None:
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            at = read(text)
        except (TypeError, ValueError, IndexError):
            continue
        return at if at.tzinfo else at.replace(tzinfo=UTC)
    return None
