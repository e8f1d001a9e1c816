"""The product as its user sees it: its commands as child processes, its log file, its HTTP address.

In: the demo's folder. Out: what the commands print, the status of integrations, metric lines. Called by `story`. The daemon is
ended with SIGTERM whatever happens to the story, and killed where it does not obey.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import yaml

from reconciler.control.view import IntegrationView, overview
from reconciler.model.condition import Truth
from reconciler.store.errors import StoreError
from reconciler.store.location import open_readonly
from reconciler.store.migrations import check_version
from simulators.demo import DemoError, say, wait_for

_START_SECONDS, _STOP_SECONDS = 120, 60
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Status:
    """The revision in force and how each integration fares, by name."""

    revision: str
    integrations: Mapping[str, IntegrationView]

    def unready(self) -> list[str]:
        """What each integration that is not ready yet waits for."""
        return [f"{view.row.ref}: {told(view)}" for view in self.integrations.values() if not is_ready(view)]


def is_ready(view: IntegrationView) -> bool:
    """Connected in its newest generation, and synced where there is something to sync."""
    row = view.row
    is_synced = row.last_sync_at is not None or row.next_sync_at is None
    return view.ready.truth is Truth.TRUE and row.observed_generation == row.generation and is_synced


def told(view: IntegrationView) -> str:
    """In a few words."""
    reason = "" if view.ready.truth is Truth.TRUE else f" ({view.ready.reason}: {view.ready.message[:150]})"
    if view.running is not None:
        return f"{view.status}, {view.running.counts.records} records so far{reason}"
    synced = f", last sync: {view.row.last_sync_result}" if view.row.last_sync_result else ""
    return f"{view.status}{reason}{synced}"


class Command:
    """The command line in the demo's environment; relative to `folder`, where it is printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_file = folder / "age-key.txt"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RECONCILER_")}
        self._env = {**inherited, "SOPS_AGE_KEY_FILE": str(self.key_file), "XDG_CACHE_HOME": str(folder / "cache")}

    @property
    def name(self) -> str:
        """How the reader may call it."""
        installed = Path(sys.executable).with_name("reconciler")
        return os.path.relpath(installed) if installed.exists() else "python -m reconciler"

    def run(self, *words: str, permitted: tuple[int, ...] = (0,)) -> str:
        """What it prints; raises DemoError for another exit code than the permitted."""
        done = subprocess.run(self._line(words), env=self._env, cwd=_ROOT, capture_output=True, text=True, check=False)
        if done.returncode not in permitted:
            said = (done.stderr or done.stdout).strip()[-2000:]
            raise DemoError(f"`{self.name} {shlex.join(words)}` ended with {done.returncode}: {said}")
        return done.stdout

    def show(self, *words: str, permitted: tuple[int, ...] = (0,)) -> str:
        """The same, printed as if typed."""
        short = [os.path.relpath(w) if w.startswith(str(self.folder)) else w for w in words]
        say(f"$ {self.name} {shlex.join(short)}")
        text = self.run(*words, permitted=permitted)
        say(text.rstrip())
        return text

    def start(self, *words: str, log: Path) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C in the terminal is for the demo, which then ends it in order."""
        with log.open("wb") as output:
            return subprocess.Popen(
                self._line(words), env=self._env, cwd=_ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    @staticmethod
    def _line(words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "reconciler", *words]


class Daemon:
    """`reconciler run` on `.demo/state`, with metrics and health at `url` once it has started."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.state = command.folder / "state"
        self.log = command.folder / "daemon.log"
        self.settings = command.folder / "settings.yaml"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, repository: Path, authorities: Path) -> None:
        settings = {
            "state_dir": str(self.state),
            "listen": "127.0.0.1:0",
            "sources": [{"name": "demo", "url": str(repository), "ref": "main", "write_back": {"mode": "commit"}}],
            "hosts": {"allow": ["127.0.0.0/8"]},  # the vendors are on loopback, which is refused by default
            "tenants": [{"workspaces": ["it-ops", "engineering"], "secret_folder": str(authorities)}],
            "age_key_file": str(self.command.key_file),
        }
        self.settings.write_text(yaml.safe_dump(settings, sort_keys=False))

    @contextmanager
    def running(self) -> Iterator[None]:
        short = os.path.relpath(self.settings)
        say(f"$ {self.command.name} run --config {short}     # log: {os.path.relpath(self.log)}")
        self._process = self.command.start("run", "--config", str(self.settings), log=self.log)
        try:
            yield
        finally:
            self._stop(self._process)

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def check_alive(self) -> None:
        """Raises DemoError with the end of the log where the process is gone."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else "nothing"
            raise DemoError(f"the daemon ended with {code}; the end of {self.log}:\n{self.log_end()}")

    def log_end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) if self.log.exists() else ""

    def status(self) -> Status:
        """Read from the daemon's store, as `reconciler status` does; empty before the store is there."""
        self.check_alive()
        try:
            with open_readonly(self.state / "reconciler.db") as tx:
                check_version(tx, "the demo's store")
                seen = overview(tx, datetime.now(UTC))
        except StoreError:
            return Status("", {})
        revision = next((source.revision for source in seen.sources), "")
        return Status(revision, {view.row.name: view for view in seen.integrations})

    @property
    def url(self) -> str:
        """Where it says that it listens: on a port that nobody else had."""
        found = wait_for("the address of the daemon", self._listening, _START_SECONDS, self.log_end)
        return f"http://{found[1]}"

    def _listening(self) -> re.Match[str] | None:
        self.check_alive()
        return re.search(r"\blistening=(\S+)", self.log.read_text(errors="replace"))

    def get(self, path: str) -> str:
        """What the address answers; raises DemoError where it does not."""
        try:
            answer = httpx.get(f"{self.url}{path}", timeout=30, trust_env=False)
        except httpx.HTTPError as error:
            raise DemoError(f"{self.url}{path} does not answer: {error}") from None
        if answer.status_code != 200:
            raise DemoError(f"{self.url}{path} answers {answer.status_code}: {answer.text[:300]}")
        return answer.text

    def metrics(self, *wanted: str) -> list[str]:
        """Lines of `/metrics` that hold all parts of one of the `wanted`, which are separated by blanks."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return [line for parts in wanted for line in lines if all(part in line for part in parts.split())]
