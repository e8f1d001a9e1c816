"""What Slack's answers mean: HTTP 200 is normal for failures too, `ok` and `error` say what happened. Pure."""

from datetime import datetime, timedelta
from typing import Any

import msgspec

from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.contract import Answer
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)  # fmt: skip
from reconciler.sdk.quota import retry_after

BAD_CREDENTIAL = frozenset({
    "not_authed", "invalid_auth", "bad_token", "account_inactive", "token_revoked", "token_expired", "org_login_required",
    "invalid_refresh_token", "invalid_client_id", "bad_client_secret", "token_rotation_not_enabled",
})  # fmt: skip
NO_RIGHT = frozenset({
    "missing_scope", "no_permission", "ekm_access_denied", "team_access_not_granted", "restricted_action", "not_in_channel",
})  # fmt: skip
LIMITED = frozenset({"ratelimited", "rate_limited", "message_limit_exceeded"})
LATER = frozenset({"service_unavailable", "team_added_to_org"})
# Slack says of these that parts of the call may have been carried out.
PERHAPS_DONE = frozenset({"internal_error", "fatal_error", "request_timeout"})
LOST_BEHIND_GATEWAY = frozenset({502, 504})
REMEDIES = {
    "not_in_channel": "invite the app to the channel",
    "channel_not_found": "check the channel's id; a private channel is invisible until the app is invited",
    "invalid_auth": "check the token",
    "token_expired": "use auth type rotating_token for apps with token rotation",
    "message_not_found": "check ts, and that it is of this channel; the message may have been deleted",
    "cant_update_message": "an app can change its own messages only",
    "cant_delete_message": "an app can delete its own messages only",
    "invalid_scheduled_message_id": "check the id; a message that was posted or deleted already cannot be called back",
}


class CursorError(TransientError):
    """The position in a listing has expired: it must be read from its start."""


class _Metadata(msgspec.Struct):
    messages: list[str] | None = None


class _Said(msgspec.Struct):
    ok: bool = True
    error: str = ""
    needed: str = ""
    provided: str = ""
    response_metadata: _Metadata | None = None


_SAID = msgspec.json.Decoder(_Said)


def classify(answer: Answer, now: datetime) -> ConnectorError | None:
    """The error of an answer of the Web API."""
    try:
        said = _SAID.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if said.ok:
        return None
    return refusal(said.error, _words(said), answer, now)


def refusal(error: str, words: str, answer: Answer, now: datetime) -> ConnectorError:
    """The class of one of Slack's error names."""
    more: dict[str, Any] = {"status": answer.status, "detail": {"error": error}}
    if error in LIMITED or answer.status == 429:
        return RateLimitedError(words, retry_after=_wait(answer, now), **more)
    if error == "invalid_cursor":
        return CursorError(words, **more)
    if error in PERHAPS_DONE or answer.status in LOST_BEHIND_GATEWAY:
        return AmbiguousError(words, **more)
    if error in LATER or answer.status >= 500:
        return TransientError(words, **more)
    if error in BAD_CREDENTIAL:
        return UnauthorizedError(words, **more)
    return (ForbiddenError if error in NO_RIGHT else RejectedError)(words, **more)


def classify_webhook(answer: Answer, now: datetime) -> ConnectorError | None:
    """The same for an incoming webhook, which answers in plain text."""
    if answer.status < 300:
        return None
    said = answer.body[:60].decode(errors="replace").strip()
    if said in ("no_service", "no_service_id", "invalid_token", "no_team") or answer.status == 401:
        return UnauthorizedError(f"the incoming webhook does not exist any more: {said}", status=answer.status)
    return refusal(said, f"the incoming webhook refused: {said}", answer, now)


def _words(said: _Said) -> str:
    words = f"Slack answered {said.error or 'without ok'}"
    if said.needed:
        words += f": needs {said.needed}, the token has {said.provided or 'nothing'}"
    details = said.response_metadata.messages if said.response_metadata else None
    remedy = REMEDIES.get(said.error)
    return "; ".join([words, *(details or ())[:3], *([remedy] if remedy else [])])


def _wait(answer: Answer, now: datetime) -> timedelta:
    seconds = retry_after(answer.headers, now)
    return timedelta(seconds=30 if seconds is None else seconds)


def as_records(answer: Answer, channel: str) -> Answer:
    """A list of user ids as a list of records."""
    said = answer.json()
    members = [{"id": f"{channel}:{user}", "channel": channel, "user": user} for user in said["members"]]
    return HttpAnswer(answer.status, answer.headers, msgspec.json.encode({**said, "members": members}), answer.url)
