"""A small installation in a real store, filled through the store's own functions, and the web side served on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration
from reconciler.model.record import RunResult, Scope
from reconciler.model.secret import Secret, Unresolved
from reconciler.model.state import DesiredIntegration, Origin
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission, Terms
from reconciler.serve.api import make_app
from reconciler.serve.health import Check, Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.parts import Parts
from reconciler.serve.ports import Ports
from reconciler.serve.problem import LOOPBACK, MAX_BODY
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Patience, Server
from reconciler.serve.snapshot import Board
from reconciler.serve.state_changes import Measures
from reconciler.serve.streaming import Beat
from reconciler.serve.streams import Streams
from reconciler.serve.tls import CertificateFiles
from reconciler.store import conditions, integrations, probes, runs
from reconciler.store.conditions import Say
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import Applied, DesiredChange
from reconciler.store.migrations import migrate
from reconciler.store.postgres import Postgres
from reconciler.store.probes import ProbeRecord
from reconciler.store.runs import Lineage, NewRun
from reconciler.store.sqlite import Sqlite
from tests.tokens import bearer, issue

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLEAR_SECRET = "canary-secret-in-a-url-4711"


class StandingClock(SystemClock):
    """Moves only by `add`."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def add(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Wish:
    name: str
    type: str = "jira"
    workspace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)

    @property
    def desired(self) -> DesiredIntegration:
        metadata = {"name": self.name, "workspace": self.workspace, "labels": dict(self.labels)}
        spec = {"type": self.type, **self.spec}
        document = {"apiVersion": "reconciler.dev/v1", "kind": "Integration", "metadata": metadata, "spec": spec}
        secret = Unresolved("encrypted", "d" * 64)
        auth = {"type": "oauth2", "client_id": "abc", "client_secret": secret}
        config = {"url": f"https://user:{CLEAR_SECRET}@jira.example", "nested": [{"token": secret}], "project": "OPS"}
        return DesiredIntegration(
            ref=Ref(self.workspace, self.name),
            manifest=Integration.model_validate(document),
            tree={"auth": auth, "config": config, **spec},
            source_hash=f"hash of {self.name}",
            origin=Origin("main", f"{self.name}.yaml", 3, "main@sha1:" + "a" * 40),
            created_by="A. Author <author@example.org>",
        )


def let_go(tx: Tx, integration_id: int) -> None:
    """Git names it no more, and the reconcile that lets it go is done."""
    integrations.unwant(tx, [integration_id], "gone", rfc3339(START))
    row = integrations.get(tx, integration_id)
    assert row is not None
    assert integrations.record_removed(tx, integration_id, row.generation, rfc3339(START))


def want(tx: Tx, *wishes: Wish) -> dict[str, int]:
    """name -> id."""
    found = integrations.want(tx, [DesiredChange(w.desired, "effective") for w in wishes], rfc3339(START))
    return {ref.name: i for ref, i in found.items()}


def connect(tx: Tx, integration_id: int, latency_ms: float = 120.5) -> None:
    row = integrations.get(tx, integration_id)
    assert row is not None
    at = rfc3339(START)
    applied = Applied(row.generation, {}, row.desired_hash, "effective", {}, row.revision, row.type, "disconnect")
    assert integrations.record_applied(tx, integration_id, applied, at)
    probes.record_probe(tx, integration_id, ProbeRecord(is_good=True, latency_ms=latency_ms), at, at)
    said = [Say(ConditionType.CONNECTED, Truth.TRUE, Reason.SUCCEEDED, "connected as robot")]
    conditions.say(tx, integration_id, row.generation, said, at)


def break_(tx: Tx, integration_id: int) -> None:
    said = [Say(ConditionType.CONNECTED, Truth.FALSE, Reason.AUTHENTICATION_FAILED, "401 from the remote")]
    conditions.say(tx, integration_id, 1, said, rfc3339(START))
    integrations.record_failure(tx, integration_id, None)


def synced(tx: Tx, integration_id: int, result: RunResult, at: datetime, error: str = "") -> None:
    """A run from its beginning to its end."""
    run = runs.create(tx, NewRun(integration_id, Scope.INCREMENTAL, "schedule"), rfc3339(at))
    started = runs.start(tx, run.id, 1, Lineage(1, "r", "h", "1"), rfc3339(at))
    assert started is not None
    assert runs.finish(tx, started, result, "", error, rfc3339(at))


@dataclass
class Installation:
    database: Database
    clock: StandingClock
    board: Board
    metrics: Metrics
    scrape: Scrape
    token: str = ""
    terms: Terms = field(default_factory=Terms)
    is_leader: bool = True
    ports: Ports = Ports()
    beat: Beat = field(default_factory=Beat)
    measures: Measures = field(default_factory=Measures)
    checks: dict[str, Check] = field(default_factory=dict)

    async def change(self, query: Callable[[Tx], Any]) -> Any:
        """Write, and let the board know."""
        result = await self.database.write(query)
        await self.board.reload()
        return result

    @property
    def bearer(self) -> dict[str, str]:
        return bearer(self.token)

    async def issue(self, name: str, workspace: str | None, *permissions: Permission, **more: Any) -> str:
        """A token in clear."""
        return await issue(self.database, name, workspace, *permissions, created_at=rfc3339(START), **more)

    async def text(self) -> str:
        """The scraped page."""
        return b"".join((await self.scrape.page(accepts_gzip=False)).pieces).decode()

    def server(
        self,
        patience: Patience | None = None,
        *,
        hosts: frozenset[str] | None = LOOPBACK,
        tls: CertificateFiles | None = None,
        max_body: int = MAX_BODY,
        origins: Sequence[str] = (),
    ) -> Server:
        health = Health(self.database, self.clock, self.checks)
        admission = Admission(self.database, self.clock, self.terms)
        streams = Streams(self.database, self.clock, self.board, admission, self.beat, self.measures)
        parts = Parts(
            self.database,
            self.clock,
            self.board,
            self.scrape,
            health,
            Redactor(),
            admission,
            ports=self.ports,
            streams=streams,
        )
        app = make_app(parts, hosts=hosts, max_body=max_body, origins=origins)
        return Server("127.0.0.1:0", app, patience, tls=tls, max_body=max_body, ending=streams.end)

    @asynccontextmanager
    async def client(
        self, patience: Patience | None = None, token: str | None = None
    ) -> AsyncIterator[httpx.AsyncClient]:
        """With a token that opens everything, unless another one is given; `""` for none."""
        server, clear = self.server(patience), self.token if token is None else token
        headers = {"authorization": f"Bearer {clear}"} if clear else {}
        await server.start()
        try:
            async with httpx.AsyncClient(
                base_url=f"http://{server.address}", trust_env=False, headers=headers, timeout=60
            ) as client:
                yield client
        finally:
            await server.stop()


@asynccontextmanager
async def installed(folder: Path, postgres: Secret | None = None) -> AsyncIterator[Installation]:
    """On a file, or on that database."""
    clock, metrics = StandingClock(), Metrics()
    database = Database(Postgres(postgres, clock.now) if postgres else Sqlite(folder / "reconciler.db", clock))
    board = Board(database, clock)
    found = Installation(database, clock, board, metrics, Scrape(board, metrics, lambda: found.is_leader))
    try:
        await migrate(database)
        found.token = await found.issue("everything", None, Permission.ADMIN)
        yield found
    finally:
        found.scrape.close()
        await asyncio.to_thread(database.close)
