"""Manifests and secret files that the real sops program encrypted for a PGP key: judged and planned without a key, run with."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.model.condition import ConditionType, Truth
from tests.e2e.stage import CANARY, ENV, GITHUB_CANARY, Stage
from tests.servers.sops import Sops, pgp_key

pytestmark = [pytest.mark.needs("sops", "gpg"), pytest.mark.usefixtures("quiet_logging")]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    with made.servicenow, made.github:
        made.servicenow.put("incident", {"short_description": "One"})
        made.github.add_repo("acme/tool")
        yield made


@pytest.fixture
def env(stage: Stage) -> Iterator[Mapping[str, str]]:
    """What a process that holds the key has. The password stands in a manifest, the token in a file of JSON beside one,
    and a list in a manifest with a comment between its items."""
    with pgp_key() as pgp:
        sops = Sops.on_path(stage.root, GNUPGHOME=str(pgp.home))
        stage.manifest("sn", **stage.servicenow_spec(auth={"type": "basic", "username": "recon", "password": CANARY}))
        (stage.repo / "tokens.json").write_text(json.dumps({"github": {"token": GITHUB_CANARY}}))
        token = {"from_sops": {"file": "tokens.json", "key": "github.token"}}
        gh = stage.github_spec(auth={"type": "token", "token": token})
        stage.manifest("gh", **gh | {"config": {**gh["config"], "repositories": ["acme/app", "acme/tool"]}})
        path = stage.repo / "gh.yaml"
        path.write_text(path.read_text().replace("- acme/app", "- acme/app\n    # retired: acme/old"))
        for name, rule in (("sn.yaml", "^auth$"), ("gh.yaml", "^repositories$"), ("tokens.json", "")):
            words = ("--encrypted-regex", rule) if rule else ()
            sops.run("--encrypt", "--in-place", "--pgp", pgp.fingerprint, *words, str(stage.repo / name))
        stage.commit()
        yield {**sops.env, "ITOPS_HOOK": ENV["ITOPS_HOOK"]}


def test_no_key_is_needed_to_judge_and_to_plan(
    stage: Stage, env: Mapping[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(stage.root))
    assert ",type:comment]" in (stage.repo / "gh.yaml").read_text()
    assert main(["validate", str(stage.repo)]) == 0
    before = stage.commit()
    path = stage.repo / "sn.yaml"
    path.write_text(path.read_text().replace("page_size: 50", "page_size: 60"))
    after = stage.commit()
    assert main(["plan", "--repo", str(stage.repo), "--base", before, "--head", after]) == 2
    said = capsys.readouterr()
    assert "page_size" in said.out
    assert CANARY not in said.out + said.err


def test_a_command_that_signs_in(
    stage: Stage, env: Mapping[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["test", "sn", *stage.words()[1:]]) == 0
    assert main(["test", "gh", *stage.words()[1:]]) == 0
    monkeypatch.setenv("GNUPGHOME", str(stage.root))
    assert main(["test", "sn", *stage.words()[1:]]) == 1
    said = "".join(capsys.readouterr())
    assert "gpg holds none of the secret keys" in said
    assert CANARY not in said


async def test_a_daemon(stage: Stage, env: Mapping[str, str]) -> None:
    async with stage.daemon(env=env) as running:
        await running.until_synced("sn", "gh")
        for name in ("sn", "gh"):
            assert (await running.view(name)).conditions[ConditionType.SECRETS_DECRYPTED].truth is Truth.TRUE


async def test_a_daemon_without_the_key(stage: Stage, env: Mapping[str, str]) -> None:
    async with stage.daemon(env={**env, "GNUPGHOME": str(stage.root)}) as running:

        async def told() -> str:
            view = (await running.views()).get("sn")
            said = view.conditions.get(ConditionType.SECRETS_DECRYPTED) if view else None
            return said.message if said is not None and said.truth is Truth.FALSE else ""

        message = await running.until("the missing key is told", told)
    assert "gpg holds none of the secret keys" in message
    assert CANARY not in message
