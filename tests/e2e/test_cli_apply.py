"""`reconciler apply`: one pass with a daemon that lives as long as the command."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.store.state_directory import StateDirectory
from tests.e2e.stage import ENV, Stage

pytestmark = pytest.mark.usefixtures("quiet_logging")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(tmp_path)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    with made.servicenow, made.slack:
        made.servicenow.put("incident", {"short_description": "Old", "priority": "1"})
        made.manifest("sn", **made.servicenow_spec())
        made.manifest("chat", **made.slack_spec(depends_on=["sn"]))
        made.commit()
        yield made


def _apply(stage: Stage, *words: str) -> int:
    return main(["apply", *stage.words()[1:], "--timeout", "3m", *words])


def _plan(stage: Stage) -> int:
    return main(["plan", "--repo", str(stage.repo), "--state-dir", str(stage.state), "--no-cache"])


def test_apply_then_plan_shows_nothing(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan(stage) == 2
    assert _apply(stage) == 0
    said = capsys.readouterr().out
    assert "Plan: 2 to connect" in said
    assert "it-ops     chat  slack" in said
    assert _plan(stage) == 0
    assert "No changes. 2 integrations are as Git wants them." in capsys.readouterr().out
    assert _apply(stage, "--sync") == 0
    assert "No changes." in capsys.readouterr().out


def test_sync_is_waited_for_and_its_failure_counts(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.servicenow.denied.add("change_request")
    stage.manifest("sn", **stage.servicenow_spec(sync={"entities": ["incidents", "changes"]}))
    stage.commit()
    assert _apply(stage, "--sync") == 1
    said = capsys.readouterr()
    assert "was partial: changes: " in said.err
    assert "2 to connect" in said.out


def test_wrong_credential_fails_and_names_it(
    stage: Stage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ITOPS_SN", "wrong-canary-password")
    assert _apply(stage) == 1
    said = capsys.readouterr()
    assert "AuthenticationFailed" in said.out
    assert "waiting for it-ops/sn" in said.out
    assert "wrong-canary-password" not in said.out + said.err


def test_unreachable_remote_ends_with_the_timeout(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.manifest("sn", **stage.servicenow_spec(config={"instance_url": "http://127.0.0.1:9"}))
    stage.commit()
    assert _apply(stage, "--timeout", "15s") == 1  # reading the sources has to fit in, on a busy machine, too
    assert "reconciler: not everything was done in time\n" in capsys.readouterr().err


def test_blocked_removal_exits_3_until_it_is_approved(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert _apply(stage) == 0
    for name in ("sn", "chat"):
        (stage.repo / f"{name}.yaml").unlink()
    stage.commit()
    capsys.readouterr()
    assert _apply(stage) == 3
    digest = capsys.readouterr().out.split("reconciler approve ")[1].split()[0]
    assert _apply(stage, "--approve", "0" * 16) == 3
    assert _apply(stage, "--approve", digest) == 0
    assert "2 to disconnect" in capsys.readouterr().out
    assert _plan(stage) == 0


def test_a_daemon_at_work_is_not_disturbed(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with StateDirectory(stage.state):
        assert _apply(stage) == 1
    error = capsys.readouterr().err
    assert "is in use by process" in error
    assert "reconciler reconcile --wait" in error
    assert error.count("\n") == 1


def test_source_that_cannot_be_read(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--repo", str(stage.root / "nowhere"), "--state-dir", str(stage.state))
    assert main(["apply", *words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("reconciler: source main: ")
    assert main(["apply", "--state-dir", str(stage.state)]) == 1
    assert "no source of manifests" in capsys.readouterr().err


def test_a_role_of_the_daemon_beside_it_is_none_of_a_pass(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_ROLE", "worker")
    assert _apply(stage) == 0
