"""The mirror of a Git source on a disk that is full: said by its name, nothing lost, mended as soon as there is room."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from reconciler.desired.source import GitSource
from reconciler.desired.source_settings import SourceSettings
from reconciler.model.condition import Reason
from tests.conftest import ROOT
from tests.integration.git_remote import Repo, StepClock
from tests.servers.small_disk import small_disk

_GIT = """#!/bin/sh
case "$*" in
  init*/history.*) if [ -e "{full}" ]; then
    for folder; do :; done
    mkdir -p "$folder/objects"
    echo "error: unable to write symref for HEAD: No space left on device" >&2
    exit 128
  fi ;;
esac
exec "{git}" "$@"
"""


def test_a_full_disk_is_said_and_room_is_all_it_takes(tmp_path: Path) -> None:
    repo = Repo.make(tmp_path / "work")
    repo.commit("first", files={"first.yaml": "x: 1\n"})
    folder = tmp_path / "disk"
    worker = [sys.executable, "-m", "tests.integration.git_on_small_disk", str(repo.root), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with small_disk(folder, "1m") as disk:
        done = subprocess.run(
            disk.command(*worker), env=environment, capture_output=True, text=True, check=False, timeout=180
        )
    assert not done.returncode, done.stderr
    said = {step["step"]: step for step in map(json.loads, done.stdout.splitlines())}
    for step in ("nothing fits", "little fits", "full again", "restarted"):
        assert said[step]["reason"] == Reason.STORE_FULL, said[step]["message"]
        assert "free space" in said[step]["message"]
    assert [said[s]["files"] for s in ("nothing fits", "little fits")] == [None, None]
    for step in ("first", "full again", "restarted"):
        assert said[step]["files"] == ["first.yaml"]
    assert said["room again"]["files"] == ["first.yaml", "second.yaml"]
    assert (said["first"]["reason"], said["room again"]["reason"]) == ("", "")


async def test_a_history_that_could_not_be_begun_keeps_no_revision_back(tmp_path: Path) -> None:
    """Where room ends while the second repository is made: git leaves a folder behind that is none."""
    repo, full = Repo.make(tmp_path / "work"), tmp_path / "full"
    repo.commit("first", files={"first.yaml": "x: 1\n"})
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(_GIT.format(full=full, git=shutil.which("git")))
    git.chmod(0o755)
    full.touch()
    inherited = {**os.environ, "PATH": f"{git.parent}:{os.environ['PATH']}"}
    settings = SourceSettings(name="main", url=f"file://{repo.root}", ref="main")
    source = GitSource(settings, tmp_path / "cache", StepClock(), inherited)
    assert set((await source.fetch()).files) == {"first.yaml"}
    assert source.state.history_failure is not None
    assert source.state.history_failure.reason is Reason.STORE_FULL
    full.unlink()
    repo.commit("second", files={"second.yaml": "x: 2\n"})
    assert set((await source.fetch()).files) == {"first.yaml", "second.yaml"}
    assert source.state.error is None
