"""A remote that costs its reader as little as possible: prepared JSON pages of about 1 kB a record, over HTTP on loopback.

Run as a process of its own, so that its CPU is not counted: `python benchmarks/remote.py COUNT PAGE_SIZE DELAY` prints its
port. After that delay, in seconds, each answer comes, whatever else is asked meanwhile.
"""

import asyncio
import json
import sys
from urllib.parse import parse_qs, urlsplit

_PAD = "x" * 780


def page(number: int, count: int, size: int) -> bytes:
    first = (number - 1) * size
    records = [_record(index) for index in range(first, min(first + size, count))]
    return json.dumps({"records": records}, separators=(",", ":")).encode()


def _record(index: int) -> dict[str, object]:
    return {
        "id": f"rec-{index:07d}",
        "number": f"INC{index:07d}",
        "state": "open" if index % 3 else "closed",
        "priority": index % 5,
        "updated_at": "2026-01-01T00:00:00Z",
        "assigned_to": {"name": f"Person {index % 100}", "group": f"team-{index % 17}"},
        "description": _PAD,
    }


async def serve(count: int, size: int, delay: float) -> None:
    pages = [page(number, count, size) for number in range(1, -(-count // size) + 2)]
    answers = [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(p) + p for p in pages
    ]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            if delay:
                await asyncio.sleep(delay)
            asked = parse_qs(urlsplit(head.split()[1].decode()).query)
            writer.write(answers[min(int(asked["page"][0]), len(answers)) - 1])
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
