"""The envelope around the application, without a server: clients that never take their answer."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from reconciler.serve.problem import Envelope

SCOPE = {"type": "http", "method": "GET", "path": "/metrics", "headers": [(b"host", b"localhost")]}
SHORT = timedelta(seconds=0.05)


async def receive() -> Message:
    return {"type": "http.disconnect"}


async def ask(envelope: Envelope, *, blocks_at: str = "", headers: Sequence[tuple[bytes, bytes]] = ()) -> list[Any]:
    """Messages that were sent; sending a message of type `blocks_at` never ends."""
    sent: list[Any] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == blocks_at:
            await asyncio.Event().wait()

    async with asyncio.timeout(60):
        await envelope({**SCOPE, "headers": [*headers, *SCOPE["headers"]]}, receive, send)
    return sent


async def test_a_client_that_never_takes_its_answer_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 1_000_000, "more_body": True})

    sent = await ask(Envelope(large, patience=SHORT), blocks_at="http.response.body")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert "request cut off" in capsys.readouterr().out


async def test_an_answer_that_does_not_come_is_503() -> None:
    async def hanging(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    start, body = await ask(Envelope(hanging, patience=SHORT))
    assert start["status"] == 503
    assert b'"timed-out"' in body["body"]


@pytest.mark.parametrize("length", [b"7000000", b"-1", b"\xb2", b"1e3", b"9" * 400])
async def test_lengths_that_are_none_or_too_large(length: bytes) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError

    start, _ = await ask(Envelope(never), headers=[(b"content-length", length)])
    assert start["status"] == 413
