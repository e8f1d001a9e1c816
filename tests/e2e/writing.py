"""For tests of what is written over the API: a daemon that writes to a bare repository, and a client of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from reconciler.api.manifests import ChangeShown, Disconnected
from reconciler.cli.age_key import new_key
from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock
from tests.e2e.stage import PATIENCE, Running, Stage, git
from tests.tokens import bearer, issue

CHAT = """\
# The chat of the operators.
apiVersion: reconciler.dev/v1
kind: Integration
metadata:
  name: chat
  workspace: it-ops
  annotations: {owner: ada}
spec:
  type: slack
  display_name: Chat   # what people call it
  auth: {type: bot_token, token: {from_env: ITOPS_SLACK}}
  config:
    base_url: %s/api
  sync: {entities: [users]}
"""


@dataclass
class Place:
    """A daemon that writes to the bare repository `remote`, and a client of it."""

    stage: Stage
    remote: Path
    running: Running
    client: httpx.AsyncClient

    async def token(self, name: str, workspace: str | None, *permissions: Permission) -> dict[str, str]:
        """The header of a new token."""
        header = bearer(await issue(self.running.daemon.database, name, workspace, *permissions))

        async def is_known() -> bool:
            """Tokens are looked for again only a moment after they were."""
            answer = await self.client.get("/v1/integrations", headers=header)
            return answer.status_code != httpx.codes.UNAUTHORIZED

        await self.running.until("the token is known", is_known)
        return header

    async def is_listed(self) -> bool:
        return (await self.client.get("/v1/integrations/chat")).status_code == httpx.codes.OK

    def file(self, path: str) -> str:
        return git(self.remote, "show", f"main:{path}")

    def commits(self) -> int:
        return int(git(self.remote, "rev-list", "--count", "main"))

    async def changed(self, method: str, path: str, *, status: int = 202, **request: Any) -> dict[str, Any]:
        answer = await self.client.request(method, path, **request)
        assert answer.status_code == status, answer.text
        body: dict[str, Any] = answer.json()
        (ChangeShown if status == 202 else Disconnected).model_validate(body, strict=False)
        return body


@asynccontextmanager
async def writable(root: Path, **more: Any) -> AsyncIterator[Place]:
    """The chat is connected. `more` are settings."""
    stage = Stage(root)
    recipient = new_key(root / "keys.txt", SystemClock().now())
    rule = f"creation_rules:\n  - age: {recipient}\n    encrypted_regex: ^(token|password)$\n    mac_only_encrypted: true\n"
    with stage.slack, stage.servicenow:
        (stage.repo / ".sops.yaml").write_text(rule)
        (stage.repo / "it-ops").mkdir()
        (stage.repo / "it-ops" / "chat.yaml").write_text(CHAT % stage.slack.url)
        stage.commit()
        remote = root / "remote.git"
        git(root, "clone", "-q", "--bare", str(stage.repo), str(remote))
        options: dict[str, Any] = {"source.url": str(remote), "source.write_back": {"mode": "commit"}} | more
        async with stage.daemon(listen="127.0.0.1:0", age_key_file=str(root / "keys.txt"), **options) as running:
            await running.until_view("chat", "connected", lambda view: view.row.is_connected)
            async with httpx.AsyncClient(
                base_url=f"http://{running.daemon.window.address}", timeout=PATIENCE, trust_env=False
            ) as client:
                made = Place(stage, remote, running, client)
                client.headers.update(await made.token("ci", "it-ops", Permission.ADMIN))
                await running.until("it is listed", made.is_listed)
                yield made
