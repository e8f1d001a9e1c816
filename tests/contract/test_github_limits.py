"""GitHub's published limits: kept by what is delivered, enforced by the simulator."""

import asyncio
from datetime import timedelta
from typing import Any

import httpx
import pytest

from connectors.github import MEDIA
from reconciler.sdk.errors import RateLimitedError
from reconciler.sdk.testing.case import CANARY, message
from reconciler.sdk.testing.room import START
from reconciler.sdk.testing.trial import Trial, trial
from simulators._github_limits import SecondaryLimits
from tests.contract.test_github import CASE, SHOP, read, shop


async def _write(t: Trial, times: int, name: str = "comment_issue") -> None:
    channel = t.connector.channel(name)
    assert channel
    fields = CASE.dispatch(t.sim, channel).fields
    for number in range(times):
        await t.connector.deliver(channel, message(channel, fields, number=number))


def _written(t: Trial) -> int:
    return sum(call.method != "GET" for call in t.sim.requests)


async def test_writes_are_a_second_apart_and_none_is_refused() -> None:
    async with trial(CASE) as t:
        started = t.clock.now()
        await _write(t, 20)
        assert len(shop(t.sim).comments) == _written(t) == 20
        assert timedelta(seconds=19) <= t.clock.now() - started <= timedelta(seconds=22)
        await _write(t, 1, "update_issue")
        assert _written(t) == 21
        assert t.clock.now() - started >= timedelta(seconds=20)


async def test_an_hour_takes_500_contents_and_any_number_of_updates_then() -> None:
    async with trial(CASE) as t:
        started = t.clock.now()
        await _write(t, 500)
        with pytest.raises(RateLimitedError, match="the rate budget") as caught:
            await _write(t, 1)
        assert _written(t) == len(shop(t.sim).comments) == 500
        assert caught.value.retry_after is not None
        assert t.clock.now() + caught.value.retry_after >= started + timedelta(hours=1)
        await _write(t, 1, "update_issue")
        t.clock.advance(caught.value.retry_after)
        await _write(t, 1)
        assert len(shop(t.sim).comments) == 501


async def test_reads_do_not_wait_for_writes() -> None:
    async with trial(CASE) as t:
        key = t.put(t.entity("issues"), 0, START)
        await _write(t, 1)
        slept = len(t.clock.slept)
        assert key in (await read(t, "issues")).keys
        assert len(t.clock.slept) == slept


async def _raw(t: Trial, method: str, path: str, **more: Any) -> int:
    """One request past the connector's own budget, as a careless client sends it; the status of the answer."""
    headers = {"Authorization": f"Bearer {CANARY}-ghp", "Accept": MEDIA, "X-GitHub-Api-Version": "2022-11-28"}
    async with httpx.AsyncClient(base_url=t.sim.url, headers=headers, timeout=60) as client:
        answer = await client.request(method, path, **more)
    if answer.status_code == 403:
        assert "secondary rate limit" in answer.json()["message"]
        t.clock.advance(timedelta(seconds=int(answer.headers["retry-after"])))
    return answer.status_code


async def test_the_simulator_refuses_writes_within_a_second() -> None:
    async with trial(CASE) as t:
        shop(t.sim)
        path, issue = f"/repos/{SHOP}/issues", {"title": "T"}
        assert [await _raw(t, "POST", path, json=issue) for _ in range(4)] == [201, 403, 201, 403]
        assert await _raw(t, "GET", path) == 200


def test_the_simulator_counts_points_and_contents_by_credential() -> None:
    pace, issues, issue = SecondaryLimits(), f"/repos/{SHOP}/issues", f"/repos/{SHOP}/issues/1"
    reads = [pace.wait("one", "GET", issues, START) for _ in range(900)]
    assert set(reads) == {None}
    assert pace.wait("one", "GET", issues, START + timedelta(seconds=59)) == 1
    assert pace.wait("one", "PATCH", issue, START + timedelta(seconds=60)) is None
    for number in range(500):
        assert pace.wait("two", "POST", issues, START + timedelta(seconds=number)) is None
    half = START + timedelta(minutes=30)
    assert pace.wait("two", "POST", issues, half) == 1800
    assert pace.wait("two", "PATCH", issue, half) is None
    assert pace.wait("three", "POST", issues, half) is None


async def test_deliveries_at_the_same_time_are_written_one_after_another() -> None:
    async with trial(CASE) as t:
        channel = t.connector.channel("create_issue")
        assert channel
        fields = CASE.dispatch(t.sim, channel).fields
        parcels = [message(channel, fields, number=number) for number in range(8)]
        receipts = await asyncio.gather(*(t.connector.deliver(channel, one) for one in parcels))
        assert len({receipt.remote_id for receipt in receipts}) == _written(t) == 8
