"""The HTTP client against real servers that refuse, stall, reset, truncate, redirect and flood."""

import asyncio
import gzip
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from reconciler import __version__
from reconciler.model.condition import Reason
from reconciler.model.record import LogLevel
from reconciler.model.secret import MASK
from reconciler.sdk.budget import Budgets, BudgetSettings
from reconciler.sdk.contract import Answer, Limit
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.guard import GuardSettings
from reconciler.sdk.http import HttpSettings
from reconciler.sdk.network import NetworkSettings
from reconciler.sdk.redact import Redactor
from tests.integration.sdk.loopback import SECRET, Seen, listening, raw, reply, rigged, stall
from tests.unit.sdk.virtual_clock import VirtualClock

QUICK = NetworkSettings(connect_timeout=timedelta(seconds=2), read_timeout=timedelta(milliseconds=150))


async def test_an_ordinary_exchange() -> None:
    async with listening(reply(200, '{"result": [1]}', X_Total_Count="1")) as server, rigged() as rig:
        answer = await rig.get(f"{server.url}/api?x=1", params={"q": "a b&c", "n": None, "many": [1, 2], "yes": True})
        assert (answer.status, answer.json(), answer.headers["X-TOTAL-count"]) == (200, {"result": [1]}, "1")
        assert answer.body == b'{"result": [1]}'
        seen = server.seen[0]
        assert seen.target.replace("+", "%20") == "/api?x=1&q=a%20b%26c&many=1&many=2&yes=true"
        assert seen.headers["user-agent"] == f"reconciler/{__version__}"
        assert seen.headers["host"] == f"127.0.0.1:{server.port}"
        assert "body" not in repr(answer)


async def test_a_link_that_is_followed_keeps_its_query() -> None:
    async with listening(reply()) as server, rigged() as rig:
        await rig.get(f"{server.url}/items?page=2&size=3", params={})
        await rig.get(f"{server.url}/items?page=2&size=3", params=None)
        assert [s.target for s in server.seen] == ["/items?page=2&size=3"] * 2


async def test_bodies() -> None:
    async with listening(reply()) as server, rigged() as rig:
        await rig.post(server.url, json={"ü": [1, None]})
        await rig.post(server.url, json=None, form={"grant_type": "x y", "none": None, "scope": ["a", "b"]})
        await rig.client.send("DELETE", server.url)
        first, second, third = server.seen
        assert (first.body, first.headers["content-type"]) == ('{"ü":[1,null]}'.encode(), "application/json")
        assert second.body == b"grant_type=x+y&scope=a&scope=b"
        assert second.headers["content-type"] == "application/x-www-form-urlencoded"
        assert (third.body, "content-type" in third.headers) == (b"", False)


async def test_compressed_answers_and_broken_compression() -> None:
    body = gzip.compress(b'{"ok": true}')
    async with listening(reply(200, body, content_encoding="gzip")) as server, rigged() as rig:
        assert (await rig.get(server.url)).json() == {"ok": True}
    async with listening(reply(200, b"no gzip", content_encoding="gzip")) as server, rigged() as rig:
        with pytest.raises(TransientError, match="compression") as caught:
            await rig.get(server.url)
        assert caught.value.why is Reason.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RejectedError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (404, RejectedError),
        (408, TransientError),
        (409, RejectedError),
        (422, RejectedError),
        (425, TransientError),
        (429, RateLimitedError),
        (500, TransientError),
        (503, TransientError),
        (599, TransientError),
    ],
)
async def test_general_rules(status: int, kind: type[ConnectorError]) -> None:
    body = '{"error": {"message": "Invalid table", "detail": "no such table"}, "status": "failure"}'
    async with listening(reply(status, body, X_GitHub_Request_Id="C0FE:1")) as server, rigged() as rig:
        with pytest.raises(kind) as caught:
            await rig.get(f"{server.url}/api/now?key=abc")
        error = caught.value
        assert type(error) is kind
        assert error.status == status
        where = f"127.0.0.1:{server.port}"
        assert error.message == f"GET {where}/api/now was answered {status}: Invalid table: no such table"
        assert error.detail == {"x-github-request-id": "C0FE:1"}
        retried = issubclass(kind, TransientError)
        assert len(server.seen) == (3 if retried else 1)


async def test_an_expected_status_is_an_answer_and_304_is_one_anyway() -> None:
    async with listening(reply(404, '{"x": 1}'), reply(304, b"")) as server, rigged() as rig:
        assert (await rig.get(server.url, expect=(404,))).json() == {"x": 1}
        assert (await rig.get(server.url)).status == 304


async def test_classify_comes_first_for_any_status() -> None:
    def classify(answer: Answer) -> ConnectorError | None:
        said = answer.json()
        return RateLimitedError("slow down", retry_after=timedelta(0)) if said.get("ok") is False else None

    async with listening(reply(200, '{"ok": false}'), reply(404, '{"ok": true}')) as server, rigged() as rig:
        with pytest.raises(RejectedError):
            await rig.get(server.url, classify=classify)
        assert len(server.seen) == 2


async def test_a_vendors_error_carries_the_request_id() -> None:
    async with listening(reply(200, "{}", X_Request_Id="r-1")) as server, rigged() as rig:
        with pytest.raises(RejectedError) as caught:
            await rig.get(server.url, classify=lambda answer: RejectedError("no"))
        assert caught.value.detail == {"x-request-id": "r-1"}


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ('{"errors": [{"code": "x", "detail": "first"}, {"detail": "second"}]}', "application/json", "first; second"),
        ('{"error": "invalid_client", "error_description": "bad"}', "application/json", "bad: invalid_client"),
        ('{"errorMessages": ["one"], "errors": {"f": "missing"}}', "application/json", "f: missing: one"),
        ('["ERROR_RANGE", "too far"]', "application/json", "ERROR_RANGE; too far"),
        ("Retry later", "text/plain", "Retry later"),
        ("<html><head><title>502 Bad\n Gateway</title></head></html>", "text/html", "502 Bad Gateway"),
        ('{"broken": ', "application/json", '{"broken":'),
    ],
)  # fmt: skip
async def test_the_vendors_own_words(body: str, kind: str, said: str) -> None:
    async with listening(reply(400, body, content_type=kind)) as server, rigged() as rig:
        with pytest.raises(RejectedError) as caught:
            await rig.get(server.url)
        assert caught.value.message.endswith(f"was answered 400: {said}")


async def test_vendor_text_is_redacted_and_bounded() -> None:
    redactor = Redactor()
    redactor.register("x", [SECRET])
    body = f'{{"message": "{"y" * 280}{SECRET} is not a valid key {"z" * 1000}"}}'
    async with listening(reply(401, body)) as server, rigged(redactor=redactor) as rig:
        with pytest.raises(UnauthorizedError) as caught:
            await rig.get(server.url, headers={"Authorization": f"Bearer {SECRET}"})
        assert MASK in caught.value.message
        assert SECRET[:6] not in caught.value.message
        assert len(caught.value.message) < 400


async def test_safe_requests_are_retried_with_jitter_and_logged() -> None:
    async with listening(reply(503, "later"), raw(b"", reset=True), reply(200, '{"ok": 1}')) as server, rigged() as rig:
        assert (await rig.get(f"{server.url}/x")).json() == {"ok": 1}
        assert [(a.status, a.retry, a.method, a.lane) for a in rig.attempts] == [
            (503, 0, "GET", "sync"),
            (None, 1, "GET", "sync"),
            (200, 2, "GET", "sync"),
        ]
        assert {a.host for a in rig.attempts} == {f"127.0.0.1:{server.port}"}
        assert 0 <= rig.clock.slept[0] <= 1
        assert 0 <= rig.clock.slept[1] <= 2
        level, message, detail = rig.log.lines[0]
        assert (level, detail["retry_attempt"], detail["max_retries"]) == (LogLevel.WARN, 1, 2)
        assert detail["retry_after_ms"] == round(rig.clock.slept[0] * 1000)
        assert "was answered 503" in message
        assert len(rig.log.lines) == 2


@pytest.mark.parametrize(
    ("after", "waits"),
    [("7", 7.0), ("Mon, 04 May 2026 12:00:07 GMT", 7.0), ("0", 0.0), (None, 0.0)],
)
async def test_429_waits_as_asked(after: str | None, waits: float) -> None:
    headers = {"Retry_After": after} if after else {}
    async with listening(reply(429, "{}", **headers), reply()) as server, rigged() as rig:
        assert (await rig.get(server.url)).status == 200
        assert rig.clock.slept[0] == pytest.approx(waits, abs=0 if waits else 1)


async def test_429_without_retry_after_waits_for_the_reset() -> None:
    headers = {"X_RateLimit_Limit": "10", "X_RateLimit_Remaining": "0", "X_RateLimit_Reset": "9"}
    async with listening(reply(429, "{}", **headers), reply()) as server, rigged() as rig:
        assert (await rig.get(server.url)).status == 200
        assert sum(rig.clock.slept) == pytest.approx(9, abs=0.1)


async def test_a_long_retry_after_is_the_engines_and_blocks_everybody() -> None:
    async with listening(reply(429, "{}", Retry_After="3600"), reply()) as server, rigged() as rig:
        with pytest.raises(RateLimitedError) as caught:
            await rig.get(server.url)
        assert caught.value.retry_after == timedelta(hours=1)
        with pytest.raises(RateLimitedError, match="budget"):
            await rig.post(server.url, lane="deliver")
        assert (len(server.seen), rig.clock.slept) == (1, [])


async def test_a_remote_in_maintenance_is_left_alone_by_everybody() -> None:
    async with listening(reply(503, "{}", Retry_After="600"), reply()) as server, rigged() as rig:
        with pytest.raises(TransientError) as caught:
            await rig.post(server.url, lane="deliver")
        assert caught.value.retry_after == timedelta(minutes=10)
        with pytest.raises(RateLimitedError, match="budget"):
            await rig.get(server.url)
        assert len(server.seen) == 1


async def test_403_with_retry_after_is_a_rate_limit() -> None:
    async with listening(reply(403, "{}", Retry_After="60")) as server, rigged() as rig:
        with pytest.raises(RateLimitedError):
            await rig.get(server.url)


async def test_a_success_may_ask_to_wait_before_the_next_request() -> None:
    async with listening(reply(200, "{}", Retry_After="5"), reply()) as server, rigged() as rig:
        await rig.get(server.url)
        assert rig.clock.slept == []
        await rig.get(server.url)
        assert rig.clock.slept == [pytest.approx(5)]


async def test_limits_of_the_connector_are_shared_by_credential() -> None:
    clock = VirtualClock()
    budgets = Budgets(clock, settings=BudgetSettings(max_wait=timedelta(seconds=5)))
    limits = (Limit(requests=5, window=timedelta(minutes=1)),)
    shared: dict[str, Any] = {"budgets": budgets, "limits": limits}
    async with (
        listening(reply()) as server,
        rigged(credential="a1b2", **shared) as one,
        rigged(credential="a1b2", **shared) as two,
        rigged(credential="ffff", **shared) as other,
    ):
        for rig in (one, two, one, two):
            await rig.get(server.url)
        with pytest.raises(RateLimitedError):
            await one.get(server.url)
        await two.get(server.url, lane="probe")
        await other.get(server.url)
        assert len(server.seen) == 6


async def test_an_unsafe_request_is_sent_once() -> None:
    async with listening(reply(503, "{}"), reply()) as server, rigged() as rig:
        with pytest.raises(TransientError) as caught:
            await rig.post(server.url)
        assert not isinstance(caught.value, AmbiguousError)
        assert len(server.seen) == 1


async def test_a_request_that_is_declared_safe_is_retried() -> None:
    async with listening(reply(503, "{}"), reply()) as server, rigged() as rig:
        assert (await rig.post(server.url, safe=True)).status == 200
        assert len(server.seen) == 2


@pytest.mark.parametrize("status", [502, 504, 524])
async def test_a_gateway_that_lost_the_answer_is_ambiguous_for_unsafe_requests(status: int) -> None:
    async with listening(reply(status, "<html>")) as server, rigged() as rig:
        with pytest.raises(AmbiguousError) as lost:
            await rig.post(server.url)
        assert lost.value.why is Reason.REMOTE_UNAVAILABLE  # it did answer in time
        with pytest.raises(TransientError) as caught:
            await rig.get(server.url)
        assert not isinstance(caught.value, AmbiguousError)


TRUNCATED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"


@pytest.mark.parametrize(
    "play",
    [raw(b"", reset=True), raw(b""), raw(TRUNCATED), raw(TRUNCATED, reset=True), raw(b"SSH-2.0-x\r\n\r\n"), stall],
    ids=["reset", "closed", "truncated", "truncated-reset", "no-http", "stall"],
)
async def test_a_lost_answer_is_ambiguous_when_unsafe_and_transient_when_safe(play: Any) -> None:
    async with listening(play) as server, rigged(network=QUICK) as rig:
        with pytest.raises(AmbiguousError, match="may have been carried out") as lost:
            await rig.post(server.url)
        assert "SSH" not in lost.value.message
        assert len(server.seen) == 1
        with pytest.raises(TransientError) as caught:
            await rig.get(server.url)
        assert not isinstance(caught.value, AmbiguousError)
        assert len(server.seen) == 4


async def test_a_stall_is_a_time_out_that_says_how_long() -> None:
    async with listening(stall) as server, rigged(network=QUICK) as rig:
        with pytest.raises(TransientError, match=r"no answer within 0\.15 s") as caught:
            await rig.get(server.url)
        assert caught.value.why is Reason.TIMED_OUT


async def test_a_refused_connection_is_transient_even_when_unsafe() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with rigged() as rig:
            with pytest.raises(TransientError, match="cannot connect to") as caught:
                await rig.post(f"http://127.0.0.1:{taken.getsockname()[1]}/")
            assert not isinstance(caught.value, AmbiguousError)
            assert rig.attempts[0].status is None


async def test_a_cancelled_request_leaves_the_client_usable() -> None:
    arrived = asyncio.Event()

    async def hold(seen: Seen, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await stall(seen, writer)

    async with listening(hold, reply()) as server, rigged() as rig:
        task = asyncio.create_task(rig.get(server.url))
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await rig.get(server.url)).status == 200
        assert rig.budgets.states()[0].in_flight == 0


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_huge_answer_is_cut_off(compressed: bool) -> None:
    body = b"[" + b"0," * 600_000 + b"0]"
    play = reply(200, gzip.compress(body), content_encoding="gzip") if compressed else reply(200, body)
    async with listening(play) as server, rigged(settings=HttpSettings(max_body=2**20)) as rig:
        with pytest.raises(RejectedError, match="larger than 1 MiB; ask for smaller pages"):
            await rig.get(server.url)
        assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ("<!DOCTYPE html><title>Sign in</title>", "text/html; charset=utf-8", "an HTML page (text/html)"),
        ('{"result": [', "application/json", "a broken body (application/json)"),
        ("", "application/json", "an empty body (application/json)"),
        (b"\xff\xfe{}", "text/plain", "a broken body (text/plain)"),
    ],
)
async def test_json_that_is_none(body: str, kind: str, said: str) -> None:
    async with listening(reply(200, body, content_type=kind)) as server, rigged() as rig:
        answer = await rig.get(server.url)
        with pytest.raises(TransientError) as caught:
            answer.json()
        assert said in caught.value.message
        assert caught.value.why is Reason.PROTOCOL_ERROR


async def test_redirects_on_the_same_host_are_followed() -> None:
    plays = [reply(301, "", Location="/repositories/1/issues?page=2"), reply(302, "", Location="x"), reply(200, "[1]")]
    async with listening(*plays) as server, rigged() as rig:
        answer = await rig.get(f"{server.url}/repos/old/issues", headers={"Authorization": "Bearer x"})
        assert (answer.json(), answer.url) == ([1], f"{server.url}/repositories/1/x")
        assert [s.target for s in server.seen] == [
            "/repos/old/issues",
            "/repositories/1/issues?page=2",
            "/repositories/1/x",
        ]
        assert all(s.headers["authorization"] == "Bearer x" for s in server.seen)


async def test_redirects_end() -> None:
    async with listening(reply(302, "", Location="/loop")) as server, rigged() as rig:
        with pytest.raises(RejectedError, match="more than 5 times"):
            await rig.get(server.url)
        assert len(server.seen) == 6


async def test_a_redirect_to_another_host_is_refused_and_nothing_is_sent_there() -> None:
    async with listening(reply()) as other, rigged() as rig:
        for location in (other.url + "/x", f"//127.0.0.1:{other.port}/x", "https://evil.example/", "ftp://127.0.0.1/"):
            async with listening(reply(307, "", Location=location)) as server:
                with pytest.raises(RejectedError, match="another host"):
                    await rig.get(server.url, headers={"Authorization": "Bearer x"})
        assert other.seen == []


async def test_a_redirect_of_an_unsafe_request_is_refused() -> None:
    async with listening(reply(307, "", Location="/new")) as server, rigged() as rig:
        with pytest.raises(RejectedError, match="answered with a redirect"):
            await rig.post(server.url)
        assert (await rig.post(server.url, expect=(307,))).status == 307


async def test_a_name_that_resolves_to_metadata_is_refused_before_a_byte_is_sent() -> None:
    async def rebound(host: str, port: int) -> Sequence[str]:
        return ("169.254.169.254",)

    async with rigged(resolve=rebound) as rig:
        with pytest.raises(RejectedError, match=r"169\.254\.169\.254 is a link-local") as caught:
            await rig.get("http://innocent.example/latest/meta-data/")
        assert caught.value.why is Reason.HOST_NOT_PERMITTED


async def test_loopback_is_refused_by_default() -> None:
    async with listening(reply()) as server, rigged(guard=GuardSettings()) as rig:
        with pytest.raises(RejectedError, match="loopback"):
            await rig.get(server.url)
        assert server.connections == 0


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    answers = [("127.0.0.1",), ("169.254.169.254",)]
    asked = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers.pop(0)

    async with listening(reply()) as server, rigged(resolve=rebinding) as rig:
        await rig.get(f"http://rebind.example:{server.port}/")
        await rig.get(f"http://rebind.example:{server.port}/")
        assert server.seen[0].headers["host"] == f"rebind.example:{server.port}"
        assert asked == ["rebind.example"]


async def test_the_next_address_is_tried_when_one_is_dead() -> None:
    async def two(host: str, port: int) -> Sequence[str]:
        return ("127.0.0.2", "127.0.0.1")

    async with listening(reply()) as server, rigged(resolve=two) as rig:
        assert (await rig.get(f"http://two.example:{server.port}/")).status == 200


async def test_an_unknown_host_is_named() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with rigged(resolve=nowhere) as rig:
        with pytest.raises(TransientError, match=r"cannot resolve host snow\.exmaple"):
            await rig.post("https://snow.exmaple/")


async def test_a_resolver_that_hangs_is_bounded() -> None:
    async def hangs(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    async with rigged(resolve=hangs, network=NetworkSettings(connect_timeout=timedelta(milliseconds=50))) as rig:
        with pytest.raises(TransientError, match=r"no connection to slow\.example within 0\.05 s"):
            await rig.post("http://slow.example/")


@pytest.mark.parametrize("value", [f"{SECRET}\n", f"{SECRET}\r\nX-Evil: 1", f"{SECRET}ü", f"{SECRET}\0"])
async def test_a_credential_that_http_cannot_carry_is_refused_without_being_quoted(value: str) -> None:
    async with listening(reply()) as server, rigged() as rig:
        with pytest.raises(RejectedError, match="header X-Api-Key holds a line break") as caught:
            await rig.get(server.url, headers={"X-Api-Key": value})
        assert SECRET not in str(caught.value)
        assert server.connections == 0


@pytest.mark.parametrize(
    "url", ["ftp://x.example/", "x.example/path", "https://", "http://[::1", "http://bob:pa/ss@x:y/", ""]
)
async def test_what_is_no_url_is_said_so(url: str) -> None:
    async with rigged() as rig:
        with pytest.raises(RejectedError, match="URL"):
            await rig.get(url)


async def test_credentials_in_a_url_are_refused_without_being_quoted() -> None:
    async with rigged() as rig:
        with pytest.raises(RejectedError, match="user or password") as caught:
            await rig.get(f"https://bob:{SECRET}@x.example/")
        assert SECRET not in str(caught.value)
