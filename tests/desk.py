"""A remote of our own making and a small world around it: real SQLite, real rooms, a clock that nobody waits for.

`Remote` is what the tests script; `Desk` and `HookedDesk` are connectors on the contract that do what it says. `World`
holds what the composition root would: a book, connections, a journal, and jobs that are really claimed and settled.
"""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from pydantic import Field

from reconciler.control.book import Resolution, Unread
from reconciler.control.intake import Intake, Intaken
from reconciler.control.reconcile import Pace, Reconciler
from reconciler.control.stopping import Stopper
from reconciler.events.deliver import Deliverer
from reconciler.events.route import Router
from reconciler.events.subscriptions import Subscription, compile_subscriptions
from reconciler.model.clock import rfc3339
from reconciler.model.condition import Condition, ConditionType, Reason, violations
from reconciler.model.event import Message, Receipt
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref
from reconciler.model.job import Claim, Job, Outcome
from reconciler.model.manifest import Integration
from reconciler.model.record import LogLevel, Page, ReadRequest, Reject, Scope
from reconciler.model.state import DesiredIntegration, DesiredState, Origin
from reconciler.model.tree import tree_hash
from reconciler.plan.compare import Resolved
from reconciler.sdk.contract import (
    Channel,
    Connector,
    Deletes,
    Entity,
    NoAuth,
    Probe,
    RemoteObject,
    Repeat,
    Retries,
    Settings,
)
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.sdk.testing.room import VirtualClock
from reconciler.store import conditions, deliveries, events, integrations, jobs, runs
from reconciler.store.database import Backend, Database, Tx
from reconciler.store.integrations import IntegrationRow
from reconciler.store.migrations import migrate
from reconciler.store.runs import NewRun, Run
from reconciler.store.sqlite import Sqlite
from reconciler.sync.run import Syncer

T = TypeVar("T")
WORKSPACE = "it-ops"
HASTY = Retries(pauses=(timedelta(seconds=10), timedelta(minutes=1)), jitter=0.2, is_overruled=True)
Fault = Exception | Callable[[], Awaitable[None]]


class DeskConfig(Settings):
    events: tuple[str, ...] = ()


class Note(Settings):
    text: str
    to: str = "ops"


class Told(Settings):
    subject: str = ""
    text: str = ""
    data: dict[str, Any] = Field({})
    occurred_at: str = ""


@dataclass
class Remote:
    """`pages[entity]` are lists of records `{"id", "at", ...}`; `faults[entity, page]` happen before that page, once each."""

    pages: dict[str, list[list[dict[str, Any]]]] = field(default_factory=lambda: defaultdict(list))
    deleted: dict[str, list[str]] = field(default_factory=dict)
    faults: dict[tuple[str, int], list[Fault]] = field(default_factory=lambda: defaultdict(list))
    forever: dict[str, Exception] = field(default_factory=dict)
    asked: list[tuple[str, ReadRequest]] = field(default_factory=list)
    probes: list[Exception | Probe] = field(default_factory=list)
    probed: int = 0
    counted: int | None = None
    objects: dict[str, RemoteObject] = field(default_factory=dict)
    wanted: tuple[RemoteObject, ...] = ()
    object_faults: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    calls: list[str] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    answers: list[Exception | Receipt] = field(default_factory=list)
    found: Receipt | Exception | None = None
    revoked: int = 0
    closed: int = 0


def _pop(faults: list[Any]) -> None:
    if faults:
        fault = faults.pop(0)
        if isinstance(fault, Exception):
            raise fault


class Desk(Connector[DeskConfig, NoAuth]):
    """Tickets in order of their cursor, people without one, a denied entity for whom it may concern."""

    type = "desk"
    title = "Desk"
    Config = DeskConfig
    auth_types = (NoAuth,)
    entities = (
        Entity(name="tickets", cursor="at", ordered=True, deletes=Deletes.FULL_RUN),
        Entity(name="people", deletes=Deletes.FULL_RUN),
        Entity(name="notes", cursor="at", by_default=False, deletes=Deletes.FLAG),
    )
    channels = (
        Channel(name="safe", fields=Note, text_field="text", repeat=Repeat.SAFE),
        Channel(name="find", fields=Note, text_field="text", repeat=Repeat.FIND),
        Channel(name="unsafe", fields=Note, text_field="text", repeat=Repeat.UNSAFE),
        Channel(
            name="told", fields=Told, text_field="text", repeat=Repeat.SAFE, retries=HASTY, events_at="events",
            defaults={"occurred_at": "{{ event.occurred_at }}"},
            plain={"subject": "{{ event.about }}", "data": "{{ event.data }}"},
        ),
    )  # fmt: skip

    def __init__(self, remote: Remote) -> None:
        self.remote = remote
        self.config = DeskConfig()

    async def probe(self) -> Probe:
        self.remote.probed += 1
        answer = self.remote.probes.pop(0) if self.remote.probes else Probe("ada")
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def read(self, entity: Entity, request: ReadRequest) -> AsyncIterator[Page]:
        remote = self.remote
        remote.asked.append((entity.name, request))
        pages = remote.pages[entity.name] or [[]]
        for number in range(int(request.resume["page"]) if request.resume else 0, len(pages)):
            if entity.name in remote.forever:
                raise remote.forever[entity.name]
            for fault in list(remote.faults[entity.name, number]):
                remote.faults[entity.name, number].remove(fault)
                if isinstance(fault, Exception):
                    raise fault
                await fault()
            position = {"page": number + 1} if number + 1 < len(pages) else None
            page = _page(entity, pages[number], position, tuple(remote.deleted.get(entity.name, ())))
            yield _keys(page, pages[number]) if request.scope is Scope.KEYS else page

    async def count(self, entity: Entity, request: ReadRequest) -> int | None:
        return self.remote.counted

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        answer = self.remote.answers.pop(0) if self.remote.answers else Receipt(f"m{len(self.remote.sent)}")
        self.remote.sent.append(message)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def find(self, channel: Channel, message: Message) -> Receipt | None:
        self.remote.calls.append("find")
        if isinstance(self.remote.found, Exception):
            raise self.remote.found
        return self.remote.found

    async def revoke(self) -> None:
        _pop(self.remote.object_faults["revoke"])
        self.remote.revoked += 1


def _page(
    entity: Entity, records: list[dict[str, Any]], position: Mapping[str, Any] | None, gone: tuple[str, ...]
) -> Page:
    stamps = [r["at"] for r in records if r.get("at")] if entity.cursor else []
    named = [r for r in records if "id" in r]
    return Page(
        keys=tuple(str(r["id"]) for r in named),
        payloads=tuple(json.dumps(r).encode() for r in named),
        rejects=tuple(Reject(json.dumps(r).encode(), ("id is missing",)) for r in records if "id" not in r),
        deleted=gone,
        watermark=max(stamps) if stamps else None,
        position=position,
    )


def _keys(page: Page, records: list[dict[str, Any]]) -> Page:
    """As a listing of keys: with their change times, and nothing of the records."""
    times = tuple(r.get("at") or "" for r in records if "id" in r)
    return replace(page, payloads=tuple(k.encode() for k in page.keys), changed_at=times, watermark=None, deleted=())


class HookedDesk(Desk):
    """The same with objects at the remote; a fault in `object_faults["created"]` happens after the remote made it."""

    def wanted_objects(self) -> tuple[RemoteObject, ...]:
        return self.remote.wanted

    async def list_objects(self) -> tuple[RemoteObject, ...]:
        _pop(self.remote.object_faults["list"])
        return tuple(self.remote.objects.values())

    async def create_object(self, wanted: RemoteObject) -> RemoteObject:
        self.remote.calls.append(f"create {wanted.marker}")
        _pop(self.remote.object_faults["create"])
        made = replace(wanted, remote_id=f"h{len(self.remote.calls)}", secret_fingerprint="")
        self.remote.objects[made.remote_id] = made
        _pop(self.remote.object_faults["created"])
        return made

    async def update_object(self, remote_id: str, wanted: RemoteObject) -> RemoteObject:
        self.remote.calls.append(f"update {wanted.marker}")
        self.remote.objects[remote_id] = replace(wanted, remote_id=remote_id, secret_fingerprint="")
        return self.remote.objects[remote_id]

    async def delete_object(self, found: RemoteObject) -> None:
        self.remote.calls.append(f"delete {found.remote_id}")
        _pop(self.remote.object_faults["delete"])
        self.remote.objects.pop(found.remote_id, None)


def desired(name: str, spec: Mapping[str, Any] | None = None, revision: str = "r1") -> DesiredIntegration:
    """A valid wish for a desk, as Git would have it."""
    tree = {"type": "desk", **(spec or {})}
    manifest = Integration.model_validate(
        {
            "apiVersion": "reconciler.dev/v1",
            "kind": "Integration",
            "metadata": {"name": name, "workspace": WORKSPACE},
            "spec": tree,
        }
    )
    origin = Origin("git", f"{name}.yaml", 1, revision)
    return DesiredIntegration(Ref(WORKSPACE, name), manifest, tree, tree_hash(tree), origin, "ada")


def state(*wishes: DesiredIntegration, revision: str = "r1", **more: Any) -> DesiredState:
    return DesiredState(revision, {w.ref: w for w in wishes}, **more)


class FakeBook:
    """Book and resolver: what Git wants, what cannot be decrypted, and the keyed hash of what can."""

    def __init__(self) -> None:
        self.state: DesiredState | None = None
        self.departed: dict[Ref, DesiredIntegration] = {}
        self.failed: dict[Ref, tuple[Finding, ...]] = {}
        self.secrets: dict[Ref, str] = {}
        self._number = 0
        self._said: dict[Ref, Any] = {}

    def get(self, ref: Ref) -> DesiredIntegration | None:
        return (self.state.integrations.get(ref) if self.state else None) or self.departed.get(ref)

    async def resolve(self, wanted: DesiredState) -> Resolution:
        resolved = {r: Resolved(self.effective(i), {}) for r, i in wanted.integrations.items() if r not in self.failed}
        every = {*wanted.integrations, *wanted.held, *self.failed}
        said = {r: (wanted.integrations.get(r), resolved.get(r), r in wanted.held, r in self.failed) for r in every}
        touched = frozenset(r for r in said.keys() | self._said.keys() if said.get(r) != self._said.get(r))
        self._said, self._number = said, self._number + 1
        return Resolution(wanted, resolved, self.unread, self._number, touched if self._number > 1 else None)

    @property
    def unread(self) -> dict[Ref, Unread]:
        return {ref: Unread(findings) for ref, findings in self.failed.items()}

    def effective(self, wish: DesiredIntegration) -> str:
        return f"{wish.source_hash}:{self.secrets.get(wish.ref, '')}"

    def authored(self, wish: DesiredIntegration) -> DesiredIntegration:
        return wish


class FakeConnections:
    """One connector per integration name, on that name's remote."""

    def __init__(self, book: FakeBook) -> None:
        self.book = book
        self.remotes: dict[str, Remote] = defaultdict(Remote)
        self.hooked: set[str] = set()
        self.unusable: dict[str, NotConnectableError] = {}
        self.refs: dict[int, Ref] = {}
        self.dropped: list[str] = []

    async def live(self, integration_id: int) -> Live:
        ref = self.refs[integration_id]
        if ref.name in self.unusable:
            raise self.unusable[ref.name]
        wish = self.book.get(ref)
        if wish is None:
            raise NotConnectableError(Reason.PENDING, "its manifest is not known")
        kind = HookedDesk if ref.name in self.hooked else Desk
        return Live(
            integration_id, ref, wish.manifest, kind(self.remotes[ref.name]), wish.source_hash,
            self.book.effective(wish), {}, wish.origin.revision,
        )  # fmt: skip

    async def drop(self, integration_id: int) -> None:
        self.dropped.append(self.refs[integration_id].name)


class FakeJournal:
    """Keeps lines as they are said; `unflushed` counts those that a room forgot to store."""

    def __init__(self) -> None:
        self.lines: list[tuple[LogLevel, str, dict[str, Any]]] = []
        self.unflushed = 0

    def __call__(self, integration_id: int, level: LogLevel, message: str, /, **detail: Any) -> None:
        self.lines.append((level, message, detail))
        self.unflushed += 1

    async def flush(self) -> None:
        self.unflushed = 0


class World:
    """Everything but Git, HTTP and the job engine."""

    def __init__(self, database: Database, clock: VirtualClock) -> None:
        self.db = database
        self.clock = clock
        self.random = Random(7)
        self.book = FakeBook()
        self.connections = FakeConnections(self.book)
        self.journal = FakeJournal()
        self.halted: list[int] = []
        self.subscriptions: tuple[Subscription, ...] | None = None
        self.intake = Intake(database, self.book, clock)
        self.reconciler = Reconciler(
            database, self.book, self.connections, self.journal, clock, self.random, self._halt,
            Pace(deadline=timedelta(seconds=5)),
        )  # fmt: skip
        self.stopper = Stopper(database, self.journal, clock, self._halt)
        self.syncer = Syncer(database, self.connections, self.journal, clock, self.random, lambda: None)
        self.deliverer = Deliverer(
            database, self.connections, self.journal, clock, self.random, in_a_row=0
        )  # one for each job, so that a test says which are sent
        self.router = Router(database, self, clock, lambda _: None)

    async def _halt(self, run_ids: Any) -> None:
        self.halted += run_ids

    def every(self) -> tuple[Subscription, ...] | None:
        return self.subscriptions

    def remote(self, name: str = "desk") -> Remote:
        return self.connections.remotes[name]

    async def wish(self, *wishes: DesiredIntegration, revision: str = "r1", **more: Any) -> Intaken:
        """A revision of Git arrives with exactly these."""
        before = self.book.state.integrations if self.book.state else {}
        self.book.state = state(*wishes, revision=revision, **more)
        self.book.departed |= {r: w for r, w in before.items() if r not in self.book.state.integrations}
        taken = await self.intake.take(self.book.state)
        rows = await self.db.read(lambda tx: integrations.every(tx, with_removed=True))
        self.connections.refs = {row.id: row.ref for row in rows}
        ids = {row.ref: row.id for row in rows}
        self.subscriptions = tuple(
            s for w in wishes if w.ref in ids for s in compile_subscriptions(ids[w.ref], w.manifest, Desk)
        )
        await self.check()
        return taken

    async def up(self, *names: str, **spec: Any) -> None:
        """Wish for desks of these names, and connect and sync them."""
        await self.wish(*(desired(n, spec) for n in names or ("desk",)))
        for name in names or ("desk",):
            await self.reconcile(name)
            await self.sync_due(name)

    async def row(self, name: str = "desk") -> IntegrationRow:
        row = await self.db.read(lambda tx: integrations.find(tx, Ref(WORKSPACE, name)))
        assert row is not None
        return row

    async def said(self, name: str = "desk") -> dict[ConditionType, Condition]:
        """What the conditions say, checked against every invariant."""
        row = await self.row(name)
        found = await self.db.read(lambda tx: conditions.conditions(tx, row.id))
        assert violations(found.values(), row.generation) == []
        return found

    async def check(self) -> None:
        for name in await self.read(lambda tx: [row.name for row in integrations.every(tx)]):
            await self.said(name)

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self.db.read(query)

    async def work(self, kind: str, ref: int, key: int) -> Outcome:
        """Claim and run one job as the engine would, and settle its row."""
        runner = {"reconcile": self.reconciler.run, "sync": self.syncer.run, "deliver": self.deliverer.run}[kind]
        async with self.claimed(kind, ref, key) as (job, claim):
            outcome = await runner(job, claim)
            assert self.journal.unflushed == 0
        await self.db.write(lambda tx: jobs.finish(tx, claim, outcome.again_at))
        await self.check()
        return outcome

    @asynccontextmanager
    async def claimed(self, kind: str, ref: int, key: int) -> AsyncIterator[tuple[Job, Claim]]:
        """The right to work on it; not settled, as after a crash, unless `work` does."""

        def take(tx: Tx) -> tuple[Job, Claim]:
            now = self.clock.now()
            jobs.put(tx, kind, str(ref), str(key), 10, now)
            tx.execute("UPDATE job SET due_at = :now, state = 'due' WHERE kind = :k AND ref = :r",
                       {"now": rfc3339(now), "k": kind, "r": str(ref)})  # fmt: skip
            tx.execute("UPDATE lane SET job_id = NULL WHERE key = :key", {"key": str(key)})
            tx.execute("UPDATE job SET state = 'due' WHERE key = :key", {"key": str(key)})
            last = tx.value("UPDATE job_ticket SET value = value + 1 RETURNING value")
            tx.execute("UPDATE job SET state = 'queued', queued_at = :now, attempt = :a WHERE kind = :k AND ref = :r",
                       {"now": rfc3339(now), "a": last, "k": kind, "r": str(ref)})  # fmt: skip
            job_id = tx.value("SELECT id FROM job WHERE kind = :k AND ref = :r", k=kind, r=str(ref))
            started = jobs.start(tx, job_id, last, "test", now, timedelta(hours=1))
            assert started is not None
            return started

        yield await self.db.write(take)

    async def reconcile(self, name: str = "desk") -> Outcome:
        row = await self.row(name)
        return await self.work("reconcile", row.id, row.id)

    async def make_run(self, name: str = "desk", scope: Scope = Scope.INCREMENTAL, **more: Any) -> Run:
        row, at = await self.row(name), rfc3339(self.clock.now())
        return await self.db.write(lambda tx: runs.create(tx, NewRun(row.id, scope, "person", **more), at))

    async def sync(self, name: str = "desk", scope: Scope = Scope.INCREMENTAL, **more: Any) -> Run:
        """A run from its order to wherever one attempt takes it."""
        return await self.go_on(await self.make_run(name, scope, **more))

    async def go_on(self, run: Run) -> Run:
        await self.work("sync", run.id, run.integration_id)
        found = await self.read(lambda tx: runs.get(tx, run.id))
        assert found is not None
        return found

    async def sync_due(self, name: str = "desk") -> list[Run]:
        row = await self.row(name)
        return [await self.go_on(run) for run in await self.read(lambda tx: runs.open_runs(tx, row.id))]

    async def events(self) -> list[str]:
        return [e.type for e in await self.read(lambda tx: events.to_route(tx, 0, 1000))]

    async def jobs_of(self, kind: str) -> dict[str, str]:
        """ref -> due time."""
        rows = await self.read(lambda tx: tx.all("SELECT ref, due_at FROM job WHERE kind = :k", k=kind))
        return {row["ref"]: row["due_at"] for row in rows}

    async def deliveries(self) -> list[deliveries.Delivery]:
        return list(reversed(await self.read(lambda tx: deliveries.listing(tx, limit=1000))))


@asynccontextmanager
async def opened(backend: Backend, clock: VirtualClock) -> AsyncIterator[World]:
    database = Database(backend)
    try:
        await migrate(database)
        yield World(database, clock)
    finally:
        database.close()


def embedded(folder: Path) -> AbstractAsyncContextManager[World]:
    """A world on a file, for tests to which the database does not matter."""
    clock = VirtualClock()
    return opened(Sqlite(folder / "reconciler.db", clock), clock)


def tickets(*ids: int, at: str = "2026-03-02T09:{:02}:00Z", **more: Any) -> list[dict[str, Any]]:
    return [{"id": str(i), "at": at.format(i % 60), "title": f"ticket {i}", **more} for i in ids]


def in_pages(records: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(records), size):
        yield records[start : start + size]
