"""A daemon in a process of its own that writes to Git, for tests that press its API hard: fuzzed, crowded, killed.

ServiceNow `sn`, Slack `chat` and GitHub `gh` are connected in the workspace `it-ops`, with a few more to be spoilt; `remote` is
the bare repository that changes of manifests go to. Every secret that the installation knows is in `secrets`: none of them
may come out anywhere.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

from reconciler.cli.age_key import new_key
from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock
from reconciler.store.database import Tx
from reconciler.store.location import open_readonly
from tests.e2e.stage import ENV, PATIENCE, Stage, git
from tests.e2e.town import LISTENING, start

T = TypeVar("T")
SPARE = 6
SEALED = "^(token|password|secret)$"


class Surface:
    """`start` it as often as you like: state, repository and tokens stay."""

    def __init__(self, root: Path, stage: Stage, **settings: Any) -> None:
        self.root = root
        self.stage = stage
        self.remote = root / "remote.git"
        self.tokens: dict[str, str] = {}
        self.process: subprocess.Popen[str] | None = None
        self._config = root / "settings.yaml"
        self._log = root / "daemon.log"
        self._listening_from = 0
        self._prepare(settings)

    def _prepare(self, settings: Mapping[str, Any]) -> None:
        stage = self.stage
        recipient = new_key(self.root / "keys.txt", SystemClock().now())
        rule = {"age": recipient, "encrypted_regex": SEALED, "mac_only_encrypted": True}
        (stage.repo / ".sops.yaml").write_text(yaml.safe_dump({"creation_rules": [rule]}))
        for number in range(30):
            stage.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.manifest("gh", **stage.github_spec())
        for number in range(SPARE):
            stage.manifest(f"spare-{number}", **stage.slack_spec(synchronizations=[]))
        stage.commit()
        git(self.root, "clone", "-q", "--bare", str(stage.repo), str(self.remote))
        source = {"url": str(self.remote), "ref": "main", "write_back": {"mode": "commit"}}
        values = {
            "state_dir": str(stage.state),
            "age_key_file": str(self.root / "keys.txt"),
            "sources": [source],
            "listen": "127.0.0.1:0",
            "hosts": {"allow": ["127.0.0.0/8", "::1"]},
            "tenants": [{"env_prefix": "ITOPS_"}],
            "stop_timeout": "5s",
            "api": {"rate": {"requests": 0}},
        }
        self._config.write_text(yaml.safe_dump({**values, **settings}))

    @property
    def secrets(self) -> Mapping[str, str]:
        """By what they are for."""
        private = next(line for line in (self.root / "keys.txt").read_text().splitlines() if line.startswith("AGE-"))
        return {**ENV, "age key": private, **{f"token {name}": clear for name, clear in self.tokens.items()}}

    @property
    def log(self) -> str:
        return self._log.read_text()

    def start(self) -> str:
        """The address, once it answers there."""
        if self.process is None or self.process.poll() is not None:
            self._listening_from = len(self.log) if self._log.exists() else 0
            with self._log.open("a") as log:
                self.process = start("run", "--config", str(self._config), stdout=log, stderr=subprocess.STDOUT)
        return self.url

    @property
    def url(self) -> str:
        found = self.until("it listens", lambda: LISTENING.search(self.log, self._listening_from))
        assert found is not None
        return f"http://{found['address']}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def until(self, what: str, holds: Callable[[], T]) -> T:
        end = time.monotonic() + PATIENCE
        while not (value := holds()):
            assert self.process is not None
            assert self.process.poll() is None, self.log[-20_000:]
            assert time.monotonic() < end, f"not within {PATIENCE} s: {what}"
            time.sleep(0.02)
        return value

    def read(self, query: Callable[[Tx], T]) -> T:
        with open_readonly(self.stage.state / "reconciler.db") as tx:
            return query(tx)

    def token(self, name: str, workspace: str, *permissions: Permission) -> dict[str, str]:
        """The header of a new token that the daemon knows."""
        file = self.root / f"{name}.token"
        words = ["token", "create", name, "--workspace", workspace, "--state-dir", str(self.stage.state)]
        words += [word for one in permissions for word in ("--allow", str(one))]
        with file.open("w") as out:
            process = start(*words, stdout=out, stderr=subprocess.PIPE)
            _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
        self.tokens[name] = file.read_text().strip()
        header = {"authorization": f"Bearer {self.tokens[name]}"}
        self.until("the token is known", lambda: self.get("/v1/integrations", header).status_code != 401)
        return header

    def get(self, path: str, header: Mapping[str, str]) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", headers=dict(header), timeout=PATIENCE, trust_env=False)

    def are_synced(self, header: Mapping[str, str], *names: str) -> bool:
        every = self.get("/v1/integrations", header).json()["data"]
        found = {one["name"]: one["last_sync_at"] for one in every}
        return all(found.get(name) for name in names)

    def commits(self) -> int:
        return int(git(self.remote, "rev-list", "--count", "main"))

    def file(self, path: str) -> str:
        return git(self.remote, "show", f"main:{path}")


@contextmanager
def surfaced(root: Path, **settings: Any) -> Iterator[Surface]:
    """Started, with a token `admin` of the workspace; all that syncs has synced once. `settings` as in the file of settings."""
    stage = Stage(root)
    with stage.servicenow, stage.slack, stage.github:
        made = Surface(root, stage, **settings)
        made.start()
        try:
            header = made.token("admin", "it-ops", Permission.ADMIN)
            made.until("all synced", lambda: made.are_synced(header, "sn", "chat", "gh"))
            yield made
        finally:
            made.stop()
