"""A rolling upgrade on PostgreSQL: processes of two releases share the work, whoever goes first; and what stops an old one."""

import subprocess
import sys

import pytest

from reconciler.store.migrations import migrations
from tests.e2e.site import Site
from tests.e2e.stage import PATIENCE
from tests.e2e.town import ROOT

pytestmark = [pytest.mark.needs("initdb"), pytest.mark.timeout(900)]  # several processes start and end
LATEST = migrations()[-1].number


class Release:
    """A later release, with one migration more."""

    def __init__(self, site: Site, requires: int, sql: str) -> None:
        self._site = site
        self._folder = site.stage.root / "later"
        self._folder.mkdir()
        (self._folder / f"{LATEST + 1:04}_later.sql").write_text(f"-- requires: {requires}\n{sql}\n")

    def start(self, name: str, role: str) -> "subprocess.Popen[str]":
        own = ("--state-dir", str(self._site.stage.root / name), "--role", role)
        words = ("tests.e2e.newer", str(self._folder), *self._site.stage.words(), *own)
        return self._site.launch(name, words, self._site.env)

    def run(self, *words: str) -> str:
        line = (sys.executable, "-m", "tests.e2e.newer", str(self._folder), *words)
        done = subprocess.run(line, check=False, cwd=ROOT, env=self._site.env, text=True, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout


def end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    assert process.wait(PATIENCE) == 0


def test_old_and_new_side_by_side_and_back(site: Site) -> None:
    columns = "ALTER TABLE {} ADD COLUMN later TEXT NOT NULL DEFAULT '';"
    later = Release(site, LATEST, "\n".join(columns.format(t) for t in ("run", "integration", "delivery", "job")))
    controller, worker = site.start("old-controller", "controller"), site.start("old-worker", "worker")
    site.until_synced()
    site.alarm("One")
    site.until_delivered(1)
    assert later.run("migrate").endswith(f": brought from version {LATEST} to schema version {LATEST + 1}\n")
    site.alarm("Two")
    site.until_delivered(2)
    new_worker = later.start("new-worker", "worker")
    site.until_said("new-worker", "started")
    end(worker)
    site.alarm("Three")
    site.until_delivered(3)
    new_controller = later.start("new-controller", "controller")
    site.until_said("new-controller", "standing by")
    end(controller)
    site.until_said("new-controller", "leading")
    site.alarm("Four")
    site.until_delivered(4)
    site.start("old-again", "all")  # the upgrade is taken back
    site.until_said("old-again", "standing by")
    end(new_worker)
    end(new_controller)
    site.until_said("old-again", "leading")
    site.alarm("Five")
    site.until_delivered(5)
    assert sorted(text.split(": ")[1] for text in site.messages()) == ["Five", "Four", "One", "Three", "Two"]
    assert "nothing to do" in site.run("migrate")
    for name in ("old-controller", "old-worker", "new-worker", "new-controller", "old-again"):
        said = site.log(name).read_text()
        assert "Traceback" not in said, name
        assert "error" not in said, name


def test_an_old_release_stops_where_it_would_do_harm(site: Site) -> None:
    site.run("migrate")
    Release(site, LATEST + 1, "ALTER TABLE run DROP COLUMN reason;").run("migrate")
    said = f"has schema version {LATEST + 1}, this program knows {LATEST}; run the newer release"
    process = site.start("old", "all")
    assert process.wait(PATIENCE) == 1
    assert said in site.log("old").read_text()
    line = (sys.executable, "-m", "reconciler", "status")
    done = subprocess.run(line, check=False, cwd=ROOT, env=site.env, text=True, capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
