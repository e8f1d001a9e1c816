"""Slack: the conformance kit, then what only Slack does; what is sent to it is tried in `test_slack_messages`."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from connectors.slack import Slack
from reconciler.model.record import Scope
from reconciler.sdk.contract import Channel, Entity
from reconciler.sdk.errors import (
    AmbiguousError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)  # fmt: skip
from reconciler.sdk.testing.case import CANARY, Case, Dispatch, message
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.room import START
from reconciler.sdk.testing.trial import Dataset, Trial, trial
from simulators.slack import SCOPES
from simulators.slack import Slack as Vendor

GENERAL = "G0TEAMROOM"  # a conversation of several people: conversations.list leaves it out
TOKEN = f"{CANARY}-xoxb"
BOT = {"type": "bot_token", "token": TOKEN, "signing_secret": f"{CANARY}-signing"}
ROTATING = {
    "type": "rotating_token", "client_id": "1.2", "client_secret": f"{CANARY}-client",
    "refresh_token": f"{CANARY}-xoxe-1",
}  # fmt: skip
PATH = f"T1/B1/{CANARY}-hook"

CONSENT = {"type": "oauth", "client_id": "1.2", "client_secret": f"{CANARY}-client"}


class SlackCase(Case):
    connector = Slack
    # Edits of messages and changes of users cannot be asked for; new messages can, which is tested below.
    reads_all = frozenset({"users", "channels", "members", "messages"})
    null_cursors = frozenset({"channels"})
    renews = True

    def simulator(self, now: Callable[[], datetime]) -> Vendor:
        sim = Vendor(now=now)
        sim.tokens[TOKEN] = SCOPES
        sim.clients["1.2"] = f"{CANARY}-client"
        sim.refresh_tokens.add(f"{CANARY}-xoxe-1")
        sim.webhooks[PATH] = GENERAL
        sim.put_channel(GENERAL, START - timedelta(days=9), is_mpim=True, is_channel=False)
        return sim

    def config(self, sim: Any) -> Mapping[str, Any]:
        return {"base_url": f"{sim.url}/api", "channels": [GENERAL]}

    def auth(self, sim: Any) -> Mapping[str, Any]:
        return BOT

    def auths(self, sim: Any) -> Sequence[Mapping[str, Any]]:
        return (BOT, ROTATING, CONSENT, {"type": "incoming_webhook", "webhook_url": f"{sim.url}/services/{PATH}"})

    def renewable_auth(self, sim: Any) -> Mapping[str, Any]:
        return ROTATING

    def wrong_auth(self, sim: Any) -> Mapping[str, Any]:
        return {**BOT, "token": f"{CANARY}-wrong"}

    def expire(self, sim: Any) -> None:
        for token in sim.expiring:
            sim.expiring[token] = START - timedelta(hours=1)

    def put(self, sim: Any, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        user = f"U{number:09}"
        if entity.name == "users":
            assert at is not None
            return str(sim.put_user(user, at, real_name=text)["id"])
        if entity.name == "channels":
            made = sim.put_channel(f"C{number:09}", at or START, name=text)
            if at is None:
                del made["updated"]
            return str(made["id"])
        if entity.name == "members":
            sim.members[GENERAL].add(user)
            return f"{GENERAL}:{user}"
        assert at is not None
        ts = next(
            (ts for ts in sim.messages[GENERAL] if ts.endswith(f".{number:06}")), f"{int(at.timestamp())}.{number:06}"
        )
        return f"{GENERAL}:{sim.put_message(GENERAL, ts, text)['ts']}"

    def remove(self, sim: Any, entity: Entity, key: str) -> None:
        match entity.name:
            case "users":
                sim.users[key]["deleted"] = True
            case "channels":
                del sim.channels[key]
            case "members":
                sim.members[GENERAL].discard(key.split(":")[1])
            case "messages":
                del sim.messages[GENERAL][key.split(":")[1]]

    def deny(self, sim: Any, entity: Entity) -> None:
        sim.denied.add(self.listing(entity).rsplit("/", 1)[1])

    def dispatch(self, sim: Any, channel: Channel) -> Dispatch:
        sim.put_user("U000000007", START)
        mine = sim.put_message(GENERAL, "1700000000.000001", "before", bot_id="B12345678")
        sim.scheduled["Q9000000001"] = {"channel": GENERAL, "post_at": int(START.timestamp()) + 86400}
        posted = Dispatch(
            fields={"channel": GENERAL, "text": "Disk full \U0001f4a5"}, arrived=lambda s: len(s.messages[GENERAL]) - 1
        )
        return {
            "post_message": posted,
            "direct_message": Dispatch(
                fields={"email": "u000000007@acme.test", "text": "psst"},
                arrived=lambda s: len(s.messages.get("D000000007", ())),
            ),
            "update_message": Dispatch(
                fields={"channel": GENERAL, "ts": mine["ts"], "text": "after"},
                arrived=lambda s: int(s.messages[GENERAL][mine["ts"]]["text"] == "after"),
            ),
            "schedule_message": Dispatch(
                fields={"channel": GENERAL, "text": "later", "post_at": int(START.timestamp()) + 3600},
                arrived=lambda s: len(s.scheduled) - 1,
            ),
            "delete_message": Dispatch(
                fields={"channel": GENERAL, "ts": mine["ts"]},
                arrived=lambda s: int(mine["ts"] not in s.messages[GENERAL]),
            ),
            "delete_scheduled_message": Dispatch(
                fields={"channel": GENERAL, "scheduled_message_id": "Q9000000001"},
                arrived=lambda s: int("Q9000000001" not in s.scheduled),
            ),
            "post_ephemeral": Dispatch(
                fields={"channel": GENERAL, "user": "U000000007", "text": "only you"},
                arrived=lambda s: len(s.ephemeral),
            ),
        }[channel.name]


class TestSlack(Conformance):
    case = SlackCase()

    async def test_hostile_values_survive(self, entity: str) -> None:
        if entity == "members":
            pytest.skip("a member is an id and holds no text")
        await super().test_hostile_values_survive(entity)

    @pytest.mark.parametrize("moving", ["read already", "not read yet"])
    async def test_a_record_that_moves_while_reading_is_found(self, entity: str, moving: str) -> None:
        if entity == "members":
            pytest.skip("a member is an id and holds no text")
        await super().test_a_record_that_moves_while_reading_is_found(entity, moving)


CASE = SlackCase()


async def read(t: Trial, name: str, scope: Scope = Scope.FULL, **more: Any) -> Any:
    return await t.read(t.entity(name), scope, **more)


async def send(t: Trial, name: str, fields: Mapping[str, Any], *, is_repeat: bool = False) -> Any:
    channel = t.connector.channel(name)
    assert channel
    return await t.connector.deliver(channel, message(channel, fields, is_repeat=is_repeat))


async def post(t: Trial, **fields: Any) -> Any:
    return await send(t, "post_message", fields)


async def test_only_new_messages_are_asked_for() -> None:
    async with trial(CASE) as t:
        keys = t.seed(t.entity("messages"))
        first = await read(t, "messages")
        assert first.watermarks == {GENERAL: "2026-03-02T08:59:00.000006Z"}
        new = t.put(t.entity("messages"), 90, t.clock.now(), "new")
        again = await read(t, "messages", Scope.INCREMENTAL, since=first.watermarks)
        assert new in again.keys
        assert keys[0] not in again.keys
        assert t.sim.requests[-1].query["oldest"] == "1772441640.000006"
        assert t.sim.requests[-1].query["inclusive"] == "true"


async def test_messages_of_two_channels_at_one_time_are_two() -> None:
    async with trial(CASE, config={"channels": [GENERAL, "C000000001"]}) as t:
        t.sim.put_channel("C000000001", START)
        for channel in (GENERAL, "C000000001"):
            t.sim.put_message(channel, "1772441640.000001", channel)
        found = await read(t, "messages")
        assert found.keys == {f"{GENERAL}:1772441640.000001", "C000000001:1772441640.000001"}
        assert {json.loads(p)["channel"] for p in found.records.values()} == {GENERAL, "C000000001"}


async def test_a_channel_without_us_is_refused_and_the_others_are_read() -> None:
    async with trial(CASE, config={"channels": ["C000000001", GENERAL]}) as t:
        t.sim.put_channel("C000000001", START, is_member=False)
        key = t.put(t.entity("messages"), 1, START)
        found = Dataset()
        with pytest.raises(ForbiddenError, match="invite the app"):
            await read(t, "messages", into=found)
        assert found.keys == {key}


async def test_messages_without_a_channel_to_read_are_refused() -> None:
    async with trial(CASE, config={"channels": []}) as t:
        with pytest.raises(RejectedError, match=r"config\.channels"):
            await read(t, "messages")


async def test_members_are_read_of_every_channel_we_are_in() -> None:
    async with trial(CASE, config={"channels": []}) as t:
        for number, kind in enumerate(({}, {"is_private": True}, {"is_member": False}, {"is_archived": True})):
            channel = t.sim.put_channel(f"C{number:09}", START, **kind)["id"]
            t.sim.members[channel].add("U000000001")
        assert (await read(t, "members")).keys == {"C000000000:U000000001", "C000000001:U000000001"}
        assert {f"C{number:09}" for number in range(4)} <= (await read(t, "channels")).keys


async def test_an_expired_cursor_of_a_resumed_read_starts_again() -> None:
    async with trial(CASE) as t:
        keys = t.seed(t.entity("users"))
        part = await read(t, "users", stop_after=1)
        t.sim.users.pop(keys[3])  # the cursor pointed at it
        rest = await read(t, "users", into=part)
        assert rest.keys == set(keys) - {keys[3]}
        assert rest.is_complete


async def test_an_expired_cursor_in_the_middle_is_transient() -> None:
    async with trial(CASE) as t:
        t.seed(t.entity("users"))
        with pytest.raises(TransientError, match="invalid_cursor"):
            await read(t, "users", between=lambda _: setattr(t.sim, "expired_cursors", True))


async def test_a_page_size_that_slack_refuses_is_lowered() -> None:
    async with trial(CASE) as t:
        request = t.request()
        keys = t.seed(t.entity("users"), 2)
        big = type(request)(request.scope, request.started_at, page_size=5000)
        assert [p.keys async for p in t.connector.read(t.entity("users"), big)] == [tuple(keys)]
        assert t.sim.requests[-1].query["limit"] == "999"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("invalid_auth", UnauthorizedError),
        ("token_revoked", UnauthorizedError),
        ("missing_scope", ForbiddenError),
        ("is_archived", RejectedError),
        ("msg_too_long", RejectedError),
        ("something_new", RejectedError),
        ("ratelimited", RateLimitedError),
        ("service_unavailable", TransientError),
        ("fatal_error", AmbiguousError),
    ],
)
async def test_ok_false_is_an_error_of_its_kind(error: str, kind: type[Exception]) -> None:
    async with trial(CASE) as t:
        t.sim.failures["chat.postMessage"] = error
        with pytest.raises(kind, match=error) as caught:
            await post(t, channel=GENERAL, text="x")
        assert type(caught.value) is kind


async def test_a_missing_scope_is_named() -> None:
    async with trial(CASE) as t:
        t.sim.denied.add("users.list")
        with pytest.raises(ForbiddenError, match="needs some:scope, the token has chat:write"):
            await read(t, "users")


async def test_a_limit_of_one_method_leaves_the_others_alone() -> None:
    async with trial(CASE) as t:
        t.seed(t.entity("users"), 1)
        t.seed(t.entity("channels"), 1)
        t.sim.limited["users.list"] = [300]
        with pytest.raises(RateLimitedError):
            await read(t, "users")
        with pytest.raises(RateLimitedError):
            await read(t, "users")
        assert sum(c.url_path.endswith("users.list") for c in t.sim.requests) == 1, "asked although it was to wait"
        assert len((await read(t, "channels")).keys) == 1
        assert not t.clock.slept
        t.clock.advance(timedelta(seconds=301))
        assert len((await read(t, "users")).keys) == 1


async def test_tiers_are_kept_before_slack_has_to_say_so() -> None:
    async with trial(CASE) as t:
        t.seed(t.entity("users"), 1)
        for _ in range(16):  # a fifth of 20 is kept back for deliveries and probes
            await read(t, "users")
        with pytest.raises(RateLimitedError):
            await read(t, "users")
        assert len(t.sim.requests) == 16


async def test_refresh_tokens_rotate_and_are_kept() -> None:
    async with trial(CASE, auth=lambda _: ROTATING) as t:
        await asyncio.gather(*(read(t, "users") for _ in range(3)))
        assert len(t.sim.expiring) == 1, "one renewal for concurrent requests"
        assert f"{CANARY}-xoxe-1" not in t.sim.refresh_tokens, "the seed is used up"
        t.clock.advance(timedelta(hours=13))
        await read(t, "users")
        assert len(t.sim.expiring) == 2
        again = t.bench.connector(Slack, CASE.config(t.sim), ROTATING)
        t.clock.advance(timedelta(hours=13))
        assert [p.keys async for p in again.read(t.entity("users"), t.request())] == [()]
        await t.bench.tokens.drop(next(name for name in t.bench.tokens.kept if name.startswith("refresh")))
        t.clock.advance(timedelta(hours=13))
        with pytest.raises(UnauthorizedError, match="invalid_refresh_token"):
            await read(t, "users")


async def test_a_probe_compares_scopes_and_looks_at_the_channels() -> None:
    channels = {"default_channel": "C000000001", "channels": ["C000000002", "C000000003", "C000000004"]}
    async with trial(CASE, config=channels) as t:
        t.sim.put_channel("C000000001", START, is_archived=True)
        t.sim.put_channel("C000000002", START, is_member=False)
        t.sim.put_channel("C000000004", START)
        t.sim.tokens[TOKEN] = SCOPES.replace("groups:read,", "")
        probe = await t.connector.probe()
        assert (probe.identity, probe.account) == ("recon-bot", "Acme")
        assert "groups:read" in probe.missing
        assert "channels:read" not in probe.missing
        archived, stranger, unknown = probe.warnings
        assert "C000000001 is archived" in archived
        assert "C000000002: the app is no member" in stranger
        assert "channel_not_found" in unknown
        assert set(probe.entities) == {"users", "channels", "members", "messages"}
    async with trial(CASE, config={"channels": []}) as t:
        assert set((await t.connector.probe()).entities) == {"users", "channels"}, (
            "nothing says where to look for others"
        )


async def test_a_probe_of_more_channels_than_slack_lets_us_ask_for_is_no_failure() -> None:
    async with trial(CASE) as t:
        t.sim.limited["conversations.info"] = [300]
        (warning,) = (await t.connector.probe()).warnings
        assert warning.startswith(f"channel {GENERAL} and those after it were not looked at")


VECTORS = [
    (
        "8f742231b10e8888abcd99yyyzzz85a5",
        1531420618,
        (
            "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar"
            "&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com"
            "%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121."
            "803a0bc887a14d10d2c447fce8b6703c"
        ),
        "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    ),
    (
        "shhh-slack",
        1700000000,
        '{"type":"url_verification","challenge":"abc123","token":"t"}',
        "v0=2bdf3a12d07a643eb83f6ea69b7fd4d66ebfe39999717827beef9ed9085d91af",
    ),
]


@pytest.mark.parametrize(("secret", "at", "body", "signature"), VECTORS)
@pytest.mark.parametrize(("late", "is_taken"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
async def test_signatures_of_the_documentation(
    secret: str, at: int, body: str, signature: str, late: int, is_taken: bool
) -> None:
    async with trial(CASE, auth=lambda _: {**BOT, "signing_secret": secret}) as t:
        connector: Any = t.connector
        t.clock.advance(timedelta(seconds=at + late - START.timestamp()))
        headers = {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": signature}
        if is_taken:
            connector.verify(headers, body.encode())
        else:
            with pytest.raises(UnauthorizedError, match="five minutes"):
                connector.verify(headers, body.encode())


async def test_wrong_signatures_and_a_missing_secret_are_refused() -> None:
    async with trial(CASE) as t:
        connector: Any = t.connector
        t.sim.signing_secret = f"{CANARY}-signing"
        event = {"type": "event_callback", "event_id": "Ev1"}
        (headers, body), (again, same) = t.sim.event(event), t.sim.event(event, retry=1)
        connector.verify(headers, body)
        connector.verify(again, same)
        assert body == same
        for wrong, content_ in (({}, body), (headers, body + b" "), ({**headers, "X-Slack-Signature": "v0=é"}, body)):
            with pytest.raises(UnauthorizedError):
                connector.verify(wrong, content_)
        without: Any = t.bench.connector(Slack, CASE.config(t.sim), {"type": "bot_token", "token": TOKEN})
        with pytest.raises(UnauthorizedError, match="signing_secret"):
            without.verify(headers, body)
