"""A load generator: one request over and over on kept-alive connections, one at a time on each. A process of its own.

`python -m benchmarks.asking HOST:PORT SECONDS CONNECTIONS` with the request on stdin; prints JSON. It parses no more of an answer
than it must, so that one process asks more than a server of one process answers; a status other than 200 ends it.
"""

import asyncio
import json
import sys
import time
from typing import cast

_LENGTH = b"content-length: "


class Asker(asyncio.Protocol):
    """`took` is shared: seconds of each answer. It stops itself at `end`."""

    def __init__(self, request: bytes, end: float, took: list[float]) -> None:
        self._request = request
        self._end = end
        self._took = took
        self._head = b""
        self._left = 0
        self._asked_at = 0.0
        self._transport: asyncio.WriteTransport | None = None
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("closed before its end"))

    def _ask(self) -> None:
        assert self._transport is not None
        self._asked_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._left:
            self._left -= len(data)
        elif not self._begun(data):
            return
        if self._left:
            return
        now = time.perf_counter()
        self._took.append(now - self._asked_at)
        if now < self._end:
            self._ask()
        else:
            self.done.set_result(None)

    def _begun(self, data: bytes) -> bool:
        """Whether the head is there; `_left` says how much of the body is not."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not self._head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(self._head[:500].decode(errors="replace"))
        at = self._head.find(_LENGTH) + len(_LENGTH)
        self._left = int(self._head[at : self._head.find(b"\r", at)]) - (len(self._head) - end - 4)
        self._head = b""
        return True


async def ask(address: str, request: bytes, seconds: float, connections: int) -> dict[str, float]:
    host, _, port = address.rpartition(":")
    loop, took = asyncio.get_running_loop(), list[float]()
    started = time.perf_counter()
    askers = [
        (await loop.create_connection(lambda: Asker(request, started + seconds, took), host, int(port)))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(asker.done for asker in askers))
    wall = time.perf_counter() - started
    took.sort()
    return {
        "requests": len(took),
        "wall": wall,
        "p50": took[len(took) // 2],
        "p99": took[len(took) * 99 // 100],
        "own_cpu": time.process_time(),
    }


if __name__ == "__main__":
    place, duration, count = sys.argv[1:]
    print(json.dumps(asyncio.run(ask(place, sys.stdin.buffer.read(), float(duration), int(count)))))
