"""`reconciler init`: what it writes is valid, encrypted, off, and never in the way of what is there."""

import json
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest
import yaml

from reconciler.app.offline import Offline
from reconciler.cli.age_key import new_key
from reconciler.cli.main import main
from reconciler.cli.validate import check_path
from reconciler.desired.connector_facts import model_fields
from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.keys import keyring_from_env
from reconciler.desired.wording import secret_fields
from reconciler.sdk.registry import known_types, load

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setenv("HOME", str(made))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return made


@pytest.fixture
def folder(home: Path, tmp_path: Path) -> Path:
    made = tmp_path / "repo"
    assert main(["init", str(made)]) == 0
    return made


def test_the_starter_is_valid_and_switched_off(folder: Path) -> None:
    checked = check_path(folder)
    assert checked.state.findings == ()
    found = checked.state.integrations
    assert {ref.name: wanted.manifest.spec.enabled for ref, wanted in found.items()} == {
        "slack": False,
        "servicenow": False,
    }
    assert list(checked.state.workspaces) == ["default"]
    assert Offline(folder).read(None).state.findings == ()


def test_editors_and_ci_find_what_they_look_for(folder: Path) -> None:
    for place in ("integrations/slack.yaml", "integrations/servicenow.yaml", "workspace.yaml"):
        path = folder / place
        modeline = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        schema = json.loads((path.parent / modeline).read_text())
        document = {k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "sops"}
        jsonschema.validate(document, schema)
    settings = json.loads((folder / ".vscode/settings.json").read_text())
    assert all((folder / place).is_file() for place in settings["yaml.schemas"])
    for place in (".github/workflows/integrations.yaml", ".gitlab-ci.yml"):
        text = (folder / place).read_text()
        assert yaml.safe_load(text)
        assert "reconciler validate" in text
        assert "--output markdown" in text
    assert not [path for path in folder.rglob("*") if path.is_file() and "@RE" in path.read_text()]


def test_secrets_are_encrypted_to_a_key_outside(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "repo"
    assert main(["init", str(folder)]) == 0
    key = home / ".config/sops/age/keys.txt"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    private = key.read_text().splitlines()[-1]
    assert not [path for path in folder.rglob("*") if path.is_file() and private in path.read_text()]
    content = (folder / "integrations/slack.yaml").read_bytes()
    assert b"xoxb-" not in content
    keyring = keyring_from_env({"HOME": str(home)})
    assert b"token: xoxb-put-the-bot-token-here" in clear_text(content, "yaml", keyring)
    assert str(key) in capsys.readouterr().out


def _rule_of_manifests(folder: Path) -> "re.Pattern[str]":
    rules = yaml.safe_load((folder / ".sops.yaml").read_text())["creation_rules"]
    return re.compile(next(rule["encrypted_regex"] for rule in rules if "encrypted_regex" in rule))


@pytest.mark.parametrize("type_name", known_types())
def test_the_rule_encrypts_every_secret_of_a_connector_and_nothing_else(folder: Path, type_name: str) -> None:
    rule, connector = _rule_of_manifests(folder), load(type_name)
    models = (*connector.auth_types, connector.Config)
    left = [path for model in models for path in secret_fields(model) if not any(map(rule.search, path))]
    assert left == [], (
        "a secret that `reconciler secrets encrypt` leaves in clear: name the field, or the rule, otherwise"
    )
    hidden = [f.name for m in models for f in model_fields(m) if not f.is_secret and rule.search(f.name.split(".")[-1])]
    assert hidden == [], "no secret, but encrypted: nobody could review a change of it"


def test_edit_round_as_the_readme_says(folder: Path) -> None:
    place = str(folder / "integrations/slack.yaml")
    assert main(["secrets", "decrypt", "-i", place]) == 0
    assert main(["secrets", "encrypt", "-i", place]) == 0
    assert check_path(folder).state.findings == ()
    assert "xoxb-" not in Path(place).read_text()


def test_clear_fields_may_be_edited_by_hand_and_encrypted_ones_may_not(home: Path, folder: Path) -> None:
    path = folder / "integrations/slack.yaml"
    for step in ("as written", "encrypted again"):
        if step == "encrypted again":
            assert main(["secrets", "decrypt", "-i", str(path)]) == 0
            assert main(["secrets", "encrypt", "-i", str(path)]) == 0
        edited = path.read_text().replace("C0123456789", "C0987654321").encode()
        keyring = keyring_from_env({"HOME": str(home)})
        assert b"token: xoxb-put-the-bot-token-here" in clear_text(edited, "yaml", keyring), step
        moved = edited.replace(b"    token: ENC", b"    app_token: ENC")
        with pytest.raises(SopsError):
            clear_text(moved, "yaml", keyring)
    assert check_path(folder).state.findings == ()


def test_nothing_is_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["init", str(folder)]) == 1
    assert "has README.md, .gitignore, .sops.yaml and " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_existing_key_is_used(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = home / "my.agekey"
    recipient = new_key(key, NOW)
    before = key.read_bytes()
    assert main(["init", str(tmp_path / "repo"), "--key-file", str(key)]) == 0
    assert f"secrets are encrypted to {recipient}, whose private key is in {key}" in capsys.readouterr().out
    assert key.read_bytes() == before
    with pytest.raises(FileExistsError):
        new_key(key, NOW)


def test_a_given_recipient_needs_no_private_key(home: Path, tmp_path: Path) -> None:
    recipient = new_key(tmp_path / "elsewhere", NOW)
    assert main(["init", str(tmp_path / "repo"), "--age", recipient]) == 0
    assert not (home / ".config").exists()
    assert recipient in (tmp_path / "repo/.sops.yaml").read_text()


def test_refusals_leave_nothing_behind(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "repo"
    assert main(["init", str(folder), "--age", "age1nonsense"]) == 1
    assert "is not an age recipient" in capsys.readouterr().err
    assert main(["init", str(folder), "--key-file", str(folder / "key.txt")]) == 1
    assert "a private key must never be committed" in capsys.readouterr().err
    assert not folder.exists()
