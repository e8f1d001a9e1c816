"""`reconciler dataset` over a running daemon: looked at, compared, rolled back, erased and purged as a person would.

Tests run in any order: who rolls back goes back to version 3 in the end, and who takes records away does it elsewhere.
"""

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.store import deliveries, integrations, runs
from tests.e2e.stage import ENV, PATIENCE
from tests.e2e.town import ROOT, Town, documents, town

CANARY = "Ada Lovelace cannot print, call 0171-555-canary"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("dataset")) as made:
        yield made


@pytest.fixture(scope="module")
def keys(here: Town) -> list[str]:
    return _three_versions(here)


def _three_versions(here: Town) -> list[str]:
    """Version 2 brings three urgent incidents, of which version 3 changes the first and loses the last."""
    servicenow = here.stage.servicenow
    rows = [servicenow.put("incident", {"short_description": CANARY, "priority": "1"}) for _ in range(3)]
    assert here.run("sync", "sn", "--wait") == 0
    here.until("told", lambda: len(here.read(lambda tx: deliveries.listing(tx, status="delivered"))) == 3)
    servicenow.put("incident", {"sys_id": rows[0]["sys_id"], "state": "2", "short_description": "Solved \x1b[31m"})
    servicenow.delete("incident", rows[2]["sys_id"])
    assert here.run("sync", "sn", "--scope", "full", "--wait") == 0
    return [row["sys_id"] for row in rows]


@pytest.fixture(autouse=True)
def quiet(keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()


@pytest.fixture
def own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[Town, list[str]]]:
    """The same once more, for what cannot be undone."""
    with town(tmp_path) as made:
        keys = _three_versions(made)
        capsys.readouterr()
        yield made, keys


def _newest(here: Town) -> int:
    """The number of the last version of `sn`."""
    query = (
        "SELECT max(d.number) FROM dataset_version d JOIN integration i ON i.id = d.integration_id WHERE i.name = 'sn'"
    )
    return int(here.read(lambda tx: tx.value(query)))


def _bytes(here: Town) -> bytes:
    return b"".join(p.read_bytes() for p in here.stage.state.iterdir() if p.is_file())


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_what_there_is(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("dataset", "sn") == 0
    head, *_, last = _said(capsys).splitlines()
    newest = _newest(here)
    assert head.startswith(f"it-ops/sn: version {newest} of 2")
    assert last.split() == ["incidents", "122"]
    assert here.run("dataset", "sn", "versions") == 0
    rows = [line.split() for line in _said(capsys).splitlines()[1:]]
    assert [row[0] for row in rows] == [str(number) for number in range(newest, 0, -1)]
    assert [row[2:5] for row in rows[-3:]] == [["0", "1", "1"], ["3", "0", "0"], ["120", "0", "0"]]
    assert here.run("dataset", "sn", "versions", "--output", "json", "--limit", "1") == 0
    (version,) = json.loads(_said(capsys))["versions"]
    assert version["number"] == newest
    assert here.run("dataset", "sn", "versions", "--output", "json") == 0
    version = json.loads(_said(capsys))["versions"][-3]
    run = here.read(lambda tx: runs.find(tx, version["run"]))
    assert (run and run.dataset_version, version["connector"], version["restores"]) == (3, "servicenow", None)
    assert version["revision"] == here.read(integrations.every)[1].revision


def test_records_now_and_then(here: Town, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("dataset", "sn", "show", "incidents", "--limit", "2") == 0
    text = _said(capsys)
    assert text.startswith("it-ops/sn incidents, now\n\nKEY ")
    assert "The first 2." in text
    assert here.run("dataset", "sn", "show", "incidents", "--at", "2", "--output", "json", "--limit", "500") == 0
    shown = documents(_said(capsys))
    assert [d["key"] for d in shown] == sorted(d["key"] for d in shown)
    assert {d["key"]: d["record"]["short_description"] for d in shown}[keys[2]] == CANARY
    assert here.run("dataset", "sn", "show", "incidents", "--at", "1h") == 0
    assert "no records" in _said(capsys)


def test_one_record_and_where_it_comes_from(here: Town, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ("dataset", "sn", "show", "incidents", "--key", keys[0])
    assert here.run(*words) == 0
    text = _said(capsys)
    assert '  short_description: "Solved \\u001b[31m"' in text
    assert [line.split()[0::2][:2] for line in text.splitlines()[-2:]] == [["3", "update"], ["2", "create"]]
    assert here.run(*words, "--at", "2", "--output", "json") == 0
    (document,) = documents(_said(capsys))
    assert document["record"]["short_description"] == CANARY
    assert [(s["version"], s["change"]) for s in document["lineage"]][-2:] == [(3, "update"), (2, "create")]
    assert here.run("dataset", "sn", "show", "incidents", "--key", keys[2]) == 0
    assert "  not there\n" in _said(capsys)


def test_what_differs(here: Town, keys: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("dataset", "sn", "diff", "2", "3") == 0
    lines = _said(capsys).splitlines()
    assert f"- incidents {keys[2]}" in lines
    assert (
        lines[lines.index(f"~ incidents {keys[0]}") + 1] == f'    short_description: "{CANARY}" -> "Solved \\u001b[31m"'
    )
    assert lines[-1] == "0 added, 1 updated, 1 deleted"
    assert here.run("dataset", "sn", "diff", "now", "1", "--output", "json", "--entity", "incidents") == 0
    assert {(d["change"], d["key"]) for d in documents(_said(capsys))} == {("deleted", key) for key in keys[:2]}
    assert here.run("dataset", "sn", "diff", "2", "now", "--output", "json") == 0
    found = {d["key"]: d for d in documents(_said(capsys))}
    assert found[keys[0]]["fields"]["state"] == {"before": "", "after": "2"}
    assert found[keys[2]]["record"]["short_description"] == CANARY


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sn", "show", "incidnts"), "it-ops/sn has no entity incidnts, did you mean incidents?"),
        (("sn", "show", "incidents", "--key", "nobody"), "it-ops/sn has no record nobody in incidents"),
        (("sn", "show", "incidents", "--at", "99"), "there is no version 99; the newest is "),
        (("sn", "show", "incidents", "--at", "soon"), "--at soon: expected a time"),
        (("sn", "show", "incidents", "--at", "2999-01-01T00:00:00Z"), "this is in the future"),
        (("sn", "show", "incidents", "--limit", "0"), "--limit: expected a number above 0"),
        (("sn", "diff", "1", "x"), "V2 x: expected a time"),
        (("sn", "export", "incidents", "--format", "jsonl", "--spreadsheet"), "--spreadsheet is for --format csv"),
        (("snn", "versions"), "no integration snn, did you mean sn?"),
        (("sn", "rollback", "99"), "there is no version 99"),
        (("sn", "rollback", "2"), "nothing was done; --yes does it without being asked"),
        (("sn", "erase", "nobody"), "it-ops/sn holds nothing of nobody"),
        (("sn", "purge"), "nothing was done; --yes"),
    ],
)
def test_what_cannot_be_done_is_said(
    here: Town,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    asked = here.read(lambda tx: tx.value("SELECT count(*) FROM request"))
    assert here.run("dataset", *words) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert here.read(lambda tx: tx.value("SELECT count(*) FROM request")) == asked


def _export(here: Town, file: Path, *words: str) -> bytes:
    assert here.run("dataset", "sn", "export", "incidents", "--output", str(file), *words) == 0
    return file.read_bytes()


def test_rolled_back_the_export_is_that_of_then(here: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    then = {f: _export(here, tmp_path / f, "--format", f, "--at", "2") for f in ("jsonl", "csv")}
    assert then != {f: _export(here, tmp_path / f, "--format", f) for f in ("jsonl", "csv")}
    before, newest = len(here.read(lambda tx: deliveries.listing(tx, limit=100))), _newest(here)
    assert here.run("dataset", "sn", "rollback", "2", "--yes") == 0
    text = _said(capsys)
    assert "incidents: 1 deleted since then come back, 1 get the content they had" in text
    assert "Events: none (with --emit-events: 1 incident.created, 1 incident.updated)" in text
    assert "incidents: stays as it is, but for what changes at the remote" in text
    assert f"is version {newest + 1}: 1 added, 1 updated, 0 deleted\n" in text
    assert {f: _export(here, tmp_path / f, "--format", f) for f in ("jsonl", "csv")} == then
    assert here.run("dataset", "sn", "rollback", "2") == 0
    assert "nothing to do, the records are as they were then" in _said(capsys)
    assert len(here.read(lambda tx: deliveries.listing(tx, limit=100))) == before
    assert here.run("dataset", "sn", "versions", "--limit", "1") == 0
    assert _said(capsys).splitlines()[1].endswith("version 2")
    assert here.run("status", "sn") == 0
    assert "rollback to 2  success  +1 ~1 -0 =0" in _said(capsys)
    assert here.run("dataset", "sn", "rollback", "3", "--yes") == 0


def test_a_listing_of_keys_to_come_is_told(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(here.stage.state / "reconciler.db", timeout=PATIENCE)) as db, db:
        db.execute("UPDATE integration SET next_keys_at = '2099-01-02T03:04:05.000000Z' WHERE name = 'sn'")
    assert here.run("dataset", "sn", "rollback", "2", "--yes") == 0
    text = _said(capsys)
    assert "  incidents: keys are listed at 2099-01-02T03:04:05Z; what is not at the remote is deleted again\n" in text
    assert here.run("dataset", "sn", "rollback", "3", "--yes") == 0


def test_suspended_with_it_no_sync_undoes_it(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("dataset", "sn", "rollback", "2", "--yes") == 0
    assert here.run("dataset", "sn", "rollback", "1", "--suspend", "--emit-events", "--yes") == 0
    text = _said(capsys)
    assert "Events: 3 incident.deleted\n" in text
    assert "Next sync: none before `reconciler resume it-ops/sn`" in text
    assert here.run("sync", "sn") == 1
    assert here.run("resume", "sn") == 0
    here.until("connected again", lambda: not here.read(integrations.every)[1].is_suspended)
    assert here.run("dataset", "sn", "rollback", "3", "--yes") == 0


def _ask(here: Town, answer: str, *words: str) -> tuple[int, str]:
    """The command on a terminal of its own, where somebody answers it."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "reconciler", "dataset", *words, *here.state_words]
    process = subprocess.Popen(
        line, cwd=ROOT, env={**os.environ, **ENV}, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    out, _ = process.communicate(timeout=PATIENCE)
    os.close(ours)
    return process.returncode, out.decode()


def test_a_person_is_asked_on_a_terminal(here: Town) -> None:
    code, text = _ask(here, "n\n", "sn", "rollback", "1")
    assert code == 1
    assert "Do it? [y/N] " in text
    assert text.endswith("reconciler: nothing was done\n")
    code, text = _ask(here, "y\n", "sn", "rollback", "1")
    assert (code, "0 added, 0 updated, 2 deleted" in text) == (0, True)
    assert here.run("dataset", "sn", "rollback", "3", "--yes") == 0


def test_an_erased_record_is_in_no_byte_of_the_database(
    own: tuple[Town, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    here, keys = own
    assert here.run("dataset", "sn", "erase", *keys) == 1
    preview = _said(capsys)
    assert preview.count(", 1 delivery") == 3
    assert CANARY.encode() in _bytes(here)
    assert here.run("dataset", "sn", "erase", *keys, "--yes") == 0
    assert _said(capsys).endswith("the database holds no trace of it\n")
    left = _bytes(here)
    assert [text for text in (*keys, CANARY, "Solved") if text.encode() in left] == []
    assert here.run("dataset", "sn", "show", "incidents", "--key", keys[0], "--at", "2") == 1
    sent = here.read(lambda tx: deliveries.listing(tx, status="delivered"))
    assert here.run("deliveries", "show", sent[-1].public_id) == 0
    assert "Erased: its content was erased" in _said(capsys)
    assert here.run("deliveries", "retry", sent[-1].public_id) == 1
    assert "cannot be sent again: its content was erased" in capsys.readouterr().err
    assert here.run("dataset", "sn", "diff", "1", "2") == 0
    assert _said(capsys).splitlines()[-1] == "0 added, 0 updated, 0 deleted"
    assert here.run("dataset", "sn", "rollback", "2", "--yes") == 0
    assert here.run("dataset", "sn", "diff", "2", "now") == 0
    assert _said(capsys).splitlines()[-1] == "0 added, 0 updated, 0 deleted"
    assert here.run("sync", "sn", "--scope", "full", "--wait") == 0
    assert " success: 2 added" in _said(capsys)  # the remote still has two of them


def test_a_purge_leaves_nothing_and_the_next_sync_begins_anew(
    own: tuple[Town, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    here, _ = own
    assert b"Old 1" in _bytes(here)
    assert here.run("dataset", "sn", "purge", "--yes") == 0
    text = _said(capsys)
    assert "incidents: 122 records" in text
    assert "purged 122 records, " in text
    assert text.endswith("the database holds no trace of it\n")
    left = _bytes(here)
    assert [t for t in (b"Old 1", b"Ada Lovelace", b"sys_mod_count") if t in left] == []
    assert here.run("dataset", "sn") == 0
    assert _said(capsys) == "it-ops/sn has no records\n"
    before = len(here.read(lambda tx: deliveries.listing(tx, limit=100)))
    assert here.run("sync", "sn", "--wait") == 0
    assert " success: 122 added" in _said(capsys)
    assert len(here.read(lambda tx: deliveries.listing(tx, limit=100))) == before


def test_removed_from_git_with_policy_purge_no_byte_is_left(own: tuple[Town, list[str]]) -> None:
    here, _ = own
    spec: dict[str, Any] = here.stage.servicenow_spec(deletion_policy="purge")
    here.stage.manifest("sn", **spec)
    here.stage.commit()
    assert here.run("reconcile", "--wait") == 0
    assert b"Old 1" in _bytes(here)
    (here.stage.repo / "sn.yaml").unlink()
    here.stage.commit()
    assert here.run("reconcile", "--wait") in (0, 1)
    here.until("gone", lambda: [row.name for row in here.read(integrations.every)] == ["chat"])
    here.until("scrubbed", lambda: b"Old 1" not in _bytes(here) and b"Ada Lovelace" not in _bytes(here))
    assert b"sys_mod_count" not in _bytes(here)
