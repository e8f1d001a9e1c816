"""Slack's Web API: failures with status 200, cursors that end in `=` and in an empty string, limits per method and channel.

In: requests of the connector. Out: what Slack answers, including: pages shorter than asked before the end, `invalid_cursor`,
429 with Retry-After for one method only, refresh tokens that die when used, incoming webhooks in plain text, and signed
events that come twice; a person who installs the app. Used by the connector's tests and the demo. Not done: modals, search.
"""

import base64
import hmac
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from reconciler.sdk.testing.openapi import Description
from reconciler.sdk.testing.simulator import Call, Reply, Simulator, route
from simulators import description
from simulators._consent import CONSENT, EXCHANGE, back, proves

Shape = dict[str, Any]
SCOPES = "chat:write,channels:read,groups:read,users:read,users:read.email,channels:history,groups:history,im:write,im:history"
UTF8 = {"content-type": "application/json; charset=utf-8"}
PAGED = ("limit", "cursor")
KINDS = frozenset({"public_channel", "private_channel", "im", "mpim"})
TEAM = "T12345678"
BOT = "B12345678"
HALF_DAY = timedelta(hours=12)


@cache
def relaxed(path: Path) -> Description:
    """Slack's description as a lower bound: it is frozen since 2021, and the vendor's own examples break its schemas."""
    document: dict[str, Any] = _without_strictness(json.loads(path.read_text("utf-8")))
    failed = {"type": "object", "required": ["ok", "error"]}
    for item in document["paths"].values():
        for operation in item.values():
            media = operation["responses"]["200"]["content"]["application/json"]
            media["schema"] = {"if": {"properties": {"ok": {"const": True}}}, "then": media["schema"], "else": failed}
    return Description(document)


def _without_strictness(node: Any) -> Any:
    if isinstance(node, dict):
        loose = {k: _without_strictness(v) for k, v in node.items() if k != "minItems"}
        if loose.get("additionalProperties") is False:
            del loose["additionalProperties"]
        if isinstance(loose.get("required"), list):
            loose["required"] = [n for n in loose["required"] if not n.startswith("channel_actions")]
        return loose
    return [_without_strictness(part) for part in node] if isinstance(node, list) else node


class Slack(Simulator):
    """`users`, `channels`, `members` and `messages` are the state. `limited` methods answer 429 as often as listed."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._described = [relaxed(path) for path in description("slack/openapi.json")]
        self.users: dict[str, Shape] = {}
        self.channels: dict[str, Shape] = {}
        self.members: dict[str, set[str]] = {}
        self.messages: dict[str, dict[str, Shape]] = {}
        self.ephemeral: list[Shape] = []
        self.scheduled: dict[str, Shape] = {}
        self.tokens: dict[str, str] = {}  # token -> scopes
        self.expiring: dict[str, datetime] = {}
        self.refresh_tokens: set[str] = set()
        self.codes: dict[str, dict[str, str]] = {}
        self.rotates = True
        self.cancels = False
        self.granted = ""  # scopes that a person gives, whatever is asked for
        self.clients: dict[str, str] = {}
        self.webhooks: dict[str, str] = {}  # path -> channel
        self.denied: set[str] = set()
        self.failures: dict[str, str] = {}  # method -> error
        self.limited: dict[str, list[int]] = {}
        self.expired_cursors = False
        self.limits_channels = False
        self.signing_secret = "shhh"
        self._last = 0
        self._posted_at: dict[str, datetime] = {}

    # State, for tests and the demo.

    def new_id(self) -> int:
        self._last += 1
        return self._last

    def put_user(self, user: str, at: datetime, **more: Any) -> Shape:
        kept = self.users.get(user) or {
            "id": user, "team_id": TEAM, "name": user.lower(), "deleted": False, "real_name": "", "tz": "UTC",
            "color": "9f69e7", "is_bot": False, "is_admin": False, "is_owner": False, "is_primary_owner": False,
            "is_restricted": False, "is_ultra_restricted": False, "is_app_user": False, "has_2fa": False,
        }  # fmt: skip
        profile = {"email": f"{user.lower()}@acme.test", "display_name": "", "real_name": more.get("real_name", "")}
        self.users[user] = {**kept, "profile": profile, "updated": int(at.timestamp()), **more}
        return self.users[user]

    def put_channel(self, channel: str, at: datetime, **more: Any) -> Shape:
        topic = {"value": "", "creator": "", "last_set": 0}
        kept = self.channels.get(channel) or {
            "id": channel, "name": channel.lower(), "name_normalized": channel.lower(), "is_channel": True,
            "is_group": False, "is_im": False, "is_mpim": False, "is_private": False, "is_general": False,
            "is_archived": False, "is_member": True, "is_shared": False, "is_org_shared": False, "creator": "U000",
            "created": int(at.timestamp()), "num_members": 0, "topic": topic, "purpose": topic,
        }  # fmt: skip
        self.channels[channel] = {**kept, "updated": int(at.timestamp() * 1000), **more}
        self.messages.setdefault(channel, {})
        self.members.setdefault(channel, set())
        return self.channels[channel]

    def put_message(self, channel: str, ts: str, text: str, **more: Any) -> Shape:
        self.messages[channel][ts] = {"type": "message", "user": "U000", "text": text, "ts": ts, **more}
        return self.messages[channel][ts]

    def event(
        self, payload: Mapping[str, Any], *, retry: int = 0, at: datetime | None = None
    ) -> tuple[dict[str, str], bytes]:
        """A signed request of the Events API; the same payload with `retry` is a repeat of it."""
        body = json.dumps(payload).encode()
        stamp = str(int((at or self.now()).timestamp()))
        signed = hmac.new(self.signing_secret.encode(), f"v0:{stamp}:".encode() + body, "sha256").hexdigest()
        headers = {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={signed}"}
        again = {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": "http_timeout"} if retry else {}
        return {**headers, **again}, body

    # Credentials, limits, errors.

    def error(self, status: int) -> Reply:
        match status:
            case 401:
                return refused("invalid_auth")
            case 403:
                return refused("missing_scope", needed="some:scope", provided="chat:write")
            case 429:
                return Reply(status=429, json={"ok": False, "error": "ratelimited"})
            case 400 | 404:
                return refused("invalid_arguments" if status == 400 else "channel_not_found")
        return Reply(status=status, json={"ok": False, "error": "internal_error"})

    def admit(self, call: Call) -> Reply | None:
        token = self._token(call)
        method = call.url_path.rsplit("/", 1)[1]
        if self.limited.get(method):
            wait = self.limited[method].pop(0)
            return Reply(status=429, json={"ok": False, "error": "ratelimited"}, headers={"Retry-After": str(wait)})
        if not token:
            return refused("not_authed")
        if token not in self.tokens:
            return refused("invalid_auth")
        if self.expiring.get(token, self.now() + HALF_DAY) <= self.now():
            return refused("token_expired")
        if method in self.failures:
            return refused(self.failures[method])
        return self.error(403) if method in self.denied else None

    @staticmethod
    def _token(call: Call) -> str:
        return call.headers.get("authorization", "").removeprefix("Bearer ")

    def usual_headers(self, call: Call) -> Mapping[str, str]:
        scopes = self.tokens.get(self._token(call))
        return {"x-slack-req-id": f"sim-{len(self.requests)}", **({"x-oauth-scopes": scopes} if scopes else {})}

    def lets_pass(self, operation: str, complaint: str) -> bool:
        # The description knows blocks as a form's text and no metadata; JSON bodies hold them as they are. It takes the
        # `ts` of a message for a number, which would lose its end. Its lists of errors are old.
        is_new_error = "body/error" in complaint and "is not one of" in complaint
        return (
            is_new_error
            or "body/blocks" in complaint
            or "include_all_metadata" in complaint
            or "body/post_at" in complaint
            or (operation.endswith("/chat.delete") and "body/ts" in complaint)
        )

    # Tokens.

    @route("GET", "/oauth/v2/authorize", query=CONSENT,
           required=("client_id", "redirect_uri", "state"), is_open=True, is_described=False)  # fmt: skip
    def authorize(self, call: Call) -> Reply:
        """A person who allows what is asked for, or cancels where `cancels` is set."""
        asked = call.query
        if asked["client_id"] not in self.clients:
            return Reply(status=400, body=b"invalid_client_id", content_type="text/html")
        if self.cancels:
            return back(asked["redirect_uri"], error="access_denied", state=asked["state"])
        code = f"{self.clients[asked['client_id']]}-code-{self.new_id()}"
        self.codes[code] = asked
        return back(asked["redirect_uri"], code=code, state=asked["state"])

    @route("POST", "/api/oauth.v2.access", body="form", is_open=True, is_described=False,
           fields=EXCHANGE)  # fmt: skip
    def access(self, call: Call) -> Reply:
        form = call.form
        if self.clients.get(form.get("client_id", "")) != form.get("client_secret"):
            return refused("bad_client_secret")
        if form.get("grant_type") == "refresh_token":
            if form.get("refresh_token") not in self.refresh_tokens:
                return refused("invalid_refresh_token")
            self.refresh_tokens.discard(form["refresh_token"])
            return self._granted(form["client_secret"], SCOPES, is_rotating=True)
        if form.get("grant_type") != "authorization_code":
            return refused("invalid_grant_type")
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None:
            return refused("invalid_code")
        if asked["redirect_uri"] != form.get("redirect_uri"):
            return refused("bad_redirect_uri")
        if not proves(asked.get("code_challenge"), form.get("code_verifier")):
            return refused("bad_code_verifier")
        return self._granted(form["client_secret"], self.granted or asked["scope"], is_rotating=self.rotates)

    def _granted(self, secret: str, scopes: str, *, is_rotating: bool) -> Reply:
        number = self.new_id()
        token = f"{secret}-xoxe.xoxb-{number}" if is_rotating else f"{secret}-xoxb-{number}"
        self.tokens[token] = scopes
        given: Shape = {"access_token": token, "token_type": "bot", "scope": scopes, "bot_user_id": "W12345678"}
        given |= {"app_id": "A0KRD7HC3", "team": {"name": "Acme", "id": TEAM}, "enterprise": None}
        if is_rotating:
            self.expiring[token] = self.now() + HALF_DAY
            refresh = f"{secret}-xoxe-{number}"
            self.refresh_tokens.add(refresh)
            given |= {"refresh_token": refresh, "expires_in": 43200}
        return said(**given)

    @route("POST", "/api/auth.revoke", is_described=False)
    def revoke(self, call: Call) -> Reply:
        self.tokens.pop(self._token(call), None)
        return said(revoked=True)

    @route("POST", "/api/auth.test", is_described=False)
    @route("GET", "/api/auth.test")
    def test(self, call: Call) -> Reply:
        return said(
            url="https://acme.slack.test/", team="Acme", user="recon-bot", team_id=TEAM, user_id="W12345678",
            bot_id=BOT, is_enterprise_install=False,
        )  # fmt: skip

    # Listings.

    def _page(self, call: Call, name: str, found: list[Any], key: str = "id", **more: Any) -> Reply:
        """A page; the cursor names the element that comes next."""
        if "limit" not in call.query:
            return refused("limit_required")
        limit = int(call.query["limit"])
        if not 0 < limit < 1000:
            return refused("invalid_limit")
        keys = [element[key] if isinstance(element, dict) else element for element in found]
        start = 0
        if cursor := call.query.get("cursor", ""):
            wanted = base64.b64decode(cursor).decode().removeprefix("next:").strip()
            if self.expired_cursors or wanted not in keys:
                return refused("invalid_cursor")
            start = keys.index(wanted)
        is_empty = call.wants_empty() and start < len(found)
        end = start if is_empty else start + call.size(limit)
        # Padded so that it always ends in `=`, which must be encoded in a URL, and never comes twice.
        padded = f"next:{keys[end]}".ljust(43 if is_empty else 40) if end < len(found) else ""
        following = base64.b64encode(padded.encode()).decode()
        more |= {"has_more": bool(following), "pin_count": 0} if name == "messages" else {}
        return said(**{name: found[start:end]}, **more, response_metadata={"next_cursor": following})

    @route("GET", "/api/users.list", query=(*PAGED, "include_locale"))
    def users_list(self, call: Call) -> Reply:
        return self._page(
            call, "members", [u for _, u in sorted(self.users.items())], cache_ts=int(self.now().timestamp())
        )

    @route("GET", "/api/conversations.list", query=(*PAGED, "types", "exclude_archived"))
    def conversations_list(self, call: Call) -> Reply:
        kinds = call.query.get("types", "public_channel").split(",")
        if not KINDS.issuperset(kinds):
            return refused("invalid_types")
        skips = call.query.get("exclude_archived") == "true"
        found = [
            c for _, c in sorted(self.channels.items())
            if ("private_channel" if c["is_private"] else "public_channel") in kinds and not (skips and c["is_archived"])
            and not c["is_im"] and not c["is_mpim"]
        ]  # fmt: skip
        return self._page(call, "channels", found)

    @route("GET", "/api/conversations.members", query=PAGED, required=("channel",))
    def conversations_members(self, call: Call) -> Reply:
        missing = self._missing(call.query["channel"])
        return missing or self._page(call, "members", sorted(self.members[call.query["channel"]]))

    @route("GET", "/api/conversations.history", query=(*PAGED, "oldest", "latest", "inclusive", "include_all_metadata"),
           required=("channel",))  # fmt: skip
    def history(self, call: Call) -> Reply:
        channel = call.query["channel"]
        missing = self._missing(channel) or self._stranger(channel)
        if missing:
            return missing
        return self._messages(
            call, [m for m in self.messages[channel].values() if m.get("thread_ts", m["ts"]) == m["ts"]]
        )

    @route("GET", "/api/conversations.replies", query=(*PAGED, "oldest", "latest", "inclusive", "include_all_metadata"),
           required=("channel", "ts"))  # fmt: skip
    def replies(self, call: Call) -> Reply:
        missing = self._missing(call.query["channel"])
        if missing:
            return missing
        thread = call.query["ts"]
        found = self.messages[call.query["channel"]].values()
        return self._messages(call, [m for m in found if thread in (m["ts"], m.get("thread_ts"))])

    def _messages(self, call: Call, found: list[Shape]) -> Reply:
        oldest, is_inclusive = call.query.get("oldest", "0"), call.query.get("inclusive") == "true"
        shown = [m for m in found if float(m["ts"]) > float(oldest) or (is_inclusive and m["ts"] == oldest)]
        if call.query.get("include_all_metadata") != "true":
            shown = [{k: v for k, v in m.items() if k != "metadata"} for m in shown]
        return self._page(call, "messages", sorted(shown, key=lambda m: m["ts"], reverse=True), "ts")

    def _missing(self, channel: str) -> Reply | None:
        return None if channel in self.channels else refused("channel_not_found")

    def _stranger(self, channel: str) -> Reply | None:
        return None if self.channels[channel]["is_member"] else refused("not_in_channel")

    @route("GET", "/api/conversations.info", query=("include_locale", "include_num_members"), required=("channel",))
    def info(self, call: Call) -> Reply:
        return self._missing(call.query["channel"]) or said(channel=self.channels[call.query["channel"]])

    @route("GET", "/api/users.lookupByEmail", required=("email",))
    def lookup(self, call: Call) -> Reply:
        found = next((u for u in self.users.values() if u["profile"]["email"] == call.query["email"]), None)
        return said(user=found) if found else refused("users_not_found")

    @route("POST", "/api/conversations.open", body="json", headers=UTF8, fields=("users", "channel", "return_im"))
    def open(self, call: Call) -> Reply:
        user = call.json["users"]
        if user not in self.users:
            return refused("user_not_found")
        channel = "D" + user[1:]
        if channel not in self.channels:
            self.put_channel(channel, self.now(), is_im=True, is_channel=False, user=user)
        return said(channel={"id": channel})

    # Messages.

    @route("POST", "/api/chat.postMessage", body="json", headers=UTF8,
           fields=("channel", "text", "blocks", "thread_ts", "reply_broadcast", "unfurl_links", "metadata"))  # fmt: skip
    def post(self, call: Call) -> Reply:
        given, channel = call.json, call.json["channel"]
        wrong = self._missing(channel) or self._unpostable(given)
        if wrong:
            return wrong
        if self.limits_channels and self.now() - self._posted_at.get(channel, self.now() - HALF_DAY) < timedelta(
            seconds=1
        ):
            return Reply(status=429, json={"ok": False, "error": "ratelimited"}, headers={"Retry-After": "1"})
        self._posted_at[channel] = self.now()
        ts = f"{int(self.now().timestamp())}.{self.new_id():06}"
        extra = {k: given[k] for k in ("blocks", "thread_ts", "metadata") if k in given}
        made = self.put_message(channel, ts, given.get("text", ""), subtype="bot_message", bot_id=BOT, **extra)
        return said(channel=channel, ts=ts, message={k: v for k, v in made.items() if k != "metadata"})

    def _unpostable(self, given: Mapping[str, Any]) -> Reply | None:
        if self.channels[given["channel"]]["is_archived"]:
            return refused("is_archived")
        if not given.get("text") and not given.get("blocks"):
            return refused("no_text")
        if len(given.get("text", "")) > 40_000:
            return refused("msg_too_long")
        return refused("invalid_blocks") if len(given.get("blocks", ())) > 50 else None

    @route("POST", "/api/chat.update", body="json", headers=UTF8, fields=("channel", "ts", "text", "blocks"))
    def update(self, call: Call) -> Reply:
        given = call.json
        found = self.messages.get(given["channel"], {}).get(given["ts"])
        if found is None:
            return refused("message_not_found")
        if found.get("bot_id") != BOT:
            return refused("cant_update_message")
        found |= {"text": given["text"], "edited": {"user": "U000", "ts": given["ts"]}}
        return said(channel=given["channel"], ts=given["ts"], text=given["text"], message={"text": given["text"]})

    @route("POST", "/api/chat.delete", body="json", headers=UTF8, fields=("channel", "ts"))
    def delete(self, call: Call) -> Reply:
        channel, ts = call.json["channel"], call.json["ts"]
        if missing := self._missing(channel):
            return missing
        if ts not in self.messages[channel]:
            return refused("message_not_found")
        if self.messages[channel][ts].get("bot_id") != BOT:
            return refused("cant_delete_message")
        del self.messages[channel][ts]
        return said(channel=channel, ts=ts)

    @route("POST", "/api/chat.postEphemeral", body="json", headers=UTF8, fields=("channel", "user", "text", "blocks"))
    def post_ephemeral(self, call: Call) -> Reply:
        wrong = self._missing(call.json["channel"]) or self._unpostable(call.json)
        if wrong:
            return wrong
        self.ephemeral.append(call.json)
        return said(message_ts=f"{int(self.now().timestamp())}.{self.new_id():06}")

    @route(
        "POST", "/api/chat.scheduleMessage", body="json", headers=UTF8, fields=("channel", "text", "blocks", "post_at")
    )
    def schedule(self, call: Call) -> Reply:
        given = call.json
        wrong = self._missing(given["channel"]) or self._unpostable(given)
        if wrong:
            return wrong
        ahead = int(given["post_at"]) - self.now().timestamp()
        if ahead <= 0 or ahead > 120 * 86400:
            return refused("time_in_past" if ahead <= 0 else "time_too_far")
        scheduled = f"Q{self.new_id():010}"
        self.scheduled[scheduled] = given
        message = {"bot_id": BOT, "type": "delayed_message", "text": given["text"], "user": "U000", "team": TEAM}
        return said(
            channel=given["channel"], scheduled_message_id=scheduled, post_at=int(given["post_at"]),
            message=message,
        )  # fmt: skip

    @route("POST", "/api/chat.deleteScheduledMessage", body="json", headers=UTF8,
           fields=("channel", "scheduled_message_id"))  # fmt: skip
    def delete_scheduled(self, call: Call) -> Reply:
        channel, name = call.json["channel"], call.json["scheduled_message_id"]
        if missing := self._missing(channel):
            return missing
        found = self.scheduled.get(name)
        if found is None or found["channel"] != channel or found["post_at"] <= self.now().timestamp():
            return refused("invalid_scheduled_message_id")
        del self.scheduled[name]
        return said()

    @route(
        "POST", "/services/{path:path}", body="json", is_open=True, is_described=False,
        fields=("text", "blocks", "unfurl_links"),
    )  # fmt: skip
    def incoming_webhook(self, call: Call) -> Reply:
        def plain(status: int, text: str) -> Reply:
            return Reply(status=status, body=text.encode(), content_type="text/plain")

        channel = self.webhooks.get(call.path["path"])
        if channel is None:
            return plain(404, "no_service")
        if self.channels[channel]["is_archived"]:
            return plain(410, "channel_is_archived")
        if self.limited.get("webhook"):
            return Reply(status=429, body=b"rate_limited", headers={"Retry-After": str(self.limited["webhook"].pop(0))})
        if not call.json.get("text") and not call.json.get("blocks"):
            return plain(400, "no_text")
        self.put_message(channel, f"{int(self.now().timestamp())}.{self.new_id():06}", call.json.get("text", ""))
        return plain(200, "ok")


def said(**fields: Any) -> Reply:
    return Reply(json={"ok": True, **fields})


def refused(error: str, **more: str) -> Reply:
    """A failure as Slack tells it: with status 200."""
    return Reply(json={"ok": False, "error": error, **more})
