"""What the custom connector sends: signed bytes, one request for each attempt, and what each answer comes to."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from connectors.custom import Custom
from connectors.custom.signing import signature
from reconciler import __version__
from reconciler.events.subscriptions import compile_subscriptions, context_of
from reconciler.model.event import Event, Message
from reconciler.model.manifest import Integration
from reconciler.model.secret import Secret
from reconciler.sdk.errors import ConnectorError, GoneError, RateLimitedError, RejectedError, TransientError
from reconciler.sdk.guard import GuardSettings, HostGuard
from reconciler.sdk.pushed import read_events, strict
from reconciler.sdk.testing.case import message
from reconciler.sdk.testing.room import LOOPBACK, START, Bench
from simulators.custom import signed, standard_signature
from tests.integration.sdk.loopback import Play, Server, listening, raw, reply

SECRET = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
(CHANNEL,) = Custom.channels
HOUR = 3600.0


@asynccontextmanager
async def sending(*plays: Play) -> AsyncIterator[tuple[Custom, Server]]:
    async with listening(*plays) as server, Bench() as bench:
        config = {"outbound": {"url": f"{server.url}/hook", "secret": SECRET}}
        found = bench.connector(Custom, config, {"type": "generated_api_key"})
        assert isinstance(found, Custom)
        yield found, server


def parcel(**fields: Any) -> Message:
    return message(CHANNEL, fields or {"data": {"n": 1}})


async def refused(*plays: Play) -> tuple[ConnectorError, int]:
    """What it comes to, and how many requests were made of it."""
    async with sending(*plays) as (custom, server):
        with pytest.raises(ConnectorError) as caught:
            await custom.deliver(CHANNEL, parcel())
        return caught.value, len(server.seen)


async def test_the_signature_is_of_the_very_bytes_that_are_sent() -> None:
    async with sending(reply(204, b"")) as (custom, server):
        sent = replace(parcel(subject="order/1", text="äöü", data={"b": 1.0, "a": ["ß", None]}), event_at=START)
        receipt = await custom.deliver(CHANNEL, sent)
    (seen,) = server.seen
    stamp = str(int(START.timestamp()))
    assert seen.headers["webhook-signature"] == standard_signature(SECRET, "dlv-1", stamp, seen.body)
    assert (seen.headers["webhook-id"], seen.headers["webhook-timestamp"]) == ("dlv-1", stamp)
    assert seen.headers["user-agent"] == f"reconciler/{__version__}"
    assert seen.headers["content-type"] == "application/json"
    assert strict(seen.body) == {
        "id": "evt-1", "type": "kit.checked", "occurred_at": "2026-03-02T10:00:00.000000Z", "subject": "order/1",
        "data": {"b": 1.0, "a": ["ß", None], "text": "äöü"},
    }  # fmt: skip
    assert receipt.detail == {"status": 204}


async def test_what_goes_out_may_come_in() -> None:
    async with sending(reply(202)) as (custom, server):
        await custom.deliver(CHANNEL, parcel(data={"n": 1}, occurred_at="2026-03-01T10:00:00Z"))
        found = read_events(strict(server.seen[0].body), START, custom.check_event)
    assert found.rejected == []
    assert (found.events[0].at.day, found.events[0].data) == (1, {"n": 1})
    assert signed(SECRET, "a", START, b"{}")["webhook-signature"] == signature(
        Secret(SECRET), "a", str(int(START.timestamp())), b"{}"
    )


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 451])
async def test_other_refusals_end_it_at_once(status: int) -> None:
    error, requests = await refused(reply(status, '{"secret": "canary"}', retry_after="5"))
    assert (type(error), error.status, requests) == (RejectedError, status, 1)
    assert "canary" not in error.message


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
async def test_redirects_are_not_followed(status: int) -> None:
    error, requests = await refused(reply(status, b"", location="/elsewhere"))
    assert (type(error), requests) == (RejectedError, 1)


async def test_gone_is_more_than_a_refusal() -> None:
    error, requests = await refused(reply(410, b""))
    assert (type(error), requests) == (GoneError, 1)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504])
@pytest.mark.parametrize(
    ("asked", "waits"), [({}, None), ({"retry_after": "7"}, 7.0), ({"retry_after": "999999"}, 6 * HOUR)]
)
async def test_what_may_pass_is_tried_again_later_and_once_each(
    status: int, asked: Mapping[str, str], waits: float | None
) -> None:
    error, requests = await refused(reply(status, b"", **asked))
    assert isinstance(error, TransientError)
    assert isinstance(error, RateLimitedError) is (status == 429)
    assert (error.retry_after.total_seconds() if error.retry_after else None, requests) == (waits, 1)


@pytest.mark.parametrize(
    "play", [raw(b""), raw(b"", reset=True), raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")]
)
async def test_a_broken_connection_is_tried_again(play: Play) -> None:
    error, requests = await refused(play)
    assert isinstance(error, TransientError)
    assert requests == 1


def test_the_schedule_is_that_of_the_contract() -> None:
    seconds = [pause.total_seconds() for pause in CHANNEL.retries.pauses]
    assert seconds == [5, 30, 120, 600, HOUR, 6 * HOUR]
    assert (CHANNEL.retries.jitter, CHANNEL.retries.is_overruled, CHANNEL.deadline) == (
        0.2,
        True,
        timedelta(seconds=10),
    )


@pytest.mark.parametrize("status", [204, 302, 405, 410, 501, 503])
async def test_any_answer_says_that_the_place_is_there(status: int) -> None:
    async with sending(reply(status, b"", location="http://elsewhere.example/")) as (custom, server):
        await custom.probe()
    assert [seen.method for seen in server.seen] == ["HEAD"]


async def test_a_place_that_is_gone_is_not_looked_at() -> None:
    async def gone() -> bool:
        return False

    async with sending(reply()) as (custom, server):
        object.__setattr__(custom.room, "may_deliver", gone)
        await custom.probe()
    assert server.seen == []


@asynccontextmanager
async def resolving(custom: Custom, *addresses: str, allow: tuple[str, ...]) -> AsyncIterator[None]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(custom.room.network, "guard", HostGuard(GuardSettings(allow=allow), resolve))
        yield


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.1", "100.64.0.1", "fd00::7", "127.0.0.1", "169.254.169.254", "::1"]
)
@pytest.mark.parametrize("url", ["https://hooks.example/x", "http://{}/x"])
async def test_no_event_goes_to_an_address_in_the_house(url: str, address: str) -> None:
    async with Bench() as bench:
        host = f"[{address}]" if ":" in address else address
        config = {"outbound": {"url": url.format(host), "secret": SECRET}}
        custom = bench.connector(Custom, config, {"type": "generated_api_key"})
        assert isinstance(custom, Custom)
        async with resolving(custom, address, allow=()):
            for asked in (custom.deliver(CHANNEL, parcel()), custom.probe()):
                with pytest.raises(RejectedError, match=r"not permitted.*hosts\.allow"):
                    await asked


async def test_the_settings_may_allow_one() -> None:
    async with sending(reply()) as (custom, server):
        async with resolving(custom, "127.0.0.1", allow=LOOPBACK):
            await custom.deliver(CHANNEL, parcel())
        assert len(server.seen) == 1


def told(event: Event, **outbound: Any) -> dict[str, Any]:
    manifest = {
        "apiVersion": "reconciler.dev/v1", "kind": "Integration", "metadata": {"name": "erp"},
        "spec": {"type": "custom", "config": {"outbound": {"events": ["*.*"], **outbound}}},
    }  # fmt: skip
    (wanted,) = compile_subscriptions(1, Integration.model_validate(manifest), Custom)
    assert (wanted.name, wanted.channel) == ("outbound", "webhook")
    return wanted.render(context_of(event))


AT = datetime.fromisoformat("2026-11-20T12:00:00Z")


@pytest.mark.parametrize(
    ("event", "subject", "says"),
    [
        (Event("e", "order.created", AT, "w", "shop", "orders", "1001", {"total": "19.90", "note": None}),
         "order/1001", {"total": "19.90", "note": None}),
        (Event("e", "order.deleted", AT, "w", "shop", "orders", "k" * 300, {"total": "1"}),
         f"order/{'k' * 249}", {"total": "1"}),
        (Event("e", "sync.failed", AT, "w", "shop", detail={"reason": "TimedOut"}, source="lifecycle"),
         "integration/shop", {"reason": "TimedOut"}),
        (Event("e", "order.paid", AT, "w", "", record={"n": 1}, source="published", subject="order/7"), "order/7", {"n": 1}),
        (Event("e", "order.paid", AT, "w", "", record={"n": 1}, source="published"), "", {"n": 1}),
        (Event("e", "order.paid", AT, "w", "shop", detail={"id": "x", "subject": "order/7", "data": {"n": 1}},
               source="lifecycle"), "order/7", {"n": 1}),
        (Event("e", "order.paid", AT, "w", "shop", detail={"id": "x", "subject": "", "data": {}}, source="lifecycle"),
         "integration/shop", {}),
    ],
)  # fmt: skip
def test_each_kind_of_event_says_what_it_is_about(event: Event, subject: str, says: Mapping[str, Any]) -> None:
    assert told(event) == {
        "subject": subject, "text": "", "data": says, "occurred_at": "2026-11-20T12:00:00.000000Z",
    }  # fmt: skip


def test_the_url_need_not_be_known_to_say_which_events_go_there() -> None:
    from reconciler.model.secret import Unresolved

    event = Event("e", "order.created", AT, "w", "shop", "orders", "1", {"n": 1})
    assert told(event, url=Unresolved("from_env", ""), secret=Unresolved("encrypted", ""))["data"] == {"n": 1}
