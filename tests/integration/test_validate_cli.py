"""`reconciler validate` and `reconciler schema` as a person or a pull-request check runs them, on real files."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.cli.main import main

ROOT = Path(__file__).parents[2]
GOOD = """\
apiVersion: reconciler.dev/v1
kind: Integration
metadata:
  name: {name}
spec:
  type: slack
  auth: {{type: token, token: {{from_env: SLACK_TOKEN}}}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teams").mkdir()
    return tmp_path


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        (folder / "teams" / f"{name}.yaml").write_text(text)


def test_a_right_folder_is_silent_on_stdout(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, a=good("a"), b=good("b"))
    assert main(["validate"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "2 files, 0 errors\n")


def good(name: str) -> str:
    return GOOD.format(name=name)


def test_all_findings_of_all_files_at_once_with_paths_as_typed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        folder,
        a=good("a").replace("spec:", "spec:\n  typo: 1"),
        b=good("b").replace("slack", "slak"),
        c=good("a"),
        d="a: [\n",
    )
    assert main(["validate", "teams"]) == 1
    out, err = capsys.readouterr()
    places = [line.split(": ")[:2] for line in out.splitlines()]
    assert places == [
        ["teams/a.yaml:4:9", "duplicate-name"],
        ["teams/a.yaml:6:3", "unknown-field"],
        ["teams/b.yaml:6:9", "unknown-type"],
        ["teams/c.yaml:4:9", "duplicate-name"],
        ["teams/d.yaml:2:1", "yaml-syntax"],
    ]
    assert "(did you mean slack?)" in out
    assert err == "4 files, 5 errors\n"


def test_yes_is_text_and_the_finding_says_what_to_write(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, a=good("a").replace("spec:", "spec:\n  enabled: yes\n  display_name: 0123"))
    assert main(["validate", "teams"]) == 1
    enabled, name = capsys.readouterr().out.splitlines()
    assert enabled == (
        "teams/a.yaml:6:12: invalid-value: spec.enabled must be true or false, not 'yes' "
        "(write true; yes, no, on and off are text in YAML 1.2)"
    )
    assert name == (
        "teams/a.yaml:7:17: invalid-value: spec.display_name must be text, not the number 123 (put it in quotes)"
    )
    write(folder, a=good("a").replace("spec:", "spec:\n  enabled: true\n  display_name: '0123'"))
    assert main(["validate", "teams"]) == 0


def test_one_file_is_judged_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, a=good("a") + "  depends_on: [elsewhere]\n", broken="a: [")
    assert main(["validate", "teams/a.yaml"]) == 0
    (folder / "teams" / "s.yaml").write_text("x: 1\n")
    reference = good("a").replace("{from_env: SLACK_TOKEN}", "{from_sops: {file: s.yaml, key: x}}")
    write(folder, a=reference)
    assert main(["validate", "teams/a.yaml"]) == 0
    write(folder, a=reference.replace("s.yaml", "t.yaml"))
    assert main(["validate", "teams/a.yaml"]) == 1
    assert "teams/a.yaml:7:" in capsys.readouterr().out


def test_json_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, a=good("a").replace("slack", "slak"))
    assert main(["validate", ".", "--output", "json"]) == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding == {
        "file": "teams/a.yaml", "line": 6, "column": 9, "severity": "error", "code": "unknown-type",
        "message": "there is no connector of type 'slak'", "remedy": "did you mean slack?",
    }  # fmt: skip


def test_workflow_commands_for_github_cannot_be_forged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = folder / "teams" / "a,b:c%\n::error::.yaml"
    odd.write_text(good("a").replace("slack", '"x%0A\\n::error file=x::y"'))
    assert main(["validate", "--output", "github"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("::error file=teams/a%2Cb%3Ac%25%0A%3A%3Aerror%3A%3A.yaml,line=6,col=9,title=")


def test_hostile_files_are_findings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = folder.parent / f"{folder.name}-outside.yaml"
    outside.write_text(good("stolen"))
    teams = folder / "teams"
    (teams / "link.yaml").symlink_to(outside)
    (teams / "binary.yaml").write_bytes(os.urandom(50) + b"\0" * 50)
    (teams / "latin.yaml").write_bytes(b"a: caf\xe9\n")
    with (teams / "sparse.yaml").open("wb") as huge:
        huge.truncate(100 * 1024 * 1024)
    nested = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    write(
        folder,
        bomb="\n".join(nested),
        deep="[" * 5000,
        tag="a: !!python/object/apply:os.system [id]\n",
        fine=good("fine"),
    )
    began = time.process_time()
    assert main(["validate"]) == 1
    assert time.process_time() - began < 5
    out, _ = capsys.readouterr()
    codes = {line.split(":")[0].removeprefix("teams/"): line.split(": ")[1] for line in out.splitlines()}
    assert codes == {
        "binary.yaml": "file-binary", "latin.yaml": "file-binary", "sparse.yaml": "file-too-large", "bomb.yaml": "yaml-limit",
        "deep.yaml": "yaml-limit", "tag.yaml": "yaml-tag", "link.yaml": codes["link.yaml"],
    }  # fmt: skip
    assert codes["link.yaml"] in {"file-symlink", "file-unreadable"}
    assert "stolen" not in out
    assert main(["validate", "teams/sparse.yaml"]) == 1
    assert "file-too-large" in capsys.readouterr().out


def test_a_path_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "nowhere"]) == 1
    assert "nowhere is not a folder that can be reached" in capsys.readouterr().err


def test_unreadable_and_empty(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 0
    assert capsys.readouterr().err == "0 files, 0 errors\n"


def test_schemas_are_printed_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "reconciler integration"
    assert main(["schema", "connectors/slack"]) == 0
    assert "auth" in json.loads(capsys.readouterr().out)["properties"]
    assert main(["schema", "nonsense"]) == 1
    assert "connectors/slack" in capsys.readouterr().err
    assert main(["schema", "--write", "out"]) == 0
    assert json.loads((folder / "out" / "connectors" / "slack.schema.json").read_text())["title"] == "Slack"
    (folder / "file").write_text("")
    assert main(["schema", "--write", "file/x"]) == 1


def test_validate_imports_nothing_heavy(folder: Path) -> None:
    write(folder, a=good("a"))
    heavy = (
        "httpx",
        "dbos",
        "sqlalchemy",
        "starlette",
        "structlog",
        "jsonschema",
        "liquid",
        "rich",
        "prometheus_client",
        "pyrage",
    )
    script = (
        "import sys; from reconciler.cli.main import main; code = main(['validate']); "
        f"print(code, [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.stdout == "0 []\n"
