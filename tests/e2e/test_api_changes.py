"""Manifests changed over the API: from a request to a commit, to the daemon that takes it over, to the remote."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reconciler.model.access import Permission
from reconciler.store import requests
from tests.e2e.stage import ENV, SLACK_CANARY, git
from tests.e2e.writing import CHAT, Place, writable
from tests.servers.forges import GitHubForge


@pytest.fixture
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """With the settings of the test's parameter, where it has one."""
    async with writable(tmp_path, **getattr(request, "param", {})) as made:
        yield made


async def test_what_get_gives_may_be_put_back(place: Place) -> None:
    got = await place.client.get("/v1/integrations/chat")
    shown, before = got.json(), place.file("it-ops/chat.yaml")
    assert shown["spec"]["auth"]["token"] == "********"
    same = await place.changed("PUT", "/v1/integrations/chat", json=shown)
    assert (same["commit"], place.commits()) == ("", 1)

    shown["spec"]["display_name"] = "Talk"
    made = await place.changed("PUT", "/v1/integrations/chat", json=shown, headers={"if-match": got.headers["etag"]})
    assert place.file("it-ops/chat.yaml") == before.replace("Chat   #", "Talk   #")
    assert git(place.remote, "log", "-1", "--format=%an %s", "main") == "ci Change it-ops/chat"
    assert [(a["action"], a["name"]) for a in made["plan"]["actions"]] == [("update", "chat")]
    late = await place.client.put("/v1/integrations/chat", json=shown, headers={"if-match": got.headers["etag"]})
    assert (late.status_code, late.json()["code"]) == (412, "git-conflict")


async def test_a_new_integration_with_a_secret(place: Place) -> None:
    body = {
        "name": "talk",
        "workspace": "it-ops",
        "auth": {"type": "bot_token", "token": SLACK_CANARY},
        "config": {"base_url": f"{place.stage.slack.url}/api"},
        "sync": {"entities": ["users"]},
    }
    key = {"idempotency-key": "create-talk"}
    answers = [await place.client.post("/v1/integrations/slack/connect", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    assert answers[0].content == answers[1].content
    assert SLACK_CANARY not in answers[0].text
    written = place.file("it-ops/talk.yaml")
    assert "ENC[AES256_GCM" in written
    assert SLACK_CANARY not in written
    assert place.commits() == 2
    made = answers[0].json()
    assert made["integration"]["id"].startswith("int_")
    await place.running.until_view("talk", "connected", lambda view: view.row.is_connected)

    taken = await place.client.post("/v1/integrations/slack/connect", json=body)
    assert (taken.status_code, taken.json()["code"]) == (409, "git-exists")
    wrong = await place.client.post(
        "/v1/integrations/slack/connect", json={"name": "bad", "workspace": "it-ops", "config": {"base_url": 1}}
    )
    assert (wrong.status_code, wrong.json()["code"]) == (422, "git-invalid")
    assert wrong.json()["errors"]
    assert place.commits() == 2


async def test_a_patch_an_enabled_one_and_a_schedule(place: Place) -> None:
    await place.changed(
        "PATCH", "/v1/integrations/chat", json={"spec": {"display_name": None}, "metadata": {"labels": {"a": "b"}}}
    )
    assert "display_name" not in place.file("it-ops/chat.yaml")
    assert "# The chat of the operators." in place.file("it-ops/chat.yaml")
    await place.changed("PUT", "/v1/integrations/chat/schedule", json={"every": "15m"})
    assert 'every: "15m"' in place.file("it-ops/chat.yaml")
    wanted = {
        "event_type": "incident.created",
        "action": "post_message",
        "map": {"channel": "C0000000OPS"},
        "template": "x",
    }
    await place.changed("PUT", "/v1/integrations/chat/synchronizations/p1", json=wanted)
    await asyncio.gather(
        *(place.changed("PUT", f"/v1/integrations/chat/synchronizations/p{i}", json=wanted) for i in range(2, 6))
    )
    await place.running.until_view(
        "chat", "knows", lambda view: view.row.revision.endswith(git(place.remote, "rev-parse", "main"))
    )
    listed = (await place.client.get("/v1/integrations/chat/synchronizations")).json()["data"]
    assert sorted(one["name"] for one in listed) == ["p1", "p2", "p3", "p4", "p5"]
    await place.changed("DELETE", "/v1/integrations/chat/synchronizations/p3")
    gone = await place.client.delete("/v1/integrations/chat/synchronizations/p3")
    assert gone.status_code == 404


async def test_disconnecting_purging_and_removing(place: Place) -> None:
    over = await place.changed("DELETE", "/v1/integrations/chat/disconnect", status=200, json={"purge_data": True})
    assert over["purge_data"]
    assert "enabled: false" in place.file("it-ops/chat.yaml")
    view = await place.running.view("chat")
    assert not view.row.is_connected

    async def purged() -> bool:
        asked = await place.running.read(lambda tx: tx.all("SELECT kind, handled_at FROM request WHERE kind = 'purge'"))
        return bool(asked) and asked[0][1] is not None

    await place.running.until("purged", purged)
    await place.changed("POST", "/v1/integrations/chat/enable")
    await place.running.until_view("chat", "connected again", lambda view: view.row.is_connected)

    beyond = await place.client.delete("/v1/integrations/chat")
    assert (beyond.status_code, beyond.json()["code"]) == (409, "prune-limit")
    await place.changed("DELETE", "/v1/integrations/chat", status=200, params={"beyond_guard": True})
    await place.running.until_gone("chat")
    assert git(place.remote, "ls-tree", "-r", "--name-only", "main").splitlines() == [".sops.yaml"]
    lines = await place.running.read(lambda tx: requests.audit(tx, "it-ops"))
    assert [(line.action.split()[0], line.outcome) for line in lines][:2] == [("DELETE", "done"), ("DELETE", "refused")]
    assert lines[0].revision == git(place.remote, "rev-parse", "main")


async def test_ten_writers_at_once_lose_nothing(place: Place) -> None:
    async def label(number: int) -> None:
        await place.changed("PATCH", "/v1/integrations/chat", json={"metadata": {"labels": {f"n{number}": "x"}}})

    await asyncio.gather(*(label(number) for number in range(10)))
    written = place.file("it-ops/chat.yaml")
    assert all(f"n{number}: x" in written for number in range(10))
    assert place.commits() == 11


async def test_another_workspaces_caller(place: Place) -> None:
    other = await place.token("other", "finance", Permission.ADMIN)
    for method, path in (("PUT", ""), ("PATCH", ""), ("DELETE", ""), ("DELETE", "/disconnect"), ("POST", "/enable")):
        body = {"metadata": {"name": "chat"}, "spec": {}} if method in {"PUT", "PATCH"} else None
        answer = await place.client.request(method, f"/v1/integrations/chat{path}", headers=other, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "integration-not-found")
    wish = {"name": "talk", "workspace": "it-ops"}
    answer = await place.client.post("/v1/integrations/slack/connect", headers=other, json=wish)
    assert (answer.status_code, answer.json()["code"]) == (403, "workspace-not-yours")
    assert place.commits() == 1


EDITOR = tuple(one for one in Permission if one is not Permission.ADMIN)


async def test_who_may_edit_does_not_let_itself_in(place: Place) -> None:
    """Not into a manifest that is wrong for now either: it may be right tomorrow."""
    editor = await place.token("editor", "it-ops", *EDITOR)
    access = [{"client": "editor", "allow": ["read"]}]

    async def refused(method: str, path: str, body: dict[str, Any]) -> None:
        answer = await place.client.request(method, f"/v1/integrations{path}", headers=editor, json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "reserved"), answer.text

    auth = {"type": "bot_token", "token": {"from_env": "ITOPS_SLACK"}}
    await refused("POST", "/slack/connect", {"name": "new", "workspace": "it-ops", "auth": auth, "access": access})
    await refused("PATCH", "/chat", {"spec": {"access": access}})
    (place.stage.repo / "it-ops" / "chat.yaml").write_text(CHAT % place.stage.slack.url + "  surprise: 1\n")
    place.stage.commit()
    git(place.stage.repo, "push", "-q", str(place.remote), "main")

    async def is_wrong() -> bool:
        return bool((await place.client.get("/v1/findings")).json()["data"])

    await place.client.post("/v1/reconcile")
    await place.running.until("it is wrong", is_wrong)
    await refused("PATCH", "/chat", {"spec": {"access": access}})
    assert place.commits() == 2


@pytest.mark.parametrize("place", [{"api": {"reserved": ("disconnect",)}}], indirect=True)
async def test_a_patch_that_disconnects_is_a_disconnect(place: Place) -> None:
    """What the settings reserve is reserved by every way that leads there."""
    editor = await place.token("editor", "it-ops", *EDITOR)
    answer = await place.client.patch("/v1/integrations/chat", headers=editor, json={"spec": {"enabled": False}})
    assert (answer.status_code, answer.json().get("operation")) == (403, "disconnect"), answer.text
    await place.changed("PATCH", "/v1/integrations/chat", headers=editor, json={"spec": {"display_name": "Talk"}})


class Pushed(set[str]):
    """The branches of a bare repository, as a forge would know them."""

    def __init__(self, remote: Path) -> None:
        super().__init__()
        self._remote = remote

    def __contains__(self, name: object) -> bool:
        return str(name) in git(self._remote, "branch", "--format=%(refname:short)").split()


async def test_a_change_as_a_pull_request(tmp_path: Path) -> None:
    """What was asked for is on a branch and proposed; it comes into force when somebody merges it."""
    with GitHubForge() as forge:
        forge.branches = Pushed(tmp_path / "remote.git")
        access = {"kind": "github", "api_url": forge.url, "repository": "acme/shop", "token_env": "FORGE"}
        more = {"source.write_back": {"mode": "pull-request", "forge": access}, "source.allow_http": True}
        async with writable(tmp_path, env={**ENV, "FORGE": "good"}, **more) as place:
            patch, key = {"spec": {"display_name": "Talk"}}, {"idempotency-key": "once"}
            made = await place.changed("PATCH", "/v1/integrations/chat", json=patch, headers=key)
            again = await place.changed("PATCH", "/v1/integrations/chat", json=patch, headers=key)
            assert made == again
            assert (made["mode"], place.commits(), len(forge.repos["acme/shop"].pulls)) == ("pull-request", 1, 1)
            assert made["pull_request_url"]
            assert made["branch"].startswith("reconciler/")
            assert made["plan"]["actions"][0]["action"] == "update"
            waiting = await asked_again(place, "/v1/integrations/chat/disconnect?beyond_guard=true")
            assert waiting["mode"] == "pull-request"
            pushed = git(place.remote, "branch", "--list", "--format=%(refname:short)", "reconciler/*")
            assert len(pushed.split()) == len(forge.repos["acme/shop"].pulls) == 2
            assert (await place.running.view("chat")).row.is_connected
            git(place.remote, "update-ref", "refs/heads/main", made["commit"])
            await place.running.until_view("chat", "is called so", lambda view: view.row.display_name == "Talk")


async def asked_again(place: Place, path: str) -> dict[str, Any]:
    """The forge takes one change a second: the same request goes on where it was."""
    key = {"idempotency-key": "again"}

    async def answered() -> httpx.Response | None:
        answer = await place.client.delete(path, headers=key)
        assert answer.status_code in {202, 503}, answer.text
        return answer if answer.status_code == httpx.codes.ACCEPTED else None

    answer = await place.running.until("it is proposed", answered)
    assert answer is not None
    body: dict[str, Any] = answer.json()
    return body


async def test_a_source_that_is_not_written_to_says_what_to_commit(tmp_path: Path) -> None:
    async with writable(tmp_path, **{"source.write_back": {"mode": "off"}}) as place:
        answer = await place.client.patch("/v1/integrations/chat", json={"spec": {"display_name": "Talk"}})
        assert (answer.status_code, answer.json()["code"]) == (409, "git-read-only")
        assert "+  display_name: Talk   # what people call it" in answer.json()["diff"]
        assert place.commits() == 1
