"""Commands that look and order, asked of a server: what they say is what the same commands say over the store."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from reconciler.cli.main import main
from reconciler.model.clock import rfc3339
from reconciler.model.record import LogLevel
from reconciler.store import deliveries, integrations, journal
from reconciler.store.database import Tx
from reconciler.store.deliveries import Delivery
from reconciler.store.journal import LogLine
from reconciler.store.location import write_once
from tests.e2e.stage import PATIENCE
from tests.e2e.test_cli_server import Far, Typed, Typist, typed
from tests.e2e.town import beside, documents, town

__all__ = ["typed"]
CUSTOM = {"type": "custom", "auth": {"type": "generated_api_key"}, "config": {}}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    with town(tmp_path_factory.mktemp("far")) as made:
        token = new_token(made.stage.root, "ci", "--workspace", "it-ops", "--allow", "admin")
        found = Far(made, made.stage.repo, made.address, token)
        found.until_status("sn", "connected")
        yield found


def new_token(root: Path, *words: str) -> str:
    """Made without a test's `capsys`, so that it may last for all of them."""
    with beside("token", "create", *words, "--state-dir", str(root / "state")) as (process, out):
        return out.read().strip() if not process.wait(PATIENCE) else pytest.fail("no token")


@pytest.fixture
def far(there: Far, monkeypatch: pytest.MonkeyPatch) -> Far:
    monkeypatch.setenv("RECONCILER_URL", there.url)
    monkeypatch.setenv("RECONCILER_TOKEN", there.token)
    monkeypatch.delenv("RECONCILER_STATE_DIR", raising=False)
    return there


def asked_here(typed: Typist, *words: str) -> Typed:
    """What the same command says over the daemon's store."""
    code = main([*words, *typed.far.town.state_words])
    return Typed(code, *typed.capsys.readouterr())


def both(typed: Typist, *words: str) -> str:
    """What it says, whichever way it is asked, but for the time that passes in between."""
    here, told = asked_here(typed, *words), typed(*words)
    assert (told.code, told.err) == (here.code, here.err) == (0, "")
    if "json" in words and words[0] != "logs":
        assert json.loads(told.out) == json.loads(here.out)
    else:
        assert _timeless(told.out) == _timeless(here.out)
    return told.out


def _timeless(text: str) -> list[list[str]]:
    return [re.sub(r"\S+ ago\b", "ago", line).split() for line in text.splitlines()]


def _note(far: Far, *at: datetime, message: str) -> None:
    """Into the log of the chat, as a daemon beside that one would."""

    def write(tx: Tx) -> None:
        (row,) = [row for row in integrations.every(tx) if row.name == "chat"]
        journal.write_logs(tx, [LogLine(row.id, rfc3339(one), LogLevel.WARN, message, {"of": "chat"}) for one in at])

    write_once(far.town.stage.state / "reconciler.db", write)


def test_the_log(far: Far, typed: Typist) -> None:
    assert typed("sync", "sn", "--wait").code == 0
    assert "connected  identity=recon" in both(typed, "logs", "it-ops/sn", "--since", "1h", "--limit", "500")
    (line,) = documents(both(typed, "logs", "sn", "--output", "json", "--limit", "1", "--level", "info"))
    assert line["run"].startswith("run_")
    assert line["run"] in both(typed, "logs", "sn", "--run", line["run"])
    assert both(typed, "logs", "sn", "--run", line["run"], "--level", "error") == ""
    assert "has no run" in typed("logs", "chat", "--run", line["run"]).err
    assert typed("logs", "nobody").err.startswith("reconciler: no integration")
    assert typed("logs", "sn", "--limit", "0").code == 1


@contextmanager
def _following(*words: str) -> "Iterator[tuple[subprocess.Popen[str], IO[str]]]":
    with beside("logs", "chat", "--follow", "--level", "warn", *words) as found:
        yield found


def test_the_log_as_it_grows(far: Far) -> None:
    now = datetime.now(UTC)
    _note(far, now - timedelta(seconds=1), now, message="before")
    with _following("--limit", "1", "--output", "json") as (process, said):
        assert json.loads(said.readline())["message"] == "before"
        # twice the same, and one that is stored later than one of a later time
        _note(far, now + timedelta(seconds=1), now + timedelta(seconds=1), message="twice")
        assert [json.loads(said.readline())["message"] for _ in range(2)] == ["twice", "twice"]
        _note(far, now, message="late")
        assert json.loads(said.readline())["message"] == "late"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
        assert process.returncode == 130


def test_the_log_of_which_there_is_nothing_yet(far: Far) -> None:
    bound = datetime.now(UTC) + timedelta(minutes=5)
    with _following("--since", rfc3339(bound)) as (process, said):
        _note(far, bound - timedelta(minutes=1), bound + timedelta(minutes=1), message="ahead")
        assert said.readline().endswith("  warn   ahead  of=chat\n")
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")


def test_a_probe_there(far: Far, typed: Typist) -> None:
    good = typed("test", "sn")
    assert (good.code, good.err) == (0, "")
    assert good.out.startswith("it-ops/sn (servicenow), sn.yaml:")
    assert "\nsigned in as recon" in good.out
    assert "  readable     incidents\n" in good.out
    assert good.out.endswith("\nok\n")
    shown = json.loads(typed("test", "sn", "--output", "json").out)
    assert (shown["ok"], shown["integration"], shown["error"], shown["missing"]) == (True, "it-ops/sn", None, [])
    assert shown["latency_ms"] > 0
    assert "missing: users:read.email\n" in typed("test", "chat").out
    far.town.stage.servicenow.denied.add("incident")
    try:
        lacking = typed("test", "sn")
    finally:
        far.town.stage.servicenow.denied.clear()
    assert (lacking.code, lacking.out.splitlines()[-1]) == (1, "missing: read incidents")
    password = far.town.stage.servicenow.users.pop("recon")
    try:
        refused = typed("test", "sn")
        told = json.loads(typed("test", "sn", "--output", "json").out)
    finally:
        far.town.stage.servicenow.users["recon"] = password
    assert (refused.code, refused.err) == (1, "")
    assert refused.out.splitlines()[1].startswith("failed: AuthenticationFailed: ")
    assert (told["ok"], told["error"]["reason"]) == (False, "AuthenticationFailed")


@pytest.mark.usefixtures("quiet_logging")
def test_whose_manifest_is_probed(far: Far, typed: Typist) -> None:
    asked = typed("test", "chat", "--server", far.url, "--repo", ".")
    assert "--server or --repo: which one?" in asked.err
    # what is named in the line counts more than the environment
    assert "no integration nobody" in typed("test", "nobody", "--repo", str(far.town.stage.repo)).err
    assert "(404 integration-not-found)" in typed("test", "nobody").err


def test_reconcile_for_one_and_for_all(far: Far, typed: Typist) -> None:
    assert both(typed, "reconcile", "sn") == "it-ops/sn: looked at now\n"
    assert both(typed, "reconcile") == "all of Git: looked at now\n"
    assert both(typed, "reconcile", "chat", "--wait").startswith("it-ops/chat connected: ")
    stage = far.town.stage
    stage.manifest("sn", **stage.servicenow_spec(display_name="Desk"))
    stage.manifest("new", **stage.slack_spec(synchronizations=[]))
    stage.commit()
    done = typed("reconcile", "--wait")
    assert done.code == 0, done.err
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["it-ops/chat", "connected:"],
        ["it-ops/new", "connected:"],
        ["it-ops/sn", "connected:"],
    ]
    row = next(r for r in far.town.read(integrations.every) if r.name == "sn")
    assert (row.display_name, row.observed_generation) == ("Desk", row.generation)
    (stage.repo / "new.yaml").unlink()
    stage.commit()
    gone = typed("reconcile", "--wait")
    assert (gone.code, "it-ops/new" in gone.out) == (0, False)
    assert {row.name for row in far.town.read(integrations.every)} == {"sn", "chat"}


def test_reconcile_says_what_does_not_end_well(far: Far, typed: Typist) -> None:
    stage = far.town.stage
    password = stage.servicenow.users.pop("recon")
    try:
        stalled = typed("reconcile", "sn", "--wait")
    finally:
        stage.servicenow.users["recon"] = password
    assert (stalled.code, stalled.out[:40]) == (1, "it-ops/sn stalled: AuthenticationFailed:")
    assert typed("reconcile", "sn", "--wait").code == 0
    repo = stage.repo.rename(stage.root / "away")
    try:
        broken = typed("reconcile", "--wait")
    finally:
        repo.rename(stage.repo)
    assert (broken.code, broken.out) == (1, "")
    assert broken.err.endswith("; the last good revision stays in force\n")
    assert typed("reconcile", "--timeout", "soon").err.startswith("reconciler: --timeout soon: ")
    late = typed("reconcile", "--wait", "--timeout", "1ms")
    assert (late.code, late.err) == (1, "reconciler: not done within 1ms: nobody has taken it up\n")


def test_suspend_and_resume(far: Far, typed: Typist) -> None:
    assert "in the past" in typed("suspend", "sn", "--reason", "move", "--until", "2000-01-01T00:00:00Z").err
    done = typed("suspend", "sn", "--reason", "move", "--until", "2h")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("sn suspended until ")
    assert typed("reconcile", "sn", "--wait").out.startswith("it-ops/sn off: Suspended: ")
    assert typed("resume", "sn").out == "sn resumed\n"
    assert typed("reconcile", "sn", "--wait").code == 0
    again = typed("resume", "it-ops/sn")
    assert (again.code, again.err.startswith("reconciler: it-ops/sn is not suspended (409 refused)")) == (1, True)


def _deliver(far: Far, typed: Typist) -> Delivery:
    """The newest of all that came to the chat; nothing is on its way."""
    before = far.town.read(deliveries.listing)
    far.town.stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
    assert typed("sync", "sn", "--wait").code == 0
    far.town.until("made", lambda: len(far.town.read(deliveries.listing)) > len(before))
    far.town.until("ended", lambda: all(one.finished_at for one in far.town.read(deliveries.listing)))
    return far.town.read(deliveries.listing)[0]


def test_events_and_their_deliveries(far: Far, typed: Typist) -> None:
    _deliver(far, typed)
    (event, *_) = json.loads(both(typed, "events", "--type", "incident.*", "--output", "json"))["events"]
    assert event["integration"] == "sn"
    assert event["id"] in both(typed, "events", "--integration", "sn", "--status", "delivered", "--limit", "1")
    (sent, *_) = json.loads(typed("deliveries", "--integration", "chat", "--output", "json").out)["deliveries"]
    table = typed("deliveries", "--status", "delivered").out
    assert table.splitlines()[1].split()[0] == sent["id"]
    assert {"incident.created", "chat", "p1", "post_message"} <= set(table.split())
    assert json.loads(typed("deliveries", "--status", "dead", "--output", "json").out) == {"deliveries": []}

    local, told = asked_here(typed, "deliveries", "show", sent["id"]).out, typed("deliveries", "show", sent["id"]).out
    assert f"event incident.created {event['id']} of {event['at']} from it-ops/sn\n" in told
    assert told.split("\nattempts:\n")[1] == local.split("\nattempts:\n")[1]
    new_id, *rest = typed("deliveries", "retry", sent["id"]).out.split()
    assert rest == ["sends", sent["id"], "again"]
    assert typed("deliveries", "cancel", sent["id"]).code == 1
    assert typed("deliveries", "show", "dlv_none").err.startswith("reconciler: no delivery 'dlv_none'")
    assert "no delivery of " in typed("events", "retry", event["id"]).err
    assert f"sent again as {new_id}" in typed("deliveries", "show", sent["id"]).out


def test_what_a_token_may_not_read(far: Far, typed: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data is for whom the manifest grants it."""
    sent = _deliver(far, typed)
    words = ("--workspace", "it-ops", "--allow", "event.view")
    monkeypatch.setenv("RECONCILER_TOKEN", new_token(far.town.stage.root, "viewer", *words))
    why = "not for this token; spec.access gives the right to read\n"
    shown = typed("deliveries", "show", sent.public_id).out
    assert f"\nfields: {why}" in shown
    assert "\nattempts:\n  1. " in shown
    assert f"\npayload: {why}" in typed("events", "show", sent.event_id).out
    assert json.loads(typed("events", "show", sent.event_id, "--output", "json").out)["has_payload"]
    assert "(403 " in typed("deliveries", "retry", sent.public_id).err
    assert "(403 " in typed("logs", "chat").err


def test_events_of_ones_own(far: Far, typed: Typist) -> None:
    words = ("events", "publish", "order.created", "--payload", '{"number": 17}', "--id", "order-17")
    made = typed(*words)
    event = made.out.split()[0]
    assert made.out == f"{event} published\n"
    assert typed(*words).out == f"{event} was published before under this id\n"
    assert json.loads(typed(*words, "--output", "json").out)["data"][0]["is_new"] is False
    shown = typed("events", "show", event).out
    assert shown == asked_here(typed, "events", "show", event).out
    assert '"number": 17' in shown
    assert typed("events", "publish", "order.created", "--payload", "17").code == 1
    about = json.loads(typed(*words[:3], "--about", "it-ops/sn", "--output", "json").out)["data"][0]["id"]
    assert " about sn" in typed("events", "show", about).out
    assert "422" in typed("events", "publish", "order.created", "--workspace", "finance").err
    replay = typed("events", "replay", "chat", "--since", "1h", "--type", "order.*", "--synchronization", "p1")
    assert replay.out.endswith(" tells chat once more; its deliveries: reconciler deliveries\n"), replay.err


def test_credentials_and_the_audit(far: Far, typed: Typist) -> None:
    seen = typed("credentials", "sn")
    assert [line.split()[:3] for line in seen.out.splitlines()] == [
        line.split()[:3] for line in asked_here(typed, "credentials", "sn").out.splitlines()
    ]
    assert json.loads(typed("credentials", "sn", "--output", "json").out)["credentials"][0]["kind"] == "manifest"
    assert "no credential that can be renewed" in typed("credentials", "chat", "--renew").err
    assert typed("suspend", "chat", "--reason", "a look").code == 0
    assert typed("resume", "chat").code == 0
    lines = json.loads(both(typed, "audit", "--output", "json", "--limit", "3", "--workspace", "it-ops"))["audit"]
    assert len(lines) == 3
    assert "POST /v1/integrations/{ref}/suspend" in both(typed, "audit", "--since", "1h", "--workspace", "it-ops")
    assert typed("audit", "--workspace", "finance").out == "nothing was asked for\n"


def test_keys(far: Far, typed: Typist) -> None:
    far.town.stage.manifest("erp", **CUSTOM)
    far.town.stage.commit()
    assert typed("reconcile", "--wait").code == 0
    assert typed("key", "list", "erp").out == "no keys; make one: reconciler key create erp\n"
    first = typed("key", "create", "it-ops/erp", "--label", "erp", "--expires", "90d")
    assert (first.code, first.out[:4]) == (0, "rck_")
    key_id = first.err.split()[0]
    assert first.err == f"{key_id} is shown only now; use it as: Authorization: Bearer rck_...\n"
    late = typed("key", "regenerate", "erp", "--instead-of", "other")
    assert (late.code, late.out) == (1, "")
    assert "somebody changed it meanwhile" in late.err
    second = typed("key", "regenerate", "erp", "--instead-of", key_id, "--grace", "1h")
    assert f"\n{key_id}, the key before, opens until " in second.err
    new_id = second.err.split()[0]
    assert typed("key", "regenerate", "erp", "--grace", "long").err.startswith("reconciler: --grace long: ")
    assert both(typed, "key", "list", "erp").splitlines()[1].split()[:2] == [new_id, "active"]
    assert typed("key", "revoke", "erp", new_id).out == f"{new_id} opens nothing any more\n"
    states = {
        key["key_id"]: key["state"] for key in json.loads(both(typed, "key", "list", "erp", "--output", "json"))["keys"]
    }
    assert states == {new_id: "revoked", key_id: "retiring"}
    assert typed("key", "revoke", "erp", new_id).code == 1
    assert typed("key", "create", "erp").code == 0
    third = typed("key", "create", "erp")
    assert (third.code, third.out) == (1, "")
    assert "2 keys open" in third.err
