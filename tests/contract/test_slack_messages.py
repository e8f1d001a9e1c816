"""Slack: what is sent to it, changed and taken back, with a token and by an incoming webhook."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.slack.answers import classify
from connectors.slack.settings import PostMessage, ScheduleMessage
from connectors.slack.text import content
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.contract import Finds
from reconciler.sdk.errors import AmbiguousError, RateLimitedError, RejectedError, UnauthorizedError, UnsupportedError
from reconciler.sdk.testing.case import CANARY, message
from reconciler.sdk.testing.faults import status
from reconciler.sdk.testing.room import START
from reconciler.sdk.testing.trial import trial
from simulators.slack import Slack as Vendor
from tests.contract.test_slack import CASE, GENERAL, PATH, post, read, send


async def test_a_channel_takes_one_message_a_second() -> None:
    async with trial(CASE) as t:
        t.sim.limits_channels = True
        await post(t, channel=GENERAL, text="1")
        with pytest.raises(RateLimitedError) as caught:
            await post(t, channel=GENERAL, text="2")
        assert caught.value.retry_after == timedelta(seconds=1)


async def test_values_can_neither_mention_nor_link() -> None:
    async with trial(CASE, config={"default_channel": GENERAL}) as t:
        text = "*bold* <!channel> & <https://evil.example|invoice>"
        blocks = [
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": text},
                "fields": [{"type": "mrkdwn", "text": "<@U1>"}],
            },
            {"type": "header", "text": {"type": "plain_text", "text": "a < b"}},
        ]
        await post(t, text=text, blocks=blocks, mentions=["here", "U000000001", "S000000001"])
        sent = t.sim.requests[-1].json
        safe = "*bold* &lt;!channel&gt; &amp; &lt;https://evil.example|invoice&gt;"
        assert sent["text"] == f"<!here> <@U000000001> <!subteam^S000000001> {safe}"
        assert sent["blocks"][0]["text"]["text"] == safe
        assert sent["blocks"][0]["fields"][0]["text"] == "&lt;@U1&gt;"
        assert sent["blocks"][1]["text"]["text"] == "a < b"


def test_markup_is_sent_as_written_where_the_author_says_so() -> None:
    assert content({"text": "<https://a.example|A>", "markup": True}) == {"text": "<https://a.example|A>"}


async def test_a_message_carries_what_finds_it_again() -> None:
    async with trial(CASE) as t:
        receipt = await post(t, channel=GENERAL, text="x")
        sent = t.sim.requests[-1].json
        assert sent["metadata"] == {
            "event_type": "reconciler_event",
            "event_payload": {"event_id": "evt-1", "delivery_id": "dlv-1"},
        }
        assert receipt.remote_id == f"{GENERAL}:{next(iter(t.sim.messages[GENERAL]))}"


async def test_a_reply_is_looked_for_in_its_thread() -> None:
    async with trial(CASE) as t:
        t.sim.put_message(GENERAL, "1772441640.000001", "root")
        channel = t.connector.channel("post_message")
        assert channel
        reply = message(channel, {"channel": GENERAL, "text": "x", "thread_ts": "1772441640.000001"}, at=t.clock.now())
        receipt = await t.connector.deliver(channel, reply)
        assert isinstance(t.connector, Finds)
        assert await t.connector.find(channel, reply) == receipt


async def test_a_message_to_a_user_goes_to_their_conversation() -> None:
    async with trial(CASE) as t:
        t.sim.put_user("U000000007", START)
        assert (await post(t, channel="U000000007", text="x")).remote_id.startswith("D000000007:")


async def test_nobody_has_that_address() -> None:
    async with trial(CASE) as t:
        channel = t.connector.channel("direct_message")
        assert channel
        with pytest.raises(RejectedError, match="users_not_found"):
            await t.connector.deliver(channel, message(channel, {"email": "no@acme.test", "text": "x"}))


async def test_a_message_without_any_channel_is_refused() -> None:
    async with trial(CASE) as t:
        with pytest.raises(RejectedError, match="default_channel"):
            await post(t, text="x")


GONE = (
    ("delete_message", {"channel": GENERAL, "ts": "1700000000.000009"}, "message_not_found"),
    (
        "delete_scheduled_message",
        {"channel": GENERAL, "scheduled_message_id": "Q0000000009"},
        "invalid_scheduled_message_id",
    ),
)


@pytest.mark.parametrize(("name", "fields", "error"), GONE)
async def test_what_is_gone_was_deleted_by_the_attempt_in_doubt_only(
    name: str, fields: Mapping[str, str], error: str
) -> None:
    async with trial(CASE) as t:
        with pytest.raises(RejectedError, match=f"{error}; check"):
            await send(t, name, fields)
        receipt = await send(t, name, fields, is_repeat=True)
        assert (receipt.remote_id, receipt.detail) == (":".join(fields.values()), {"found": True})
        with pytest.raises(RejectedError, match="channel_not_found"):
            await send(t, name, {**fields, "channel": "C000000404"}, is_repeat=True)


async def test_a_message_is_scheduled_and_called_back_by_its_receipt() -> None:
    async with trial(CASE) as t:
        soon = int(t.clock.now().timestamp()) + 60
        channel, made = (
            await send(t, "schedule_message", {"channel": GENERAL, "text": "x", "post_at": soon})
        ).remote_id.split(":")
        receipt = await send(t, "delete_scheduled_message", {"channel": channel, "scheduled_message_id": made})
        assert (receipt.remote_id, receipt.detail) == (f"{GENERAL}:{made}", {})
        assert not t.sim.scheduled


async def test_a_message_of_others_is_not_ours_to_delete() -> None:
    async with trial(CASE) as t:
        theirs = t.sim.put_message(GENERAL, "1700000000.000002", "theirs")
        with pytest.raises(RejectedError, match="cant_delete_message; an app can delete its own"):
            await send(t, "delete_message", {"channel": GENERAL, "ts": theirs["ts"]}, is_repeat=True)
        assert theirs["ts"] in t.sim.messages[GENERAL]


@pytest.mark.parametrize("name", ["update_message", "delete_message"])
async def test_a_message_to_a_user_is_changed_in_their_conversation(name: str) -> None:
    async with trial(CASE) as t:
        t.sim.put_user("U000000007", START)
        ts = (await post(t, channel="U000000007", text="x")).remote_id.split(":")[1]
        said = {"text": "y"} if name == "update_message" else {}
        assert (await send(t, name, {"channel": "U000000007", "ts": ts, **said})).remote_id == f"D000000007:{ts}"


@pytest.mark.parametrize(
    ("ahead", "refused"),
    [(-1, "is not in the future"), (0, "is not in the future"), (120 * 86400 + 1, "is more than 120 days ahead")],
)
async def test_a_time_at_which_slack_would_not_post_is_refused_unasked(ahead: int, refused: str) -> None:
    async with trial(CASE) as t:
        t.clock.advance(timedelta(days=3))
        at = int(t.clock.now().timestamp()) + ahead
        with pytest.raises(RejectedError, match=rf"post_at {at} \(2026-.* UTC\) {refused}; look at .*map\.post_at"):
            await send(t, "schedule_message", {"channel": GENERAL, "text": "x", "post_at": at})
        assert not t.sim.requests


async def test_the_nearest_and_the_farthest_time_are_taken() -> None:
    async with trial(CASE) as t:
        for ahead in (1, 120 * 86400):
            at = int(t.clock.now().timestamp()) + ahead
            assert (await send(t, "schedule_message", {"channel": GENERAL, "text": "x", "post_at": at})).remote_id


def test_a_time_in_milliseconds_is_a_finding() -> None:
    for at in (1_772_441_640_000, 5):
        with pytest.raises(ValidationError, match=r"(?s)post_at.*should be (less|greater) than"):
            ScheduleMessage(text="x", post_at=at)
    assert ScheduleMessage(text="x", post_at=1_772_441_640).post_at


def test_a_message_that_says_nothing_is_a_finding() -> None:
    with pytest.raises(ValidationError, match=r"says nothing: set template"):
        PostMessage(channel=GENERAL)
    for said in ({"text": "x"}, {"blocks": ({"type": "divider"},)}, {"mentions": ("here",)}):
        assert PostMessage.model_validate(said)


BUTTON = {"type": "button", "action_id": "a", "value": "v", "text": {"type": "plain_text", "text": "Ack"}}


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"type": "divider", "block_id": 256 * "x"}, r"blocks\[1\].block_id has 256 characters, Slack takes 255"),
        ({"type": "header", "text": {"type": "plain_text", "text": 151 * "x"}}, r"text\.text has 151 .* takes 150"),
        ({"type": "section", "text": {"type": "mrkdwn", "text": 3001 * "x"}}, r"text\.text has 3001 .* takes 3000"),
        (
            {"type": "section", "fields": 11 * [{"type": "mrkdwn", "text": "x"}]},
            "fields has 11 elements, Slack takes 10",
        ),
        ({"type": "section", "fields": [{"type": "mrkdwn", "text": 2001 * "x"}]}, r"fields\[0\]\.text has 2001"),
        ({"type": "section", "accessory": {**BUTTON, "action_id": 256 * "x"}}, r"accessory\.action_id has 256"),
        ({"type": "actions", "elements": 26 * [BUTTON]}, "elements has 26 elements, Slack takes 25"),
        ({"type": "actions", "elements": [BUTTON, {**BUTTON, "value": 2001 * "x"}]}, r"elements\[1\]\.value has 2001"),
    ],
)
def test_blocks_that_slack_would_not_take_are_a_finding(block: Mapping[str, Any], place: str) -> None:
    with pytest.raises(ValidationError, match=place):
        PostMessage(blocks=({"type": "divider"}, dict(block)))


def test_blocks_of_any_shape_are_left_to_slack() -> None:
    shapes: tuple[dict[str, Any], ...] = (
        {},
        {"type": ["x"]},
        {"type": "section", "text": "x", "fields": "y", "accessory": None},
        {"type": "new"},
    )
    assert PostMessage(blocks=shapes).blocks == shapes


@pytest.mark.parametrize("code", [502, 504])
async def test_an_answer_lost_behind_a_gateway_leaves_doubt(code: int) -> None:
    async with trial(CASE, auth=webhook) as t:
        t.sim.faults.add(status(code), path="*/services/*")
        with pytest.raises(AmbiguousError):
            await post(t, text="x")
    said = HttpAnswer(code, {}, b'{"ok":false,"error":"something_new"}', "https://slack.com/api/chat.postMessage")
    assert isinstance(classify(said, START), AmbiguousError)


async def test_messages_are_deleted_no_faster_than_slack_permits() -> None:
    async with trial(CASE) as t:
        for number in range(50):
            ts = t.sim.put_message(GENERAL, f"1700000000.{number:06}", "x", bot_id="B12345678")["ts"]
            await send(t, "delete_message", {"channel": GENERAL, "ts": ts})
        with pytest.raises(RateLimitedError):
            await send(t, "delete_message", {"channel": GENERAL, "ts": "1700000000.000051"})
        assert len(t.sim.requests) == 50


def webhook(sim: Vendor) -> Mapping[str, Any]:
    return {"type": "incoming_webhook", "webhook_url": f"{sim.url}/services/{PATH}"}


async def test_an_incoming_webhook_posts_and_can_nothing_else() -> None:
    async with trial(CASE, auth=webhook) as t:
        assert (await post(t, text="<!here>")).remote_id == "ok"
        assert [m["text"] for m in t.sim.messages[GENERAL].values()] == ["&lt;!here&gt;"]
        channel = t.connector.channel("post_message")
        assert channel
        assert isinstance(t.connector, Finds)
        with pytest.raises(UnsupportedError):
            await t.connector.find(channel, message(channel, {"text": "x"}))
        for own in ({"channel": GENERAL}, {"thread_ts": "1772445600.000100"}, {"reply_broadcast": True}):
            with pytest.raises(RejectedError, match="own channel"):
                await post(t, text="x", **own)
        with pytest.raises(RejectedError, match="bot_token"):
            await read(t, "users")


async def test_probing_an_incoming_webhook_posts_nothing() -> None:
    async with trial(CASE, auth=webhook) as t:
        await t.connector.probe()
        assert not t.sim.messages[GENERAL]
        t.sim.webhooks.clear()
        with pytest.raises(UnauthorizedError, match="no_service") as caught:
            await t.connector.probe()
        assert not t.bench.leaks(CANARY, caught.value)


async def test_an_incoming_webhook_posts_once_a_second() -> None:
    async with trial(CASE, auth=webhook) as t:
        for number in range(3):
            await post(t, text=str(number), unfurl_links=False)
        assert t.sim.requests[-1].json == {"text": "2", "unfurl_links": False}
        assert sum(t.clock.slept) >= 2


async def test_a_limited_webhook_says_when() -> None:
    async with trial(CASE, auth=webhook) as t:
        t.sim.limited["webhook"] = [40]
        with pytest.raises(RateLimitedError) as caught:
            await post(t, text="x")
        assert caught.value.retry_after == timedelta(seconds=40)
