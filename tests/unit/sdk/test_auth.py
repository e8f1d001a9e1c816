"""Authenticators: headers, renewal, and what a token endpoint may answer."""

import asyncio
import base64
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from reconciler.model.secret import Secret
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.auth import Grant, Granted, basic, bearer, oauth_token
from reconciler.sdk.contract import Room
from reconciler.sdk.errors import UnauthorizedError
from tests.unit.sdk.virtual_clock import START, VirtualClock


class Vault:
    """Tokens in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[Secret, datetime | None]] = {}
        self.reads = 0

    async def get(self, name: str) -> tuple[Secret, datetime | None] | None:
        self.reads += 1
        return self.kept.get(name)

    async def put(self, name: str, value: Secret, expires_at: datetime | None) -> None:
        self.kept[name] = (value, expires_at)

    def hold(self, name: str) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def drop(self, name: str) -> None:
        self.kept.pop(name, None)


class Endpoint:
    """An `Http` that answers every request with one body."""

    def __init__(self, body: Any, status: int = 200) -> None:
        self.answer = HttpAnswer(status, {}, msgspec.json.encode(body), "https://login.example/token")
        self.asked: list[dict[str, Any]] = []

    async def send(self, method: str, url: str, **more: Any) -> HttpAnswer:
        self.asked.append({"method": method, "url": url, **more})
        return self.answer


class Desk:
    """The part of a room that authenticators use."""

    def __init__(self, body: Any = None, status: int = 200) -> None:
        self.clock = VirtualClock()
        self.tokens = Vault()
        self.http = Endpoint(body, status)

    @property
    def room(self) -> Room:
        return cast("Room", self)


class Source:
    """Counts fetches; every grant is another token."""

    def __init__(self, clock: VirtualClock, life: float | None = 3600) -> None:
        self.clock, self.life, self.fetched = clock, life, 0

    async def __call__(self, room: Room) -> Grant:
        self.fetched += 1
        number = self.fetched
        await asyncio.sleep(0)
        expires_at = None if self.life is None else self.clock.now() + timedelta(seconds=self.life)
        return Grant(Secret(f"token-{number}"), expires_at)


async def test_constant_headers() -> None:
    desk = Desk()
    assert await bearer(Secret("t")).headers(desk.room) == {"Authorization": "Bearer t"}
    signed = await basic("jürgen", Secret("pä:ss")).headers(desk.room)
    assert base64.b64decode(signed["Authorization"].removeprefix("Basic ")).decode() == "jürgen:pä:ss"
    assert "pä:ss" not in repr(basic("jürgen", Secret("pä:ss")))
    assert not bearer(Secret("t")).renews


async def test_a_token_is_fetched_once_kept_and_renewed_before_it_dies() -> None:
    desk = Desk()
    source = Source(desk.clock)
    signer = Granted("main", source)
    assert await signer.headers(desk.room) == {"Authorization": "Bearer token-1"}
    desk.clock.advance(3539)
    assert (await signer.headers(desk.room))["Authorization"] == "Bearer token-1"
    desk.clock.advance(2)
    assert (await signer.headers(desk.room))["Authorization"] == "Bearer token-2"


async def test_a_token_without_an_end_is_kept_until_it_is_refused() -> None:
    desk = Desk()
    signer = Granted("main", Source(desk.clock, life=None), scheme="Zoho")
    await signer.headers(desk.room)
    desk.clock.advance(10**7)
    assert await signer.headers(desk.room) == {"Authorization": "Zoho token-1"}
    assert await signer.headers(desk.room, renew=True) == {"Authorization": "Zoho token-2"}


async def test_a_request_with_a_kept_token_reads_it_once() -> None:
    desk = Desk()
    signer = Granted("main", Source(desk.clock))
    await signer.headers(desk.room)
    before = desk.tokens.reads
    await signer.headers(desk.room)
    assert desk.tokens.reads == before + 1


async def test_concurrent_requests_share_one_fetch() -> None:
    desk = Desk()
    source = Source(desk.clock)
    signer = Granted("main", source)
    first = await asyncio.gather(*(signer.headers(desk.room) for _ in range(10)))
    renewed = await asyncio.gather(*(signer.headers(desk.room, renew=True) for _ in range(10)))
    assert source.fetched == 2
    assert {h["Authorization"] for h in first} == {"Bearer token-1"}
    assert {h["Authorization"] for h in renewed} == {"Bearer token-2"}


@pytest.mark.parametrize(
    ("life", "expires_at"),
    [
        (3600, START + timedelta(hours=1)),
        ("3600", START + timedelta(hours=1)),
        (None, None),
        ("soon", None),
        ([], None),
        (1e300, None),
    ],
)
async def test_the_life_of_a_token(life: Any, expires_at: datetime | None) -> None:
    desk = Desk({"access_token": "abc", "expires_in": life, "scope": "read"})
    grant, body = await oauth_token(desk.room, "https://login.example/token", {"grant_type": "client_credentials"})
    assert (grant.token.reveal(), grant.expires_at) == ("abc", expires_at)
    assert body["scope"] == "read"
    assert desk.http.asked[0]["form"] == {"grant_type": "client_credentials"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"error": "invalid_client", "error_description": "unknown"}, 401, "refused: invalid_client unknown"),
        ({"error": "invalid_grant"}, 400, "refused: invalid_grant"),
        ({"access_token": ""}, 200, "refused: 200"),
        ([], 200, "refused: 200"),
    ],
)
async def test_a_refusal_says_why_and_not_what_was_sent(body: Any, status: int, said: str) -> None:
    desk = Desk(body, status)
    with pytest.raises(UnauthorizedError, match=said) as caught:
        await oauth_token(desk.room, "https://login.example/token", {"client_secret": "canary-7f3a9c51"})
    assert "canary" not in str(caught.value)
    assert caught.value.status == status
