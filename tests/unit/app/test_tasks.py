"""Loops that must not end: pauses grow while the same thing fails, and what works again is forgotten."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from reconciler.app.tasks import FIRST_PAUSE, LONGEST_PAUSE, Loops
from reconciler.model.clock import SystemClock

BETWEEN = 5.0


class Pauses(SystemClock):
    """Nobody waits; `asked` are the pauses, and the loop stands still for good after `most` of them."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.most = 0
        self.full = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)
        if len(self.asked) >= self.most:
            self.full.set()
            await asyncio.Event().wait()


@pytest.fixture
async def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
async def loops(pauses: Pauses) -> AsyncIterator[Loops]:
    made = Loops(pauses)
    yield made
    await made.stop()


def scripted(*answers: str) -> Iterator[str]:
    yield from answers
    while True:
        yield ""


async def run(loops: Loops, pauses: Pauses, *answers: str) -> list[float]:
    """The pauses of a loop whose calls fail with these texts, an empty one being a success."""
    script = scripted(*answers)
    pauses.most = len(answers)

    async def call() -> None:
        if text := next(script):
            raise RuntimeError(text)

    loops.every("one", BETWEEN, call)
    async with asyncio.timeout(60):
        await pauses.full.wait()
    return pauses.asked


async def test_pauses_grow_while_the_same_fails(loops: Loops, pauses: Pauses) -> None:
    asked = await run(loops, pauses, *["down"] * 9)
    assert asked == [min(FIRST_PAUSE * 2**n, LONGEST_PAUSE) for n in range(9)]
    assert loops.failing == {"one": "RuntimeError: down"}


async def test_a_failure_after_a_success_or_of_another_kind_begins_anew(loops: Loops, pauses: Pauses) -> None:
    asked = await run(loops, pauses, "down", "down", "down", "", "down", "down", "other", "")
    first = FIRST_PAUSE
    assert asked == [first, first * 2, first * 4, BETWEEN, first, first * 2, first, BETWEEN]
    assert loops.failing == {}


async def test_a_loop_of_its_own_says_when_it_works_again(loops: Loops, pauses: Pauses) -> None:
    pauses.most = 2
    script = scripted("down")

    async def own() -> None:
        if text := next(script):
            raise RuntimeError(text)
        loops.works("own")
        await pauses.sleep(0)

    loops.forever("own", own)
    async with asyncio.timeout(60):
        await pauses.full.wait()
    assert loops.failing == {}


async def test_two_loops_never_share_a_name(loops: Loops, pauses: Pauses) -> None:
    """One that works would take back what the other said."""
    pauses.most = 1
    loops.every("one", BETWEEN, pauses.full.wait)
    with pytest.raises(ValueError, match="there is a loop one already"):
        loops.every("one", BETWEEN, pauses.full.wait)
