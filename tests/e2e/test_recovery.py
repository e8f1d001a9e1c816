"""The database is gone: every step of docs/recovery.md as it is written there, by a person with a shell."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.store.errors import StoreError
from reconciler.store.location import open_readonly
from tests.e2e.site import end_process
from tests.e2e.stage import ENV, PATIENCE, PUBLIC_URL, Stage
from tests.e2e.town import ROOT, _synced, start

PAGE = ROOT / "docs" / "recovery.md"
pytestmark = pytest.mark.timeout(900)  # daemons start and end


def commands(section: str) -> list[str]:
    """What that section of the page tells to type, in its order."""
    text = PAGE.read_text("utf-8").split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    found = re.findall(r"^(?: {4}| {7})(\S.*)$", text, re.MULTILINE)
    assert found, section
    return found


class Person:
    """Whoever reads the page. `type` does a line; of a daemon it waits until it has begun."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.said: list[str] = []
        self.daemon: subprocess.Popen[str] | None = None
        self._log = stage.root / "daemon.log"
        self._folder = folder
        (folder / "bin").mkdir(parents=True)
        program = folder / "bin" / "reconciler"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m reconciler "$@"\n')
        program.chmod(0o755)
        self._env = {
            **os.environ,
            **ENV,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "RECONCILER_STATE_DIR": str(stage.state),
        }

    def type(self, line: str) -> str:
        if line.startswith("reconciler run"):
            return self._run(*line.split()[2:])
        shown = line.replace("/backup", str(self._folder))
        done = subprocess.run(
            shown, check=False, shell=True, cwd=self._folder, env=self._env, text=True, capture_output=True
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return done.stdout

    def _run(self, *flags: str) -> str:
        self.end()
        with self._log.open("w") as log:
            words = self.stage.words(*flags, public_url=PUBLIC_URL)
            self.daemon = start(*words, stdout=log, stderr=subprocess.STDOUT)
        self.until("it has planned" if flags else "it works", lambda: ("Plan: " if flags else "started") in self.log())
        return self.log()

    def log(self) -> str:
        return self._log.read_text()

    def until(self, what: str, holds: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, f"{what}; {self.log()}"
            time.sleep(0.05)

    def until_synced(self) -> None:
        self.until("all synced", lambda: self._synced() == {"sn", "chat", "gh"})

    def _synced(self) -> set[str]:
        try:
            with open_readonly(self.stage.state / "reconciler.db") as tx:
                return _synced(tx)
        except StoreError:  # its tables are being made
            return set()

    def alarm(self, text: str) -> None:
        self.stage.servicenow.put("incident", {"short_description": text, "priority": "1"})
        self.type("reconciler sync sn --wait")

    def told(self) -> list[str]:
        return [str(m["text"]).split(": ")[1] for m in self.stage.slack.messages["C0000000OPS"].values()]

    def webhooks_made(self) -> int:
        return sum(1 for r in self.stage.github.requests if r.method == "POST" and r.url_path.endswith("/hooks"))

    def lose_power(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait()

    def end(self) -> None:
        if self.daemon is not None:
            end_process(self.daemon)


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    """ServiceNow, Slack and GitHub in order, one alarm told, one webhook made."""
    (tmp_path / "stage").mkdir()
    stage = Stage(tmp_path / "stage")
    with stage.servicenow, stage.slack, stage.github:
        stage.servicenow.put("incident", {"short_description": "Old", "priority": "1"})
        stage.manifest("sn", **stage.servicenow_spec())
        stage.manifest("chat", **stage.slack_spec())
        stage.manifest("gh", **stage.github_spec())
        stage.commit()
        made = Person(stage, tmp_path / "desk")
        try:
            made.type("reconciler run")
            made.until_synced()
            made.alarm("One")
            made.until("told", lambda: made.told() == ["One"])
            yield made
        finally:
            made.end()


def test_without_a_backup(person: Person) -> None:
    """No second webhook, no event sent again; and from then on everything as before."""
    person.lose_power()
    said = [person.type(line) for line in commands("Without a backup")[:-1]]
    assert "3 to connect" in said[2]
    person.until_synced()
    assert person.type(commands("Without a backup")[-1]).count("connected  ") >= 3
    person.alarm("Two")
    person.until("told", lambda: "Two" in person.told())
    person.type("reconciler sync sn --scope full --wait")
    assert person.told() == ["One", "Two"]
    assert person.webhooks_made() == 1
    assert len(person.stage.github.repos["acme/app"].hooks) == 1


def test_from_a_backup(person: Person) -> None:
    """As it was, with its versions; nothing that had been told is told again."""
    for line in commands("Backups"):
        person.type(line)
    versions = person.type("reconciler dataset sn versions")
    person.lose_power()
    for line in commands("From a backup"):
        person.type(line)
    assert person.type("reconciler dataset sn versions") == versions
    person.alarm("Two")
    person.until("told", lambda: "Two" in person.told())
    assert person.told() == ["One", "Two"]
    assert person.webhooks_made() == 1
