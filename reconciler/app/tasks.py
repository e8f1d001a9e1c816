"""Loops of the daemon that must not end: each is run again after an error, with a growing pause, and says so once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from reconciler.model.clock import Clock
from reconciler.store.errors import StoreError

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0


class Loops:
    """Starts named loops and stops them all. `failing` is what health asks: the last error of each that does not work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._logger = structlog.get_logger("daemon")
        self.failing: dict[str, str] = {}

    def every(self, name: str, seconds: float, call: Callable[[], Awaitable[Any]]) -> None:
        """Call again and again with that pause between the end of one and the start of the next."""

        async def loop() -> None:
            while True:
                await call()
                self.works(name)
                await self._clock.sleep(seconds)

        self.forever(name, loop)

    def when(self, name: str, wake: asyncio.Event, seconds: float, call: Callable[[], Awaitable[Any]]) -> None:
        """Call when woken, and after `seconds` without that."""

        async def loop() -> None:
            while True:
                try:
                    async with asyncio.timeout(seconds):
                        await wake.wait()
                except TimeoutError:
                    pass
                wake.clear()
                await call()
                self.works(name)

        self.forever(name, loop)

    def forever(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """A loop of its own; it calls `works` whenever it got on. Its failures are told by its name: no other has it."""
        if any(task.get_name() == name for task in self._tasks):
            raise ValueError(f"there is a loop {name} already")
        self._tasks.append(asyncio.create_task(self._guarded(name, loop), name=name))

    async def _guarded(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 told, and the loop goes on
                text = f"{type(error).__name__}: {error}"
                is_known = self.failing.get(name) == text
                pause = min(pause * 2, LONGEST_PAUSE) if is_known else FIRST_PAUSE
                if not is_known:
                    self._tell(name, error, text)
                self.failing[name] = text
            await self._clock.sleep(pause)

    def _tell(self, name: str, error: Exception, text: str) -> None:
        """A store that fails, such as a full disk, is no fault of ours: its message is enough."""
        trace = {} if isinstance(error, StoreError) else {"exc_info": error}
        self._logger.error("a loop failed, goes on", loop=name, error=text, **trace)

    def works(self, name: str) -> None:
        """What had failed is over: said once, and a later failure is a new one."""
        if self.failing.pop(name, None) is not None:
            self._logger.info("a loop works again", loop=name)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
