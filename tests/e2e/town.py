"""For tests of commands: a daemon in a process of its own over a `Stage`, and commands run here as a person types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from reconciler.cli.main import main
from reconciler.control import holdup
from reconciler.control.holdup import Holdup
from reconciler.model.ids import Ref
from reconciler.store import integrations
from reconciler.store.database import Tx
from reconciler.store.errors import StoreVersionError
from reconciler.store.location import open_readonly
from reconciler.store.migrations import check_version
from tests.e2e.stage import ENV, PATIENCE, Stage

ROOT = Path(__file__).parents[2]
LISTENING = re.compile(r'listening"?[=:] ?"?(?:\x1b\[[0-9;]*m)*(http://)?(?P<address>[0-9.]+:\d+)')
T = TypeVar("T")


class Town:
    """`stage` and the daemon that works on it."""

    def __init__(self, stage: Stage, process: "subprocess.Popen[str]") -> None:
        self.stage = stage
        self.process = process

    @property
    def state_words(self) -> list[str]:
        return ["--state-dir", str(self.stage.state)]

    @property
    def address(self) -> str:
        """Of the API; the daemon tells it once it is up, which may be after its first sync."""
        found = self.until("it listens", lambda: LISTENING.search((self.stage.root / "daemon.log").read_text()))
        assert found is not None
        return f"http://{found['address']}"

    def run(self, *words: str) -> int:
        """The exit code of a command over this daemon's store."""
        return main([*words, *self.state_words])

    def read(self, query: Callable[[Tx], T]) -> T:
        with open_readonly(self.stage.state / "reconciler.db") as tx:
            return query(tx)

    def until(self, what: str, holds: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE
        while not (value := holds()):
            assert self.process.poll() is None, (self.stage.root / "daemon.log").read_text()
            assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
            time.sleep(0.02)
        return value

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whatever changes meanwhile, the daemon did not do it."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)  # it does not stop in the moment it is told to
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def held(self, name: str) -> Holdup | None:
        """Why no sync of it can start."""

        def find(tx: Tx) -> Holdup | None:
            row = integrations.find(tx, Ref("it-ops", name))
            return holdup.of_integration(tx, row) if row else None

        return self.read(find)

    def is_synced(self, *names: str) -> bool:
        if not (self.stage.state / "reconciler.db").is_file():
            return False
        try:
            return self.read(lambda tx: _synced(tx) >= set(names))
        except StoreVersionError:  # its tables are being made
            return False


def _synced(tx: Tx) -> set[str]:
    check_version(tx, "the store")
    return {row.name for row in integrations.every(tx) if row.last_sync_at}


@contextmanager
def town_of(stage: Stage, **settings: Any) -> Iterator[Town]:
    """A daemon with these settings beside those of the stage; its sources are among them."""
    file = stage.root / "town.yaml"
    file.write_text(json.dumps(stage.common | settings | {"listen": "127.0.0.1:0"}))
    with (stage.root / "daemon.log").open("w") as log:
        words = ("run", "--config", str(file), "--state-dir", str(stage.state))
        process = start(*words, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Town(stage, process)
        finally:
            process.terminate()
            process.wait(PATIENCE)


@contextmanager
def town(root: Path) -> Iterator[Town]:
    """ServiceNow `sn` and Slack `chat`, connected and synced once."""
    stage = Stage(root)
    with stage.servicenow, stage.slack:
        for number in range(120):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.commit()
        with (root / "daemon.log").open("w") as log:
            process = start(*stage.words("--listen", "127.0.0.1:0"), stdout=log, stderr=subprocess.STDOUT)
            try:
                made = Town(stage, process)
                made.until("both synced", lambda: made.is_synced("sn", "chat"))
                yield made
            finally:
                process.terminate()
                process.wait(PATIENCE)


def start(*words: str, **more: Any) -> "subprocess.Popen[str]":
    """`python -m reconciler ...` with the secrets of the stage in its environment."""
    line = (sys.executable, "-m", "reconciler", *words)
    return subprocess.Popen(line, cwd=ROOT, env={**os.environ, **ENV}, text=True, **more)


@contextmanager
def beside(*words: str) -> "Iterator[tuple[subprocess.Popen[str], IO[str]]]":
    """The same and what it says, with a pipe for its errors; at the end it is gone, also when the test has failed."""
    with start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout
        finally:
            process.kill()


def documents(text: str) -> list[Any]:
    """JSON, one document in each line."""
    return [json.loads(line) for line in text.splitlines()]
