"""Commands that look and order: logs, deliveries, reconcile, suspend, resume, approve, and `test` beside a daemon."""

import json
import signal
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from getpass import getuser
from pathlib import Path

import pytest

from reconciler.model.event import DeliveryStatus
from reconciler.store import deliveries, integrations, journal
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery
from tests.e2e.stage import ENV, PATIENCE
from tests.e2e.town import Town, beside, documents, town


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("orders")) as made:
        yield made


@pytest.fixture(scope="module")
def sent(here: Town) -> str:
    """The id of a delivery that arrived."""
    here.stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
    assert here.run("sync", "sn", "--wait") == 0
    here.until("delivered", lambda: here.read(lambda tx: deliveries.listing(tx, status="delivered")))
    return here.read(lambda tx: deliveries.listing(tx, status="delivered"))[-1].public_id


def _last_said(here: Town, name: str) -> str:
    """The newest line of its log."""

    def look(tx: Tx) -> str:
        (row,) = [row for row in integrations.every(tx, with_removed=True) if row.name == name]
        return next((line.message for line in journal.logs(tx, row.id, limit=1)), "")

    return here.read(look)


def _found(here: Town, delivery_id: str) -> Delivery:
    delivery = here.read(lambda tx: deliveries.find(tx, delivery_id))
    assert delivery is not None
    return delivery


def test_logs_as_text_and_json(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("sync", "sn", "--wait") == 0
    here.until("the log says so", lambda: _last_said(here, "sn") == "sync success")
    capsys.readouterr()
    assert here.run("logs", "sn", "--since", "1h") == 0
    text = capsys.readouterr().out
    assert "connected  identity=recon" in text
    assert here.run("logs", "sn", "--output", "json", "--limit", "1") == 0
    (line,) = documents(capsys.readouterr().out)
    assert (line["level"], line["message"]) == ("info", "sync success")
    assert line["run"].startswith("run_")
    assert here.run("logs", "sn", "--run", line["run"], "--output", "json") == 0
    assert {one["run"] for one in documents(capsys.readouterr().out)} == {line["run"]}
    assert here.run("logs", "sn", "--run", line["run"], "--level", "error") == 0
    assert capsys.readouterr().out == ""
    assert here.run("logs", "chat", "--run", line["run"]) == 1
    assert "chat has no run" in capsys.readouterr().err


def test_logs_follow_until_interrupted(here: Town) -> None:
    words = ("logs", "sn", "--follow", "--limit", "1", "--output", "json", *here.state_words)
    with beside(*words) as (following, said):
        said.readline()
        assert here.run("sync", "sn") == 0
        while json.loads(said.readline())["message"] != "sync success":
            pass  # what was still to be said of earlier orders
        following.send_signal(signal.SIGINT)
        assert following.communicate(timeout=PATIENCE)[1] == ""
        assert following.returncode == 130


def test_deliveries_listed_and_shown(here: Town, sent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("deliveries") == 0
    head, line, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["ID", "MADE"]
    assert {"incident.created", "it-ops/sn", "it-ops/chat", "post_message"} <= set(line.split())
    assert here.run("deliveries", "--status", "dead", "--status", "unknown", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"deliveries": []}
    assert here.run("deliveries", "--integration", "sn", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"deliveries": []}
    assert here.run("deliveries", "show", sent, "--output", "json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert "Mail is down" in shown["fields"]["text"]
    assert [one["outcome"] for one in shown["tries"]] == ["delivered"]
    assert shown["receipt"]["remote_id"].startswith("C0000000OPS:")
    for words in (("show",), ("retry",), ("cancel",)):
        assert here.run("deliveries", *words, "dlv_none") == 1
        assert capsys.readouterr().err == "reconciler: no delivery dlv_none; list them: reconciler deliveries\n"


def test_delivery_is_sent_again_and_linked(here: Town, sent: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("deliveries", "retry", sent) == 0
    new_id, *rest = capsys.readouterr().out.split()
    assert rest == ["sends", sent, "again"]
    here.until("sent again", lambda: _found(here, new_id).finished_at)
    assert here.run("deliveries", "show", new_id) == 0
    assert f"sends {sent} again" in capsys.readouterr().out
    assert here.run("deliveries", "show", sent) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sent again as ")]
    assert new_id in line.removeprefix("sent again as ").split(", ")
    assert here.run("deliveries", "cancel", sent) == 1
    assert capsys.readouterr().err.endswith("can be cancelled\n")


def test_failing_delivery_is_cancelled(here: Town, sent: str, capsys: pytest.CaptureFixture[str]) -> None:
    here.stage.slack.failures["chat.postMessage"] = "fatal_error"
    here.run("deliveries", "retry", sent)
    new_id = capsys.readouterr().out.split()[0]
    try:
        here.until("it failed once", lambda: _found(here, new_id).status is DeliveryStatus.FAILED)
        # It is tried again at any time, and what is being sent is not taken back.
        here.until("cancelled between two tries", lambda: here.run("deliveries", "cancel", new_id) == 0)
    finally:
        here.stage.slack.failures.clear()
    assert _found(here, new_id).status is DeliveryStatus.CANCELLED


def test_reconcile_waits_for_one_and_for_all(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("reconcile", "sn") == 0
    assert capsys.readouterr().out == "it-ops/sn: looked at now\n"
    here.stage.manifest("sn", **here.stage.servicenow_spec(display_name="Desk"))
    here.stage.commit()
    assert here.run("reconcile", "--wait") == 0
    assert "it-ops/sn connected: connected as recon\n" in capsys.readouterr().out
    row = next(r for r in here.read(integrations.every) if r.name == "sn")
    assert (row.display_name, row.observed_generation) == ("Desk", row.generation)
    assert row.generation > 1


class Ahead(datetime):
    """The clock of a machine that is an hour ahead of the daemon's."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(hours=1)


def test_reconcile_waits_by_the_daemons_clock(here: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.cli.reconcile.datetime", Ahead)
    assert here.run("reconcile", "--wait", "--timeout", "2m") == 0


def test_reconcile_says_what_is_stalled(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    password = here.stage.servicenow.users.pop("recon")
    try:
        assert here.run("reconcile", "sn", "--wait") == 1
        assert capsys.readouterr().out.startswith("it-ops/sn stalled: AuthenticationFailed: ")
    finally:
        here.stage.servicenow.users["recon"] = password
    assert here.run("reconcile", "sn", "--wait") == 0


def test_suspend_and_resume(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("suspend", "sn", "--reason", "maintenance", "--until", "2000-01-01T00:00:00Z") == 1
    assert "in the past" in capsys.readouterr().err
    assert here.run("suspend", "sn", "--reason", "maintenance", "--until", "2h") == 0
    assert here.run("reconcile", "sn", "--wait") == 0
    assert "it-ops/sn off: Suspended: " in capsys.readouterr().out
    assert here.run("sync", "sn") == 1
    assert "cannot be synced now: suspended by " in capsys.readouterr().err
    assert here.run("resume", "sn") == 0
    assert here.run("reconcile", "sn", "--wait") == 0
    capsys.readouterr()
    assert here.run("resume", "sn") == 1
    assert capsys.readouterr().err == "reconciler: it-ops/sn is not suspended\n"
    assert here.run("audit", "--output", "json", "--workspace", "it-ops", "--limit", "5") == 0
    acts = json.loads(capsys.readouterr().out)["audit"]
    assert {one["caller"] for one in acts} == {getuser()}
    assert [(one["action"], one["outcome"]) for one in reversed(acts)] == [
        ("order suspend", "done"),
        ("order reconcile", "done"),
        ("order sync", "refused"),
        ("order resume", "done"),
        ("order reconcile", "done"),
    ]


def _named(lines: list[str]) -> list[list[str]]:
    """Who stands in the table, without what changes by time alone."""
    return [line.split()[:3] for line in lines[1 : lines.index("")]]


def test_status_tells_of_the_present_only(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        assert here.run("status", *words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line != line.rstrip()] == []
        return lines

    assert any(line.startswith("connected as recon; latency ") for line in told("sn"))
    sn = ["it-ops", "sn", "servicenow"]
    assert _named(told()) == _named(told("--workspace", "it-ops")) == [["it-ops", "chat", "slack"], sn]
    assert _named(told("it-ops/sn")) == _named(told("sn", "--workspace", "it-ops")) == [sn]
    assert here.run("status", "--workspace", "it-op") == 1
    assert capsys.readouterr().err.endswith("no integration in a workspace it-op, did you mean it-ops?\n")
    assert here.run("suspend", "sn", "--reason", "move") == 0
    try:
        assert here.run("reconcile", "sn", "--wait") == 0
        capsys.readouterr()
        (line,) = [line for line in told("sn") if "connected as" in line and "True" not in line]
        assert line.startswith("was connected as recon")
        assert "latency" not in line
    finally:
        assert here.run("resume", "sn") == 0
    assert here.run("reconcile", "sn", "--wait") == 0


def test_probe_beside_a_daemon_leaves_its_store_alone(
    here: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet_logging: None
) -> None:
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    words = here.stage.words()[1:]
    with here.frozen():
        before = here.read(_whole_store)
        code = _main("test", "chat", *words, "--output", "json")
        shown = json.loads(capsys.readouterr().out)
        assert (shown["identity"], shown["entities"]["users"]) == ("recon-bot", True)
        assert (code, shown["missing"], shown["ok"]) == (1, ["users:read.email"], False)
        assert _main("test", "sn", *words) == 0
        assert "signed in as recon" in capsys.readouterr().out
        assert here.read(_whole_store) == before


def _whole_store(tx: Tx) -> dict[str, list[tuple[object, ...]]]:
    tables = tx.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return {table: [tuple(row) for row in tx.all(f"SELECT * FROM {table}")] for (table,) in tables}


def test_probe_tells_what_fails(
    here: Town, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet_logging: None
) -> None:
    words = here.stage.words()[1:]
    monkeypatch.setenv("ITOPS_SN", "wrong-canary-password")
    assert _main("test", "sn", *words) == 1
    said = capsys.readouterr()
    assert "failed: AuthenticationFailed: " in said.out
    assert "wrong-canary-password" not in said.out + said.err
    monkeypatch.delenv("ITOPS_SN")
    assert _main("test", "sn", *words) == 1
    assert "the environment variable ITOPS_SN is not set" in capsys.readouterr().out
    assert _main("test", "snn", *words) == 1
    assert capsys.readouterr().err == "reconciler: no integration snn, did you mean sn?\n"


def test_blocked_removal_is_approved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a town of its own: nothing is left afterwards."""
    with town(tmp_path) as here:
        for name in ("sn", "chat"):
            (here.stage.repo / f"{name}.yaml").unlink()
        here.stage.commit()
        assert here.run("reconcile", "--wait") == 1
        said = capsys.readouterr().out
        assert said.count("PruneBlocked") == 2
        digest = said.split("reconciler approve ")[1].split()[0]
        assert here.run("approve", "nonsense") == 1
        assert here.run("approve", digest) == 0
        assert f"{digest} approved\n" in capsys.readouterr().out
        here.until("both gone", lambda: not here.read(integrations.every))
        here.until("the log says so", lambda: _last_said(here, "sn") == "disconnected")
        assert here.run("logs", "sn", "--limit", "1") == 0
        assert "disconnected" in capsys.readouterr().out


def test_without_a_daemon_orders_are_refused(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main("reconcile", "--state-dir", str(tmp_path)) == 1
    assert "no daemon works on" in capsys.readouterr().err
    assert _main("logs", "sn", "--state-dir", str(tmp_path)) == 1
    assert "does not exist" in capsys.readouterr().err


def _main(*words: str) -> int:
    from reconciler.cli.main import main

    return main(words)
