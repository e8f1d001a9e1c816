"""`reconciler rejects` over a running daemon: what a sync could not take, why, and tried again as a person would."""

import json
from collections.abc import Iterator

import pytest

from reconciler.store import events, integrations
from tests.e2e.town import Town, town

SECRET = "token=canary-in-a-record"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("rejects")) as made:
        yield made


@pytest.fixture
def key(here: Town, capsys: pytest.CaptureFixture[str]) -> Iterator[str]:
    """An incident that hides its identity."""
    rows = here.stage.servicenow.tables["incident"]
    key = str(here.stage.servicenow.put("incident", {"short_description": f"Hidden \x1b[31m {SECRET}"})["sys_id"])
    rows[key]["sys_id"] = ""
    assert here.run("sync", "sn", "--wait") == 0
    capsys.readouterr()
    yield key
    rows.pop(key, None)


def test_listed_tried_again_in_vain_and_gone_with_the_next_full_sync(
    here: Town, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here.run("rejects", "sn") == 0
    text = capsys.readouterr().out
    head, line, _, last = text.splitlines()
    assert head.split() == ["ENTITY", "KEY", "WHEN", "RUN", "REASON", "RECORD"]
    assert "sys_id: expected a string or an integer, received empty string" in line
    assert last == "1 reject. Try again: reconciler rejects sn replay"
    assert here.run("rejects", "sn", "--output", "json", "--entity", "incidents") == 0
    (reject,) = json.loads(said := capsys.readouterr().out)["rejects"]
    assert (reject["entity"], reject["key"]) == ("incidents", None)
    assert "Hidden \\u001b[31m token=****" in reject["excerpt"]
    assert SECRET not in text + said
    assert here.run("rejects", "sn", "replay") == 0
    assert "0 added, 0 updated, 0 deleted; 1 still rejected" in capsys.readouterr().out
    here.stage.servicenow.tables["incident"].pop(key)
    assert here.run("sync", "sn", "--scope", "full", "--wait") == 0
    capsys.readouterr()
    assert here.run("rejects", "sn") == 0
    assert capsys.readouterr().out == "it-ops/sn has no rejects\n"


def test_what_cannot_be_done_is_said(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("rejects", "chat", "replay", "--entity", "users") == 1
    assert "it-ops/chat has no rejects of users" in capsys.readouterr().err
    assert here.run("rejects", "chat", "--limit", "0") == 1
    assert "--limit: expected a number above 0" in capsys.readouterr().err


def test_a_schema_that_changes_is_rejected_frozen_and_accepted(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    servicenow = here.stage.servicenow

    def bring(**fields: object) -> None:
        row = servicenow.put("incident", {"short_description": "Odd"})
        servicenow.tables["incident"][row["sys_id"]].update(fields)  # type: ignore[arg-type]

    _set_policy(here, "reject")
    bring(u_shape={"round": True})
    assert here.run("sync", "sn", "--wait") == 1
    assert "1 record does not fit the schema (field u_shape (object) is new)" in capsys.readouterr().err
    assert here.run("rejects", "sn") == 0
    assert "field u_shape (object) is new" in capsys.readouterr().out
    assert here.run("rejects", "sn", "replay", "--accept-schema") == 0
    assert "1 added, 0 updated, 0 deleted, version 2; 0 still rejected" in capsys.readouterr().out
    _set_policy(here, "freeze")
    bring(u_more=5)
    assert here.run("sync", "sn", "--wait") == 1
    assert "field u_more (number) is new; if this is right: reconciler sync it-ops/sn --accept-schema" in (
        capsys.readouterr().err
    )
    assert here.run("sync", "sn", "--wait", "--accept-schema") == 0
    assert here.run("sync", "sn", "--wait") == 0
    types = [
        e.detail["appeared"] for e in here.read(lambda tx: events.to_route(tx, 0, 100)) if e.type == "schema.changed"
    ]
    assert types == [["u_shape"], ["u_more"]]


def _set_policy(here: Town, policy: str) -> None:
    sync = {"entities": ["incidents"], "page_size": 50, "schema": policy}
    here.stage.manifest("sn", **here.stage.servicenow_spec(sync=sync))
    revision = here.stage.commit()

    def is_in_force() -> bool:
        rows = {row.name: row for row in here.read(integrations.every)}
        return rows["sn"].applied_revision == revision and here.held("sn") is None

    here.until(f"{policy} in force", is_in_force)
