"""`reconciler secrets` on real files: keys, encryption in place, rotation, and what it says when it refuses."""

import argparse
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.cli import secrets
from reconciler.desired.sops.envelope import MANIFEST_REGEX

Run = Callable[..., tuple[int, str, str]]
CANARY = "canary-51c0de"
MANIFEST = f"""\
# yaml-language-server: $schema=../schemas/integration.schema.json
apiVersion: reconciler.dev/v1
kind: Integration
metadata:
  name: jira-eng
spec:
  type: jira   # a connector
  auth:
    type: basic
    username: svc
    api_token: {CANARY}   # ours
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    for name in os.environ:
        if name.startswith("SOPS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def called(*arguments: object) -> tuple[int, str, str]:
        parser = argparse.ArgumentParser()
        secrets.configure(parser)
        code = secrets.run(parser.parse_args([str(argument) for argument in arguments]))
        out, err = capfdbinary.readouterr()
        assert CANARY not in err.decode()
        return code, out.decode(), err.decode()

    return called


@pytest.fixture
def recipient(run: Run, tmp_path: Path) -> str:
    """A key where SOPS looks for it, and a repository whose files are encrypted to it."""
    code, out, _ = run("keygen")
    assert code == 0
    public = out.strip()
    (tmp_path / "repo/teams").mkdir(parents=True)
    (tmp_path / "repo/.sops.yaml").write_text(f"creation_rules:\n  - age: {public}\n")
    return public


def test_keygen_is_private_and_never_overwrites(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "new/keys.txt"
    code, out, _ = run("keygen", "-o", path)
    assert (code, out[:4]) == (0, "age1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    code, out, err = run("keygen", "-o", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"{path}: invalid-value: exists already")
    assert path.read_text() == before


@pytest.mark.needs("age")
def test_age_reads_our_key_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    _, out, _ = run("keygen", "-o", path)
    keygen = shutil.which("age-keygen") or "age-keygen"
    shown = subprocess.run([keygen, "-y", str(path)], check=True, capture_output=True, text=True).stdout
    assert shown == out


def test_a_manifest_in_place_and_back(run: Run, recipient: str, tmp_path: Path) -> None:
    path = tmp_path / "repo/teams/jira.yaml"
    path.write_text(MANIFEST)
    path.chmod(0o640)
    assert run("encrypt", "-i", path) == (0, "", "")
    sealed = path.read_text()
    assert CANARY not in sealed
    assert f'encrypted_regex: "{MANIFEST_REGEX}"' in sealed
    for line in MANIFEST.splitlines()[:10]:
        assert line in sealed
    assert "# ours" in sealed
    assert recipient in sealed
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert run("decrypt", path)[1] == MANIFEST
    assert run("decrypt", path, "--extract", '["spec"]["auth"]["api_token"]')[1] == CANARY
    assert run("rotate", "-i", path) == (0, "", "")
    assert path.read_text() != sealed
    assert run("decrypt", "-i", path)[0] == 0
    assert path.read_text() == MANIFEST
    assert [entry.name for entry in path.parent.iterdir()] == ["jira.yaml"]


def test_other_files_are_encrypted_wholly(run: Run, recipient: str, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    files = {
        "a.yaml": f"k: {CANARY}\n",
        "b.json": f'{{\n  "k": "{CANARY}"\n}}\n',
        ".env": f"K={CANARY}\n",
        "key.pem": f"{CANARY}\n",
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    paths = [folder / name for name in files]
    assert run("encrypt", "--in-place", *paths) == (0, "", "")
    assert all(CANARY not in path.read_text() for path in paths)
    assert run("rotate", "-i", *paths) == (0, "", "")
    assert run("decrypt", "-i", *paths) == (0, "", "")
    assert {path.name: path.read_text() for path in paths} == files


def test_options_stand_in_for_the_configuration(run: Run, recipient: str, tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text(f"a: {CANARY}\nb: clear\n")
    code, _, err = run("encrypt", path)
    assert (code, err.split(": ")[1]) == (1, "sops-key-missing")
    assert "--age" in err
    code, out, _ = run("encrypt", path, "--age", recipient, "--encrypted-regex", "^a$")
    assert code == 0
    assert "\nb: clear\n" in out
    assert path.read_text().startswith("a: canary")


def test_refusals_name_file_code_and_remedy_and_the_rest_goes_on(run: Run, recipient: str, tmp_path: Path) -> None:
    folder = tmp_path / "repo"
    good, bad, gone = folder / "good.yaml", folder / "bad.yaml", folder / "gone.yaml"
    good.write_text("a: x\n")
    bad.write_text(f"a: [{CANARY}\n")
    code, out, err = run("encrypt", "-i", bad, gone, good)
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith(f"{bad}: yaml-syntax: line ")
    assert lines[1].startswith(f"{gone}: file-unreadable: No such file")
    assert len(lines) == 2
    assert "sops:" in good.read_text()
    code, _, err = run("encrypt", "-i", good)
    assert code == 1
    assert "encrypted already" in err
    assert "rotate" in err
    code, _, err = run("decrypt", good, bad)
    assert code == 1
    assert "--in-place" in err


def test_the_envelope_stays_in_clear(run: Run, recipient: str, tmp_path: Path) -> None:
    path = tmp_path / "repo/jira.yaml"
    path.write_text(MANIFEST)
    code, _, err = run("encrypt", "-i", path, "--encrypted-regex", "^(spec|token)$")
    assert code == 1
    assert err.startswith(f"{path}: encrypted-envelope: ")
    assert MANIFEST_REGEX in err
    assert path.read_text() == MANIFEST


@pytest.mark.parametrize("steps", ["", "a", '["a"]x', '["none"]', '["a"]["b"]', "[0]"])
def test_a_wrong_path_is_refused(steps: str, run: Run, recipient: str, tmp_path: Path) -> None:
    path = tmp_path / "repo/a.yaml"
    path.write_text("a: x\n")
    run("encrypt", "-i", path)
    code, out, err = run("decrypt", path, "--extract", steps)
    assert (code, out) == (1, "")
    assert ": invalid-value: " in err


def test_without_the_key_nothing_is_written(run: Run, recipient: str, tmp_path: Path) -> None:
    path = tmp_path / "repo/a.yaml"
    path.write_text("a: x\n")
    run("encrypt", "-i", path)
    sealed = path.read_bytes()
    (tmp_path / "config/sops/age/keys.txt").unlink()
    for command in ("decrypt", "rotate"):
        code, _, err = run(command, "-i", path)
        assert (code, err.split(": ")[1]) == (1, "sops-key-missing")
    assert path.read_bytes() == sealed
