"""Both clients against servers that drop, stall, refuse and lie; and what of the token comes out. None of it may."""

import asyncio
import logging
import ssl
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
import trustme

from reconciler.client import (
    AnswerError,
    ApiError,
    Client,
    Patience,
    RateLimitedError,
    SettingError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from reconciler.client.terms import named_by
from reconciler.model.secret import Secret
from tests.integration.client.scripted import EITHER, HURRIED, TOKEN, Either, answer, listening, problem, scripted

PAGE = {"data": [], "has_more": False, "next_cursor": None}
QUEUED = {"sync_job_id": "run_1", "status": "queued", "queued_at": "2026-01-01T00:00:00Z", "estimated_records": None}
TRUNCATED = answer(200, PAGE)[:-5]


@EITHER
@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-len",
        TRUNCATED,
        problem(503, "stopping"),
        problem(429, "rate-limited", retry_after="0"),
    ],
    ids=["dropped", "cut head", "truncated", "503", "429"],
)
async def test_a_safe_call_is_sent_again(either: Either, bad: bytes) -> None:
    async with scripted(bad, bad, answer(200, PAGE)) as server, either.client(server.url) as client:
        assert (await either.call(client.integrations.list)).data == []
        assert len(server.asked) == 3
        assert {one.headers["authorization"] for one in server.asked} == {f"Bearer {TOKEN}"}


@EITHER
@pytest.mark.parametrize(
    "bad",
    [b"", answer(202, QUEUED)[:-5], problem(503, "stopping"), problem(409, "in-progress", retry_after="0")],
    ids=["dropped", "truncated", "503", "in progress"],
)
async def test_a_change_is_sent_again_with_its_key(either: Either, bad: bytes) -> None:
    async with scripted(bad, answer(202, QUEUED)) as server, either.client(server.url) as client:
        assert (await either.call(lambda: client.integrations.sync("sn", {"scope": "full"}))).sync_job_id == "run_1"
        first, second = server.asked
        assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
        assert first.body == second.body == b'{"scope":"full"}'


@EITHER
async def test_what_may_not_be_repeated_is_not(either: Either) -> None:
    async with scripted(problem(503, "stopping"), b"") as server, either.client(server.url) as client:
        with pytest.raises(UnavailableError):
            await either.call(lambda: client.plan.of({"revision": "main"}))
        with pytest.raises(UnreachableError):
            await either.call(lambda: client.plan.of({"revision": "main"}))
        assert len(server.asked) == 2


@EITHER
@pytest.mark.parametrize(
    "bad", [problem(429, "rate-limited"), problem(500, "internal-error"), problem(409, "git-exists"), answer(302)]
)
async def test_other_refusals_are_final(either: Either, bad: bytes) -> None:
    async with scripted(bad) as server, either.client(server.url) as client:
        with pytest.raises(ApiError):
            await either.call(client.integrations.list)
        assert len(server.asked) == 1


@EITHER
async def test_it_gives_up(either: Either) -> None:
    async with scripted(*[problem(503, "stopping")] * 9) as server, either.client(server.url) as client:
        with pytest.raises(UnavailableError):
            await either.call(client.integrations.list)
        assert len(server.asked) == 1 + HURRIED.retries
    async with (
        scripted(problem(429, "rate-limited", retry_after="3600")) as server,
        either.client(server.url) as client,
    ):
        with pytest.raises(RateLimitedError) as limited:
            await either.call(client.integrations.list)
        assert limited.value.retry_after == 3600
        assert len(server.asked) == 1


@EITHER
async def test_a_server_that_says_nothing(either: Either) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(mute) as port:
        url = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        async with either.client(url, patience=Patience(timeout=0.3)) as client:
            with pytest.raises(UnreachableError, match="no answer in time"):
                await either.call(client.integrations.list)
        assert time.monotonic() - began < 5


@EITHER
async def test_answers_of_something_else(either: Either) -> None:
    page = answer(200, b"<html>sign in</html>", "text/html")
    bad = answer(502, b"<html>bad gateway</html>", "text/html")
    named = {"id": "int_1", "type": "jira", "name": "a", "workspace": "b", "status": "connected", "auth_type": None}
    times = {
        "sync_direction": "inbound",
        "last_sync_at": None,
        "sync_status": None,
        "created_at": "2026-01-01T00:00:00Z",
    }
    health = {"status": "healthy", "latency_ms": None, "error_count": 0, "of_a_later_release": 1}
    newer = answer(200, PAGE | {"total": 5, "data": [{**named, **times, "health": health, "of_a_later_release": {}}]})
    async with scripted(page, bad, newer, answer(204)) as server, either.client(server.url) as client:
        with pytest.raises(AnswerError):
            await either.call(client.integrations.list)
        with pytest.raises(ApiError) as error:
            await either.call(client.integrations.list)
        assert (error.value.status, error.value.code) == (502, "not-a-problem")
        assert [one.name for one in (await either.call(client.integrations.list)).data] == ["a"]
        with pytest.raises(AnswerError, match="204"):
            await either.call(client.integrations.list)


@EITHER
async def test_the_token_stays_inside(either: Either, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = []
    async with scripted(problem(401, "invalid-token"), b"") as server:
        for token in (TOKEN, Secret(TOKEN), lambda: TOKEN):
            server.answers[:] = [problem(401, "invalid-token"), *[b""] * 9]
            async with either.client(server.url, token) as client:
                said += [repr(client), repr(client._wire.terms), str(client._wire.terms)]
                for expected in (UnauthorizedError, UnreachableError):
                    with pytest.raises(expected) as caught:
                        await either.call(client.integrations.list)
                    said += [repr(caught.value), *traceback.format_exception(caught.value)]
        assert all(TOKEN in one.headers["authorization"] for one in server.asked)
    for bad in (f"{TOKEN}\n", f"{TOKEN} x", f"{TOKEN}\u00e4"):
        with pytest.raises(SettingError) as refused:
            either.kind("http://localhost", bad)
        said += traceback.format_exception(refused.value)
    with pytest.raises(SettingError) as refused:
        either.kind(f"https://ada:{TOKEN}@reconciler.example", "x")
    said += traceback.format_exception(refused.value)
    assert TOKEN not in "".join(said) + caplog.text


@EITHER
async def test_certificates(either: Either, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = authority.issue_cert("ada@example.org")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
    seen: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        seen.append(writer.get_extra_info("peercert"))
        writer.write(answer(200, PAGE))
        await writer.drain()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    async with listening(serve, context) as port:
        url = f"https://127.0.0.1:{port}"
        async with either.client(url) as client:
            with pytest.raises(SettingError, match="RECONCILER_CA_FILE"):
                await either.call(client.integrations.list)
        pem = tmp_path / "own.pem"
        async with either.client(url, ca_file=tmp_path / "ca.pem", certificate=(pem, pem)) as client:
            await either.call(client.integrations.list)
    assert seen[-1]
    with pytest.raises(SettingError, match=r"none\.pem"):
        either.kind(url, TOKEN, ca_file=tmp_path / "none.pem")


async def test_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    env = {"RECONCILER_URL": "http://localhost:1/below/", "RECONCILER_TOKEN_FILE": str(file)}
    with Client.from_environment(env) as client:
        assert client.url == "http://localhost:1/below"
        assert client._wire.terms.headers()["authorization"] == "Bearer first"
        file.write_text("second\n")
        assert client._wire.terms.headers()["authorization"] == "Bearer second"
    for bad in (
        {},
        {"RECONCILER_URL": "http://x"},
        env | {"RECONCILER_TOKEN": TOKEN},
        env | {"RECONCILER_TOKEN_FILE": "/no"},
    ):
        with pytest.raises(SettingError):
            named_by(bad)
    for url in ("localhost:8080", "ftp://x", "http://", "http://x?y=1", "http://[::1", "http://x:99999"):
        with pytest.raises(SettingError):
            Client(url, TOKEN)
