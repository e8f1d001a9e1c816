"""A peer that cannot be installed is left out by name with the reason, and leaves nothing that looks installed."""

from pathlib import Path

import pytest

from benchmarks import beside
from benchmarks.environments import NotInstalledError, environment


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_what_cannot_be_installed_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    refusing = cache / "python"
    refusing.write_text("#!/bin/sh\necho 'looking' >&2\necho 'no such version' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr("benchmarks.environments.sys.executable", str(refusing))
    assert list(beside._installed()) == []
    said = capsys.readouterr().err
    for name in ("dlt", "singer-sdk", "airbyte-cdk"):
        assert f"{name} is left out, it cannot be installed here: no such version\n" in said
    assert list(cache.rglob(".ready")) == []


def test_what_is_installed_is_kept(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    place = cache / "reconciler-benchmarks" / "peer-1.0"
    place.mkdir(parents=True)
    (place / ".ready").touch()
    assert environment("peer", ["peer==1.0"]) == place / "bin"
    monkeypatch.setattr("benchmarks.environments.sys.executable", str(cache / "no-python"))
    with pytest.raises(NotInstalledError, match="FileNotFoundError"):
        environment("peer", ["peer==2.0"])


def test_every_peer_is_pinned() -> None:
    assert all("==" in package for packages in beside.PINS.values() for package in packages)
