"""A remote that costs its reader as little as possible: JSON pages of about 1 kB a record, over HTTP on loopback.

Run as a process of its own, so that neither its CPU nor its memory is counted: `python benchmarks/remote.py COUNT PAGE_SIZE
DELAY` prints its port. After that delay, in seconds, each answer comes, whatever else is asked meanwhile. The first pages are
made beforehand, more than `READY` as they are asked for. The page after the last is empty, and so is what changed lately.
"""

import asyncio
import sys
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import parse_qs, urlsplit

READY = 128
_NEWEST = "2025-12"
"""Who asks for changes since then, or later, gets none; no record is newer than its overlap."""
_RECORD = (
    b'{"id":"rec-%07d","number":"INC%07d","state":"%b","priority":%d,"updated_at":"2026-01-%02dT%02d:%02d:%02dZ",'
    b'"assigned_to":{"name":"Person %d","group":"team-%d"},"description":"' + b"x" * 780 + b'"}'
)


def page(number: int, count: int, size: int) -> bytes:
    first = (number - 1) * size
    records = [_record(index) for index in range(first, min(first + size, count))]
    return b'{"records":[%b]}' % b",".join(records)


def _record(index: int) -> bytes:
    state = b"open" if index % 3 else b"closed"
    at = (1 + index // 86_400, index // 3_600 % 24, index // 60 % 60, index % 60)
    return _RECORD % (index, index, state, index % 5, *at, index % 100, index % 17)


def prepared(count: int, size: int) -> Callable[[int], bytes]:
    """The answer to a request for page N; those after the last one are empty."""
    last = -(-count // size)

    @lru_cache(maxsize=READY)
    def answer(number: int) -> bytes:
        body = page(min(number, last + 1), count, size)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return head % len(body) + body

    for number in range(1, min(last, READY) + 1):
        answer(number)
    return answer


async def serve(count: int, size: int, delay: float) -> None:
    answers, none = prepared(count, size), prepared(0, size)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            if delay:
                await asyncio.sleep(delay)
            asked = parse_qs(urlsplit(head.split()[1].decode()).query)
            is_lately = asked.get("since", [""])[0] >= _NEWEST
            writer.write(none(1) if is_lately else answers(int(asked["page"][0])))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
