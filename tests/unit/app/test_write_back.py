"""From settings to writers: wrong ones stop the start with their name."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from reconciler.app.parts import source_inputs, tenant_policy
from reconciler.app.write_back import Desk, writers
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.writing.rules import Mode
from reconciler.desired.writing.terms import WriteError
from reconciler.desired.writing.writing import Writing
from reconciler.sdk.testing.room import VirtualClock
from reconciler.settings import SettingsError, load_settings

REMOTE = "https://git.test/r.git"
FORGE = {"kind": "github", "repository": "acme/shop", "token_env": "FORGE"}


def made(tmp_path: Path, write_back: dict[str, Any], env: dict[str, str] | None = None, **source: Any) -> Writing:
    one = {"url": REMOTE, "write_back": write_back, **source}
    settings = load_settings({}, None, {"state_dir": str(tmp_path), "sources": [one]})
    desk = Desk(
        settings=settings,
        env=env or {},
        inputs=source_inputs(settings, tenant_policy(settings)),
        checked=lambda name: None,
        keyring=Keyring,
        cache=tmp_path / "git",
        clock=VirtualClock(),
        random=Random(1),
        http=object(),  # type: ignore[arg-type]
    )
    return writers(desk)["main"]


def test_each_mode(tmp_path: Path) -> None:
    assert made(tmp_path, {}).mode is Mode.OFF
    assert made(tmp_path, {"mode": "commit"}).mode is Mode.COMMIT
    writing = made(tmp_path, {"mode": "pull-request", "forge": FORGE}, {"FORGE": "canary"})
    assert writing.mode is Mode.PULL_REQUEST
    assert "canary" not in repr(writing._means)


@pytest.mark.parametrize(
    ("write_back", "source", "said"),
    [
        ({"mode": "pull-request", "forge": FORGE}, {}, "the variable FORGE"),
        ({"mode": "commit"}, {"ref": "a" * 40}, "pinned to a commit"),
        ({"mode": "commit"}, {"url": "/"}, "read as they lie there"),
        ({"path": "{workspace}.yaml"}, {}, "it holds {name}"),
        ({"path": "../{name}.yaml"}, {}, "without hidden folders and .."),
        ({"path": "/{name}.yaml"}, {}, "a relative path"),
        ({"path": ".x/{name}.yaml"}, {}, "a relative path"),
        ({"path": "{name}.json"}, {}, "to a .yaml file"),
        ({"path": "{team}/{name}.yaml"}, {}, "nothing else in braces"),
    ],
)
def test_what_is_wrong_stops_the_start(
    tmp_path: Path, write_back: dict[str, Any], source: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        made(tmp_path, write_back, **source)
    assert said in str(caught.value)
    assert "source main" in str(caught.value)


def test_a_token_file_that_is_gone_is_told_when_it_is_needed(tmp_path: Path) -> None:
    forge = {**FORGE, "token_env": "", "token_file": str(tmp_path / "gone")}
    writing = made(tmp_path, {"mode": "pull-request", "forge": forge})
    api: Any = writing._means.forge
    with pytest.raises(WriteError, match="token_file"):
        api._api.headers()
