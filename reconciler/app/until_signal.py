"""A daemon from its start to a signal, for `reconciler run`: SIGTERM and SIGINT end it in order, a second one at once."""

import asyncio
import os
import signal

from reconciler.app.daemon import Daemon


async def run_until_signal(daemon: Daemon) -> bool:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once. False where it had to end by itself."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(130) if stop.is_set() else stop.set())
    starting = asyncio.create_task(daemon.start())
    if not await _before(starting, stop):
        return True
    starting.result()
    try:
        return await daemon.until(stop)
    finally:
        await daemon.stop()


async def _before(starting: "asyncio.Task[None]", stop: asyncio.Event) -> bool:
    """Whether the start came to its end first: one that waits for its database can be told to go."""
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    return True
