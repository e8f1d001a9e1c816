"""Connectors in use: one per integration, made from its decrypted spec, kept until the spec changes.

Here everything is put together that a connector is handed: HTTP client, network, budget, tokens, clock, log. Implements
`Connections` for the rooms above.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Self
from urllib.parse import quote
from weakref import ReferenceType, ref

from reconciler.app.book import SourceBook
from reconciler.app.keeping import StoreJournal, StoreTokens
from reconciler.app.opened import Opened, SpecUnusableError
from reconciler.app.vault import Vault
from reconciler.control.book import reason_of
from reconciler.desired.connector_checks import select_auth
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.resolve import ResolvedSpec
from reconciler.model.clock import Clock, from_rfc3339
from reconciler.model.condition import Reason
from reconciler.model.ids import Ref
from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.model.state import DesiredIntegration
from reconciler.sdk.budget import Budgets
from reconciler.sdk.contract import AuthSettings, Connector, KeyFacts, NoAuth, Room, Settings, Tokens
from reconciler.sdk.errors import place_of
from reconciler.sdk.guard import HostGuard
from reconciler.sdk.http import Attempt, HttpClient
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.sdk.network import GuardedNetwork, NetworkSettings, TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.sdk.registry import UnknownTypeError, load
from reconciler.store import conditions, ingest_keys, integrations
from reconciler.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What all connectors share."""

    database: Database
    book: SourceBook
    vault: Vault
    redactor: Redactor
    journal: StoreJournal
    clock: Clock
    random: Random
    budgets: Budgets
    guard: HostGuard
    contexts: TlsContexts
    network: NetworkSettings
    policy: TenantPolicy
    public_url: str
    is_shared: bool = False
    """Whether other processes use the same credentials."""
    observe: Callable[[str, Attempt], None]
    tokens: Callable[[int], Tokens] | None = None
    """Where an integration's run-time tokens are; default: in `database`."""


@dataclass(frozen=True, slots=True)
class _Kept:
    live: Live
    http: HttpClient


@dataclass(frozen=True, slots=True)
class _Retired:
    """An outdated connector: open for as long as somebody still holds the `Live` it was handed out in."""

    live: ReferenceType[Live]
    connector: Connector[Any, Any]
    http: HttpClient

    @classmethod
    def of(cls, kept: _Kept) -> Self:
        return cls(ref(kept.live), kept.live.connector, kept.http)

    async def close(self) -> None:
        try:
            await self.connector.close()
        finally:
            await self.http.close()


class ConnectionPool:
    """`live` hands out the connector of an integration; an outdated one is closed when nobody can be using it."""

    def __init__(self, workshop: Workshop) -> None:
        self._shop = workshop
        self._kept: dict[int, _Kept] = {}
        self._retired: dict[int, list[_Retired]] = {}
        self._locks: dict[int, asyncio.Lock] = {}

    async def live(self, integration_id: int) -> Live:
        async with self._locks.setdefault(integration_id, asyncio.Lock()):
            opened = await self._opened(integration_id)
            kept = self._kept.get(integration_id)
            if kept and _is_current(kept.live, opened):
                return kept.live
            made = self._make(integration_id, opened.desired, opened.spec)
            self._kept[integration_id] = made
            if kept:
                retired = self._retired.setdefault(integration_id, [])
                await self._close_unused(integration_id, retired)
                retired.append(_Retired.of(kept))
            return made.live

    async def _close_unused(self, integration_id: int, retired: list[_Retired]) -> None:
        for one in [one for one in retired if one.live() is None]:
            retired.remove(one)
            try:
                await one.close()
            except Exception as error:  # noqa: BLE001 - a connector's own fault, in one that nobody uses any more
                self._log(integration_id)(LogLevel.WARN, f"closing an outdated connection: {place_of(error)}")

    async def drop(self, integration_id: int) -> None:
        kept = self._kept.pop(integration_id, None)
        for outdated in [*self._retired.pop(integration_id, []), *([_Retired.of(kept)] if kept else [])]:
            await outdated.close()

    async def close(self) -> None:
        for integration_id in [*self._kept, *self._retired]:
            await self.drop(integration_id)

    async def _opened(self, integration_id: int) -> Opened:
        row = await self._shop.database.read(lambda tx: integrations.get(tx, integration_id))
        if row is not None:
            self._shop.journal.name(integration_id, str(row.ref))
        try:
            opened = await self._shop.book.opened(row.ref) if row else None
        except SpecUnusableError as error:
            raise NotConnectableError(reason_of(error.findings), str(error.findings[0]), error.findings) from None
        if opened is None:
            raise NotConnectableError(Reason.PENDING, "its manifest is not known: Git does not name it any more")
        return opened

    def _make(self, integration_id: int, desired: DesiredIntegration, spec: ResolvedSpec) -> _Kept:
        type_name = desired.manifest.spec.type
        try:
            connector_class = load(type_name)
        except UnknownTypeError:
            raise NotConnectableError(Reason.MISSING_DEPENDENCY, f"no connector for {type_name} is installed") from None
        config, auth = _models(connector_class, spec)
        network = self._network(desired)
        http = self._http(integration_id, connector_class, auth, network)
        room = self._room(integration_id, desired.ref, http, network)
        connector = connector_class(config, auth, room)
        live = Live(
            integration_id=integration_id,
            ref=desired.ref,
            manifest=desired.manifest,
            connector=connector,
            source_hash=desired.source_hash,
            effective_hash=spec.effective_hash,
            fingerprints=dict(spec.fingerprints),
            revision=desired.origin.revision,
        )
        return _Kept(live, http)

    def _network(self, desired: DesiredIntegration) -> GuardedNetwork:
        own, all_ = desired.manifest.spec.network, self._shop.network
        settings = NetworkSettings(
            proxy=own.proxy or all_.proxy,
            no_proxy=all_.no_proxy,
            ca_file=self._permitted(desired.ref, own.ca_file) or all_.ca_file,
            client_cert=self._permitted(desired.ref, own.client_cert_file) or all_.client_cert,
            client_key=self._permitted(desired.ref, own.client_key_file) or all_.client_key,
        )
        return GuardedNetwork(settings, self._shop.guard, self._shop.contexts)

    def _permitted(self, ref: Ref, name: str | None) -> str:
        """The path of a file that a manifest names: inside the workspace's secret folder, links included."""
        if name is None:
            return ""
        rule = self._shop.policy.rule_of(ref.workspace)
        folder = rule.secret_folder.resolve() if rule and rule.secret_folder else None
        path = (folder / name).resolve() if folder else None
        if folder is None or path is None or not path.is_relative_to(folder):
            raise NotConnectableError(
                Reason.HOST_NOT_PERMITTED,
                f"spec.network: the file {name} is not in the permitted folder of {ref.workspace}",
            )
        return str(path)

    def _http(
        self,
        integration_id: int,
        connector: type[Connector[Any, Any]],
        auth: AuthSettings,
        network: GuardedNetwork,
    ) -> HttpClient:
        shop = self._shop
        return HttpClient(
            network=network,
            budgets=shop.budgets,
            clock=shop.clock,
            random=shop.random,
            log=self._log(integration_id),
            redactor=shop.redactor,
            observe=partial(shop.observe, connector.type),
            credential=_credential(auth, shop.vault, integration_id),
            limits=connector.limits,
        )

    def _room(self, integration_id: int, ref: Ref, http: HttpClient, network: GuardedNetwork) -> Room:
        shop = self._shop
        path = f"/v1/inbound/{quote(ref.workspace)}/{quote(ref.name)}"
        return Room(
            http=http,
            network=network,
            tokens=self._tokens(integration_id),
            clock=shop.clock,
            random=shop.random,
            log=self._log(integration_id),
            marker=str(ref),
            inbound_url=shop.public_url.rstrip("/") + path if shop.public_url else None,
            fingerprint=lambda secret: secret.digest(shop.vault.fingerprint_key),
            keys=partial(self._keys, integration_id),
            may_deliver=partial(self._may_deliver, integration_id),
        )

    async def _keys(self, integration_id: int) -> Sequence[KeyFacts]:
        shop = self._shop
        found, now = (
            await shop.database.read(lambda tx: ingest_keys.of_integration(tx, integration_id)),
            shop.clock.now(),
        )
        return [
            KeyFacts(
                key.key_id,
                key.state(now),
                from_rfc3339(key.created_at),
                from_rfc3339(key.last_used_at) if key.last_used_at else None,
            )
            for key in found
        ]

    async def _may_deliver(self, integration_id: int) -> bool:
        return not await self._shop.database.read(lambda tx: conditions.gone(tx, integration_id))

    def _tokens(self, integration_id: int) -> Tokens:
        shop = self._shop
        if shop.tokens is not None:
            return shop.tokens(integration_id)
        return StoreTokens(
            shop.database, shop.vault, shop.redactor, shop.clock, integration_id, is_shared=shop.is_shared
        )

    def _log(self, integration_id: int) -> Any:
        def log(level: LogLevel, message: str, **detail: Any) -> None:
            self._shop.journal(integration_id, level, message, **detail)

        return log


def _is_current(live: Live, opened: Opened) -> bool:
    """The same clear spec. `effective_hash` covers all of it, the schedule too."""
    return live.effective_hash == opened.spec.effective_hash and live.source_hash == opened.desired.source_hash


def _models(connector: type[Connector[Any, Any]], spec: ResolvedSpec) -> tuple[Settings, AuthSettings]:
    """The connector's own models of values that were checked against them already."""
    auth_model = select_auth(connector, spec.auth) or NoAuth
    return connector.Config.model_validate(spec.config), auth_model.model_validate(spec.auth)


def _credential(auth: AuthSettings, vault: Vault, integration_id: int) -> str:
    """A fingerprint that integrations with the same credential share; without a secret, the integration's own."""
    secrets = [v for v in vars(auth).values() if isinstance(v, Secret)]
    if not secrets:
        return f"integration-{integration_id}"
    names = [str(v) for v in vars(auth).values() if isinstance(v, str)]
    joined = Secret("\0".join([*names, *(s.reveal() for s in secrets)]))
    return joined.digest(vault.fingerprint_key)
