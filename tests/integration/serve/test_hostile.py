"""Requests that nobody sends by mistake, over raw sockets: each has one answer at most, and none is a server's error.

What follows a request that two readers could end at different places is never answered (request smuggling).
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from reconciler.serve.server import Patience, Server
from tests.integration.serve.installation import Installation, Wish, want

HASTY = Patience(head=timedelta(seconds=2), body=timedelta(seconds=2), idle=timedelta(seconds=1))
GET = b"GET /v1/integrations HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer @\r\n"
POST = GET.replace(b"GET /v1/integrations", b"POST /v1/integrations/sn/sync") + b"content-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
NEXT = GET + b"\r\n"
LOCAL = b" HTTP/1.1\r\nhost: localhost\r\n\r\n"
CASES: dict[str, tuple[bytes, int | None]] = {
    # Two ends of one request.
    "two lengths": (POST + b"content-length: 2\r\ncontent-length: 40\r\n\r\n{}" + NEXT, 400),
    "the same length twice": (POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}" + NEXT, 400),
    "a list of lengths": (POST + b"content-length: 2, 2\r\n\r\n{}" + NEXT, 400),
    "length and chunks": (POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    "chunks and length": (POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n" + NEXT, 400),
    "chunked is not last": (POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + NEXT, 400),
    "no coding of ours": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    "a space before the colon": (POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    "a tab of its own kind": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + NEXT, 400),
    # Lengths.
    "negative": (POST + b"content-length: -1\r\n\r\n{}", 400),
    "signed": (POST + b"content-length: +2\r\n\r\n{}", 400),
    "beyond 64 bits": (POST + b"content-length: 99999999999999999999999\r\n\r\n{}", 400),
    "too large as stated": (POST + b"content-length: 99999999\r\n\r\n{}", 413),
    # Chunks.
    "no size": (CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n", 400),
    "size beyond 64 bits": (CHUNKED + b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n", 400),
    "more than its size": (CHUNKED + b"2\r\n{}XX\r\n0\r\n\r\n", 400),
    "an endless extension": (CHUNKED + b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n", 409),
    "many trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", 409),
    "too large by and by": (CHUNKED + (b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 21 + b"0\r\n\r\n", 413),
    "byte by byte": (CHUNKED + b"1\r\n \r\n" * 100_000 + b"0\r\n\r\n", 422),
    # Heads.
    "folded": (GET + b"x-a: b\r\n c\r\n\r\n", 400),
    "NUL": (GET + b"x-a: b\0c\r\n\r\n", 400),
    "CR alone": (GET + b"x-a: b\rc: d\r\n\r\n", 400),
    "LF alone": (GET.replace(b"\r\n", b"\n") + b"\n", 400),
    "a name with a space": (GET + b"x a: b\r\n\r\n", 400),
    "two hosts": (GET + b"host: evil.example\r\n\r\n", 400),
    "two hosts, ours last": (GET.replace(b"host:", b"host: evil.example\r\nhost:") + b"\r\n", 400),
    "many": (GET + b"".join(b"x%d: y\r\n" % n for n in range(2500)) + b"\r\n", 200),
    "too many": (GET + b"".join(b"x%d: y\r\n" % n for n in range(25_000)) + b"\r\n", 431),
    "no text": (GET.replace(b"@", b"\xff\xfe") + b"\r\n", 401),
    # First lines.
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 200),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "another server's": (b"GET http://evil.example/healthz" + LOCAL, 200),
    "a tunnel": (b"CONNECT localhost:443" + LOCAL, 400),
    "everything": (b"OPTIONS *" + LOCAL, 404),
    "a long address": (b"GET /" + b"a" * 31_000 + LOCAL, 404),
    "too long": (b"GET /" + b"a" * 100_000 + LOCAL, 400),
    "no method": (b"A" * 5000 + b" /" + LOCAL, 400),
    "a tea pot": (b"BREW /" + LOCAL, 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 200, 400),
    "nothing": (b"\r\n\r\n\r\n", None),
    # Addresses.
    "NUL in the path": (b"GET /v1/integrations/a%00b" + LOCAL, 401),
    "half a percent": (b"GET /v1/integrations/%zz%" + LOCAL, 401),
    "half a pair": (b"GET /v1/integrations/%ED%A0%80%ff" + LOCAL, 401),
    "upwards": (b"GET /v1/../metrics" + LOCAL, 404),
    "upwards, hidden": (b"GET /v1/integrations/..%2f..%2fetc" + LOCAL, 404),
    # Something else.
    "web sockets": (GET + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n", 200),
    "a body that nobody wants": (GET + b"content-length: 2\r\n\r\n{}", 200),
}


@asynccontextmanager
async def served(installation: Installation) -> AsyncIterator[Server]:
    await installation.change(lambda tx: want(tx, Wish("sn", "servicenow")))
    server = installation.server(HASTY)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def said(server: Server, request: bytes) -> bytes:
    """All that comes until the server closes, which it must."""
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    got = b""
    writer.write(request)
    async with asyncio.timeout(60):
        try:
            while piece := await reader.read(65_536):
                got += piece
        except ConnectionResetError:
            pass
    writer.close()
    return got


def statuses(answers: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)]


@pytest.mark.parametrize("name", CASES)
async def test_one_answer_at_most(installation: Installation, name: str, caplog: pytest.LogCaptureFixture) -> None:
    request, status = CASES[name]
    async with served(installation) as server:
        with caplog.at_level(logging.ERROR):
            got = await said(server, request.replace(b"@", installation.token.encode()))
        assert statuses(got) == ([] if status is None else [status]), got[:500]
        assert not caplog.records
        assert statuses(await said(server, b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n")) == [200]


async def test_a_hundred_at_once_are_answered_in_order(installation: Installation) -> None:
    async with served(installation) as server:
        every = b"".join(b"GET /%s" % (b"healthz" if n % 2 else b"nothing") + LOCAL for n in range(100))
        assert statuses(await said(server, every)) == [404, 200] * 50


FORMS: dict[str, tuple[bytes, str, int]] = {
    "not JSON": (b"{}", "text/plain", 415),
    "no type": (b"{}", "", 415),
    "a form": (b"a=b", "application/x-www-form-urlencoded", 415),
    "JSON of a kind": (b"{}", "application/merge-patch+json; charset=utf-8", 409),
    "NaN": (b'{"since": NaN}', "application/json", 422),
    "infinite": (b'{"since": 1e999}', "application/json", 422),
    "many digits": (b'{"since": ' + b"9" * 5000 + b"}", "application/json", 400),
    "half a pair": (b'{"entities": ["\\ud800"]}', "application/json", 422),
    "NUL": (b'{"entities": ["a\\u0000b"]}', "application/json", 422),
    "NUL, after a backslash": (b'{"entities": ["a\\\\\\u0000b"]}', "application/json", 422),
    "no NUL": (b'{"entities": ["a\\\\u0000b"]}', "application/json", 409),
    "UTF-16": ("{}".encode("utf-16"), "application/json", 422),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "application/json", 400),
    "deep, within": (b'{"since": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", 422),
    "a number": (b"1", "application/json", 422),
}


@pytest.mark.parametrize("name", FORMS)
async def test_odd_bodies(installation: Installation, name: str) -> None:
    body, kind, status = FORMS[name]
    await installation.change(lambda tx: want(tx, Wish("sn", "servicenow")))
    async with installation.client() as client:
        headers = {"content-type": kind} if kind else {}
        answer = await client.post("/v1/integrations/sn/sync", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail", "request_id"} <= set(answer.json())


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/integrations/sn?x=1", "unknown-parameter"),
        ("/v1/integrations?q=a&q=b", "invalid-parameter"),
        ("/v1/integrations?status=", "invalid-parameter"),
        ("/v1/integrations/sn?%00=1", "unknown-parameter"),
        ("/v1/plan?source=a", "unknown-parameter"),
    ],
)
async def test_odd_parameters(installation: Installation, path: str, code: str) -> None:
    async with installation.client() as client:
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (400, code)
        twice = await client.post("/v1/integrations?wait=1&wait=2", json={"metadata": {"name": "a"}, "spec": {}})
        assert (twice.status_code, twice.json()["code"]) == (400, "invalid-parameter")
        nul = await client.post("/v1/integrations?source=%00", json={"metadata": {"name": "a"}, "spec": {}})
        assert (nul.status_code, nul.json()["code"]) == (400, "invalid-parameter")
        assert (await client.get("/v1/integrations/a%00b")).status_code == 404
