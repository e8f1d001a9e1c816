"""The window of a daemon: metrics, health and status over HTTP, wired from its parts."""

from collections.abc import Callable, Mapping

from reconciler.app.doorway import Doorway
from reconciler.model.clock import Clock
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.api import make_app
from reconciler.serve.health import Check, Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.parts import Parts
from reconciler.serve.ports import Ports
from reconciler.serve.problem import LOOPBACK
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Patience, Server, is_loopback
from reconciler.serve.snapshot import Board
from reconciler.serve.streams import Streams
from reconciler.store.database import Database


class Window:
    """`start` listens at `listen`; where that is empty, nothing is served."""

    def __init__(
        self,
        listen: str,
        *,
        database: Database,
        clock: Clock,
        redactor: Redactor,
        metrics: Metrics,
        checks: Mapping[str, Check],
        is_leader: Callable[[], bool],
        door: Doorway,
        ports: Ports,
    ) -> None:
        self._door = door
        self.board = Board(database, clock)
        self._scrape = Scrape(self.board, metrics, is_leader)
        self._admission = Admission(database, clock, door.terms)
        health = Health(database, clock, checks)
        streams = Streams(database, clock, self.board, self._admission)
        parts = Parts(
            database, clock, self.board, self._scrape, health, redactor, self._admission, ports, streams=streams
        )
        app = (
            make_app(
                parts,
                hosts=LOOPBACK | door.hosts if is_loopback(listen) else None,
                patience=door.timeout,
                max_body=door.max_body,
                origins=door.origins,
            )
            if listen
            else None
        )
        patience = Patience(body=door.timeout)
        self._server = (
            Server(listen, app, patience, tls=door.tls, max_body=door.max_body, ending=streams.end) if app else None
        )

    @property
    def address(self) -> str:
        """Where it listens, empty where it does not."""
        return self._server.address if self._server else ""

    async def start(self) -> None:
        if self._server:
            await self._server.start()

    async def refresh(self) -> None:
        if self._server:
            self._server.renew()
            await self.board.refresh()
            await self._admission.note()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop()
        await self._door.close()
        self._scrape.close()
