"""The command line as a whole: every option is explained, and every mistyped word comes with what was meant."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from reconciler.cli.main import COMMANDS, main


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What stands on stderr, without the usage; the exit code must be 1."""
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    assert (code, said.out) == (1, "")
    return said.err.splitlines()[-1]


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for one in action.choices.values():
                yield from _parsers(one)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained_and_named(command: str) -> None:
    parser = argparse.ArgumentParser(prog=f"reconciler {command}", description=COMMANDS[command])
    import_module(f"reconciler.cli.{'probe' if command == 'test' else command}").configure(parser)
    for one in _parsers(parser):
        assert one.description, one.prog
        for action in one._actions:
            assert action.help or isinstance(action.choices, dict), (one.prog, action.dest)
            metavar = action.metavar or (action.dest if action.nargs != 0 else "X")
            assert str(metavar).isupper(), (one.prog, metavar)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("synk",), "reconciler: no command synk, did you mean sync?; see: reconciler --help"),
        (("status", "--workspce", "x"), "reconciler status: there is no option --workspce, did you mean --workspace?"),
        (("logs", "sn", "--folow"), "reconciler logs: there is no option --folow, did you mean --follow?"),
        (("deliveries", "show", "dlv_1", "--outptu=json"), "there is no option --outptu, did you mean --output?"),
        (("deliveries", "shw", "dlv_1"), "argument COMMAND: there is no shw, did you mean show?"),
        (("deliveries", "--status", "daed"), "argument --status: there is no daed, did you mean dead?"),
        (("plan", "--output", "markdwn"), "argument --output: there is no markdwn, did you mean markdown?"),
        (("schema", "connectors/slak"), "there is no schema connectors/slak, did you mean connectors/slack?"),
        (("connectors", "servicnow"), "there is no connector servicnow, did you mean servicenow?"),
        (("connectors", "a", "b"), "reconciler connectors: unexpected: b"),
        (("resume",), "reconciler resume: the following arguments are required: NAME"),
    ],
)
def test_what_is_mistyped(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert message in _refused(capsys, *words)


def test_help_has_two_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for words in (("help", "sync"), ("sync", "--help")):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "examples:\n  reconciler sync servicenow-prod --wait\n" in texts[0]
    assert main(["help"]) == main(["--help"]) == main([]) == 0


def test_settings_of_a_repository_need_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECONCILER_REPO", raising=False)
    for words in (("run", "--ref", "main"), ("apply", "--path", "x"), ("test", "sn", "--ref", "main")):
        assert "--ref and --path say more about --repo; give that too" in _refused(capsys, *words)


def test_a_file_whose_name_is_no_unicode_is_told_of(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.yaml")).write_text("kind: Integration\n")
    words = [sys.executable, "-m", "reconciler", "validate", str(tmp_path)]
    said = subprocess.run(
        words, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    )
    assert said.returncode == 1
    assert b"\\udcff.yaml:1:1: missing-field" in said.stdout
