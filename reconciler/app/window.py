"""The window of a daemon: metrics, health and status over HTTP, wired from its parts."""

from typing import Protocol

from reconciler.app.tasks import Loops
from reconciler.control.book import Book
from reconciler.model.clock import Clock
from reconciler.sdk.redact import Redactor
from reconciler.serve.api import Parts, make_app
from reconciler.serve.health import Health
from reconciler.serve.metrics import Metrics
from reconciler.serve.scrape import Scrape
from reconciler.serve.server import Server, is_loopback
from reconciler.serve.snapshot import Board
from reconciler.settings import Settings
from reconciler.store.database import Database


class Watched(Protocol):
    """What is looked at through the window."""

    @property
    def settings(self) -> Settings: ...

    @property
    def database(self) -> Database: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def redactor(self) -> Redactor: ...

    @property
    def loops(self) -> Loops: ...

    @property
    def book(self) -> Book: ...


class Window:
    """`start` listens where the settings say; with an empty address nothing is served."""

    def __init__(self, daemon: Watched, metrics: Metrics) -> None:
        self._daemon = daemon
        self.board = Board(daemon.database, daemon.clock)
        self._scrape = Scrape(self.board, metrics)
        health = Health(daemon.database, daemon.clock, {"desired_state": self._desired, "loops": self._loops})
        parts = Parts(daemon.database, daemon.clock, self.board, self._scrape, health, daemon.redactor)
        listen = daemon.settings.listen
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

    async def stop(self) -> None:
        if self._server:
            await self._server.stop()
        self._scrape.close()

    def _desired(self) -> str | None:
        daemon = self._daemon
        if daemon.book.state is None and daemon.settings.sources:
            return "no revision of the sources has been read yet"
        return None

    def _loops(self) -> str | None:
        failing = self._daemon.loops.failing
        said = "; ".join(f"{name}: {error}" for name, error in failing.items())
        return self._daemon.redactor.text(said) or None
