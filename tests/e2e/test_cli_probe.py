"""`reconciler test` on a machine where no daemon ever ran."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from tests.e2e.stage import ENV, Stage

pytestmark = pytest.mark.usefixtures("quiet_logging")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(tmp_path)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    with made.servicenow, made.slack:
        made.manifest("sn", **made.servicenow_spec())
        made.manifest("chat", **made.slack_spec())
        made.commit()
        yield made


def _test(stage: Stage, *words: str) -> int:
    return main(["test", *words, *stage.words()[1:]])


def test_it_signs_in_and_leaves_nothing_behind(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert _test(stage, "it-ops/sn", "--output", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["identity"], shown["missing"], shown["error"]) == (True, "recon", [], None)
    assert shown["latency_ms"] > 0
    assert not stage.state.exists()


def test_what_this_manifest_does_not_use_is_shown_but_not_missed(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.slack.tokens = dict.fromkeys(stage.slack.tokens, "chat:write,users:read,users:read.email,channels:history")
    assert _test(stage, "chat") == 0
    said = capsys.readouterr().out
    assert "missing  channels:read (not used by this manifest)" in said
    assert said.endswith("\nok\n")


def test_an_entity_that_cannot_be_read(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.servicenow.denied.add("incident")
    assert _test(stage, "sn") == 1
    said = capsys.readouterr().out
    assert "not readable incidents\n" in said
    assert said.endswith("missing: read incidents\n")


def test_files_are_read_as_they_lie_there(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.manifest("draft", **stage.servicenow_spec())
    words = stage.words()[1:]
    ref = words.index("--ref")
    assert main(["test", "draft", *words]) == 1
    assert "no integration draft" in capsys.readouterr().err
    assert main(["test", "draft", *words[:ref], *words[ref + 2 :]]) == 0


def test_a_broken_manifest_is_told_with_its_findings(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.manifest("sn", **stage.servicenow_spec(config={"instance_ur": "x"}))
    stage.commit()
    assert _test(stage, "sn") == 1
    error = capsys.readouterr().err
    assert error.startswith("reconciler: it-ops/sn has no valid manifest; what is wrong in Git: sn.yaml:")
    assert error.count("\n") == 1


def test_no_source_and_no_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "sn", "--state-dir", str(tmp_path)]) == 1
    assert "no source of manifests" in capsys.readouterr().err
    assert main(["test", "sn", "--config", str(tmp_path / "none.yaml")]) == 1
    assert "--config names the settings file" in capsys.readouterr().err
