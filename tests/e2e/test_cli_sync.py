"""`reconciler sync` against a running daemon: ordered, waited for, refused, interrupted, cancelled."""

import signal
import subprocess
from collections.abc import Iterator

import pytest

from reconciler.sdk.testing.faults import slow
from reconciler.store import runs
from reconciler.store.runs import Run
from tests.e2e.town import Town, start, town


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("sync")) as made:
        yield made


@pytest.fixture(autouse=True)
def clean(here: Town) -> Iterator[None]:
    yield
    here.stage.servicenow.faults.clear()
    here.stage.slack.denied.clear()


def _found(here: Town, run_id: str) -> Run:
    run = here.read(lambda tx: runs.find(tx, run_id))
    assert run is not None
    return run


def _asked(here: Town) -> int:
    return int(here.read(lambda tx: tx.value("SELECT count(*) FROM request")))


def test_order_alone_prints_the_run(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("sync", "it-ops/sn") == 0
    run_id = capsys.readouterr().out.strip()
    here.until("the run is done", lambda: _found(here, run_id).state == "done")
    found = _found(here, run_id)
    assert (found.scope, found.cause, found.entities) == ("incremental", "person", None)


def test_wait_shows_lines_and_the_result(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    here.stage.servicenow.put("incident", {"short_description": "New", "priority": "4"})
    here.stage.servicenow.faults.add(slow(0.4), path="/api/now/table/incident", times=1)
    words = ("--scope", "full", "--entities", "incidents,incidents", "--wait")
    assert here.run("sync", "sn", *words) == 0
    first, *between, last = capsys.readouterr().out.splitlines()
    assert first.startswith("run_")
    assert any(line.startswith("fetch: 0 of about 121 records") for line in between)
    assert last == f"{first} success: 1 added, 0 updated, 120 unchanged, 0 deleted"


def test_partial_run_fails_with_its_reason(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    here.stage.slack.denied.add("conversations.list")
    assert here.run("sync", "chat", "--entities", "users", "channels", "--wait") == 1
    said = capsys.readouterr()
    assert " partial: " in said.out.splitlines()[-1]
    assert said.err.count("\n") == 1
    assert "was partial: channels: " in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("snn",), "no integration snn, did you mean sn?"),
        (("sn", "--scope", "ful"), "did you mean full?"),
        (("sn", "--entities", "incidnts"), "servicenow has no entity incidnts, did you mean incidents?"),
        (("chat", "--scope", "delta"), "slack has no change feed for users"),
        (("sn", "--scope", "full", "--since", "2h"), "a full run reads everything"),
        (("sn", "--since", "2999-01-01T00:00:00Z"), "in the future"),
        (("sn", "--since", "2020-01-01"), "a time with a zone"),
        (("sn", "chat"), "one integration at a time"),
        (("cancel",), "which run?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_ordered(
    here: Town, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    before = _asked(here)
    assert here.run("sync", *words) == 1
    said = capsys.readouterr()
    assert (said.out, message in said.err, said.err.count("\n")) == ("", True, 1)
    assert _asked(here) == before


def test_ctrl_c_leaves_the_run_going_and_cancel_ends_it(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    here.stage.servicenow.faults.add(slow(30), path="/api/now/table/incident")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    waiting = start("sync", "sn", "--scope", "full", "--wait", *here.state_words, **pipes)
    assert waiting.stdout is not None
    run_id = waiting.stdout.readline().strip()
    waiting.stdout.readline()  # the first progress line: it is watching now
    waiting.send_signal(signal.SIGINT)
    _, error = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert error == f"reconciler: {run_id} goes on in the daemon; to end it: reconciler sync cancel {run_id}\n"
    assert _found(here, run_id).state == "running"
    assert here.run("sync", "cancel", run_id) == 0
    assert capsys.readouterr().out == f"{run_id} cancelled\n"
    here.until("cancelled", lambda: _found(here, run_id).result == "cancelled")
    assert here.run("sync", "cancel", run_id) == 1
    assert capsys.readouterr().err == f"reconciler: {run_id} is done already\n"
    assert here.run("sync", "cancel", "run_unknown") == 1
    assert "no such run" in capsys.readouterr().err
