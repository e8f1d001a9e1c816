"""OAuth 2 with a person's consent: the authorization code flow, what it gives, and how that is renewed and given back.

A connector declares its flow (`Authorizes`) and signs its requests with `Authorized`; state, PKCE, callback and the person are
the engine's. In: a `CodeFlow`. Out: URLs, tokens in `room.tokens`. The protocol is Authlib's; requests go over `room.http`.
Not done: OpenID Connect, the device flow, and grants without a person (`sdk/auth`).
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, runtime_checkable

from reconciler.model.condition import Reason
from reconciler.model.secret import Secret
from reconciler.sdk.auth import RENEW_BEFORE, expiry
from reconciler.sdk.contract import Answer, AuthSettings, KeptToken, Room
from reconciler.sdk.errors import TransientError, UnauthorizedError
from reconciler.sdk.redact import Redactor

ACCESS, REFRESH = "oauth", "refresh-oauth"
IRREPLACEABLE = (ACCESS, "refresh")
"""How names of tokens begin that nobody but a person, or a seed that is spent, could give again."""

ClientAuth = Literal["client_secret_basic", "client_secret_post", "none"]
_WRONG_CLIENT = frozenset({
    "invalid_client", "unauthorized_client", "invalid_client_id", "bad_client_secret", "incorrect_client_credentials",
})  # fmt: skip
_LATER = frozenset({"temporarily_unavailable", "server_error", "slow_down", "ratelimited", "internal_error"})
_WORD = re.compile(r"[^\x20-\x7e]")


class AuthorizationCode(AuthSettings):
    """Base of an auth model for this flow. The subclass has the `type`, and the scopes it asks for unless told otherwise."""

    client_id: str
    client_secret: Secret
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CodeFlow:
    """Where a remote's authorization code flow goes, and what is special about it.

    `implied`: what a scope includes, where the remote then leaves the lesser one out. `extra` are further parameters of the
    authorization URL. `revoke_url` is that of RFC 7009; without it the connector's own `revoke` gives tokens back, or nobody.
    """

    client_id: str
    client_secret: Secret | None
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...] = ()
    separator: str = " "
    revoke_url: str = ""
    has_pkce: bool = True
    client_auth: ClientAuth = "client_secret_basic"
    extra: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def missing(self, granted: tuple[str, ...] | None) -> tuple[str, ...]:
        """Scopes that were asked for and not given; none where the remote did not say."""
        if granted is None:
            return ()
        has = {*granted, *(lesser for scope in granted for lesser in self.implied.get(scope, ()))}
        return tuple(scope for scope in self.scopes if scope not in has)

    def where(self) -> str:
        """The authorization URL without what belongs to a single attempt."""
        from authlib.common.urls import add_params_to_uri

        return str(add_params_to_uri(self.authorize_url, list(self.extra.items())))


@runtime_checkable
class Authorizes(Protocol):
    def code_flow(self) -> CodeFlow | None:
        """None where the manifest's auth is of another kind. Pure."""
        ...


def authorization_url(
    where: str, client_id: str, scopes: str, redirect_uri: str, state: Secret, verifier: Secret | None
) -> str:
    """What a person opens; with a `verifier` the code will be of use to its owner only (RFC 7636, S256)."""
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
    from authlib.oauth2.rfc7636 import create_s256_code_challenge

    challenge = create_s256_code_challenge(verifier.reveal()) if verifier else None
    pkce = {"code_challenge": challenge, "code_challenge_method": "S256"} if challenge else {}
    url = prepare_grant_uri(where, client_id, "code", redirect_uri, scopes, state.reveal(), **pkce)
    return str(url)


async def redeem(room: Room, flow: CodeFlow, code: Secret, verifier: Secret | None, redirect_uri: str) -> str:
    """Exchange the code, which can be done once, and keep what came. The message names scopes that were not given."""
    values = {"redirect_uri": redirect_uri, "code": code.reveal()}
    if verifier is not None:
        values["code_verifier"] = verifier.reveal()
    said = await _ask(room, flow, "authorization_code", values)
    await Authorized(flow).keep(room, said, is_new=True)
    missing = flow.missing(_scopes(said, flow, None))
    return f"not given: {', '.join(missing)}" if missing else ""


class Authorized:
    """Signs with what a person allowed; renews it before it dies, or when the remote refuses it.

    Implements `Authenticator`. One renewal at a time, over all processes: a refresh token may be of use only once. Where it
    is refused, or there is none, only a person helps: UnauthorizedError with AWAITING_AUTHORIZATION, and nothing is sent again.
    """

    renews = True

    def __init__(self, flow: CodeFlow, *, scheme: str = "Bearer", early: timedelta = RENEW_BEFORE) -> None:
        self._flow = flow
        self._scheme = scheme
        self._early = early
        self._lock = asyncio.Lock()
        self._refused: tuple[Secret, str] | None = None

    async def headers(self, room: Room, *, renew: bool = False) -> Mapping[str, str]:
        token = await self._kept(room)
        if token is None or renew:
            token = await self._other_than(token, room)
        return {"Authorization": f"{self._scheme} {token.reveal()}"}

    async def _kept(self, room: Room) -> Secret | None:
        found = await room.tokens.get(self._name(room, ACCESS))
        if found is None:
            return None
        token, until = found
        return token if until is None or until - self._early > room.clock.now() else None

    async def _other_than(self, refused: Secret | None, room: Room) -> Secret:
        name = self._name(room, ACCESS)
        async with self._lock, room.tokens.hold(name):
            kept = await self._kept(room)
            if kept is not None and kept != refused:
                return kept
            refresh = await room.tokens.get(self._name(room, REFRESH))
            if refresh is None:
                was_there = refused is not None or await room.tokens.get(name) is not None
                why = "the token was refused or has expired, and cannot be renewed" if was_there else "nobody has yet"
                raise _awaiting(room, why)
            return await self._renewed(room, refresh[0])

    async def _renewed(self, room: Room, refresh: Secret) -> Secret:
        if self._refused is not None and self._refused[0] == refresh:
            raise _awaiting(room, self._refused[1])
        try:
            said = await _ask(room, self._flow, "refresh_token", {"refresh_token": refresh.reveal()})
        except _RefusedError as error:
            self._refused = refresh, f"the remote does not renew the token any more: {error.message}"
            raise _awaiting(room, self._refused[1]) from None
        return await self.keep(room, said)

    async def keep(self, room: Room, said: Mapping[str, Any], *, is_new: bool = False) -> Secret:
        """What the token endpoint gave, all at once and before any of it is used; returns the access token."""
        access, refresh = self._name(room, ACCESS), self._name(room, REFRESH)
        scopes = _scopes(said, self._flow, None if is_new else await room.tokens.scopes(access))
        token = Secret(str(said["access_token"]))
        kept = [KeptToken(access, token, expiry(room, said.get("expires_in")), scopes)]
        if said.get("refresh_token"):
            until = expiry(room, said.get("refresh_token_expires_in", said.get("refresh_expires_in")))
            kept.insert(0, KeptToken(refresh, Secret(str(said["refresh_token"])), until, scopes))
        elif is_new:
            await room.tokens.drop(refresh)  # of an earlier consent
        await room.tokens.put_all(*kept)
        return token

    async def ends_at(self, room: Room) -> datetime | None:
        """When only a person can go on: the end of what cannot be renewed."""
        refresh = await room.tokens.get(self._name(room, REFRESH))
        found = refresh or await room.tokens.get(self._name(room, ACCESS))
        return found[1] if found else None

    async def missing(self, room: Room) -> tuple[str, ...]:
        """Scopes that the manifest asks for and that were not given."""
        return self._flow.missing(await room.tokens.scopes(self._name(room, ACCESS)))

    async def revoke(self, room: Room) -> None:
        """Give back what was given, where the remote has RFC 7009; it is forgotten in any case."""
        for kind, hint in ((REFRESH, "refresh_token"), (ACCESS, "access_token")):
            found = await room.tokens.get(self._name(room, kind))
            if found is not None and self._flow.revoke_url:
                await _give_back(room, self._flow, found[0], hint)
        await self.forget(room)

    async def forget(self, room: Room) -> None:
        for kind in (REFRESH, ACCESS):
            await room.tokens.drop(self._name(room, kind))

    def names(self, room: Room) -> tuple[str, str]:
        """How the access token and the refresh token are called in `room.tokens`."""
        return self._name(room, ACCESS), self._name(room, REFRESH)

    def _name(self, room: Room, kind: str) -> str:
        """Of this client at this server: what was given to another one is of no use here."""
        return f"{kind}-{room.fingerprint(Secret(f'{self._flow.client_id} {self._flow.token_url}'))[:16]}"


class _RefusedError(UnauthorizedError):
    """The grant was refused; the client itself is known."""


def _awaiting(room: Room, why: str) -> UnauthorizedError:
    return UnauthorizedError(
        f"a person has to allow it: {why}; reconciler authorize {room.marker}", reason=Reason.AWAITING_AUTHORIZATION
    )


async def _ask(room: Room, flow: CodeFlow, grant: str, values: Mapping[str, str]) -> Mapping[str, Any]:
    """One call of the token endpoint that is never repeated by itself; raises by what the refusal means."""
    from authlib.oauth2.rfc6749.parameters import prepare_token_request

    answer = await _post(room, flow, flow.token_url, prepare_token_request(grant, **values))
    said = answer.json()
    if isinstance(said, Mapping) and said.get("access_token"):
        return said
    sent = [flow.client_secret or Secret(""), *map(Secret, values.values())]
    raise _refusal(said if isinstance(said, Mapping) else {}, answer, sent)


def _refusal(
    said: Mapping[str, Any], answer: Answer, sent: Sequence[Secret] = ()
) -> TransientError | UnauthorizedError:
    """Of RFC 6749 section 5.2, and of servers that say it with status 200. Without what was sent, if the server repeats it."""
    redactor = Redactor()
    redactor.register("sent", [secret for secret in sent if secret])
    error = str(said.get("error") or f"status {answer.status}")
    told = ": ".join(str(part) for part in (error, said.get("error_description")) if part)
    words = plain(redactor.text(told)).rstrip(".")
    if error in _LATER:
        return TransientError(f"the token endpoint cannot answer now: {words}", status=answer.status)
    if error in _WRONG_CLIENT:
        return UnauthorizedError(f"the token endpoint does not know this client: {words}", status=answer.status)
    return _RefusedError(words, status=answer.status)


async def _give_back(room: Room, flow: CodeFlow, token: Secret, hint: str) -> None:
    """A token that is dead already is no error."""
    from authlib.oauth2.rfc7009 import prepare_revoke_token_request

    body, _ = prepare_revoke_token_request(token.reveal(), hint)
    await _post(room, flow, flow.revoke_url, body)


async def _post(room: Room, flow: CodeFlow, url: str, body: str) -> Answer:
    """With what tells the server who we are."""
    from urllib.parse import parse_qsl

    from authlib.oauth2.auth import ClientAuth as Signer

    secret = flow.client_secret.reveal() if flow.client_secret else ""
    signer = Signer(flow.client_id, secret, flow.client_auth)
    url, headers, body = signer.prepare("POST", url, {"Accept": "application/json"}, body)
    form = dict(parse_qsl(body, keep_blank_values=True))
    return await room.http.send(
        "POST", url, form=form, headers=headers, safe=False, expect=(400, 401, 403), lane="probe"
    )


def _scopes(said: Mapping[str, Any], flow: CodeFlow, before: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Where the answer does not say, it is what was asked for (RFC 6749 section 5.1), or what it was before a renewal."""
    given = said.get("scope")
    if isinstance(given, str):
        return tuple(part for part in re.split(r"[,\s]+", given) if part)
    return flow.scopes if before is None else before


def plain(text: str) -> str:
    """What a remote says, as one bounded line without anything that a terminal or a page could take for more than text."""
    return _WORD.sub("?", text).strip()[:300]
