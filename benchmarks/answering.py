"""Servers to ask, each in a process of its own: ours with many integrations, and two bare ones that say as many bytes.

`python -m benchmarks.answering ours FOLDER COUNT`, `... asgi SIZE`, `... fastapi SIZE`; prints its address and a token, and goes
on until it is ended. Ours checks the token as always; it limits nobody. It begins when the board is up to date.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from reconciler.model.clock import SystemClock
from reconciler.serve.server import _Uvicorn

_CLOCK = SystemClock()
LIST = "/v1/integrations"


async def ours(folder: Path, count: int) -> None:
    from benchmarks.hidden import _desired
    from reconciler.model.access import Permission, new_token
    from reconciler.model.clock import rfc3339
    from reconciler.model.ids import Ref
    from reconciler.serve.server import Server
    from reconciler.store import integrations, tokens
    from reconciler.store.database import Database, Tx
    from reconciler.store.integrations import DesiredChange
    from reconciler.store.migrations import migrate
    from reconciler.store.sqlite import Sqlite
    from reconciler.store.tokens import TokenRow

    database, made, at = Database(Sqlite(folder / "answering.db", _CLOCK)), new_token(), rfc3339(_CLOCK.now())
    row = TokenRow(
        public_id=made.public_id, workspace=None, name="bench", sha256=made.sha256, origin="command", created_at=at,
        permissions=(str(Permission.INTEGRATION_VIEW),), created_by="benchmark",
    )  # fmt: skip

    def fill(tx: Tx) -> None:
        tokens.put(tx, row)
        every = [Ref(f"team-{n % 20:02}", f"integration-{n:05}") for n in range(count)]
        integrations.want(tx, [DesiredChange(_desired(ref), "effective") for ref in every], at)

    await migrate(database)
    await database.write(fill)
    async with _app(database) as app:
        server = Server("127.0.0.1:0", app)
        await server.start()
        print(server.address, made.clear.reveal(), flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def _app(database: object) -> AsyncIterator[ASGIApp]:
    from reconciler.sdk.redact import Redactor
    from reconciler.serve.admission import Admission
    from reconciler.serve.api import make_app
    from reconciler.serve.health import Health
    from reconciler.serve.metrics import Metrics
    from reconciler.serve.parts import Parts
    from reconciler.serve.scrape import Scrape
    from reconciler.serve.snapshot import Board
    from reconciler.serve.streams import Streams
    from reconciler.store.database import Database

    assert isinstance(database, Database)
    board = Board(database, _CLOCK)
    scrape, health = Scrape(board, Metrics()), Health(database, _CLOCK, {})
    await board.reload()
    refreshing = asyncio.create_task(_refresh(board.refresh))
    try:
        admission = Admission(database, _CLOCK)
        streams = Streams(database, _CLOCK, board, admission)
        yield make_app(Parts(database, _CLOCK, board, scrape, health, Redactor(), admission, streams=streams))
    finally:
        refreshing.cancel()
        scrape.close()


async def _refresh(refresh: object) -> None:
    """As the daemon does."""
    assert callable(refresh)
    while True:
        await asyncio.sleep(1)
        await refresh()


async def bare(app: ASGIApp) -> None:
    """As its makers have it, with the same parser and loop as ours."""
    config = uvicorn.Config(
        app, port=0, http="httptools", loop="asyncio", lifespan="off", access_log=False, log_config=None
    )
    server = _Uvicorn(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - the library has nothing to wait for
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    print(f"{host}:{port}", "none", flush=True)
    await serving


def trivial(size: int) -> ASGIApp:
    body = b"x" * size
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def route(size: int) -> ASGIApp:
    from fastapi import FastAPI
    from starlette.responses import Response

    app, body = FastAPI(), b"x" * size

    @app.get(LIST)
    async def one() -> Response:
        return Response(body, media_type="application/json")

    return app


if __name__ == "__main__":
    kind, *words = sys.argv[1:]
    if kind == "ours":
        asyncio.run(ours(Path(words[0]), int(words[1])))
    else:
        asyncio.run(bare((trivial if kind == "asgi" else route)(int(words[0]))))
