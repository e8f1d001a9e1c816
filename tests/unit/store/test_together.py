"""Calls that share a transaction: none waits alone, none is lost, each gets its own answer."""

import asyncio
from collections.abc import Sequence

import pytest

from reconciler.store.together import Together


class Slow:
    """Doubles numbers, one batch at a time, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.go.acquire()
        if self.error:
            raise self.error
        return [2 * item for item in items]


async def begun(slow: Slow, batches: int) -> None:
    async with asyncio.timeout(10):
        while len(slow.batches) < batches:  # noqa: ASYNC110 a turn of the loop, not a time
            await asyncio.sleep(0)


async def test_what_comes_meanwhile_shares_the_next() -> None:
    slow = Slow()
    together = Together(slow, 3)
    first = asyncio.create_task(together(1))
    await begun(slow, 1)
    rest = [asyncio.create_task(together(number)) for number in (2, 3, 4, 5)]
    for _ in range(3):
        slow.go.release()
    assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10]
    assert slow.batches == [[1], [2, 3, 4], [5]]


async def test_an_error_is_everybodys_of_that_time_only() -> None:
    slow = Slow()
    together = Together(slow, 8)
    slow.error = OSError("full")
    tasks = [asyncio.create_task(together(number)) for number in (1, 2)]
    slow.go.release()
    for task in tasks:
        with pytest.raises(OSError, match="full"):
            await task
    slow.error = None
    slow.go.release()
    assert await together(3) == 6


async def test_who_leaves_before_its_time_is_not_served() -> None:
    slow = Slow()
    together = Together(slow, 8)
    first, second = asyncio.create_task(together(1)), None
    await begun(slow, 1)
    second = asyncio.create_task(together(2))
    third = asyncio.create_task(together(3))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    for _ in range(2):
        slow.go.release()
    assert await third == 6
    assert slow.batches == [[1], [3]]
