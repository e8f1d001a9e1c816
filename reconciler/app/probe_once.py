"""One probe of one integration, with or without a daemon: what `reconciler test` shows.

In: the daemon's settings and keys. Out: a `ProbeReport`. Git is read anew into a temporary folder, and the state of the
probe is temporary, too; the daemon's store is only read, for tokens obtained at run time. So a manifest can be tried
before it is merged, beside a daemon and on a machine that never ran one.
Not done: remote objects such as webhooks are not looked at, and a token that may be used once is not renewed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory

from reconciler.app.book import SourceBook
from reconciler.app.borrowed import BorrowedTokens
from reconciler.app.connections import ConnectionPool, Workshop
from reconciler.app.keeping import StoreBlocks, StoreJournal
from reconciler.app.lasting import with_lasting
from reconciler.app.parts import host_guard, network_settings, source_inputs, source_settings, tenant_policy
from reconciler.app.vault import Vault, load_keys
from reconciler.control.trial import Trial, try_out
from reconciler.desired.resolve import Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import keyring_from_env
from reconciler.desired.source import open_source
from reconciler.model.clock import Clock, SystemClock, rfc3339
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredIntegration
from reconciler.sdk import registry
from reconciler.sdk.budget import Budgets
from reconciler.sdk.network import TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.settings import Settings, database_url
from reconciler.store import integrations, inventory, sealed_keys
from reconciler.store.database import Database
from reconciler.store.integrations import DesiredChange
from reconciler.store.inventory import Sealed
from reconciler.store.location import Location, open_readonly
from reconciler.store.migrations import check_version, migrate
from reconciler.store.sqlite import Sqlite
from reconciler.store.state_directory import StateDirectory

DEADLINE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What a probe found, and of which manifest."""

    ref: Ref
    type: str
    file: str
    line: int
    revision: str
    trial: Trial


@dataclass(frozen=True, slots=True)
class Known:
    """The integrations in Git, and what is wrong there: for whoever picks one by name."""

    refs: Collection[Ref]
    held: Collection[Ref]
    findings: Sequence[Finding]


Pick = Callable[[Known], Ref]


async def probe_once(settings: Settings, env: Mapping[str, str], pick: Pick, redactor: Redactor) -> ProbeReport:
    """`pick` says which, and raises what its caller likes. Raises SourceError, SettingsError, SopsError, StoreError."""
    with TemporaryDirectory(prefix="reconciler-test-") as scratch:
        bench = _Bench(settings, env, Path(scratch), redactor)
        try:
            return await bench.probe(pick)
        finally:
            await bench.close()


class _Bench:
    """The parts of a daemon that a probe needs, on a temporary store."""

    def __init__(self, settings: Settings, env: Mapping[str, str], scratch: Path, redactor: Redactor) -> None:
        self._settings = settings
        self._env = env
        self._scratch = scratch
        self._redactor = redactor
        self._clock: Clock = SystemClock()
        self._state = StateDirectory(settings.state_dir)
        has_key = (self._state.keys / "master.key").is_file()
        self._vault = self._open_vault(self._state.keys if has_key else scratch / "keys")
        self._policy = tenant_policy(settings)
        key_file = settings.age_key_file
        keyring = keyring_from_env({**env, "SOPS_AGE_KEY_FILE": str(key_file)} if key_file else env)
        resolver = Resolver(
            keyring=keyring,
            env=env,
            policy=self._policy,
            hash_key=self._vault.fingerprint_key,
            registry=registry,
            cache=DecryptionCache(),
        )
        self._book = SourceBook(source_inputs(settings, self._policy), resolver, redactor)
        self._database = Database(Sqlite(scratch / "reconciler.db", self._clock))
        self._pool: ConnectionPool | None = None

    def _open_vault(self, folder: Path) -> Vault:
        """As the daemon has it, if one ever worked here: what it calls its tokens depends on its keys."""
        keys, location = load_keys(self._settings, self._env, folder), self._location()
        if location is None:
            return Vault(*keys)
        with open_readonly(location, self._clock) as tx:
            check_version(tx, "the store")
            return with_lasting(sealed_keys.every(tx), *keys)

    def _location(self) -> Location | None:
        location = database_url(self._env) or self._state.database
        return None if isinstance(location, Path) and not location.is_file() else location

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()
        self._book.close()
        self._database.close()

    async def probe(self, pick: Pick) -> ProbeReport:
        await self._read_sources()
        state = self._book.wished
        found = state.integrations if state else {}
        ref = pick(Known(found.keys(), state.held if state else (), state.findings if state else ()))
        desired = found[ref]
        if state is not None:
            await self._book.resolve(replace(state, integrations={ref: desired}))
        await migrate(self._database)
        at = rfc3339(self._clock.now())
        ids = await self._database.write(lambda tx: integrations.want(tx, [DesiredChange(desired, "")], at))
        self._pool = self._connections(ref)
        return await self._report(self._pool, ids[ref], desired)

    async def _read_sources(self) -> None:
        for settings in self._settings.sources:
            source = open_source(source_settings(settings, self._env), self._scratch / "git", self._clock)
            await self._book.take(settings.name, await source.fetch())

    def _connections(self, ref: Ref) -> ConnectionPool:
        settings, clock = self._settings, self._clock
        sealed, stored_id = self._stored(ref)
        tokens = BorrowedTokens(sealed, stored_id, self._vault, self._redactor)
        shop = Workshop(
            database=self._database,
            book=self._book,
            vault=self._vault,
            redactor=self._redactor,
            journal=StoreJournal(self._database, clock, self._redactor),
            clock=clock,
            random=SystemRandom(),
            budgets=Budgets(clock, shared=StoreBlocks(self._database)),
            guard=host_guard(settings),
            contexts=TlsContexts(),
            network=network_settings(settings),
            policy=self._policy,
            public_url=settings.public_url,
            observe=lambda _, __: None,
            tokens=lambda _: tokens,
        )
        return ConnectionPool(shop)

    def _stored(self, ref: Ref) -> tuple[Mapping[str, Sealed], int]:
        """The tokens that a daemon obtained, if one ever worked here."""
        location = self._location()
        if location is None:
            return {}, 0
        with open_readonly(location, self._clock) as tx:
            check_version(tx, "the store")
            row = integrations.find(tx, ref)
            return (inventory.credentials(tx, row.id), row.id) if row else ({}, 0)

    async def _report(self, pool: ConnectionPool, integration_id: int, desired: DesiredIntegration) -> ProbeReport:
        origin = desired.origin
        trial = await try_out(pool.live(integration_id), self._clock, self._redactor, DEADLINE)
        return ProbeReport(desired.ref, desired.manifest.spec.type, origin.file, origin.line, origin.revision, trial)
