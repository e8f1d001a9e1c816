"""Whether the time of an answer tells that an integration exists in another workspace: it must not, over 10,000 requests.

Requests for what is another workspace's and for what does not exist come in random order over one connection to the real
server, which holds 10,000 integrations. The figure is how far apart the two kinds of times are, in standard errors of the
rank sum (Mann-Whitney): by chance alone it is above 4.5 in one of 150,000 runs, and whoever listens learns nothing below that.
Beside it the same with a server that looks first and asks who may see it afterwards, which shows that a leak is found.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from benchmarks.measure import Bench
from benchmarks.rows import Row
from reconciler.model.access import Permission, new_token
from reconciler.model.clock import SystemClock, rfc3339
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration
from reconciler.model.state import DesiredIntegration, Origin
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.api import make_app
from reconciler.serve.health import Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.parts import Parts
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Server
from reconciler.serve.snapshot import Board
from reconciler.serve.streams import Streams
from reconciler.store import integrations, tokens
from reconciler.store.database import Database, Tx
from reconciler.store.integrations import DesiredChange
from reconciler.store.migrations import migrate
from reconciler.store.sqlite import Sqlite
from reconciler.store.tokens import TokenRow

LIMIT = 4.5
OWN = 100
_CLOCK = SystemClock()


def measure(bench: Bench) -> Iterator[Row]:
    count, requests = bench.size(10_000, 200), bench.size(10_000, 400)
    apart, leaking = asyncio.run(_compared(bench, count, requests))
    yield Row(
        name=f"existence elsewhere, {requests:,} requests",
        figure=apart,
        unit="standard errors",
        compared_with="a server that looks it up first",
        compared=leaking,
        limit=LIMIT if not bench.is_quick else None,
        scales=False,
    )


async def _compared(bench: Bench, count: int, requests: int) -> tuple[float, float]:
    async with _filled(bench, count) as (database, theirs, token):
        own = [await times(database, theirs, token, requests, leaks=leaks) for leaks in (False, True)]
    apart, leaking = (abs(rank_z(*one)) or 1e-9 for one in own)
    return apart, leaking


async def times(
    database: Database, theirs: Sequence[str], token: str, requests: int, *, leaks: bool
) -> tuple[list[int], list[int]]:
    """Nanoseconds of requests for what is elsewhere, and for what is nowhere."""
    board, metrics = Board(database, _CLOCK), Metrics()
    scrape, health = Scrape(board, metrics), Health(database, _CLOCK, {})
    admission = Admission(database, _CLOCK)
    streams = Streams(database, _CLOCK, board, admission)
    app = make_app(Parts(database, _CLOCK, board, scrape, health, Redactor(), admission, streams=streams))
    server = Server("127.0.0.1:0", _Leak(app, database, frozenset(theirs)) if leaks else app)
    await board.reload()
    await server.start()
    gc.collect()
    gc.freeze()
    try:
        return await _asked(server.address, theirs, token, requests)
    finally:
        gc.unfreeze()
        await server.stop()
        scrape.close()


class _Leak:
    """Reads what is asked for before it is asked who may see it: what this benchmark must find."""

    def __init__(self, app: ASGIApp, database: Database, theirs: frozenset[str]) -> None:
        self._app = app
        self._database = database
        self._theirs = theirs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].removeprefix("/v1/integrations/") in self._theirs:
            await self._database.read(lambda tx: integrations.get(tx, 1))
        await self._app(scope, receive, send)


async def _asked(address: str, theirs: Sequence[str], token: str, requests: int) -> tuple[list[int], list[int]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    found: tuple[list[int], list[int]] = ([], [])
    plan = [(kind, random.choice(theirs)) for kind in (0, 1) for _ in range(requests // 2)]
    random.shuffle(plan)
    head = f" HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
    for warm in (plan[: requests // 10], plan):
        for times_of in found:
            times_of.clear()
        for kind, ref in warm:
            request = f"GET /v1/integrations/{_nowhere(ref) if kind else ref}{head}".encode()
            started = time.perf_counter_ns()
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.partition(b"content-length: ")[2].partition(b"\r")[0]))
            found[kind].append(time.perf_counter_ns() - started)
            assert answer.startswith(b"HTTP/1.1 404"), answer
    writer.close()
    return found


def _nowhere(ref: str) -> str:
    """Of the same shape, but nobody's."""
    return f"{ref[:-1]}{'x' if ref[-1] != 'x' else 'y'}"


def rank_z(left: Sequence[int], right: Sequence[int]) -> float:
    """How far the rank sum of `left` is from what chance would make it, in standard errors."""
    n, m = len(left), len(right)
    ordered = sorted([*((value, 0) for value in left), *((value, 1) for value in right)])
    rank_sum = sum(rank for rank, (_, side) in enumerate(ordered, 1) if side == 0)
    wins = rank_sum - n * (n + 1) / 2
    spread: float = (n * m * (n + m + 1) / 12) ** 0.5
    return (wins - n * m / 2) / spread


@asynccontextmanager
async def _filled(bench: Bench, count: int) -> AsyncIterator[tuple[Database, list[str], str]]:
    """A store of two workspaces, references to what is in the other one, and a token of the first."""
    database = Database(Sqlite(bench.folder / "hidden.db", _CLOCK))
    try:
        await migrate(database)
        made = new_token()
        yield (
            database,
            await database.write(lambda tx: _fill(tx, count, made.public_id, made.sha256)),
            made.clear.reveal(),
        )
    finally:
        database.close()


def _fill(tx: Tx, count: int, public_id: str, sha256: str) -> list[str]:
    at = rfc3339(_CLOCK.now())
    permissions = (str(Permission.INTEGRATION_VIEW),)
    row = TokenRow(
        public_id=public_id, workspace="mine", name="own", sha256=sha256, permissions=permissions, origin="command",
        created_at=at, created_by="benchmark",
    )  # fmt: skip
    tokens.put(tx, row)
    every = [Ref("mine" if n < OWN else "theirs", f"integration-{n:05}") for n in range(count)]
    integrations.want(tx, [DesiredChange(_desired(ref), "effective") for ref in every], at)
    theirs = [one for one in integrations.every(tx) if one.workspace == "theirs"]
    return [text for one in theirs for text in (str(one.ref), one.name, one.public_id)]


def _desired(ref: Ref) -> DesiredIntegration:
    spec = {"type": "slack"}
    metadata = {"name": ref.name, "workspace": ref.workspace}
    manifest = Integration.model_validate(
        {"apiVersion": "reconciler.dev/v1", "kind": "Integration", "metadata": metadata, "spec": spec}
    )
    return DesiredIntegration(
        ref, manifest, spec, f"hash of {ref}", Origin("main", f"{ref.name}.yaml", 1, "main@sha1:0")
    )
