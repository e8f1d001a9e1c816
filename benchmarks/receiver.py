"""A remote that takes messages over HTTP on loopback, as cheaply as it can: `python benchmarks/receiver.py` prints its port.

`POST /in` of `{"id", "text"}` is answered at once; `GET /seen` tells when each text came first (monotonic, the same for all
processes), how many came, and how many of them under an id that had come before.
"""

import asyncio
import json
import time

_TAKEN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n" + b'{"ok":true}'


class Receiver:
    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.ids: set[str] = set()
        self.count = 0

    def take(self, body: bytes) -> None:
        message = json.loads(body)
        self.count += 1
        self.ids.add(message["id"])
        self.first.setdefault(message["text"], time.monotonic())

    def seen(self) -> bytes:
        told = {"first": self.first, "count": self.count, "repeats": self.count - len(self.ids)}
        body = json.dumps(told).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    writer.write(self.seen())
                else:
                    self.take(await reader.readexactly(_length(head)))
                    writer.write(_TAKEN)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))


async def main() -> None:
    server = await asyncio.start_server(Receiver().serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
