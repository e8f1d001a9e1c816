"""A stage for end-to-end tests: a Git repository, vendor simulators and a daemon of this very process.

Everything is real (Git, HTTP, SQLite, the job engine); only the place is small. Waits are on conditions, with a bound.
"""

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from reconciler.app.daemon import Daemon
from reconciler.app.leading import Leading
from reconciler.control.view import IntegrationView, overview
from reconciler.model.clock import Clock, SystemClock
from reconciler.model.condition import violations
from reconciler.model.event import DeliveryStatus
from reconciler.model.ids import Ref
from reconciler.sdk.testing.simulator import Call, Reply, Simulator
from reconciler.settings import Settings, load_settings
from reconciler.store import deliveries
from reconciler.store.database import Tx
from simulators.email import MailServer
from simulators.github import GitHub
from simulators.servicenow import ServiceNow
from simulators.slack import Slack

T = TypeVar("T")
CANARY = "canary-4b1d-sn-password"
SLACK_CANARY = "xoxb-canary-4b1d-slack"
GITHUB_CANARY = "ghp_canary4b1dGithubToken"
HOOK_CANARY = "canary-4b1d-webhook-secret"
MAIL_CANARY = "canary-4b1d-mail-password"
ENV = {
    "ITOPS_SN": CANARY,
    "ITOPS_SLACK": SLACK_CANARY,
    "ITOPS_GITHUB": GITHUB_CANARY,
    "ITOPS_HOOK": HOOK_CANARY,
    "ITOPS_MAIL": MAIL_CANARY,
}
PUBLIC_URL = "https://reconciler.example.org"
PATIENCE = 180.0  # what fails after it has failed; nothing waits for it


class HurriedClock(SystemClock):
    """Right, but it does not let anybody wait."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.1))


def git(folder: Path, *words: str) -> str:
    """Run git as somebody without configuration of their own."""
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(("git", *identity, *words), cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextmanager
def held_back(simulator: Simulator, path: str) -> Iterator[Callable[[], None]]:
    """Requests of that path are answered only after what is given was called, or at the end."""
    told, answer = threading.Event(), simulator._answer_or_wait

    async def later(call: Call) -> Reply:
        while call.url_path == path and not told.is_set():  # noqa: ASYNC110 whoever tells is another thread
            await asyncio.sleep(0.02)
        return await answer(call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulator, "_answer_or_wait", later)
        try:
            yield told.set
        finally:
            told.set()


class Stage:
    """`repo` is a working clone whose commits the daemon follows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repo = root / "repo"
        self.repo.mkdir()
        git(self.repo, "init", "-q")
        self.servicenow = ServiceNow()
        self.servicenow.users["recon"] = CANARY
        self.slack = Slack()
        self.slack.tokens[SLACK_CANARY] = "chat:write,channels:read,users:read,channels:history"
        self.slack.put_channel("C0000000OPS", SystemClock().now(), name="ops")
        self.slack.put_user("U0000000ADA", SystemClock().now())

    def manifest(self, name: str, **spec: Any) -> None:
        """Write one manifest."""
        path = self.repo / f"{name}.yaml"
        document = {
            "apiVersion": "reconciler.dev/v1",
            "kind": "Integration",
            "metadata": {"name": name, "workspace": "it-ops"},
            "spec": spec,
        }
        path.write_text(yaml.safe_dump(document, sort_keys=False))

    def workspace(self, name: str, **spec: Any) -> None:
        """Write the manifest of a workspace."""
        document = {"apiVersion": "reconciler.dev/v1", "kind": "Workspace", "metadata": {"name": name}, "spec": spec}
        (self.repo / f"workspace-{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def servicenow_spec(self, **more: Any) -> dict[str, Any]:
        return {
            "type": "servicenow",
            "auth": {"type": "basic", "username": "recon", "password": {"from_env": "ITOPS_SN"}},
            "config": {"instance_url": self.servicenow.url},
            "sync": {"entities": ["incidents"], "page_size": 50},
        } | more

    def slack_spec(self, **more: Any) -> dict[str, Any]:
        p1 = {
            "name": "p1",
            "event_type": "incident.created",
            "when": "record.priority == '1'",
            "action": "post_message",
            "map": {"channel": "C0000000OPS"},
            "template": "{{ record.number }}: {{ record.short_description }}",
        }
        return {
            "type": "slack",
            "auth": {"type": "bot_token", "token": {"from_env": "ITOPS_SLACK"}},
            "config": {"base_url": f"{self.slack.url}/api"},
            "sync": {"entities": ["users"]},
            "synchronizations": [p1],
        } | more

    @cached_property
    def github(self) -> GitHub:
        """One repository, `acme/app`; hooks are registered where the daemon has `public_url`."""
        made = GitHub()
        made.tokens[GITHUB_CANARY] = "repo,admin:repo_hook"
        made.add_repo("acme/app")
        return made

    @cached_property
    def mail(self) -> MailServer:
        return MailServer(folder=self.root / "mail", users={"recon": MAIL_CANARY})

    def github_spec(self, **more: Any) -> dict[str, Any]:
        return {
            "type": "github",
            "auth": {"type": "token", "token": {"from_env": "ITOPS_GITHUB"}},
            "config": {
                "base_url": self.github.url,
                "repositories": ["acme/app"],
                "webhook": {"secret": {"from_env": "ITOPS_HOOK"}, "events": ["issues"]},
            },
            "sync": {"entities": ["issues"]},
        } | more

    def mail_spec(self, **more: Any) -> dict[str, Any]:
        p1 = {
            "name": "p1",
            "event_type": "incident.created",
            "when": "record.priority == '1'",
            "action": "send_mail",
            "map": {"to": "ops@example.org", "subject": "{{ record.number }}"},
            "template": "{{ record.short_description }}",
        }
        return {
            "type": "email",
            "auth": {"type": "password", "username": "recon", "password": {"from_env": "ITOPS_MAIL"}},
            "config": {"host": "127.0.0.1", "port": self.mail.port, "sender": "recon@example.org"},
            "synchronizations": [p1],
        } | more

    def commit(self, message: str = "change") -> str:
        git(self.repo, "add", "-A")
        git(self.repo, "commit", "-q", "--allow-empty", "-m", message)
        return git(self.repo, "rev-parse", "HEAD")

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def common(self) -> dict[str, Any]:
        """Settings of every daemon on this stage."""
        return {
            "listen": "",
            "hosts": {"allow": ("127.0.0.0/8", "::1")},
            "tenants": ({"env_prefix": "ITOPS_"},),
            "stop_timeout": "5s",
        }

    def settings(self, **more: Any) -> Settings:
        source = {"state_dir": self.state, "source.url": str(self.repo), "source.ref": "main"}
        return load_settings({}, flags=self.common | source | more)

    def kept(self) -> Mapping[Path, bytes]:
        """Every file of the state directory. Not by rglob, which fails where git's temporary folders go while it walks."""
        files = [Path(folder, name) for folder, _, names in os.walk(self.state) for name in names]
        return {file: _content(file) for file in files}

    def words(self, *flags: str, **more: Any) -> list[str]:
        """The command line of a daemon process with the same settings."""
        text = json.dumps(self.common | more)
        file = self.root / f"settings-{sha256(text.encode()).hexdigest()[:8]}.yaml"
        if not file.exists():  # whoever was started a moment ago may be reading it
            file.write_text(text)
        place = ("--repo", str(self.repo), "--ref", "main", "--state-dir", str(self.state))
        return ["run", "--config", str(file), *place, *flags]

    @asynccontextmanager
    async def daemon(
        self, *, clock: Clock | None = None, env: Mapping[str, str] = ENV, is_observing: bool = False, **more: Any
    ) -> AsyncIterator["Running"]:
        """A started daemon, stopped at the end whatever happens."""
        daemon = Daemon(self.settings(**more), env, is_observing=is_observing, clock=clock)
        await daemon.start()
        try:
            yield Running(daemon)
        finally:
            await daemon.stop()


def _content(file: Path) -> bytes:
    """Nothing where it is gone again: temporary files are."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


@contextmanager
def two_of_them(root: Path, records: int) -> Iterator[Stage]:
    """ServiceNow `sn` with that many incidents, read in pages of ten, and Slack `chat`; committed."""
    made = Stage(root)
    with made.servicenow, made.slack:
        for number in range(records):
            made.servicenow.put("incident", {"short_description": f"Old {number}", "priority": "3"})
        made.manifest("sn", **made.servicenow_spec(sync={"entities": ["incidents"], "page_size": 10}))
        made.manifest("chat", **made.slack_spec())
        made.commit()
        yield made


class Running:
    """A daemon at work, and how to look at it."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    @property
    def leading(self) -> Leading:
        assert self.daemon.leading is not None
        return self.daemon.leading

    async def views(self) -> Mapping[str, IntegrationView]:
        now = SystemClock().now()
        seen = await self.daemon.database.read(lambda tx: overview(tx, now))
        for view in seen.integrations:
            assert violations(view.conditions.values(), view.row.generation) == []
        return {view.row.name: view for view in seen.integrations}

    async def view(self, name: str) -> IntegrationView:
        return (await self.views())[name]

    async def read(self, query: Callable[[Tx], T]) -> T:
        return await self.daemon.database.read(query)

    async def until(self, what: str, holds: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
        """The first truthy value of `holds`; fails with `what` and the state after `patience` seconds."""
        end = asyncio.get_running_loop().time() + patience
        while not (value := await holds()):
            if asyncio.get_running_loop().time() > end:
                state = {n: (v.status, v.message, v.row.last_sync_result) for n, v in (await self.views()).items()}
                raise AssertionError(f"not within {patience} s: {what}; {state}")
            await asyncio.sleep(0.02)
        return value

    async def until_view(self, name: str, what: str, holds: Callable[[IntegrationView], object]) -> IntegrationView:
        """The view of one integration, once there is one of which it holds."""

        async def look() -> IntegrationView | None:
            view = (await self.views()).get(name)
            return view if view is not None and holds(view) else None

        found = await self.until(f"{name} {what}", look)
        assert found is not None
        return found

    async def until_gone(self, *names: str) -> None:
        """Let go: in no list any more."""

        async def gone() -> bool:
            return not set(names) & set(await self.views())

        await self.until(f"{names} gone", gone)

    async def until_delivered(self, count: int = 1) -> None:
        """That many deliveries in all, each of them arrived."""

        async def delivered() -> bool:
            sent = await self.read(deliveries.listing)
            return [d.status for d in sent] == [DeliveryStatus.DELIVERED] * count

        await self.until(f"{count} delivered", delivered)

    async def until_synced(self, *names: str) -> None:
        async def synced() -> bool:
            views = await self.views()
            return all(n in views and views[n].row.last_sync_at and not views[n].running for n in names)

        await self.until(f"{names} synced", synced)

    async def order(self, kind: str, name: str | None = None, **params: Any) -> None:
        from reconciler.model.clock import rfc3339
        from reconciler.store import integrations, journal

        row = await self.read(lambda tx: integrations.find(tx, Ref("it-ops", name))) if name else None
        at = rfc3339(SystemClock().now())
        await self.daemon.database.write(lambda tx: journal.ask(tx, kind, row.id if row else None, params, "ada", at))
