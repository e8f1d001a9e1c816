"""The server: binding, clients that dawdle, heads without end, its end within bounds."""

import asyncio
import signal
import socket
from datetime import timedelta

import httpx
import pytest

from reconciler.serve.errors import ListenError
from reconciler.serve.server import Patience, Server, _bind, is_loopback
from tests.integration.serve.installation import Installation

HASTY = Patience(head=timedelta(seconds=2), idle=timedelta(minutes=5), stop=timedelta(seconds=1))


def place(server: Server) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host, int(port)


async def test_a_port_in_use_is_told(installation: Installation) -> None:
    first = installation.server()
    await first.start()
    try:
        second = Server(first.address, first._app)
        with pytest.raises(ListenError, match=rf"cannot listen on {first.address}: .*RECONCILER_LISTEN"):
            await second.start()
        await second.stop()
    finally:
        await first.stop()


async def test_a_host_that_does_not_exist_is_told(installation: Installation) -> None:
    with pytest.raises(ListenError, match=r"cannot listen on no-such-host\.invalid:0"):
        await Server("no-such-host.invalid:0", installation.server()._app).start()


async def test_signals_stay_the_daemons(installation: Installation) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = installation.server()
    await server.start()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    await server.stop()
    await server.stop()


async def test_dawdling_clients_block_nobody_and_are_cut_off(installation: Installation) -> None:
    server = installation.server(HASTY)
    await server.start()
    try:
        silent = [await asyncio.open_connection(*place(server)) for _ in range(20)]
        halting = [await asyncio.open_connection(*place(server)) for _ in range(20)]
        for _, writer in halting:
            writer.write(b"GET /v1/integrations HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False, timeout=60) as client:
            assert (await client.get("/v1/integrations", headers=installation.bearer)).status_code == 200
        for reader, writer in silent + halting:
            async with asyncio.timeout(60):
                assert await _rest(reader) == b""
            writer.close()
    finally:
        await server.stop()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def test_a_second_request_has_a_deadline_too(installation: Installation) -> None:
    server = installation.server(HASTY)
    await server.start()
    try:
        reader, writer = await asyncio.open_connection(*place(server))
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        writer.write(b"GET / HTTP/1.1\r\nx: ")
        async with asyncio.timeout(60):
            await _rest(reader)
        writer.close()
    finally:
        await server.stop()


async def test_a_body_that_does_not_come_is_cut_off(installation: Installation) -> None:
    server = installation.server(Patience(head=timedelta(seconds=200), body=timedelta(seconds=1)))
    await server.start()
    try:
        reader, writer = await asyncio.open_connection(*place(server))
        writer.write(b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nx")
        async with asyncio.timeout(60):
            await _rest(reader)
        writer.close()
    finally:
        await server.stop()


async def test_a_head_without_end_is_cut_off(installation: Installation) -> None:
    server = installation.server()
    await server.start()
    try:
        reader, writer = await asyncio.open_connection(*place(server))
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x-long: " + b"x" * 40_000)
        async with asyncio.timeout(60):
            assert (await _rest(reader)).startswith(b"HTTP/1.1 431")
        writer.close()
    finally:
        await server.stop()


@pytest.mark.parametrize(
    "request_",
    [b"NOT HTTP\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"],
)
async def test_what_is_no_request_is_refused(installation: Installation, request_: bytes) -> None:
    server = installation.server()
    await server.start()
    try:
        reader, writer = await asyncio.open_connection(*place(server))
        writer.write(request_)
        async with asyncio.timeout(60):
            assert b"HTTP/1.1 4" in await reader.read(200)
        writer.close()
    finally:
        await server.stop()


def test_answers_leave_at_once() -> None:
    """asyncio sets TCP_NODELAY only where the socket names its protocol; else each kept-alive answer took 40 ms."""
    with _bind("127.0.0.1:0") as listening:
        assert listening.proto == socket.IPPROTO_TCP


async def test_stop_is_bounded_while_an_answer_hangs(installation: Installation) -> None:
    arrived = asyncio.Event()

    async def never() -> None:
        arrived.set()
        await asyncio.Event().wait()

    installation.board.current = never  # type: ignore[method-assign,assignment]
    server = installation.server(HASTY)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False, timeout=60) as client:
        hanging = asyncio.create_task(client.get("/v1/integrations", headers=installation.bearer))
        await arrived.wait()
        async with asyncio.timeout(60):
            await server.stop()
        answer = await hanging
    assert (answer.status_code, answer.json()["code"]) == (503, "stopping")


def test_loopback_addresses() -> None:
    assert [is_loopback(a) for a in ("127.0.0.1:1", "localhost:1", "[::1]:1")] == [True] * 3
    assert [is_loopback(a) for a in ("0.0.0.0:1", "10.0.0.1:1", "[::]:1", "host.example:1")] == [False] * 4
