"""Several daemons as processes on one PostgreSQL database, and what an operator does beside them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import httpx

from reconciler.model.secret import Secret
from reconciler.store import deliveries, integrations, leases
from reconciler.store.database import Tx
from reconciler.store.errors import StoreError
from reconciler.store.location import open_readonly
from tests.e2e.stage import ENV, PATIENCE, Stage
from tests.e2e.town import LISTENING, ROOT

T = TypeVar("T")
KEY = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="


class Site:
    """ServiceNow and Slack, one database, and as many daemons as are started."""

    def __init__(self, stage: Stage, url: Secret, processes: ExitStack) -> None:
        self.stage = stage
        self.url = url
        self.env = {
            **os.environ,
            **ENV,
            "PYTHONPATH": str(ROOT),
            "RECONCILER_DATABASE_URL": url.reveal(),
            "RECONCILER_MASTER_KEY": KEY,
        }
        self._processes = processes

    def start(self, name: str, role: str = "all", *, skew: int = 0, **settings: str) -> "subprocess.Popen[str]":
        """A daemon with a state directory of its own, listening on a port of its own."""
        own = ("--state-dir", str(self.stage.root / name), "--role", role, "--listen", "127.0.0.1:0")
        words = self.stage.words(**settings)
        program = ("tests.e2e.skewed", str(skew)) if skew else ("reconciler",)
        return self.launch(name, (*program, *words, *own), self.env)

    def launch(self, name: str, words: Sequence[str], env: Mapping[str, str]) -> "subprocess.Popen[str]":
        """A Python module as a process, ended with the test."""
        log = self._processes.enter_context(self.log(name).open("w"))
        line = (sys.executable, "-m", *words)
        process = subprocess.Popen(line, cwd=ROOT, env=env, text=True, stdout=log, stderr=subprocess.STDOUT)
        self._processes.callback(end_process, process)
        return process

    def log(self, name: str) -> Path:
        return self.stage.root / f"{name}.log"

    def leader(self) -> str | None:
        return self.read(lambda tx: leases.holder(tx, leases.CONTROLLER, tx.now()))

    def until_said(self, name: str, text: str) -> None:
        self.until(f"{name}: {text}", lambda: text in self.log(name).read_text())

    def address(self, name: str) -> str:
        """Where that daemon listens."""
        found = self.until(f"{name}: listening", lambda: LISTENING.search(self.log(name).read_text()))
        assert found is not None
        return found["address"]

    def ask(self, name: str, path: str) -> httpx.Response:
        return httpx.get(f"http://{self.address(name)}{path}", timeout=PATIENCE)

    def metrics(self, name: str) -> str:
        """What that daemon tells now."""
        return self.ask(name, "/metrics").text

    def read(self, query: Callable[[Tx], T]) -> T | None:
        try:
            with open_readonly(self.url) as tx:
                return query(tx)
        except StoreError:
            return None

    def until(self, what: str, holds: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE
        while not (value := holds()):
            assert time.monotonic() < end, what
            time.sleep(0.05)
        return value

    def until_tables(self) -> None:
        self.until("tables", lambda: self.read(lambda tx: tx.value("SELECT to_regclass('integration') IS NOT NULL")))

    def until_synced(self) -> None:
        self.until_tables()
        self.until(
            "both synced", lambda: self.read(lambda tx: len([r for r in integrations.every(tx) if r.last_sync_at]) == 2)
        )

    def until_delivered(self, count: int) -> None:
        query = lambda tx: len(deliveries.listing(tx, status="delivered")) >= count  # noqa: E731
        self.until(f"{count} delivered", lambda: self.read(query))

    def run(self, *words: str) -> str:
        line = (sys.executable, "-m", "reconciler", *words)
        done = subprocess.run(
            line, check=False, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def alarm(self, text: str) -> None:
        self.stage.servicenow.put("incident", {"short_description": text, "priority": "1"})
        self.run("sync", "sn", "--wait")

    def messages(self) -> list[str]:
        return [str(m["text"]) for m in self.stage.slack.messages["C0000000OPS"].values()]


def end_process(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
