"""Slack over its Web API: users, channels, members and messages come in; messages go out; inbound requests are verified.

In: a bot token, a rotating token, a person's consent or an incoming webhook. Out: pages and deliveries. Slack has no
idempotency key: messages carry the delivery's id as metadata, and `find` looks for it in the history. Users and channels
cannot be asked for changes, so every run reads them all; messages are read from the last one seen.
Not done: edits of old messages and replies in threads (Slack lists neither by time).
"""

import hmac
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

from connectors.slack.answers import CursorError, as_records, classify, classify_webhook
from connectors.slack.arrivals import understood
from connectors.slack.limits import check_time
from connectors.slack.settings import (
    BotToken,
    Config,
    DeleteMessage,
    DeleteScheduledMessage,
    DirectMessage,
    Ephemeral,
    IncomingWebhook,
    OAuth,
    PostMessage,
    RotatingToken,
    ScheduleMessage,
    UpdateMessage,
)
from connectors.slack.text import body, content, marked, named
from reconciler.model.event import Message, Receipt
from reconciler.model.record import Page, Position, ReadRequest
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Authenticator, Grant, Granted, bearer
from reconciler.sdk.authorize import Authorized, CodeFlow
from reconciler.sdk.contract import Answer, Channel, Deletes, Entity, Limit, Probe, Repeat, Right, Room
from reconciler.sdk.errors import (
    ConnectorError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    UnauthorizedError,
    UnsupportedError,
)
from reconciler.sdk.inbound import Inbound
from reconciler.sdk.paging import NextToken, dig
from reconciler.sdk.rest import Partition, RestChannel, RestConnector, RestEntity, epoch, skew_of, taken

MOST = 999
JSON = {"Content-Type": "application/json; charset=utf-8"}
MINUTE = timedelta(minutes=1)
TIERS = "docs.slack.dev: rate limits, tiers of methods"
TIER_3 = (
    "conversations.history", "conversations.replies", "conversations.info", "conversations.open", "users.lookupByEmail",
    "chat.update", "chat.delete", "chat.scheduleMessage", "chat.deleteScheduledMessage",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cursor(NextToken):
    """Slack refuses pages of 1000 and more."""

    path: str = "response_metadata.next_cursor"

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        return NextToken.request(self, position, min(size, MOST))


@dataclass(frozen=True, kw_only=True)
class Deletion(RestChannel):
    """A channel that takes something away. `removed` is the field that names it, and the receipt: not every answer has one.

    `gone` is what Slack answers where there is no such thing. To a repeat that means that the first attempt arrived.
    """

    removed: str
    gone: str
    receipt: str = ""
    body: Callable[[Any, Message], Any] = named
    repeat: Repeat = Repeat.SAFE


def _milliseconds(value: Any) -> datetime:
    return epoch(float(value) / 1000)


class Slack(RestConnector[Config, BotToken | RotatingToken | OAuth | IncomingWebhook]):
    type = "slack"
    title = "Slack"
    docs_url = "https://docs.slack.dev/apis/web-api/"
    Config = Config
    auth_types = (BotToken, RotatingToken, OAuth, IncomingWebhook)
    entities = (
        RestEntity(
            name="users", path="/users.list", records="members", pager=Cursor(), cursor="updated", at=epoch,
            also=("deleted",), is_deleted=lambda get: get("deleted") is True, deletes=Deletes.FLAG, page_size=200,
            rights=("users:read", "users:read.email"),
        ),
        RestEntity(
            name="channels", path="/conversations.list", records="channels", pager=Cursor(), cursor="updated",
            at=_milliseconds, params={"types": "public_channel,private_channel"}, page_size=200,
            rights=("channels:read", "groups:read"),
        ),
        RestEntity(
            name="members", path="/conversations.members?channel={channel}", records="members", pager=Cursor(),
            by_default=False, page_size=200, rights=("channels:read", "groups:read"),
        ),
        RestEntity(
            name="messages", path="/conversations.history?channel={channel}", records="messages", pager=Cursor(),
            key="ts", cursor="ts", at=epoch, since=lambda at: {"oldest": f"{at.timestamp():.6f}", "inclusive": "true"},
            by_default=False, page_size=200, rights=("channels:history", "groups:history"),
        ),
    )  # fmt: skip
    channels = (
        RestChannel(
            name="post_message", fields=PostMessage, text_field="text", repeat=Repeat.FIND, path="/chat.postMessage",
            body=marked, receipt="ts", rights=("chat:write", "channels:history"),
        ),
        RestChannel(
            name="direct_message", fields=DirectMessage, text_field="text", repeat=Repeat.FIND,
            path="/chat.postMessage", body=marked, receipt="ts",
            rights=("chat:write", "users:read.email", "im:write", "im:history"),
        ),
        RestChannel(
            name="update_message", fields=UpdateMessage, text_field="text", repeat=Repeat.SAFE, path="/chat.update",
            body=body, receipt="ts", rights=("chat:write",),
        ),
        Deletion(
            name="delete_message", fields=DeleteMessage, path="/chat.delete", removed="ts", gone="message_not_found",
            rights=("chat:write",),
        ),
        RestChannel(
            name="schedule_message", fields=ScheduleMessage, text_field="text", path="/chat.scheduleMessage",
            body=body, receipt="scheduled_message_id", rights=("chat:write",),
        ),
        Deletion(
            name="delete_scheduled_message", fields=DeleteScheduledMessage, path="/chat.deleteScheduledMessage",
            removed="scheduled_message_id", gone="invalid_scheduled_message_id", rights=("chat:write",),
        ),
        RestChannel(
            name="post_ephemeral", fields=Ephemeral, text_field="text", path="/chat.postEphemeral", body=body,
            receipt="message_ts", rights=("chat:write",),
        ),
    )  # fmt: skip
    limits = (
        Limit(requests=20, window=MINUTE, scope="method", path="*.list", source=TIERS),
        *(Limit(requests=50, window=MINUTE, scope="method", path=f"*/{method}", source=TIERS) for method in TIER_3),
        Limit(requests=100, window=MINUTE, scope="method", path="*", source=TIERS),
        Limit(
            requests=1,
            window=timedelta(seconds=1),
            scope="method",
            path="/services/*",
            source="docs.slack.dev: rate limits, incoming webhooks",
        ),
    )

    tells = ("slack",)

    def base_url(self) -> str:
        return self.config.base_url

    def authenticator(self) -> Authenticator:
        if isinstance(self.auth, IncomingWebhook):
            raise RejectedError(
                "an incoming webhook can post by `post_message` only; the rest needs auth type bot_token"
            )
        if flow := self.code_flow():
            return Authorized(flow)
        return bearer(self.auth.token) if isinstance(self.auth, BotToken) else Granted("bot", self._rotated)

    def code_flow(self) -> CodeFlow | None:
        auth = self.auth
        if not isinstance(auth, OAuth):
            return None
        return CodeFlow(
            client_id=auth.client_id, client_secret=auth.client_secret, scopes=auth.scopes, separator=",",
            authorize_url=self.base_url().removesuffix("/api") + "/oauth/v2/authorize",
            token_url=self.base_url() + "/oauth.v2.access", has_pkce=auth.pkce, client_auth="client_secret_post",
        )  # fmt: skip

    async def revoke(self) -> None:
        flow = self.code_flow()
        if flow is None:
            return
        with suppress(UnauthorizedError):  # it is dead already, or nobody ever gave one
            await self.send("POST", "/auth.revoke", safe=True, lane="probe")
        await Authorized(flow).forget(self.room)

    def classify(self, answer: Answer) -> ConnectorError | None:
        return classify(answer, self.room.clock.now())

    def _classify_webhook(self, answer: Answer) -> ConnectorError | None:
        return classify_webhook(answer, self.room.clock.now())

    async def _rotated(self, room: Room) -> Grant:
        """A new token; the refresh token that comes with it is kept first, because the one that was used is dead."""
        auth = cast("RotatingToken", self.auth)
        name = f"refresh-{room.fingerprint(auth.refresh_token)}"
        kept = await room.tokens.get(name)
        form = {
            "grant_type": "refresh_token",
            "refresh_token": (kept[0] if kept else auth.refresh_token).reveal(),
            "client_id": auth.client_id,
            "client_secret": auth.client_secret.reveal(),
        }
        url = self.base_url() + "/oauth.v2.access"
        said = (await room.http.send("POST", url, form=form, classify=self.classify)).json()
        await room.tokens.put(name, Secret(said["refresh_token"]), None)
        return Grant(Secret(said["access_token"]), room.clock.now() + timedelta(seconds=said["expires_in"]))

    async def partitions(self, entity: RestEntity) -> Sequence[Partition]:
        if entity.name not in ("members", "messages"):
            return await super().partitions(entity)
        if not self.config.channels and entity.name == "messages":
            raise RejectedError("config.channels names no channel whose messages are to be read")
        names = self.config.channels or [c["id"] async for c in self._conversations() if c.get("is_member")]
        return [Partition(name, {"channel": name}) for name in sorted(names)]

    def _conversations(self) -> AsyncIterator[Any]:
        params = {"types": "public_channel,private_channel", "exclude_archived": "true"}
        return self.elements("/conversations.list", Cursor(), params=params, records="channels")

    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        any_yet = False
        try:
            async for page in super().read(entity, request):
                any_yet = True
                yield page
        except CursorError:
            if any_yet or request.resume is None:
                raise
            # The position of an interrupted run has expired.
            async for page in super().read(entity, replace(request, resume=None)):
                yield page

    def cut(
        self, entity: RestEntity, answer: Answer, at: Position | None, partition: Partition
    ) -> tuple[Page, Position | None]:
        if entity.name == "members":
            answer = as_records(answer, partition.name)
        page, following = super().cut(entity, answer, at, partition)
        if entity.name != "messages":
            return page, following
        # Times are unique in their channel only, and a message does not name its channel.
        prefix = b'{"channel":"' + partition.name.encode() + b'",'
        keys = tuple(f"{partition.name}:{key}" for key in page.keys)
        return replace(page, keys=keys, payloads=tuple(prefix + p[1:] for p in page.payloads)), following

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        if isinstance(self.auth, IncomingWebhook) and channel.name == "post_message":
            return await self._post(self.auth, message)
        if "post_at" in message.fields:
            check_time(message.fields["post_at"], self.room.clock.now())
        message = replace(message, fields={**message.fields, "channel": await self._target(message)})
        if isinstance(channel, Deletion):
            return await self._delete(channel, message)
        rest = cast("RestChannel", channel)
        said, receipt = taken(await self._call(rest, message), rest.receipt)
        return Receipt(f"{said.get('channel') or message.fields['channel']}:{receipt}")

    async def _call(self, channel: RestChannel, message: Message) -> Answer:
        return await self.send("POST", channel.path, json=channel.body(self, message), headers=JSON, lane="deliver")

    async def _delete(self, channel: Deletion, message: Message) -> Receipt:
        receipt = Receipt(f"{message.fields['channel']}:{message.fields[channel.removed]}")
        try:
            taken(await self._call(channel, message), "ok")
        except RejectedError as error:
            if not message.is_repeat or error.detail.get("error") != channel.gone:
                raise
            return replace(receipt, detail={"found": True})
        return receipt

    async def _post(self, webhook: IncomingWebhook, message: Message) -> Receipt:
        """Without metadata, which a webhook does not take; its answer names no message."""
        if own := {"channel", "thread_ts", "reply_broadcast"} & message.fields.keys():
            raise RejectedError(f"an incoming webhook posts to its own channel: leave out {', '.join(sorted(own))}")
        url, sent = webhook.webhook_url.reveal(), {**named(self, message), **content(message.fields)}
        answer = await self.room.http.send("POST", url, json=sent, classify=self._classify_webhook, lane="deliver")
        return Receipt(answer.body.decode(errors="replace")[:20])

    async def _target(self, message: Message) -> str:
        """The conversation to post to."""
        fields = message.fields
        target = fields.get("channel") or self.config.default_channel
        if "email" in fields:
            found = await self.send("GET", "/users.lookupByEmail", params={"email": fields["email"]}, lane="deliver")
            target = found.json()["user"]["id"]
        if target is None:
            raise RejectedError("neither the message nor config.default_channel names a channel")
        if not target.startswith(("U", "W")):
            return str(target)
        users = {"users": target}
        opened = await self.send("POST", "/conversations.open", json=users, headers=JSON, safe=True, lane="deliver")
        return str(opened.json()["channel"]["id"])

    async def find(self, channel: Channel, message: Message) -> Receipt | None:
        if isinstance(self.auth, IncomingWebhook):
            raise UnsupportedError(
                "an incoming webhook cannot be asked whether the message arrived: look into the channel"
            )
        target = await self._target(message)
        earliest = (message.first_attempt_at or self.room.clock.now() - timedelta(days=1)) - MINUTE
        thread = message.fields.get("thread_ts")
        path = "/conversations.replies" if thread else "/conversations.history"
        params = {
            "channel": target,
            "oldest": f"{earliest.timestamp():.6f}",
            "include_all_metadata": "true",
            **({"ts": thread} if thread else {}),
        }
        async for found in self.elements(path, Cursor(), params=params, records="messages", lane="deliver"):
            if dig(found, "metadata.event_payload.delivery_id") == message.delivery_id:
                return Receipt(f"{target}:{found['ts']}")
        return None

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        secret = None if isinstance(self.auth, IncomingWebhook) else self.auth.signing_secret
        if secret is None:
            raise UnauthorizedError("auth.signing_secret is not set: requests of Slack cannot be verified")
        given = {k.lower(): v for k, v in headers.items()}
        stamp = given.get("x-slack-request-timestamp", "")
        signed = b"v0:" + stamp.encode() + b":" + body
        wanted = "v0=" + hmac.new(secret.reveal().encode(), signed, "sha256").hexdigest()
        if not hmac.compare_digest(wanted.encode(), given.get("x-slack-signature", "").encode()):
            raise UnauthorizedError("X-Slack-Signature is missing or does not fit the body and auth.signing_secret")
        if not stamp.isdigit() or abs(self.room.clock.now().timestamp() - int(stamp)) > 300:
            raise UnauthorizedError("X-Slack-Request-Timestamp is more than five minutes away from our clock")

    def receive(self, headers: Mapping[str, str], body: bytes) -> Inbound:
        return understood(headers, body, self.room.clock.now())

    async def probe(self) -> Probe:
        if isinstance(self.auth, IncomingWebhook):
            return await self._probe_webhook(self.auth)
        answer = await self.send("POST", "/auth.test", safe=True, lane="probe")
        said = answer.json()
        scopes = answer.headers.get("x-oauth-scopes")
        granted = None if scopes is None else {s.strip() for s in scopes.split(",")}
        wanted = dict.fromkeys(right for part in (*self.entities, *self.channels) for right in part.rights)
        rights = tuple(Right(right, None if granted is None else right in granted) for right in wanted)
        return Probe(
            said["user"], said["team"], rights, await self._readable(),
            skew_of(answer, self.room.clock.now()), warnings=tuple([w async for w in self._warnings()]),
        )  # fmt: skip

    async def _probe_webhook(self, webhook: IncomingWebhook) -> Probe:
        """An empty message is refused with 400 and posts nothing; a dead URL is refused otherwise."""
        answer = await self.room.http.send(
            "POST", webhook.webhook_url.reveal(), json={"text": ""}, safe=True, expect=(400,), lane="probe",
            classify=lambda answer: None if answer.status == 400 else self._classify_webhook(answer),
        )  # fmt: skip
        return Probe("incoming webhook", skew=skew_of(answer, self.room.clock.now()))

    async def _readable(self) -> dict[str, bool]:
        """One record of every entity that has somewhere to be read."""
        found = {}
        for entity in cast("tuple[RestEntity, ...]", self.entities):
            if "{channel}" in entity.path and not self.config.channels:
                continue
            path = entity.path.format(channel=next(iter(self.config.channels), ""))
            try:
                await self.send("GET", path, params={"limit": 1}, lane="probe")
                found[entity.name] = True
            except (ForbiddenError, RejectedError):
                found[entity.name] = False
        return found

    async def _warnings(self) -> AsyncIterator[str]:
        for name in dict.fromkeys(filter(None, (self.config.default_channel, *self.config.channels))):
            if not name.startswith(("C", "G")):
                continue
            try:
                answer = await self.send("GET", "/conversations.info", params={"channel": name}, lane="probe")
            except RateLimitedError:
                yield f"channel {name} and those after it were not looked at: Slack's limit for asking is reached"
                return
            except (RejectedError, ForbiddenError) as error:
                yield f"channel {name}: {error.message}"
                continue
            channel = answer.json()["channel"]
            if channel.get("is_archived"):
                yield f"channel {name} is archived"
            elif not channel.get("is_member"):
                yield f"channel {name}: the app is no member; posting needs chat:write.public, reading an invitation"
