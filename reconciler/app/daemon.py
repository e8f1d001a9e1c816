"""The daemon: every room wired together for the role it has, its start and its orderly end. `run` and `apply` use it.

Start: lock the state directory, open the store, wire what the role needs, start the job engine, then the loops; who may lead
begins to when the lease is its own. Stop (SIGTERM): no new work, running work gets a bounded time, the rest is due again for
the next start.
"""

import asyncio
import gc
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from random import SystemRandom

import structlog

from reconciler.app.attended import Attended
from reconciler.app.authorizations import Authorizations, callback_url
from reconciler.app.book import SourceBook
from reconciler.app.connections import ConnectionPool, Workshop
from reconciler.app.doorway import doorway
from reconciler.app.following import Following
from reconciler.app.git_ports import GitParts, git_ports
from reconciler.app.ground import Ground
from reconciler.app.keeping import FLUSH_SECONDS, StoreBlocks, StoreJournal
from reconciler.app.lasting import open_vault
from reconciler.app.leadership import Leadership
from reconciler.app.leading import Leading, Office
from reconciler.app.parts import host_guard, network_settings, source_inputs, source_settings, tenant_policy
from reconciler.app.server_clock import ALIGN_SECONDS, ServerClock
from reconciler.app.tasks import Loops
from reconciler.app.trials import KIND as TEST
from reconciler.app.trials import Tester, Trials
from reconciler.app.vault import Vault, VaultError, load_keys
from reconciler.app.window import Window
from reconciler.app.working import Bench, make_work
from reconciler.control.authorize import UnsealError
from reconciler.control.carried import Carried
from reconciler.control.intake import Intaken
from reconciler.desired.policy import TenantPolicy
from reconciler.desired.resolve import Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import Keyring, keys_at_hand
from reconciler.desired.source import Source, open_source
from reconciler.events.inbound import Reception
from reconciler.model.clock import Clock, SystemClock, rfc3339
from reconciler.model.secret import Secret
from reconciler.sdk import registry
from reconciler.sdk.budget import Budgets
from reconciler.sdk.network import TlsContexts
from reconciler.sdk.redact import Redactor
from reconciler.serve.metrics import Metrics
from reconciler.serve.ports import Ports
from reconciler.settings import DATABASE_ENV, Settings, SettingsError, database_url
from reconciler.settings import Source as SourceOptions
from reconciler.store import jobs, journal
from reconciler.store.database import Database
from reconciler.store.errors import StoreError
from reconciler.store.job_store import StoredJobs
from reconciler.store.journal import SourceRow
from reconciler.store.location import Location, backend
from reconciler.store.migrations import migrate
from reconciler.store.notices import Notices, Topic
from reconciler.store.state_directory import StateDirectory
from reconciler.work.elsewhere import Elsewhere
from reconciler.work.engine import Work
from reconciler.work.ports import Dispatch
from reconciler.work.settings import WorkSettings, new_owner

SECONDS_BOARD = 1.0
SECONDS_SHARE = 3.0
ROUTE_ALONE = timedelta(seconds=2)
ROUTE_SHARED = timedelta(seconds=0.5)


class Daemon:
    """One process of `reconciler run`. `start`, then `stop`.

    `stands_by`: where another one leads on the same database, wait for it to end instead of raising StateLockedError.
    """

    def __init__(
        self,
        settings: Settings,
        env: Mapping[str, str],
        *,
        is_observing: bool = False,
        stands_by: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self._stands_by = stands_by
        self._env = env
        self._is_observing = is_observing
        self.random = SystemRandom()
        self.redactor = Redactor()
        self._logger = structlog.get_logger("daemon")
        self.state = StateDirectory(settings.state_dir)
        url = database_url(env)
        self._location: Location = url or self.state.database
        self._engine_url = url.reveal() if url else f"sqlite:///{self.state.jobs}"
        self._is_shared = url is not None
        machine = clock or SystemClock()
        self._server_clock = ServerClock(machine) if self._is_shared else None
        self.clock: Clock = self._server_clock or machine
        self.loops = Loops(self.clock)
        self.owner = new_owner()
        self.leading: Leading | None = None
        self.leadership: Leadership | None = None
        self.work: Work | None = None
        self.tester: Tester | None = None
        self.reception: Reception | None = None
        self._leads = False
        self._settling = asyncio.Lock()
        self._ends = AsyncExitStack()

    async def start(self) -> None:
        """Everything up, or nothing left open; raises SettingsError, StoreError or OSError with a message for a person."""
        self._check_role()
        try:
            await self._open()
            await self._go()
        except BaseException:
            await self._ends.aclose()
            raise
        gc.collect()
        role, listening = self.settings.role, self.window.address or "nowhere"
        self._logger.info("started", role=role, state=self.database.where, listening=listening)
        gc.freeze()  # what a daemon starts with lives as long as it does: collections need not walk it again

    def _check_role(self) -> None:
        role = self.settings.role
        if role != "all" and not self._is_shared:
            raise SettingsError(
                f"role {role} is for several processes on PostgreSQL; set {DATABASE_ENV}, or leave role out"
            )
        if role in {"worker", "api"} and self._is_observing:
            raise SettingsError(f"--observe is for the one who plans; a process with role {role} does not")

    @property
    def _follows(self) -> bool:
        """Git, that is; a process that does not knows only what the database says."""
        return self.settings.role != "api"

    @property
    def _may_lead(self) -> bool:
        return self.settings.role in {"all", "controller"}

    @property
    def _works(self) -> bool:
        return self.settings.role in {"all", "worker"} and not self._is_observing

    @property
    def _is_turn(self) -> bool:
        return self.leadership is None or self.leadership.leads.is_set()

    async def _open(self) -> None:
        """All that may be refused, before anything is done for others. What is opened is noted in `_ends`, to be closed."""
        self.state.acquire()
        self._ends.callback(self.state.release)
        self.database = Database(backend(self._location, self.clock))
        self._ends.callback(self.database.close)
        if self._server_clock is not None:
            await self._server_clock.align(self.database)
        await migrate(self.database)
        if self._follows:
            keys = load_keys(self.settings, self._env, self.state.keys, is_shared=self._is_shared)
            self._vault = await open_vault(self.database, *keys)
        self._wire()
        self._ends.push_async_callback(self.window.stop)
        await self.window.start()

    async def _go(self) -> None:
        if self.leadership is not None:
            self._ends.push_async_callback(self.leadership.leave)
            await self.leadership.ask(must=not self._stands_by)
            self._ends.push_async_callback(self.loops.stop)
            self.loops.forever("leadership", self.leadership.keep)  # the start may take longer than the lease lasts
        if self.work is not None:
            await self.work.launch()
            self._ends.push_async_callback(self.work.stop, self.settings.stop_timeout)
        self._ends.push_async_callback(self._withdraw)
        if self._may_lead and self._is_turn:
            await self._begin()
        self._start_loops()

    def _wire(self) -> None:
        settings, database = self.settings, self.database
        self.budgets = Budgets(self.clock, shared=StoreBlocks(database))
        self.metrics = Metrics(self.budgets.states, lambda: database.refused)
        self.journal = StoreJournal(database, self.clock, self.redactor)
        if self._is_shared and self._may_lead:
            self.leadership = Leadership(database, self.clock, self.owner)
        self._ends.push_async_callback(self._last_lines)
        if self._follows:
            self._wire_rooms()
        checks = {"desired_state": self._unread, "loops": self._failing}
        self.window = Window(
            settings.listen,
            database=database,
            clock=self.clock,
            redactor=self.redactor,
            metrics=self.metrics,
            checks=checks,
            is_leader=self._is_leader,
            ports=self._ports(),
            door=doorway(settings, self.clock, self.redactor, self.metrics.observe_http),
        )

    def _wire_rooms(self) -> None:
        settings = self.settings
        vault = self._vault
        policy = tenant_policy(settings)
        self.book = SourceBook(source_inputs(settings, policy), self._resolver(vault, policy), self.redactor)
        self._ends.callback(self.book.close)
        self.connections = ConnectionPool(self._workshop(vault, policy))
        self._ends.push_async_callback(self.connections.close)
        self.reception = Reception(
            self.database, self.connections, self.journal, self.clock, lambda: self.book.state is not None
        )
        self._ends.callback(self.reception.close)
        sources = {s.name: self._source(s) for s in settings.sources}
        self.following = Following(sources, self.book, self.database, self.clock, self.random, self._keys, self.settle)
        ground = self._ground()
        self.tester = Tester(self.database, self.clock, self.redactor, self.connections, self.book, self._is_leader)
        if self._works:
            self.work = make_work(self._bench(ground), WorkSettings(self._engine_url, not self._is_shared, self.owner))
        if self._may_lead:
            self.leading = Leading(self._office(ground, self.work or Elsewhere(StoredJobs(self.database))))

    def _ports(self) -> Ports:
        ports = Ports(
            prompt=self._prompt,
            probing=Trials(self.database, self.clock, self.tester).probe,
            authorizing=Authorizations(self.database, self.clock),
            reception=self.reception,
            told=self._changed,
        )
        if not self.settings.sources:
            return ports
        asked = {} if self._follows else {s.name: self._source(s) for s in self.settings.sources}
        made = git_ports(
            GitParts(
                settings=self.settings,
                env=self._env,
                sources=asked or self.following.sources,
                book=self.book if self._follows else None,
                look=self._look_at_git,
                keyring=self._keys,
                cache=self.state.path / "git",
                database=self.database,
                clock=self.clock,
                random=self.random,
                redactor=self.redactor,
                observe=self.metrics.observe_http,
            )
        )
        self._ends.push_async_callback(made.close)
        return replace(ports, planner=made.planner, manifests=made.manifests, policy=made.policy)

    async def _look_at_git(self) -> None:
        """Something was pushed: whoever leads need not wait for its next round."""
        if self._leads:
            self.following.look()
            return
        at = rfc3339(self.clock.now())
        await self.database.write(lambda tx: journal.ask(tx, "reconcile", None, {}, "api", at))

    def _resolver(self, vault: Vault, policy: TenantPolicy) -> Resolver:
        keyring = self._keys()
        for fault in keyring.faults:
            self._logger.warning("a key is missing; what only it can open waits for it", why=fault)
        return Resolver(
            keyring=keyring,
            env=self._env,
            policy=policy,
            hash_key=vault.fingerprint_key,
            registry=registry,
            cache=DecryptionCache(),
        )

    def _workshop(self, vault: Vault, policy: TenantPolicy) -> Workshop:
        return Workshop(
            database=self.database,
            book=self.book,
            vault=vault,
            redactor=self.redactor,
            journal=self.journal,
            clock=self.clock,
            random=self.random,
            budgets=self.budgets,
            guard=host_guard(self.settings),
            contexts=TlsContexts(),
            network=network_settings(self.settings),
            policy=policy,
            public_url=self.settings.public_url,
            is_shared=self._is_shared,
            observe=self.metrics.observe_http,
        )

    def _ground(self) -> Ground:
        return Ground(
            database=self.database,
            book=self.book,
            connections=self.connections,
            journal=self.journal,
            metrics=self.metrics,
            clock=self.clock,
            random=self.random,
            halt=self._halt,
            probe_interval=self.settings.probe_interval,
            credential_warning=self.settings.credential_warning,
            redirect_uri=self._redirect_uri,
            unseal=self._unseal,
        )

    @property
    def _redirect_uri(self) -> str:
        """Only a process that does everything knows that its own address is the one that answers callbacks."""
        settings = self.settings
        is_tls = settings.tls.cert_file is not None
        return callback_url(settings.public_url, settings.listen if settings.role == "all" else "", is_tls=is_tls)

    def _unseal(self, sealed: bytes, place: str) -> Secret:
        try:
            return self._vault.open_transit(sealed, place)
        except VaultError as error:
            raise UnsealError(str(error)) from None

    def _bench(self, ground: Ground) -> Bench:
        return Bench(ground=ground, following=self.following, changed=self._changed, is_shared=self._is_shared)

    def _office(self, ground: Ground, dispatch: Dispatch) -> Office:
        return Office(
            ground=ground,
            dispatch=dispatch,
            look=self.following.look,
            settle=self.settle,
            route_every=ROUTE_SHARED if self._is_shared else ROUTE_ALONE,
            fence=self.leadership.check if self.leadership else None,
            is_observing=self._is_observing,
            aside={TEST: self.tester.take} if self.tester else {},
        )

    def _keys(self) -> Keyring:
        path = self.settings.age_key_file
        return keys_at_hand({**self._env, "SOPS_AGE_KEY_FILE": str(path)} if path else self._env)

    def _source(self, source: SourceOptions) -> Attended:
        opened = open_source(source_settings(source, self._env), self.state.path / "git", self.clock)
        return Attended(opened, self._note_source, self.metrics, self.clock)

    def _start_loops(self) -> None:
        loops = self.loops
        if self._server_clock is not None:
            loops.every("server clock", ALIGN_SECONDS, partial(self._server_clock.align, self.database))
            loops.every("share", SECONDS_SHARE, self._take_share)
        if isinstance(self._location, Secret) and self._follows:
            loops.forever("notices", Notices(self._location, self.clock, self._hear, self._unheard).listen)
        if self.leadership is not None:
            loops.forever("turn", self._lead_in_turn)
        if self._follows:
            self.following.start(loops)
        if self.tester is not None:
            loops.forever("tests", self.tester.run)
        loops.every("journal", FLUSH_SECONDS, self.journal.flush)
        loops.forever("loop lag", self.metrics.watch_loop)
        loops.every("board", SECONDS_BOARD, self.window.refresh)

    async def _take_share(self) -> None:
        """Of what remotes permit, a part for each process that asks them."""
        self.budgets.share.part = 1 / max(1, await self.database.read(jobs.parties))

    async def _lead_in_turn(self) -> None:
        """When the one before is gone, this one begins."""
        if self.leadership is not None:
            await self.leadership.leads.wait()
            await self._begin()
            self.loops.works("turn")
            await self.leadership.lost.wait()

    async def _begin(self) -> None:
        if self.leading is not None and not self._leads:
            await self.leading.recover()
            self._leads = True
            self.leading.start(self.loops)
        await self.settle()

    def _is_leader(self) -> bool:
        return self._leads

    async def settle(self) -> Intaken | None:
        """Put in force what Git wants; whoever leads also makes the difference to what is applied due."""
        async with self._settling:
            if self._leads and self.leading is not None:
                return await self.leading.settle()
            if self.book.wished is not None:
                await self.book.resolve(self.book.wished)
            return None

    async def _note_source(self, source: Source, asked_at: datetime | None) -> None:
        """`reconciler status` tells what the one who leads knows of Git. `asked_at`: None where an earlier process asked."""
        if not self._leads:
            return
        state, error = source.state, source.state.error
        row = SourceRow(
            name=state.name,
            url=self.redactor.text(source.settings.remote),
            revision=state.revision,
            attempted_revision=state.attempted_revision,
            fetched_at=rfc3339(state.fetched_at) if state.fetched_at else None,
            error_reason=error.reason if error else "",
            error_message=error.message if error else "",
            error_since=rfc3339(error.since) if error else None,
        )
        await self.database.write(lambda tx: journal.put_source(tx, row, rfc3339(asked_at) if asked_at else None))

    async def _halt(self, run_ids: Sequence[int]) -> None:
        if self._is_observing:
            return
        dispatch = self.work or Elsewhere(StoredJobs(self.database))
        for run_id in run_ids:
            await dispatch.cancel("sync", str(run_id))

    async def _prompt(self, carried: Carried) -> None:
        """What the API stored as an order takes effect at once, also where another process leads."""
        if self.leading is not None and self._leads:
            await self.leading.obey(carried)
            return
        await self._halt([int(asked.ref) for asked in carried.stop])
        dispatch = self.work or Elsewhere(StoredJobs(self.database))
        for asked in carried.start:
            await dispatch.ask(asked.kind, asked.ref)

    def _changed(self) -> None:
        """Records changed, or a job ended: what follows from it is looked for now."""
        if self.leading is not None:
            self.leading.routing.set()
        if self.work is not None:
            self.work.wake()

    def _hear(self, topic: Topic) -> None:
        """Another process has something for us: it need not wait for the next round."""
        if topic == "order" and self.leading is not None:
            self.leading.ordered.set()
        if topic == "event" and self.leading is not None:
            self.leading.routing.set()
        if topic in {"asked", "due"} and self.work is not None:
            self.work.wake()
        if topic == "dropped" and self.work is not None:
            self.work.look()

    def _unheard(self, why: str | None) -> None:
        if why is None:
            self._logger.info("word of other processes comes again")
        else:
            self._logger.warning(
                "no word of other processes comes; what they ask for starts up to a second later", why=why
            )

    def _unread(self) -> str | None:
        if self._follows and self.book.state is None and self.settings.sources:
            return "no revision of the sources has been read yet"
        return None

    def _failing(self) -> str | None:
        said = "; ".join(f"{name}: {error}" for name, error in self.loops.failing.items())
        return self.redactor.text(said) or None

    async def until(self, stop: asyncio.Event) -> bool:
        """Waits for `stop`, or for the loss of the lease; True for the former."""
        ends = [stop] if self.leadership is None else [stop, self.leadership.lost]
        waiting = [asyncio.create_task(event.wait()) for event in ends]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return stop.is_set()

    async def stop(self) -> None:
        """Bounded by `stop_timeout` plus what closing files takes."""
        await self._ends.aclose()
        self._logger.info("stopped")

    async def _withdraw(self) -> None:
        """Nothing more is decided here: whoever is next need not wait for the jobs that still run."""
        await self.loops.stop()
        if self.leadership is not None:
            await self.leadership.leave()

    async def _last_lines(self) -> None:
        try:
            await self.journal.flush()
        except StoreError as error:
            self._logger.error("the last log lines could not be stored", error=str(error))  # noqa: TRY400 the disk, not we
