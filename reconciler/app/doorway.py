"""From the daemon's settings to what decides who may call it: issuers with an HTTP client each, limits, certificate.

Called by the daemon for its window. Issuers are asked through the same guard, proxy and authorities as every remote, with a
budget of their own: no integration can use up what sign-ins need.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from random import SystemRandom
from typing import Any
from urllib.parse import urlsplit

import structlog

from reconciler.app.parts import host_guard, network_settings
from reconciler.model.clock import Clock
from reconciler.model.record import LogLevel
from reconciler.sdk.budget import Budgets
from reconciler.sdk.http import Attempt, HttpClient, HttpSettings
from reconciler.sdk.issuer import IssuerKeys, Place
from reconciler.sdk.network import GuardedNetwork, TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Terms
from reconciler.serve.buckets import Flow
from reconciler.serve.limits import Limits
from reconciler.serve.oidc import Bearers, Issuer, Rule
from reconciler.serve.tls import CertificateFiles
from reconciler.settings import ClaimRule, Oidc, Rate, Settings

_CONNECT, _READ = timedelta(seconds=2), timedelta(seconds=4)
_MAX_ANSWER = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorway:
    """`hosts` are names that a proxy on this machine may ask for. `close` when nobody asks any more."""

    terms: Terms
    hosts: frozenset[str]
    tls: CertificateFiles | None
    max_body: int
    timeout: timedelta
    origins: tuple[str, ...] = ()
    clients: tuple[HttpClient, ...] = ()

    async def close(self) -> None:
        if self.terms.bearers is not None:
            await self.terms.bearers.close()
        for client in self.clients:
            await client.close()


def doorway(settings: Settings, clock: Clock, redactor: Redactor, observe: Callable[[str, Attempt], None]) -> Doorway:
    api = settings.api
    network = replace(network_settings(settings), connect_timeout=_CONNECT, read_timeout=_READ)
    guarded = GuardedNetwork(network, host_guard(settings), TlsContexts())
    clients = tuple(_client(guarded, clock, redactor, observe) for _ in settings.oidc)
    issuers = [_issuer(one, client, clock) for one, client in zip(settings.oidc, clients, strict=True)]
    terms = Terms(
        bearers=Bearers(issuers, clock) if issuers else None,
        limits=Limits(clock, _flow(api.rate), api.trusted_proxies),
        reserved=api.reserved,
    )
    public = urlsplit(settings.public_url).hostname
    return Doorway(
        hosts=frozenset({public} if public else ()),
        terms=terms,
        tls=certificate_files(settings),
        max_body=api.max_body,
        timeout=api.timeout,
        origins=api.cors,
        clients=clients,
    )


def certificate_files(settings: Settings) -> CertificateFiles | None:
    tls = settings.tls
    return CertificateFiles(tls.cert_file, tls.key_file, tls.min_version) if tls.cert_file else None


def _flow(rate: Rate) -> Flow | None:
    return Flow(rate.requests / rate.window.total_seconds(), rate.burst) if rate.requests else None


def _client(
    network: GuardedNetwork, clock: Clock, redactor: Redactor, observe: Callable[[str, Attempt], None]
) -> HttpClient:
    return HttpClient(
        network=network,
        budgets=Budgets(clock),
        clock=clock,
        random=SystemRandom(),
        log=_log,
        redactor=redactor,
        observe=lambda attempt: observe("oidc", attempt),
        settings=HttpSettings(tries=1, max_body=_MAX_ANSWER),
    )


def _log(level: LogLevel, message: str, **detail: Any) -> None:
    structlog.get_logger("oidc").log(_LEVELS[level], message, **detail)


_LEVELS = {LogLevel.DEBUG: 10, LogLevel.INFO: 20, LogLevel.WARN: 30, LogLevel.ERROR: 40}


def _issuer(one: Oidc, client: HttpClient, clock: Clock) -> Issuer:
    place = Place(one.issuer, one.jwks_url, one.allow_http)
    return Issuer(
        url=one.issuer,
        audience=one.audience,
        keys=IssuerKeys(place, client, clock, _log),
        rules=tuple(map(_rule, one.permissions)),
        name_claim=one.name_claim,
        name_prefix=one.name_prefix,
        workspace=one.workspace or "",
        workspace_claim=one.workspace_claim,
    )


def _rule(one: ClaimRule) -> Rule:
    return Rule(one.claim, one.value, frozenset(one.grant), one.workspace or "")
