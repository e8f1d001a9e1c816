"""Calls that many tasks make at once, in one transaction: what comes while one is under way shares the next.

In: one item of each caller. Out: what the query gives for it. A caller alone waits no longer than by itself; under load the
transaction, its thread and its round trips are shared. Called by the job rows, where every job makes two of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
B = TypeVar("B")


class Together(Generic[A, B]):
    """`run` gets the items, at most `most`, and gives one result for each, in their order; an error is everybody's."""

    def __init__(self, run: Callable[[Sequence[A]], Awaitable[Sequence[B]]], most: int) -> None:
        self._run = run
        self._most = most
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._going: asyncio.Task[None] | None = None

    async def __call__(self, item: A) -> B:
        """Once its transaction has begun it goes to its end, also when the caller is cancelled; before, nothing is done."""
        mine: asyncio.Future[B] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, mine))
        if self._going is None:
            self._going = asyncio.create_task(self._go(), name="store-together")
        return await mine

    async def _go(self) -> None:
        try:
            while self._waiting:
                now, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._serve([(item, future) for item, future in now if not future.done()])
        finally:
            self._going = None

    async def _serve(self, those: Sequence[tuple[A, "asyncio.Future[B]"]]) -> None:
        if not those:
            return
        try:
            given = await self._run([item for item, _ in those])
        except Exception as error:  # noqa: BLE001 each caller decides
            for _, future in those:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), one in zip(those, given, strict=True):
            if not future.done():
                future.set_result(one)
