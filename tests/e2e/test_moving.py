"""An installation in another place: a state directory outgrown, a backup brought back; deliveries and syncs just go on."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.model.secret import Secret
from reconciler.sdk.testing.faults import status
from reconciler.store import deliveries
from tests.e2e.site import Site, end_process
from tests.e2e.stage import ENV, PATIENCE
from tests.e2e.town import ROOT, Town, start, town

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.timeout(900)]  # several processes start and end
PASSWORD = "canary-4b1d-database-password"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Town]:
    with town(tmp_path) as made:
        yield made


@pytest.fixture
def site(here: Town, postgres_url: Secret) -> Iterator[Site]:
    """The same world on an empty PostgreSQL database, with the key that the state directory made."""
    with ExitStack() as processes:
        made = Site(here.stage, postgres_url, processes)
        del made.env["RECONCILER_MASTER_KEY"]
        made.env["RECONCILER_MASTER_KEY_FILE"] = str(here.stage.state / "keys" / "master.key")
        yield made


def call(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    line = (sys.executable, "-m", "reconciler", *words)
    return subprocess.run(
        line, check=False, cwd=ROOT, env={**os.environ, **ENV, **env}, text=True, capture_output=True, timeout=PATIENCE
    )


def alarm(here: Town, text: str) -> None:
    here.stage.servicenow.put("incident", {"short_description": text, "priority": "1"})
    assert here.run("sync", "sn", "--wait") == 0


def stop(here: Town) -> None:
    here.process.terminate()
    assert here.process.wait(PATIENCE) == 0


def told(here: Town) -> list[str]:
    return sorted(re.sub(r"^.*: ", "", str(m["text"])) for m in here.stage.slack.messages["C0000000OPS"].values())


def versions(text: str) -> list[tuple[int, int]]:
    return [(v["number"], v["added"]) for v in json.loads(text)["versions"]]


def open_deliveries(here: Town) -> int:
    return len(here.read(lambda tx: deliveries.listing(tx, status="failed")))


def test_to_postgresql_and_back(here: Town, site: Site, tmp_path: Path) -> None:
    """A delivery that was open goes out once, from the new place; no record is read again, no version is lost."""
    here.stage.slack.faults.add(status(503), path="*/chat.postMessage")
    alarm(here, "One")
    here.until("it has failed once", lambda: open_deliveries(here))
    stop(here)
    print(call("database", "copy", str(here.stage.state), RECONCILER_DATABASE_URL=site.url.reveal()).stdout)
    here.stage.slack.faults.clear()
    before = versions(call("dataset", "sn", "versions", "--output", "json", *here.state_words).stdout)
    process = site.start("server")
    site.until_delivered(1)
    site.alarm("Two")
    site.until_delivered(2)
    assert told(here) == ["One", "Two"]
    assert versions(site.run("dataset", "sn", "versions", "--output", "json"))[-len(before) :] == before
    file = tmp_path / "backup.db"
    site.run("database", "backup", str(file))
    process.terminate()
    assert process.wait(PATIENCE) == 0
    _go_on_from(here, file)
    assert told(here) == ["One", "Three", "Two"]


def _go_on_from(here: Town, file: Path) -> None:
    """In a new state directory, with the key of the first."""
    folder = here.stage.root / "again"
    shutil.copytree(here.stage.state / "keys", folder / "keys")
    restored = call("database", "restore", str(file), "--state-dir", str(folder))
    assert restored.returncode == 0, restored.stderr
    assert "master key" not in restored.stdout
    log = folder / "log"
    with log.open("w") as out:
        here.process = start(*here.stage.words(), "--state-dir", str(folder), stdout=out, stderr=subprocess.STDOUT)
    try:
        here.until("it works", lambda: "started" in log.read_text())
        here.stage.servicenow.put("incident", {"short_description": "Three", "priority": "1"})
        assert call("sync", "sn", "--wait", "--state-dir", str(folder)).returncode == 0
        here.until("told", lambda: len(told(here)) == 3)  # a first sync would not tell
        assert "reconnect" not in log.read_text()
    finally:
        end_process(here.process)


def test_what_would_go_wrong_is_refused(here: Town, site: Site) -> None:
    state = str(here.stage.state)
    url = site.url.reveal().replace("postgres@", f"postgres:{PASSWORD}@")
    key = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="
    tried = [
        (call("database", "copy", state, url), "is in use by process"),
        (call("database", "restore", state + "/reconciler.db", *here.state_words), "is in use by process"),
        (call("database", "copy", state + "-typo", url), "reconciler.db does not exist"),
    ]
    assert not Path(state + "-typo").exists()
    stop(here)
    tried += [
        (call("database", "copy", state), "where to? set RECONCILER_DATABASE_URL"),
        (call("database", "copy", state, url, RECONCILER_MASTER_KEY=key), "the master key given here is 22a48051"),
        (call("database", "copy", state, RECONCILER_DATABASE_URL=url), ""),
        (call("database", "copy", state, RECONCILER_DATABASE_URL=url), "is not empty"),
        (call("database", "restore", state + "/lock", "--state-dir", state + "2"), "is damaged or no backup"),
        (
            call("database", "restore", state + "/reconciler.db", *here.state_words),
            "reconciler.db exists; move it away",
        ),
    ]
    for done, said in tried:
        assert said in done.stderr
        assert (done.returncode == 0) == (not said), done.stderr
        assert PASSWORD not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_a_backup_is_private_and_of_a_daemon_at_work(here: Town, tmp_path: Path) -> None:
    file = tmp_path / "b.db"
    done = call("database", "backup", str(file), *here.state_words)
    assert done.returncode == 0, done.stderr
    assert "Not in it: the master key" in done.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert "b.db exists" in call("database", "backup", str(file), *here.state_words).stderr
    damaged = bytearray(file.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 20_000] = b"\7" * 20_000
    (tmp_path / "bad.db").write_bytes(damaged)
    refused = call("database", "restore", str(tmp_path / "bad.db"), "--state-dir", str(tmp_path / "new"))
    assert (refused.returncode, "bad.db is damaged" in refused.stderr) == (1, True)
    restored = call("database", "restore", str(file), "--state-dir", str(tmp_path / "new"))
    assert "There is no master key at" in restored.stdout
    assert "nothing to do" in call("migrate", "--state-dir", str(tmp_path / "new")).stdout
