"""`reconciler sync` against a running daemon: ordered, waited for, refused, interrupted, cancelled."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

import pytest

from reconciler.sdk.testing.faults import slow, status
from reconciler.store import runs
from reconciler.store.runs import Run
from tests.e2e.stage import PATIENCE, held_back
from tests.e2e.town import Town, beside, town

TABLE = "/api/now/table/incident"
NEVER = 3600.0  # no test waits for it: what is so slow is cancelled, or cut off with its daemon


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


def test_wait_shows_lines_and_the_result(here: Town) -> None:
    here.stage.servicenow.put("incident", {"short_description": "New", "priority": "4"})
    words = ("--scope", "full", "--entities", "incidents,incidents")
    with held_back(here.stage.servicenow, TABLE) as release, _waiting(here, "sn", *words) as waiting:
        run_id = waiting.readline().strip()
        assert run_id.startswith("run_")
        assert any(line.startswith("fetch: 0 of about 121 records") for line in waiting)
        release()
        last = waiting.read().splitlines()[-1]
    assert last == f"{run_id} success: 1 added, 0 updated, 120 unchanged, 0 deleted"


def test_partial_run_fails_with_its_reason(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    here.stage.slack.denied.add("conversations.list")
    assert here.run("sync", "chat", "--entities", "users", "channels", "--wait") == 1
    said = capsys.readouterr()
    run_id, *_, last = said.out.splitlines()
    assert last.startswith(f"{run_id} partial: ")
    assert last.endswith(" deleted"), "the reason is told once, on stderr"
    assert said.err.startswith(f"reconciler: {run_id} was partial: PermissionDenied: channels: ")
    assert said.err.count("\n") == 1


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
    here.stage.servicenow.faults.add(slow(NEVER), path=TABLE)
    with beside("sync", "sn", "--scope", "full", "--wait", *here.state_words) as (waiting, said):
        run_id = said.readline().strip()
        said.readline()  # the first progress line: it is watching now
        here.until("it runs", lambda: _found(here, run_id).state == "running")
        waiting.send_signal(signal.SIGINT)
        _, error = waiting.communicate(timeout=PATIENCE)
    assert waiting.returncode == 130
    look, end = f"reconciler logs sn --run {run_id} -f", f"reconciler sync cancel {run_id}"
    assert error == f"reconciler: {run_id} goes on in the daemon; look: {look}; end it: {end}\n"
    assert _found(here, run_id).state == "running"
    assert here.run("sync", "cancel", run_id) == 0
    assert capsys.readouterr().out == f"{run_id} cancelled\n"
    here.until("cancelled", lambda: _found(here, run_id).result == "cancelled")
    assert here.run("sync", "cancel", run_id) == 1
    assert capsys.readouterr().err == f"reconciler: {run_id} is done already\n"
    assert here.run("sync", "cancel", "run_unknown") == 1
    assert capsys.readouterr().err == (
        "reconciler: no run run_unknown; `reconciler status NAME` lists those of an integration\n"
    )


def test_wait_says_which_run_goes_first(here: Town) -> None:
    here.stage.servicenow.faults.add(slow(NEVER), path=TABLE)
    assert here.run("sync", "sn", "--scope", "full") == 0
    first = here.until("it runs", lambda: [r for r in here.read(runs.every_running).values() if r.scope == "full"])[0]
    with _waiting(here, "sn") as waiting:
        waiting.readline()
        assert waiting.readline() == f"waiting: {first.public_id} of the same integration is under way\n"
        here.stage.servicenow.faults.clear()
        assert here.run("sync", "cancel", first.public_id) == 0
        assert waiting.read().splitlines()[-1].split(":")[0].endswith(" success")


def test_wait_begins_when_the_integration_is_connected(here: Town) -> None:
    """And says meanwhile what keeps it: the order is left when it can be carried out."""
    closed = "http://127.0.0.1:9"
    here.stage.manifest("late", **here.stage.servicenow_spec(depends_on=["first"]))
    here.stage.manifest("first", **here.stage.slack_spec(config={"base_url": f"{closed}/api"}, synchronizations=[]))
    here.stage.commit()
    assert here.run("reconcile") == 0
    here.until("it waits", lambda: "first" in str(here.held("late")))
    before = _asked(here)
    with _waiting(here, "late") as waiting:
        assert waiting.readline() == "waiting: not connected yet: waiting for it-ops/first\n"
        assert _asked(here) == before
        here.stage.manifest("first", **here.stage.slack_spec(synchronizations=[]))
        here.stage.commit()
        said = waiting.read().splitlines()
        assert said[-1].startswith(next(line for line in said if line.startswith("run_")) + " success: ")


def test_ctrl_c_before_the_order_leaves_none(here: Town) -> None:
    here.stage.manifest("never", **here.stage.servicenow_spec(depends_on=["absent"]))
    here.stage.manifest("absent", **here.stage.slack_spec(enabled=False, synchronizations=[]))
    here.stage.commit()
    assert here.run("reconcile") == 0
    here.until("it waits", lambda: "absent" in str(here.held("never")))
    with beside("sync", "never", "--wait", *here.state_words) as (waiting, said):
        said.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.communicate(timeout=PATIENCE)[1] == "reconciler: nothing was ordered\n"
    assert waiting.returncode == 130


def test_what_needs_somebody_is_refused_with_what_to_do(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """With --wait as well: nothing would come of waiting."""

    def refusal(name: str = "sn") -> str:
        assert here.run("sync", name, "--wait") == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        return said.err.removeprefix(f"reconciler: it-ops/{name} cannot be synced now: ")

    assert here.run("suspend", "sn", "--reason", "upgrade") == 0
    capsys.readouterr()
    assert refusal().endswith(": upgrade; end it: reconciler resume it-ops/sn\n")
    assert here.run("resume", "sn") == 0
    password = here.stage.servicenow.users.pop("recon")
    try:
        assert here.run("reconcile", "sn", "--wait") == 1
        capsys.readouterr()
        stalled = refusal()
    finally:
        here.stage.servicenow.users["recon"] = password
    assert stalled.startswith("stalled: AuthenticationFailed: ")
    assert stalled.endswith("; mend that, then: reconciler reconcile it-ops/sn --wait\n")
    assert here.run("reconcile", "sn", "--wait") == 0
    here.stage.manifest("off", **here.stage.servicenow_spec(enabled=False))
    here.stage.commit()
    assert here.run("reconcile", "--wait") in (0, 1)
    capsys.readouterr()
    assert refusal("off") == "disabled; set spec.enabled to true in off.yaml\n"


def test_wait_says_that_the_remote_asks_for_a_pause(tmp_path: Path) -> None:
    """In a town of its own: the pause holds for whatever else goes to that host."""
    with town(tmp_path) as here:
        here.stage.servicenow.faults.add(status(429, retry_after="40"), path=TABLE, times=1)
        with _waiting(here, "sn") as waiting:
            run_id = waiting.readline().strip()
            said = (line for line in waiting if line.startswith("waiting: RateLimited: "))
            assert next(line for line in said if "; goes on at 20" in line)  # once the job has its new time
            assert here.run("sync", "cancel", run_id) == 0
            assert waiting.read().splitlines()[-1].startswith(f"{run_id} cancelled: ")


def test_a_daemon_that_stops_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a town of its own: nobody answers afterwards."""
    with town(tmp_path) as here:
        here.stage.slack.faults.add(slow(NEVER), path="/api/users.list")
        with beside("sync", "chat", "--wait", *here.state_words) as (waiting, said):
            run_id = said.readline().strip()
            here.process.kill()
            here.process.wait(PATIENCE)
            assert waiting.communicate(timeout=PATIENCE)[1] == (
                f"reconciler: the daemon has stopped; {run_id} goes on when it runs again\n"
            )
        assert waiting.returncode == 1
        assert here.run("sync", "chat", "--wait") == 1
        assert capsys.readouterr().err.startswith(
            f"reconciler: no daemon works on {here.stage.state}; start one with: "
        )


def test_keys_alone_find_what_is_deleted_and_what_is_missing(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    rows = here.stage.servicenow.tables["incident"]
    here.stage.servicenow.delete("incident", next(iter(rows)))
    long_ago = here.stage.servicenow.now() - timedelta(days=900)
    here.stage.servicenow.put("incident", {"short_description": "Imported"}, long_ago)
    assert here.run("sync", "sn", "--scope", "keys", "--wait") == 0
    run_id, *_, result, advice = capsys.readouterr().out.splitlines()
    assert result == f"{run_id} success: {len(rows)} keys listed, 1 deleted, 1 missing here"
    assert advice.endswith("reconciler sync sn --scope full")
    assert here.run("status", "it-ops/sn") == 0
    assert f"-1 of {len(rows)} keys ?1" in capsys.readouterr().out
    assert here.run("sync", "chat", "--scope", "keys") == 1
    assert "slack lists no keys alone of" in capsys.readouterr().err


@contextmanager
def _waiting(here: Town, name: str, *words: str) -> "Iterator[IO[str]]":
    """What `sync NAME --wait` says, in a process of its own."""
    with beside("sync", name, *words, "--wait", *here.state_words) as (_, said):
        yield said
