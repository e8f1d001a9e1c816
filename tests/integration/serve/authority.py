"""A real issuer of signed tokens on loopback: discovery and keys over HTTP, and tokens as it, or another, would make them."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from reconciler.model.access import Permission
from reconciler.sdk.budget import Budgets
from reconciler.sdk.guard import GuardSettings, HostGuard
from reconciler.sdk.http import HttpClient, HttpSettings
from reconciler.sdk.issuer import IssuerKeys, Place
from reconciler.sdk.network import GuardedNetwork, NetworkSettings, TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.serve.oidc import Bearers, Issuer, Rule
from tests.integration.sdk.loopback import Logged, Seen, Server, listening, raw, reply, stall
from tests.integration.serve.installation import START, StandingClock

AUDIENCE = "reconciler"
KEYS = "/keys"
DISCOVERY = "/.well-known/openid-configuration"
VIEWERS = Rule("groups", "viewers", frozenset({Permission.INTEGRATION_VIEW}))
AnyKey = RSAKey | ECKey | OKPKey


def rsa(kid: str | None, bits: int = 2048) -> RSAKey:
    return RSAKey.generate_key(bits, {"kid": kid} if kid else None)


@dataclass
class Authority:
    """What it publishes may be changed at any time; `state` is how it answers."""

    clock: StandingClock
    keys: list[AnyKey] = field(default_factory=lambda: [rsa("one")])
    state: str = "up"
    url: str = ""
    says_it_is: str = ""
    cache_control: str = "max-age=600"
    asked: Counter[str] = field(default_factory=Counter)
    log: Logged = field(default_factory=Logged)
    more_keys: list[Any] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    answering: asyncio.Event = field(default_factory=asyncio.Event)

    async def play(self, seen: Seen, writer: asyncio.StreamWriter) -> None:
        self.asked[seen.target] += 1
        self.arrived.set()
        if self.state == "slow":
            await self.answering.wait()
        bodies: Mapping[str, Any] = {
            DISCOVERY: {"issuer": self.says_it_is or self.url, "jwks_uri": f"{self.url}{KEYS}"},
            KEYS: {"keys": [*[key.as_dict(private=False) for key in self.keys], *self.more_keys]},
        }
        plays = {"down": raw(b"", reset=True), "broken": reply(200, "<html>"), "failing": reply(503), "silent": stall}
        usual = reply(200, json.dumps(bodies[seen.target]), cache_control=self.cache_control)
        await plays.get(self.state, usual)(seen, writer)

    def claims(self, **more: Any) -> dict[str, Any]:
        """Those of a good token; None takes one out."""
        now = int(self.clock.now().timestamp())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 3600, "groups": ["viewers"]}
        return {name: value for name, value in {**usual, **more}.items() if value is not None}

    def token(self, key: AnyKey | None = None, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        signing = key or self.keys[0]
        names = {"RSA": "RS256", "EC": "ES256", "OKP": "Ed25519"}
        usual = {"alg": names[signing.key_type], "kid": signing.kid}
        full = {name: value for name, value in {**usual, **(header or {})}.items() if value is not None}
        registry = JWSRegistry(algorithms=[full["alg"]], strict_check_header=False)
        return jwt.encode(full, self.claims(**claims), signing, registry=registry)


@dataclass
class Trust:
    """Who believes the authority."""

    authority: Authority
    bearers: Bearers
    keys: IssuerKeys
    server: Server


@asynccontextmanager
async def trusted(
    clock: StandingClock | None = None, *, place: Mapping[str, Any] | None = None, **issuer: Any
) -> AsyncIterator[Trust]:
    authority = Authority(clock or StandingClock())
    async with listening(authority.play) as server:
        authority.url = server.url
        guard = HostGuard(GuardSettings(allow=("127.0.0.0/8",)))
        client = HttpClient(
            network=GuardedNetwork(NetworkSettings(), guard, TlsContexts()),
            budgets=Budgets(authority.clock),
            clock=authority.clock,
            random=Random(7),
            log=authority.log,
            redactor=Redactor(),
            observe=lambda _: None,
            settings=HttpSettings(tries=1, max_body=2**20),
        )
        keys = IssuerKeys(
            Place(server.url, **{"allow_http": True, **(place or {})}), client, authority.clock, authority.log
        )
        usual: dict[str, Any] = {"rules": (VIEWERS,), "workspace": "it"}
        known = Issuer(url=server.url, audience=AUDIENCE, keys=keys, **{**usual, **issuer})
        bearers = Bearers((known,), authority.clock)
        try:
            yield Trust(authority, bearers, keys, server)
        finally:
            authority.answering.set()
            await bearers.close()
            await client.close()


def age(clock: StandingClock) -> float:
    return (clock.at - START).total_seconds()
