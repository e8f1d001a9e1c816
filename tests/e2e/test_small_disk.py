"""A daemon whose disk is really full: said everywhere, in few words; killed there; it goes on by itself once there is room."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ROOT
from tests.e2e.stage import ENV, PATIENCE, Stage
from tests.servers.small_disk import SmallDisk, fill, small_disk

RECORDS = 4000
ROOM = 6 << 20  # enough to begin, not for so many records of 2 kB
FULL = "no room left to write"


class SmallStage(Stage):
    """Its state directory is on the small disk."""

    @property
    def state(self) -> Path:
        return self.root / "disk" / "state"


@dataclass
class House:
    """What is started over the small disk, and what it says."""

    stage: SmallStage
    disk: SmallDisk
    log: Path = Path(os.devnull)

    def python(self, *words: str, **more: Any) -> "subprocess.Popen[str]":
        state = str(self.stage.state)
        environment = {**os.environ, **ENV, "PYTHONPATH": str(ROOT), "RECONCILER_STATE_DIR": state}
        return subprocess.Popen(self.disk.command(sys.executable, *words), env=environment, text=True, **more)

    def said(self, *words: str) -> tuple[int, str]:
        """Exit code and everything that is printed."""
        with self.python(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            text, _ = process.communicate(timeout=PATIENCE)
        return process.returncode, text

    def command(self, *words: str) -> tuple[int, str]:
        return self.said("-m", "reconciler", *words)

    def records(self) -> int:
        uri = f"file:{self.stage.state}/reconciler.db?mode=ro"
        count = f"import sqlite3; print(sqlite3.connect({uri!r}, uri=True).execute('SELECT count(*) FROM head').fetchone()[0])"
        code, text = self.said("-c", count)
        assert code == 0, text
        return int(text)

    @contextmanager
    def daemon(self, log: Path) -> Iterator["subprocess.Popen[str]"]:
        words = self.stage.words(listen="127.0.0.1:0")
        self.log = log
        with log.open("w") as output, self.python("-m", "reconciler", *words, stdout=output, stderr=output) as process:
            try:
                yield process
            finally:
                process.terminate()
                process.wait(PATIENCE)

    def get(self, path: str) -> httpx.Response | None:
        """None where nobody answers; the daemon says in its log on which port it does."""
        listening = re.search(r"\blistening=(\S+)", self.log.read_text())
        try:
            return httpx.get(f"http://{listening[1]}{path}", timeout=PATIENCE, trust_env=False) if listening else None
        except httpx.TransportError:
            return None

    def is_ready(self) -> bool:
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 200

    def is_full(self) -> bool:
        answer = self.get("/readyz")
        return answer is not None and answer.status_code == 503 and FULL in answer.text

    def refused(self) -> float:
        """Writes that the disk refused, as `/metrics` counts them."""
        answer = self.get("/metrics")
        found = (
            re.search(r"^reconciler_store_refused_writes_total (\S+)$", answer.text, re.MULTILINE) if answer else None
        )
        return float(found[1]) if found else -1.0


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.1)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with small_disk(tmp_path / "disk", "32m") as disk:
        stage = SmallStage(tmp_path)
        with stage.servicenow, stage.slack:
            for number in range(RECORDS):
                text = f"{number} {'x' * 2000}"
                stage.servicenow.put("incident", {"short_description": text, "priority": "3"})
            large_pages = {"entities": ["incidents"], "page_size": 500}
            stage.manifest("sn", **stage.servicenow_spec(sync=large_pages))
            stage.commit()
            yield House(stage, disk)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_is_said_survived_and_over_once_there_is_room(house: House, tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    fill(house.disk.filler)
    with house.disk.filler.open("rb+") as filler:
        filler.truncate(house.disk.filler.stat().st_size - ROOM)
    with house.daemon(first) as daemon:
        until("the disk is full", house.is_full)
        healthy = house.get("/healthz")
        assert healthy is not None
        assert healthy.status_code == 200
        assert house.refused() > 0
        for words in (("sync", "sn"), ("suspend", "sn", "--reason", "x"), ("reconcile",)):
            code, said = house.command(*words)
            assert (code, FULL in said, "Traceback" in said) == (1, True, False), said
        before = house.records()
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(PATIENCE)
    assert 0 < before < RECORDS
    assert house.records() == before
    assert FULL in house.command("apply", "--repo", str(house.stage.repo))[1]
    code, status = house.command("status")
    assert code == 0
    assert "no daemon works on" in status
    assert "of room left" in status
    with house.daemon(second) as daemon:  # comes up or ends, as much as the disk lets it; both with the reason
        until("said again after a restart", lambda: daemon.poll() == 1 or house.is_full())
    third = tmp_path / "third.log"
    with house.disk.filler.open("rb+") as filler:
        filler.truncate(filler.seek(0, os.SEEK_END) - (1 << 20))
    with house.daemon(third):
        until("full once more", house.is_full)
        house.disk.filler.unlink()
        until("ready again", house.is_ready)
        until("all records", lambda: house.records() == RECORDS)
    logs = [log.read_text() for log in (first, second, third)]
    assert all(FULL in text for text in logs[:2])
    for text in logs:
        assert "Traceback" not in text, text[:3000]
        assert text.count(FULL) < 20
