"""What the API can do with Git, wired from the daemon's parts: plans, and changes that become commits.

A process that follows Git lends its sources and what it knows of them; one that does not reads them when it is asked.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from reconciler.app.asking import Asking, nothing_to_do
from reconciler.app.book import SourceBook
from reconciler.app.foresight import Foresight
from reconciler.app.manifests import GitManifests
from reconciler.app.parts import host_guard, network_settings, source_inputs, tenant_policy
from reconciler.app.write_back import Desk, writers
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source import Source
from reconciler.model.clock import Clock
from reconciler.model.record import LogLevel
from reconciler.sdk.budget import Budgets
from reconciler.sdk.http import Attempt, HttpClient
from reconciler.sdk.network import GuardedNetwork, TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.settings import Settings
from reconciler.store.database import Database

_METHOD = {LogLevel.DEBUG: "debug", LogLevel.INFO: "info", LogLevel.WARN: "warning", LogLevel.ERROR: "error"}


@dataclass(frozen=True, kw_only=True)
class GitParts:
    """`book` is that of a process that follows its sources, None elsewhere; `look` has them read soon by whoever leads."""

    settings: Settings
    env: Mapping[str, str] = field(repr=False)
    sources: Mapping[str, Source]
    book: SourceBook | None
    look: Callable[[], Awaitable[None]]
    keyring: Callable[[], Keyring]
    cache: Path
    database: Database
    clock: Clock
    random: Random
    redactor: Redactor
    observe: Callable[[str, Attempt], None]


@dataclass(frozen=True, slots=True)
class GitPorts:
    """`close` at the end."""

    planner: Foresight
    manifests: GitManifests
    policy: TenantPolicy
    http: HttpClient
    asking: Asking | None

    async def close(self) -> None:
        if self.asking is not None:
            self.asking.close()
        await self.http.close()


def git_ports(parts: GitParts) -> GitPorts:
    """Raises SettingsError for a source that cannot be written to as its settings say."""
    policy = tenant_policy(parts.settings)
    inputs = source_inputs(parts.settings, policy)
    asking = None if parts.book else Asking(parts.sources, inputs, policy, parts.redactor, parts.clock)
    book, refresh = (asking.book, asking.look) if asking else (parts.book, nothing_to_do)
    assert book is not None  # noqa: S101 - one of the two is there
    http = _client(parts)
    desk = Desk(
        settings=parts.settings,
        env=parts.env,
        inputs=inputs,
        checked=book.checked.get,
        keyring=parts.keyring,
        cache=parts.cache,
        clock=parts.clock,
        random=parts.random,
        http=http,
    )
    planner = Foresight(parts.sources, inputs, book, parts.database, parts.clock, refresh)
    return GitPorts(planner, GitManifests(writers(desk), inputs, book, planner, parts.look), policy, http, asking)


def _client(parts: GitParts) -> HttpClient:
    """For the forges that pull requests are opened at."""
    network = GuardedNetwork(network_settings(parts.settings), host_guard(parts.settings), TlsContexts())
    return HttpClient(
        network=network,
        budgets=Budgets(parts.clock),
        clock=parts.clock,
        random=parts.random,
        log=_log,
        redactor=parts.redactor,
        observe=lambda attempt: parts.observe("forge", attempt),
    )


def _log(level: LogLevel, message: str, **detail: object) -> None:
    getattr(structlog.get_logger("forge"), _METHOD[level])(message, **detail)
