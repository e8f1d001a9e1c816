"""The window of a daemon: metrics, health and status over HTTP, wired from its parts."""

from collections.abc import Callable, Mapping

from reconciler.model.clock import Clock
from reconciler.sdk.redact import Redactor
from reconciler.serve.admission import Admission
from reconciler.serve.api import Parts, make_app
from reconciler.serve.health import Check, Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Server, is_loopback
from reconciler.serve.snapshot import Board
from reconciler.store.database import Database


class Window:
    """`start` listens at `listen`; where that is empty, nothing is served."""

    def __init__(
        self,
        listen: str,
        database: Database,
        clock: Clock,
        redactor: Redactor,
        metrics: Metrics,
        checks: Mapping[str, Check],
        is_leader: Callable[[], bool],
    ) -> None:
        self.board = Board(database, clock)
        self._scrape = Scrape(self.board, metrics, is_leader)
        self._admission = Admission(database, clock)
        health = Health(database, clock, checks)
        parts = Parts(database, clock, self.board, self._scrape, health, redactor, self._admission)
        self._server = Server(listen, make_app(parts, is_local=is_loopback(listen))) if listen else None

    @property
    def address(self) -> str:
        """Where it listens, empty where it does not."""
        return self._server.address if self._server else ""

    async def start(self) -> None:
        if self._server:
            await self._server.start()

    async def refresh(self) -> None:
        if self._server:
            await self.board.refresh()
            await self._admission.note()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop()
        self._scrape.close()
