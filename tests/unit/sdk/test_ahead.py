"""Several pages in flight, and smaller ones where the remote cannot cope: nothing lost, nothing asked in vain for long."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from reconciler.model.condition import Reason
from reconciler.model.record import Page, Position
from reconciler.sdk.ahead import MOST_HALVINGS, Ahead
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.errors import RejectedError, TransientError
from reconciler.sdk.paging import LinkHeader, NextToken, Offset, PageNumber, Pager
from tests.unit.sdk.test_rest import Shop, as_json, entity, keys, pages, request, shop


class Listing:
    """`total` records behind a pager; remembers how many requests were under way at once, and which were asked."""

    def __init__(self, total: int, copes_with: int = 1_000) -> None:
        self.total = total
        self.copes_with = copes_with
        self.asked: list[tuple[int, int]] = []
        self.most = 0
        self._now = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, pager: Pager, at: Position | None, size: int) -> HttpAnswer:
        _, query = pager.request(at, size)
        start = query["offset"] if "offset" in query else (query["page"] - 1) * size
        self.asked.append((start, size))
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self._now -= 1
        if size > self.copes_with:
            raise TransientError("too much", status=504)
        ids = ",".join(str(number) for number in range(start, min(start + size, self.total)))
        return HttpAnswer(200, {}, ids.encode(), "https://api.example")


async def read(listing: Listing, pager: Pager, size: int, most: int = 4, at: Position | None = None) -> list[int]:
    found: list[int] = []
    async with aclosing(Ahead(lambda at, size: listing.fetch(pager, at, size), pager, size, most)) as ahead:
        while True:
            at, answer = await ahead.answer(at)
            ids = [int(one) for one in answer.body.decode().split(",") if one]
            ahead.saw(len(ids))
            found += ids
            at = pager.after(at, answer, {}, len(ids))
            if at is None:
                return found


@pytest.mark.parametrize("pager", [PageNumber(), Offset()])
async def test_pages_come_in_order_while_several_are_under_way(pager: Pager) -> None:
    listing = Listing(1_000)
    assert await read(listing, pager, 50) == list(range(1_000))
    assert listing.most == 4
    assert len(listing.asked) <= 20 + 1 + 3


@pytest.mark.parametrize("total", [0, 3, 50])
async def test_a_short_listing_costs_no_request_more(total: int) -> None:
    listing = Listing(total)
    assert await read(listing, PageNumber(), 50) == list(range(total))
    assert listing.most <= 2
    assert len(listing.asked) <= 3


async def test_what_comes_short_is_gone_on_from_where_it_ended() -> None:
    """A remote with a ceiling of its own: guesses miss, and what they brought is not used."""

    class Capped(Listing):
        async def fetch(self, pager: Pager, at: Position | None, size: int) -> HttpAnswer:
            return await super().fetch(pager, at, min(size, 30))

    assert await read(Capped(100), Offset(), 50) == list(range(100))


@pytest.mark.parametrize("pager", [PageNumber(), Offset()])
async def test_where_the_remote_cannot_cope_pages_get_smaller(pager: Pager) -> None:
    listing = Listing(200, copes_with=12)
    found = await read(listing, pager, 50)
    assert sorted(set(found)) == list(range(200))
    assert {size for _, size in listing.asked} == {50, 25, 12}


async def test_half_way_no_record_is_passed_over() -> None:
    listing = Listing(100, copes_with=25)
    found = await read(listing, PageNumber(), 30, at={"page": 3})
    assert set(found) >= set(range(60, 100))


async def test_a_remote_that_is_down_is_not_asked_again_and_again() -> None:
    listing = Listing(100, copes_with=0)
    with pytest.raises(TransientError, match="too much"):
        await read(listing, Offset(), 1_000)
    assert len(listing.asked) == 1 + MOST_HALVINGS


@pytest.mark.parametrize(
    "error",
    [RejectedError("no", status=400), TransientError("down", status=503), TransientError("limited", status=429)],
)
async def test_other_errors_are_told_at_once(error: Exception) -> None:
    asked = 0

    async def fetch(at: Position | None, size: int) -> HttpAnswer:
        nonlocal asked
        asked += 1
        raise error

    async with aclosing(Ahead(fetch, Offset(), 50, 4)) as ahead:
        with pytest.raises(type(error)):
            await ahead.answer(None)
    assert asked == 1


async def test_a_next_link_has_its_size_in_it() -> None:
    async def fetch(at: Position | None, size: int) -> HttpAnswer:
        raise TransientError("slow", reason=Reason.TIMED_OUT)

    async with aclosing(Ahead(fetch, LinkHeader(), 50, 4)) as ahead:
        with pytest.raises(TransientError):
            await ahead.answer({"url": "https://api.example/items?page=2&per_page=50"})
    assert ahead.size == 50


async def test_left_early_nothing_stays_under_way() -> None:
    listing = Listing(1_000)
    pager = PageNumber()
    async with aclosing(Ahead(lambda at, size: listing.fetch(pager, at, size), pager, 10, 4)) as ahead:
        at, answer = await ahead.answer(None)
        ahead.saw(10)
        listing.gate.clear()
        waiting = asyncio.create_task(ahead.answer(pager.after(at, answer, {}, 10)))
        while len(listing.asked) < 3:  # noqa: ASYNC110 the listing has no event for it
            await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_resumed_listing_keeps_its_page_size() -> None:
    """Page 3 of fifty is another place than page 3 of twenty."""

    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        size, number = int(query["per_page"]), int(query["page"])
        return as_json({"items": [{"id": str(n)} for n in range((number - 1) * size, min(number * size, 120))]})

    connector, remote = shop(respond)
    reading = connector.read(entity(PageNumber(), page_size=50), request())
    first = await anext(_pages(reading))
    await reading.aclose()  # type: ignore[attr-defined]
    rest = await pages(connector, entity(PageNumber(), page_size=20), request(resume=first.position))
    assert keys(rest) == [str(n) for n in range(50, 120)]
    assert {asked[2]["query"]["per_page"] for asked in remote.asked} == {"50"}


def _pages(reading: Any) -> AsyncIterator[Page]:
    return reading  # type: ignore[no-any-return]


async def test_a_listing_that_moves_while_it_is_read_is_asked_page_by_page() -> None:
    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return as_json({"items": [{"id": "1"}] * 2 if query.get("page") == "1" else []})

    connector, remote = shop(respond, Shop)
    await pages(connector, entity(PageNumber(), page_size=2, newest_first=True))
    assert [a[2]["query"]["page"] for a in remote.asked] == ["1", "2"]


async def test_a_token_has_no_place_ahead() -> None:
    assert NextToken("next").ahead({"token": "x"}, 50) is None
