"""Exports from a real store: what a program reads back, the same bytes for the same state, and nothing half-written."""

import csv
import io
import json
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.model.record import Page, RunResult, Scope
from reconciler.store import dataset, runs
from reconciler.store.database import Tx
from reconciler.store.dataset import PageCommit
from reconciler.store.location import open_readonly
from reconciler.store.migrations import apply, migrations
from reconciler.store.runs import Lineage, NewRun
from reconciler.store.sqlite import Sqlite

ODD = {
    "b": '{"number": -5, "big": 12345678901234567890, "price": 1.50, "text": "a \\"quoted\\", with\\nlines\\r\\n"}',
    "a": '{\n  "text": "=1+1",\r\n  "inner": {"x": [1,\n 2]}, "none": null, "yes": true\n}',
    "\u00fc": '{"text": "\\u00fcber", "a,b": "", "formula": "-5"}',
    "c": '"just a text"',
}


def _sync(tx: Tx, number: int, records: dict[str, str], gone: tuple[str, ...] = ()) -> None:
    at = f"2026-05-0{number}T00:00:00.000000Z"
    run = runs.start(tx, runs.create(tx, NewRun(1, Scope.FULL, "person"), at).id, number, Lineage(1, "r", "h", "1"), at)
    assert run is not None
    entity = runs.open_entity(tx, run, "things", True).entity_id
    commit = PageCommit(run.id, number, 1, entity, 1, False, True, at)
    dataset.commit_page(tx, commit, Page(tuple(records), tuple(r.encode() for r in records.values()), deleted=gone))
    assert runs.finish(tx, run, RunResult.SUCCESS, "", "", at)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Version 1 has what is odd, version 2 lacks a record, version 3 has it again."""
    with (
        closing(Sqlite(tmp_path / "reconciler.db").connect(is_reader=False)) as session,
        session.transaction("write") as tx,
    ):
        apply(tx, migrations(), "here")
        tx.execute("INSERT INTO integration (public_id, workspace, name, type, created_at, updated_at)"
                   " VALUES ('i', 'default', 'odd', 'desk', '', '')")  # fmt: skip
        _sync(tx, 1, ODD)
        _sync(tx, 2, {"d": '{"late": 1}'}, ("a",))
        _sync(tx, 3, {"a": ODD["a"]}, ("d",))
    return tmp_path


def _export(state: Path, *words: str) -> bytes:
    out = state / "out"
    assert main(["dataset", "odd", "export", "things", "--output", str(out), "--state-dir", str(state), *words]) == 0
    return out.read_bytes()


def test_json_lines_are_the_records_each_on_one_line_by_key(state: Path) -> None:
    lines = _export(state, "--format", "jsonl").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(ODD[key]) for key in ("a", "b", "c", "\u00fc")]
    assert lines[1] == ODD["b"].encode()


def test_csv_has_every_field_and_reads_back(state: Path) -> None:
    content = _export(state, "--format", "csv")
    head, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    assert head == ["a,b", "big", "formula", "inner", "none", "number", "price", "text", "value", "yes"]
    assert rows == [
        ["", "", "", '{"x": [1, 2]}', "", "", "", "=1+1", "", "true"],
        ["", "12345678901234567890", "", "", "", "-5", "1.50", 'a "quoted", with\nlines\r\n', "", ""],
        ["", "", "", "", "", "", "", "", "just a text", ""],
        ["", "", "-5", "", "", "", "", "\u00fcber", "", ""],
    ]
    assert content.startswith(b'"a,b",big,')
    assert content.endswith(b"\r\n")


def test_a_spreadsheet_calculates_nothing(state: Path) -> None:
    (_, first, second, _, last) = csv.reader(
        io.StringIO(_export(state, "--format", "csv", "--spreadsheet").decode(), newline="")
    )
    assert (first[7], second[5], last[2]) == ("'=1+1", "-5", "'-5")


@pytest.mark.parametrize("format_name", ["jsonl", "csv"])
def test_the_same_state_gives_the_same_bytes(state: Path, format_name: str) -> None:
    first, second, third = (_export(state, "--format", format_name, "--at", str(n)) for n in (1, 2, 3))
    assert first == third == _export(state, "--format", format_name) != second
    assert _export(state, "--format", format_name, "--at", "2026-05-02T12:00:00Z") == second


def test_nothing_was_there_yet(state: Path) -> None:
    assert _export(state, "--format", "csv", "--at", "2020-01-01T00:00:00Z") == b""


def test_a_file_that_was_there_stays_whole_where_the_export_fails(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (state / "out").write_text("before")
    with closing(Sqlite(state / "reconciler.db").visit(is_reader=False)) as session:
        session.run(lambda tx: tx.execute("DELETE FROM version WHERE key = 'b'"), "write")
    words = ["dataset", "odd", "export", "things", "--format", "jsonl", "--output", str(state / "out")]
    assert main([*words, "--state-dir", str(state)]) == 1
    assert "record b: its version at that time is older than kept" in capsys.readouterr().err
    assert (state / "out").read_text() == "before"
    assert [p.name for p in state.iterdir() if p.name.startswith(".out")] == []
    assert main([*words[:-1], str(state / "no" / "folder"), "--state-dir", str(state)]) == 1
    assert "No such file or directory" in capsys.readouterr().err


def test_into_a_pipe(state: Path) -> None:
    pipe = state / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    other_end = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    other_end.start()
    words = ["dataset", "odd", "export", "things", "--format", "jsonl", "--output", str(pipe)]
    assert main([*words, "--state-dir", str(state)]) == 0
    other_end.join(10)
    assert read == [_export(state, "--format", "jsonl")]


def test_long_reads_keep_nothing_open(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a pager waits for its reader, the log of writes can be emptied: each stretch is a snapshot of its own."""
    from argparse import Namespace

    from reconciler.cli.dataset_access import opened
    from reconciler.store import history

    monkeypatch.setattr(history.records, "__defaults__", ("", 1))
    with opened(Namespace(name="odd", state_dir=state)) as odd:
        entries = odd.entries(odd.cut("now", "--at"), odd.entity("things"))
        first = next(entries)
        with closing(Sqlite(state / "reconciler.db").visit(is_reader=False)) as session:
            session.run(lambda tx: _sync(tx, 4, {"a": '{"changed": 1}', "b": '{"changed": 1}', "z": "{}"}), "write")
            connection = session._connection
            assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        assert [first.key, *(e.key for e in entries)] == ["a", "b", "c", "\u00fc"]
    with open_readonly(state / "reconciler.db") as tx:
        assert tx.value("SELECT count(*) FROM head WHERE deleted = 0") == 5
