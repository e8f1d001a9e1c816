"""Commands over the API, as a person types them: against a daemon in a process of its own that writes to a Git repository."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.cli.age_key import new_key
from reconciler.cli.main import main
from reconciler.client import ApiError, ChangedError, Client
from reconciler.model.clock import SystemClock
from tests.e2e.stage import SLACK_CANARY, Stage, git
from tests.e2e.town import Town, start
from tests.e2e.writing import CHAT

RULE = "creation_rules:\n  - age: {}\n    encrypted_regex: ^(token|password)$\n    mac_only_encrypted: true\n"
COMMON = {"hosts": {"allow": ["127.0.0.0/8"]}, "tenants": [{"env_prefix": "ITOPS_"}], "stop_timeout": "5s"}


@dataclass
class Far:
    """A daemon that is reached by its address only."""

    town: Town
    remote: Path
    url: str
    token: str

    def file(self, path: str) -> str:
        return git(self.remote, "show", f"main:{path}")

    def subjects(self) -> list[str]:
        return git(self.remote, "log", "--format=%s", "main").splitlines()

    def until_status(self, name: str, status: str) -> None:
        self.town.until(f"{name} {status}", lambda: self._status(name) == status)

    def _status(self, name: str) -> str:
        """Or why there is none."""
        with Client(self.url, self.token, trust_env=False) as client:
            try:
                return str(client.integrations.get(name).status)
            except ApiError as error:
                return error.code


@contextmanager
def _daemon(root: Path) -> Iterator[tuple[Town, Path]]:
    stage, remote = Stage(root), root / "remote.git"
    with stage.slack, stage.servicenow:
        (stage.repo / ".sops.yaml").write_text(RULE.format(new_key(root / "keys.txt", SystemClock().now())))
        (stage.repo / "it-ops").mkdir()
        (stage.repo / "it-ops" / "chat.yaml").write_text(CHAT % stage.slack.url)
        stage.commit()
        git(root, "clone", "-q", "--bare", str(stage.repo), str(remote))
        source = {"name": "main", "url": str(remote), "ref": "main", "write_back": {"mode": "commit"}}
        place = {"state_dir": str(stage.state), "age_key_file": str(root / "keys.txt"), "sources": [source]}
        settings = root / "settings.yaml"
        settings.write_text(json.dumps(COMMON | place))
        with (root / "daemon.log").open("w") as log:
            words = ("run", "--config", str(settings), "--listen", "127.0.0.1:0")
            process = start(*words, stdout=log, stderr=subprocess.STDOUT)
            try:
                made = Town(stage, process)
                made.until("synced", lambda: made.is_synced("chat"))
                yield made, remote
            finally:
                process.terminate()
                process.wait(60)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Far]:
    with _daemon(tmp_path) as (town, remote):
        assert town.run("token", "create", "ci", "--workspace", "it-ops", "--allow", "admin") == 0
        token = capsys.readouterr().out.strip()
        monkeypatch.setenv("RECONCILER_URL", town.address)
        monkeypatch.setenv("RECONCILER_TOKEN", token)
        monkeypatch.delenv("RECONCILER_STATE_DIR", raising=False)
        made = Far(town, remote, town.address, token)
        made.until_status("chat", "connected")
        capsys.readouterr()
        yield made


@dataclass
class Typed:
    code: int
    out: str
    err: str


@pytest.fixture
def typed(far: Far, capsys: pytest.CaptureFixture[str]) -> "Typist":
    return Typist(far, capsys)


@dataclass
class Typist:
    far: Far
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Typed:
        """What a command says. Never the token, nor any secret."""
        code = main([*words])
        said = self.capsys.readouterr()
        for secret in (self.far.token, SLACK_CANARY):
            assert secret not in said.out + said.err
        return Typed(code, said.out, said.err)


def test_a_life_over_the_api(far: Far, typed: Typist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token.txt").write_text(f"{SLACK_CANARY}\n")
    words = ["connect", "slack", "talk", "--workspace", "it-ops", "--set", "auth.type=bot_token"]
    words += [
        "--set",
        f"config.base_url={far.town.stage.slack.url}/api",
        "--set",
        "sync.entities=[users]",
        "--label",
        "a=b",
    ]
    made = typed(*words, "--secret", f"auth.token=@{tmp_path}/token.txt")
    assert (made.code, made.err) == (0, "")
    assert "Plan: 1 to connect" in made.out
    assert "it-ops/talk: committed" in made.out
    assert "token: ENC[" in far.file("it-ops/talk.yaml")
    far.until_status("talk", "connected")
    again = typed(*words, "--secret", f"auth.token=@{tmp_path}/token.txt")
    assert (again.code, again.out) == (1, "")
    assert "409 git-exists" in again.err

    patched = typed(
        "patch", "talk", "--set", "display_name=Talk: it", "--unset", "sync.entities", "--unlabel", "a", "--wait", "20"
    )
    assert patched.code == 0, patched.err
    assert 'display_name: "Talk: it"' in far.file("it-ops/talk.yaml").replace("'", '"')
    assert "entities" not in far.file("it-ops/talk.yaml")

    _edit_in(monkeypatch, tmp_path, "s/display_name:.*/display_name: Gossip/")
    assert "committed" in typed("edit", "talk", "--wait", "10").out
    assert "Gossip" in far.file("it-ops/talk.yaml")
    assert "token: ENC[" in far.file("it-ops/talk.yaml")

    assert "nothing was done" in typed("disconnect", "talk").err
    gone = typed("disconnect", "it-ops/talk", "--purge-data", "--yes")
    assert gone.out.startswith("it-ops/talk is disconnected since"), gone.err
    assert "enabled: false" in far.file("it-ops/talk.yaml")
    assert typed("enable", "talk").code == 0
    far.until_status("talk", "connected")
    removed = typed("remove", "talk", "--yes", "--beyond-guard", "--output", "json")
    assert json.loads(removed.out)["commit"] == git(far.remote, "rev-parse", "main")
    assert far.subjects()[0] == "Remove it-ops/talk"
    assert typed("status", "talk").err.startswith("reconciler: no integration")


def _edit_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    editor = folder / "editor"
    editor.write_text(f"#!/bin/sh\nexec sed -i '{script}' \"$1\"\n")
    editor.chmod(0o700)
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", str(editor))


def test_editing(far: Far, typed: Typist, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    _edit_in(monkeypatch, tmp_path, "s/no such text//")
    assert typed("edit", "chat").out == "nothing was changed\n"
    _edit_in(monkeypatch, tmp_path, "s/type: slack/type: {{/")
    wrong = typed("edit", "chat")
    assert (wrong.code, "line " in wrong.err) == (1, True)
    (kept,) = (tmp_path / "scratch").iterdir()
    assert f"your text is kept in {kept}" in wrong.out
    assert kept.stat().st_mode & 0o077 == 0
    kept.unlink()
    monkeypatch.setenv("EDITOR", "false")
    assert typed("edit", "chat").err == "reconciler: false ended with 1\n"
    _edit_in(monkeypatch, tmp_path, "s/display_name: .*/display_name: Talk/")
    assert "committed" in typed("edit", "chat", "--wait", "10").out
    assert "display_name: Talk   # what people call it" in far.file("it-ops/chat.yaml")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_looking(far: Far, typed: Typist) -> None:
    here = far.town.run("status")
    local = typed.capsys.readouterr().out
    there = typed("status")
    assert (here, there.code) == (0, 0)
    assert _columns(there.out) == _columns(local)
    one = typed("status", "it-ops/chat")
    assert "conditions:" in one.out
    assert "last runs:" in one.out
    listed = json.loads(typed("status", "--workspace", "it-ops", "--output", "json").out)
    assert [found["name"] for found in listed["integrations"]] == ["chat"]
    assert typed("status", "--workspace", "finance").code == 1
    assert typed("plan", "--server", far.url).out == "No changes. 1 integration is as Git wants them.\n"
    assert json.loads(typed("plan", "--server", far.url, "--output", "json").out)["exit_code"] == 0
    assert typed("plan", "--server", far.url, "--head", "no-such-branch").code == 1
    assert typed("sync", "chat").out.startswith("run_")
    assert "there is no such scope" in typed("sync", "chat", "--scope", "everything").err


def _columns(text: str) -> list[Sequence[str]]:
    """Without the times, which pass."""
    return [line.split()[:5] for line in text.splitlines() if line.split()[:1] in (["WORKSPACE"], ["it-ops"])]


def test_any_call(typed: Typist, tmp_path: Path) -> None:
    listed = typed("api", "GET", "/v1/integrations", "--query", "limit=1")
    assert [one["name"] for one in json.loads(listed.out)["data"]] == ["chat"]
    refused = typed("api", "get", "/v1/integrations", "--query", "status=bad")
    assert (refused.code, json.loads(refused.out)["code"]) == (1, "invalid-parameter")
    (tmp_path / "patch.json").write_text('{"metadata": {"labels": {"team": "chat"}}}')
    patched = typed("api", "PATCH", "/v1/integrations/chat", "--data", f"@{tmp_path}/patch.json")
    assert json.loads(patched.out)["integration"]["name"] == "chat"
    assert typed("api", "POST", "/v1/plan", "--data", "{}").err.startswith("reconciler: --data: expected @FILE")


def test_whom_it_asks(far: Far, typed: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "which one" in typed("status", "--server", far.url, "--state-dir", "/none").err
    assert "127.0.0.1:1: GET /v1/integrations" in typed("status", "--server", "http://127.0.0.1:1").err
    monkeypatch.setenv("RECONCILER_TOKEN", "rt_wrong")
    assert "token create" in typed("status").err
    monkeypatch.delenv("RECONCILER_TOKEN")
    assert "set RECONCILER_TOKEN" in typed("status").err
    monkeypatch.delenv("RECONCILER_URL")
    assert "set RECONCILER_URL" in typed("enable", "chat").err


def test_what_get_gives_may_be_put_back(far: Far) -> None:
    with Client(far.url, far.token, trust_env=False) as client:
        found = client.integrations.get("chat")
        found.spec["display_name"] = "Talk"
        done = client.integrations.replace("chat", found, if_match=found.etag, wait=10)
        assert done.commit == git(far.remote, "rev-parse", "main")
        assert "display_name: Talk   # what people call it" in far.file("it-ops/chat.yaml")
        with pytest.raises(ChangedError) as late:
            client.integrations.replace("chat", found, if_match=found.etag)
        assert late.value.code == "git-conflict"
