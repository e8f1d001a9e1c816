"""`make demo` as a newcomer runs it: the story to its end, by hand, and with an end that does not come."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from simulators.demo import DemoError, story

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "DEMO_FOLDER": str(folder), "ONCE": "", **more}


def is_free(state: Path) -> bool:
    """Whether no daemon works on this state directory."""
    with (state / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_once_ends_by_itself_when_all_has_converged(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "simulators.demo"],
        cwd=ROOT,
        env=environment(folder, ONCE="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    assert re.search(r"Plan: [67] to connect, 0 to update, 0 to disconnect", said)
    assert "records so far" in said, "no progress of a sync was shown"
    assert re.search(r"Urgent: INC\d+ Mail is down in all offices", said)
    assert re.search(r"Subject: \[it-ops\] Urgent: INC\d+", said)
    assert re.search(r"All hands: INC\d+ Telephones are dead, too", said)
    assert "No changes." in said
    assert re.search(
        r'^reconciler_integration_info\{.*name="ops-slack".*revision="[0-9a-f]{40}"\} 1$', said, re.MULTILINE
    )
    assert re.search(r'^reconciler_condition\{.*condition="Ready",status="True"', said, re.MULTILINE)
    assert is_free(folder / "state")


class Running:
    """A demo in the foreground and what it has said so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "simulators.demo"],
            cwd=ROOT,
            env=environment(folder),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def wait(self, pattern: str, seconds: float = 300) -> re.Match[str]:
        until = time.monotonic() + seconds
        while (found := re.search(pattern, self.said)) is None:
            assert self.process.poll() is None, f"the demo ended: {self.said[-3000:]}"
            assert time.monotonic() < until, f"{pattern} was not said: {self.said[-3000:]}"
            time.sleep(0.05)
        return found

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(180)
        self._reader.join(60)
        return code


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    demo = Running(folder)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.kill()
        demo.process.wait(60)
        if demo.process.stdout is not None:
            demo.process.stdout.close()


def test_it_stays_picks_up_a_commit_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with running(tmp_path / "demo") as demo:
        asked = demo.wait(r"curl --user (svc-reconciler):(\S+) [^\n]*\\\n\s+[^\n]*\\\n\s+(http://\S+)")
        manifest = demo.folder / "repo" / "it-ops" / "slack.yaml"
        manifest.write_text(manifest.read_text().replace("Urgent:", "Hear, hear:"))
        subprocess.run(["git", "-C", demo.folder / "repo", "commit", "-qam", "Say it differently"], check=True)
        seconds = float(demo.wait(r"was picked up after ([0-9.]+) s")[1])
        assert seconds < 30  # the interval of polling is a minute
        with httpx.Client(auth=(asked[1], asked[2]), trust_env=False, timeout=60) as client:
            answer = client.post(
                asked[3], json={"short_description": "Fire", "priority": "1"}, headers={"Accept": "application/json"}
            )
        assert answer.status_code == 201
        demo.wait(r"Slack, #ops: Hear, hear: INC\d+ Fire")
        demo.wait(r"mail to duty@example.org: ")
        assert demo.end(signal.SIGINT) == 0
        assert is_free(demo.folder / "state")


def test_what_does_not_converge_is_an_error_that_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "_NEW_TEXT", "{{ record.number")
    monkeypatch.setattr(story, "CHANGE_SECONDS", 30)
    folder = tmp_path / "demo"
    with pytest.raises(DemoError, match=r"(?s)not within 30 s: .*it-ops/ops-slack: .*ValidationFailed"):
        story.play(folder, once=True)
    assert is_free(folder / "state")
