"""Authenticators: how a request is signed. Each returns headers; short-lived tokens live in `room.tokens`.

Used by `RestConnector.send`, which asks again with `renew=True` when the remote refused a token that can be renewed.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from reconciler.model.secret import Secret
from reconciler.sdk.contract import Room
from reconciler.sdk.errors import UnauthorizedError

RENEW_BEFORE = timedelta(seconds=60)


class Authenticator(Protocol):
    @property
    def renews(self) -> bool:
        """Whether a second try with a fresh token can help."""
        ...

    async def headers(self, room: Room, *, renew: bool = False) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Header:
    """A constant header: `Authorization: Bearer ...`, `x-api-key: ...`."""

    name: str
    value: Secret
    prefix: str = ""
    renews: bool = False

    async def headers(self, room: Room, *, renew: bool = False) -> Mapping[str, str]:
        return {self.name: self.prefix + self.value.reveal()}


def bearer(token: Secret) -> Header:
    return Header("Authorization", token, "Bearer ")


def basic(user: str, password: Secret) -> Header:
    """RFC 7617, UTF-8."""
    pair = base64.b64encode(f"{user}:{password.reveal()}".encode()).decode()
    return Header("Authorization", Secret(pair), "Basic ")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token endpoint gave: the token and when it dies (None: it does not say)."""

    token: Secret
    expires_at: datetime | None


class Granted:
    """A token that is fetched when there is none, when it is about to die, or when the remote refused it.

    `fetch` asks the token endpoint. Concurrent requests share one fetch, in other processes too.
    """

    renews = True

    def __init__(
        self,
        name: str,
        fetch: Callable[[Room], Awaitable[Grant]],
        *,
        scheme: str = "Bearer",
        early: timedelta = RENEW_BEFORE,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._scheme = scheme
        self._early = early
        self._lock = asyncio.Lock()

    async def headers(self, room: Room, *, renew: bool = False) -> Mapping[str, str]:
        token = await self._kept(room)
        if token is None or renew:
            token = await self._other_than(token, room)
        return {"Authorization": f"{self._scheme} {token.reveal()}"}

    async def _other_than(self, refused: Secret | None, room: Room) -> Secret:
        async with self._lock, room.tokens.hold(self._name):
            kept = await self._kept(room)
            if kept is not None and kept != refused:
                return kept
            grant = await self._fetch(room)
            await room.tokens.put(self._name, grant.token, grant.expires_at)
            return grant.token

    async def _kept(self, room: Room) -> Secret | None:
        found = await room.tokens.get(self._name)
        if found is None:
            return None
        token, expires_at = found
        return token if expires_at is None or expires_at - self._early > room.clock.now() else None


async def oauth_token(
    room: Room, url: str, form: Mapping[str, str], *, headers: Mapping[str, str] | None = None, safe: bool = True
) -> tuple[Grant, Mapping[str, Any]]:
    """One call of an OAuth 2 token endpoint (RFC 6749 section 5); the second value is the whole answer.

    `safe=False` for a grant that can be used once, such as a rotated refresh token: a repeat would revoke it.
    Raises UnauthorizedError for any refusal, with `error` and `error_description` but never what was sent.
    """
    answer = await room.http.send("POST", url, form=form, headers=headers, safe=safe, expect=(400, 401, 403))
    body = answer.json()
    if not isinstance(body, Mapping) or not body.get("access_token"):
        said = body if isinstance(body, Mapping) else {}
        raise UnauthorizedError(
            f"the token endpoint refused: {said.get('error', answer.status)} {said.get('error_description', '')}".strip(),
            status=answer.status,
        )
    return Grant(Secret(str(body["access_token"])), expiry(room, body.get("expires_in"))), body


def expiry(room: Room, life: Any) -> datetime | None:
    """`expires_in` as a number or as text; anything else says nothing."""
    try:
        return room.clock.now() + timedelta(seconds=float(life)) if life is not None else None
    except (TypeError, ValueError, OverflowError):
        return None
