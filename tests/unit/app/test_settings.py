"""The daemon's settings: file, environment and flags as one, and a wrong one told with its name."""

from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.settings import SettingsError, load_settings


def test_later_places_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("state_dir: /from/file\nlisten: 127.0.0.1:1\nlog: {format: json}\n")
    env = {"RECONCILER_LISTEN": "127.0.0.1:2", "RECONCILER_REPO": "/repo", "RECONCILER_REPO_TOKEN": "t"}
    settings = load_settings(env, file, {"listen": "127.0.0.1:3", "log.level": None})
    assert (settings.listen, settings.log.format, str(settings.state_dir)) == ("127.0.0.1:3", "json", "/from/file")
    assert [(s.url, s.token_env) for s in settings.sources] == [("/repo", "RECONCILER_REPO_TOKEN")]


@pytest.mark.parametrize("written", ["true", "'true'", "yes", "'yes'", "1"])
def test_settings_are_no_manifest_and_take_text_for_what_it_stands_for(tmp_path: Path, written: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"sources: [{{url: a, allow_http: {written}, interval: 5m}}]")
    settings = load_settings({"RECONCILER_STATE_DIR": "/5", "RECONCILER_PROBE_INTERVAL": "30s"}, file)
    assert settings.sources[0].allow_http is True
    assert (settings.sources[0].interval, settings.probe_interval) == (timedelta(minutes=5), timedelta(seconds=30))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: x", "unknown setting lisen, did you mean listen?"),
        ("listen: nowhere", "listen: expected host:port"),
        ("sources: [{url: a}, {url: b}]", "sources: two sources have the same name"),
        ("probe_interval: often", "probe_interval: a duration is a number and a unit"),
        ("[1]", "expected a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yaml") as raised:
        load_settings({}, file)
    assert said in str(raised.value)
