"""What GitHub's answers mean: errors and limits, what a credential may do, when it dies. Pure; called by the connector."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from reconciler.sdk.contract import Answer, Right
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RateLimitedError, RejectedError, TransientError
from reconciler.sdk.quota import retry_after


def classify(answer: Answer, now: datetime) -> ConnectorError | None:
    """GitHub's meaning of a status. 403 is a rate limit only where the answer says so; 404 may be a missing right."""
    status = answer.status
    if status == 202:
        return TransientError("GitHub merged the base branch first and made no deployment yet", status=status)
    if status < 300 or status == 304:
        return None
    said = explain(answer)
    if status in (403, 429):
        wait = _wait(answer.headers, said, status, now)
        return (
            ForbiddenError(said, status=status)
            if wait is None
            else RateLimitedError(said, retry_after=wait, status=status)
        )
    if status in (404, 451):
        return ForbiddenError(f"{said}: it is not there, or this credential may not see it", status=status)
    if status == 422:
        return RejectedError(said, status=status)
    return None


def _wait(headers: Mapping[str, str], said: str, status: int, now: datetime) -> timedelta | None:
    """How long a 403 or 429 asks for; None where it is no rate limit."""
    after, reset = retry_after(headers, now), headers.get("x-ratelimit-reset", "")
    if after is not None:
        return timedelta(seconds=after)
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(datetime.fromtimestamp(int(reset), UTC) - now, timedelta(seconds=1))
    return timedelta(minutes=1) if status == 429 or "rate limit" in said.lower() else None


def explain(answer: Answer) -> str:
    """GitHub's message, with what it says of fields and of the permission it wants."""
    try:
        body = answer.json()
    except TransientError:
        body = {}
    said = body if isinstance(body, Mapping) else {}
    errors = [e if isinstance(e, Mapping) else {"message": e} for e in said.get("errors") or ()]
    parts = [str(e.get("message") or f"{e.get('field')} {e.get('code')}") for e in errors]
    wants = answer.headers.get("x-accepted-github-permissions")
    return ": ".join(
        [str(said.get("message") or f"status {answer.status}"), *parts, *([f"wants {wants}"] if wants else [])]
    )


def scope_rights(header: str | None, *, wants_hooks: bool) -> tuple[Right, ...]:
    """Rights of a classic token; a fine-grained one does not say."""
    scopes = None if header is None else {s.strip() for s in header.split(",")}
    wanted = {"repo": {"repo", "public_repo"}}
    if wants_hooks:
        wanted["admin:repo_hook"] = {"admin:repo_hook", "repo"}
    return tuple(Right(name, None if scopes is None else bool(scopes & any_of)) for name, any_of in wanted.items())


def permits(permissions: Mapping[str, str], right: str) -> bool:
    """Whether an installation has a right such as `issues:read`."""
    name, _, level = right.partition(":")
    return permissions.get(name) in ("write", "admin") or (level == "read" and permissions.get(name) == "read")


def expiry(text: str) -> datetime | None:
    """`2026-12-20 13:00:00 UTC`, or with an offset, as GitHub writes it in its header."""
    try:
        return datetime.strptime(text.replace("UTC", "+0000"), "%Y-%m-%d %H:%M:%S %z").astimezone(UTC)
    except ValueError:
        return None
