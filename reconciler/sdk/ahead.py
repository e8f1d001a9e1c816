"""The answers of one listing, page by page: several asked for at once where it can be told where the next ones are.

In: positions in order, from `RestConnector`. Out: the answer at each. Pages are asked for ahead only while they come in full,
so a short listing costs no request more. Where a remote cannot cope with a page of that size, smaller ones are asked for. Not
here: what an answer holds, and repeats of a request that failed (the HTTP client has made them before).
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from reconciler.model.condition import Reason
from reconciler.model.record import Position
from reconciler.sdk.contract import Answer
from reconciler.sdk.errors import TransientError
from reconciler.sdk.paging import Computable, Pager

TOO_MUCH = frozenset({413, 500, 504})
MOST_HALVINGS = 3  # in a row: a remote that is down copes with no page at all

Fetch = Callable[[Position | None, int], Awaitable[Answer]]


class Ahead:
    """Close it, also when the listing is not read to its end."""

    def __init__(self, fetch: Fetch, pager: Pager, size: int, most: int) -> None:
        self._fetch = fetch
        self._pager = pager if isinstance(pager, Computable) else None
        self.size = size
        self._most = most
        self._width = 1
        self._refusals = 0
        self._under_way: deque[tuple[Position | None, asyncio.Task[Answer]]] = deque()

    async def answer(self, at: Position | None) -> tuple[Position | None, Answer]:
        """What the remote says there, and where: in smaller pages that is another place. Raises what `fetch` raises."""
        while True:
            if not self._under_way or self._under_way[0][0] != at:
                await self.aclose()
                self._ask(at)
            self._ask_ahead()
            try:
                answer = await self._under_way[0][1]
            except TransientError as error:
                at = self._smaller(at, error)
                await self.aclose()
            else:
                self._under_way.popleft()
                self._refusals = 0
                return at, answer

    def saw(self, count: int) -> None:
        """How many records the last answer held."""
        self._width = min(self._most, 2 * self._width) if count >= self.size else 1

    async def aclose(self) -> None:
        tasks = [task for _, task in self._under_way]
        self._under_way.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ask(self, at: Position | None) -> None:
        self._under_way.append((at, asyncio.create_task(self._start(at, self.size))))

    async def _start(self, at: Position | None, size: int) -> Answer:
        return await self._fetch(at, size)

    def _ask_ahead(self) -> None:
        while self._pager and len(self._under_way) < self._width:
            following = self._pager.ahead(self._under_way[-1][0], self.size)
            if following is None:
                return
            self._ask(following)

    def _smaller(self, at: Position | None, error: TransientError) -> Position | None:
        """Where to go on in pages of half the size; raises the error where that is no remedy."""
        is_too_much = error.status in TOO_MUCH or error.why is Reason.TIMED_OUT
        if not is_too_much or self.size == 1 or self._refusals == MOST_HALVINGS or (at and not self._pager):
            raise error
        smaller = self.size // 2
        place = self._pager.resized(at, self.size, smaller) if self._pager else None
        self.size, self._width, self._refusals = smaller, 1, self._refusals + 1
        return place
