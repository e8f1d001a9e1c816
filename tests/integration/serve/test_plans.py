"""Plans over HTTP, made of a real repository, and what a caller of one workspace sees of them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.api.plans import PlanShown
from reconciler.app.asking import Asking
from reconciler.app.foresight import Foresight
from reconciler.app.parts import source_inputs, source_settings, tenant_policy
from reconciler.desired.source import open_source
from reconciler.model.access import Permission
from reconciler.sdk.redact import Redactor
from reconciler.serve.ports import Ports
from reconciler.settings import Settings
from tests.integration.git_remote import Repo
from tests.integration.serve.installation import Installation

MANIFEST = """\
apiVersion: reconciler.dev/v1
kind: Integration
metadata: {{name: {name}, workspace: {workspace}}}
spec:
  type: slack
  display_name: {title}
  auth: {{type: bot_token, token: {{from_env: SLACK_TOKEN}}}}
"""


def manifest(name: str, workspace: str = "it", title: str = "Chat") -> str:
    return MANIFEST.format(name=name, workspace=workspace, title=title)


@pytest.fixture
async def repository(tmp_path: Path, installation: Installation) -> AsyncIterator[Repo]:
    """What the installation reads when it is asked."""
    made = Repo.make(tmp_path / "manifests")
    made.commit("first", {"it/chat.yaml": manifest("chat"), "ops/chat.yaml": manifest("chat", "ops")})
    options = {"name": "main", "url": str(made.root), "ref": "main"}
    settings = Settings.model_validate(
        {"state_dir": str(tmp_path), "sources": [options], "tenants": [{"env_prefix": "SLACK_"}]}, strict=False
    )
    policy = tenant_policy(settings)
    inputs = source_inputs(settings, policy)
    clock = installation.clock
    sources = {s.name: open_source(source_settings(s, {}), tmp_path / "git", clock) for s in settings.sources}
    asking = Asking(sources, inputs, policy, Redactor(), clock)
    foresight = Foresight(sources, inputs, asking.book, installation.database, clock, asking.look)
    installation.ports = Ports(planner=foresight)
    yield made
    asking.close()


async def plan(client: httpx.AsyncClient, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await (client.get("/v1/plan") if body is None else client.post("/v1/plan", json=body))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    PlanShown.model_validate(found, strict=False)
    return found


def named(found: dict[str, Any]) -> list[str]:
    return [f"{one['action']} {one['workspace']}/{one['name']}" for one in found["actions"]]


async def test_what_is_pending(installation: Installation, repository: Repo) -> None:
    async with installation.client() as client:
        found = await plan(client)
        assert named(found) == ["connect it/chat", "connect ops/chat"]
        assert (found["exit_code"], found["summary"]["connect"]) == (2, 2)
        repository.commit("more", {"it/more.yaml": manifest("more")})
        installation.clock.add(10)
        assert named(await plan(client)) == ["connect it/chat", "connect it/more", "connect ops/chat"]


async def test_a_caller_sees_the_part_of_its_workspace(installation: Installation, repository: Repo) -> None:
    repository.commit("more", {"ops/bad.yaml": manifest("bad", "ops").replace("slack", "slak"), "it/x.yaml": "spec: ["})
    own = await installation.issue("own", "it", Permission.PLAN_VIEW)
    other = await installation.issue("other", "it", Permission.INTEGRATION_VIEW)
    async with installation.client(token=own) as client:
        found = await plan(client)
        assert named(found) == ["connect it/chat"]
        assert (found["findings"], found["summary"]["connect"]) == ([], 1)
        wrong = await plan(
            client, {"files": [{"path": "it/new.yaml", "content": "apiVersion: reconciler.dev/v1\nkind: Nothing\n"}]}
        )
        assert [(f["file"], f["line"]) for f in wrong["findings"]] == [("it/new.yaml", 2)]
    async with installation.client(token=other) as client:
        assert (await client.get("/v1/plan")).status_code == 403


async def test_a_submitted_file_does_not_tell_what_others_have(installation: Installation, repository: Repo) -> None:
    """Neither by a name that is taken, nor by what is said of a manifest that bears it."""
    own = await installation.issue("own", "it", Permission.PLAN_VIEW)
    async with installation.client(token=own) as client:

        async def told(name: str) -> dict[str, Any]:
            files = [{"path": "it/new.yaml", "content": manifest(name, "ops")}]
            return {**await plan(client, {"files": files}), "digest": "", "head_revision": ""}

        assert await told("chat") == await told("nobodys")
    async with installation.client() as client:
        files = [{"path": "it/new.yaml", "content": manifest("chat", "ops")}]
        assert "duplicate-name" in [one["code"] for one in (await plan(client, {"files": files}))["findings"]]


async def test_a_plan_of_a_revision(installation: Installation, repository: Repo) -> None:
    repository.git("checkout", "-q", "-b", "topic")
    repository.commit("more", {"it/chat.yaml": manifest("talk")})
    async with installation.client() as client:
        found = await plan(client, {"revision": "topic"})
        assert named(found) == ["connect it/talk", "connect ops/chat"]
        missing = await client.post("/v1/plan", json={"revision": "nowhere"})
        assert (missing.status_code, missing.json()["code"]) == (422, "not-readable")
        assert "nowhere" in missing.json()["detail"]


async def test_a_plan_of_files_that_are_in_no_commit(installation: Installation, repository: Repo) -> None:
    files = [{"path": "it/more.yaml", "content": manifest("more")}, {"path": "ops/chat.yaml", "content": None}]
    async with installation.client() as client:
        assert named(await plan(client, {"files": files})) == ["connect it/chat", "connect it/more"]
        assert named(await plan(client)) == ["connect it/chat", "connect ops/chat"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"revision": "main", "files": [{"path": "a.yaml", "content": ""}]},
        {"revision": "--upload-pack=x"},
        {"revision": "a..b"},
        {"files": [{"path": "/etc/passwd", "content": ""}]},
        {"files": []},
        {"revision": "main", "source": "nowhere"},
    ],
)
async def test_what_cannot_be_planned(installation: Installation, repository: Repo, body: Any) -> None:
    async with installation.client() as client:
        assert (await client.post("/v1/plan", json=body)).status_code == 422


async def test_a_process_without_sources_says_who_can(installation: Installation) -> None:
    async with installation.client() as client:
        answer = await client.get("/v1/plan")
    assert (answer.status_code, answer.json()["code"]) == (503, "git-not-read")


async def test_a_source_that_cannot_be_read_is_503(installation: Installation, repository: Repo) -> None:
    repository.root.rename(repository.root.with_name("away"))
    async with installation.client() as client:
        answer = await client.get("/v1/plan")
    assert (answer.status_code, answer.json()["code"]) == (503, "git-not-readable")
