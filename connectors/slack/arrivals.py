"""What a request of Slack means: an event of the Events API, a slash command or an interaction, each an event of ours.

Slack wants its answer within three seconds and an empty body. Nothing in here asks Slack anything. Of what it sends, the
verification token and URLs that may be posted to are left out: they are credentials.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from reconciler.sdk.errors import RejectedError
from reconciler.sdk.inbound import EVENT_BYTES, Inbound, Reply, Told, json_object

SILENCE = Reply(b"")
_SECRET = frozenset({"token", "response_url", "response_urls", "authorizations"})


def understood(headers: Mapping[str, str], body: bytes, now: datetime) -> Inbound:
    """Raises RejectedError."""
    if len(body) > EVENT_BYTES:
        raise RejectedError(f"the request has {len(body)} bytes, an event at most {EVENT_BYTES}")
    media = {k.lower(): v for k, v in headers.items()}.get("content-type", "")
    if media.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
        return _form(dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)), now)
    said = json_object(body)
    if said.get("type") == "url_verification":
        challenge = said.get("challenge")
        if not isinstance(challenge, str):
            raise RejectedError("url_verification without a challenge")
        return Inbound(reply=Reply(challenge.encode()), is_handshake=True)
    if said.get("type") == "event_callback":
        return _event(said)
    if said.get("type") == "app_rate_limited":
        name = f"app_rate_limited:{said.get('minute_rate_limited')}"
        return _told(name, "slack.app_rate_limited", now, str(said.get("team_id") or ""), _open(said))
    raise RejectedError("only event_callback, url_verification and app_rate_limited are understood")


def _event(said: Mapping[str, Any]) -> Inbound:
    event, name, at = said.get("event"), said.get("event_id"), said.get("event_time")
    if not isinstance(event, dict) or not isinstance(name, str) or not isinstance(at, int):
        raise RejectedError("event_callback without event, event_id or event_time")
    kind = ".".join(["slack", _word(event.get("type")), *([_word(event["subtype"])] if event.get("subtype") else [])])
    data = {**_open(event), "team_id": said.get("team_id")}
    subject = event.get("channel") or event.get("user") or ""
    moment = datetime.fromtimestamp(min(max(at, 0), 253402300799), UTC)
    return _told(name, kind, moment, subject if isinstance(subject, str) else "", data)


def _form(form: Mapping[str, str], now: datetime) -> Inbound:
    """A slash command, or an interaction, whose form has one field with JSON."""
    if "payload" in form:
        said = json_object(form["payload"])
        name = str(said.get("trigger_id") or said.get("hash") or "")
        return _told(name, f"slack.{_word(said.get('type'))}", now, _id(said.get("user")), _open(said))
    if "command" not in form:
        raise RejectedError("the form has neither command nor payload")
    return _told(form.get("trigger_id", ""), "slack.slash_command", now, form.get("channel_id", ""), _open(form))


def _id(found: Any) -> str:
    return str(found.get("id") or "") if isinstance(found, dict) else ""


def _open(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in _SECRET}


def _word(text: Any) -> str:
    if not isinstance(text, str) or not text or not text.replace("_", "").isalnum() or not text.isascii():
        raise RejectedError("its type is no word")
    return text.lower()


def _told(name: str, kind: str, at: datetime, subject: str, data: Mapping[str, Any]) -> Inbound:
    if not name:
        raise RejectedError(f"{kind} has no id")
    return Inbound(
        delivery_id=name, reply=SILENCE, events=(Told(id=name, type=kind, at=at, subject=subject[:255], data=data),)
    )
