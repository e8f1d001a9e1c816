"""`reconciler dataset --server`: byte for byte what the store says, as far as the API knows it; and rollback."""

import json
from pathlib import Path

import pytest

from reconciler.store import integrations
from tests.e2e.test_cli_server import Far, Typist, typed
from tests.e2e.test_cli_server_orders import asked_here, both, far, new_token, there

__all__ = ["far", "there", "typed"]


@pytest.fixture(scope="module")
def keys(there: Far) -> list[str]:
    """Version 2 brings three incidents, of which version 3 changes the first and loses the last."""
    town, desk = there.town, there.town.stage.servicenow
    rows = [desk.put("incident", {"short_description": f"Call {n}", "priority": "3"}) for n in range(3)]
    assert town.run("sync", "sn", "--wait") == 0
    desk.put("incident", {"sys_id": rows[0]["sys_id"], "state": "2", "short_description": "Solved \x1b[31m"})
    desk.delete("incident", rows[2]["sys_id"])
    assert town.run("sync", "sn", "--scope", "full", "--wait") == 0
    return [row["sys_id"] for row in rows]


def test_versions_and_records(far: Far, keys: list[str], typed: Typist, tmp_path: Path) -> None:
    newest = both(typed, "dataset", "sn", "versions").splitlines()[1].split()[0]
    assert typed("dataset", "it-ops/sn").out.startswith(f"it-ops/sn: version {newest} of 2")
    told = json.loads(typed("dataset", "sn", "versions", "--output", "json").out)["versions"]
    local = json.loads(asked_here(typed, "dataset", "sn", "versions", "--output", "json").out)["versions"]
    assert told == [{name: value for name, value in one.items() if name != "spec_hash"} for one in local]
    assert "The first 2." in both(typed, "dataset", "sn", "show", "incidents", "--limit", "2")
    words = ("dataset", "sn", "show", "incidents")
    for more in (
        ("--limit", "500"),
        ("--at", "2", "--limit", "500"),
        ("--key", keys[0]),
        ("--at", "1", "--key", keys[2]),
    ):
        both(typed, *words, *more)
        assert typed(*words, *more, "--output", "json").out == asked_here(typed, *words, *more, "--output", "json").out
    assert "not there" in typed(*words, "--at", "1", "--key", keys[2]).out
    assert "older ones: " in typed(*words, "--key", keys[0], "--limit", "1").out
    for form in ("jsonl", "csv"):
        export = ("dataset", "sn", "export", "incidents", "--format", form, "--at", "2", "--output")
        assert (
            typed(*export, str(tmp_path / "told")).code == asked_here(typed, *export, str(tmp_path / "here")).code == 0
        )
        assert (tmp_path / "told").read_bytes() == (tmp_path / "here").read_bytes()
        assert len((tmp_path / "told").read_bytes().splitlines()) >= 123


def test_what_differs(keys: list[str], typed: Typist) -> None:
    text = both(typed, "dataset", "sn", "diff", "2", "3")
    assert f"~ incidents {keys[0]}\n" in text
    assert "Solved \\u001b[31m" in text
    assert text.endswith("0 added, 1 updated, 1 deleted\n")
    for words in (("1", "now", "--entity", "incidents"), ("3", "1")):
        both(typed, "dataset", "sn", "diff", *words)
        lines = ("dataset", "sn", "diff", *words, "--output", "json")
        assert typed(*lines).out == asked_here(typed, *lines).out


def test_what_a_server_does_not_know(far: Far, keys: list[str], typed: Typist) -> None:
    for words, said in (
        (("show", "incidents", "--at", "2h"), "--at 2h: a server knows versions and now, not times"),
        (("diff", "1", "99"), "V2 99: it-ops/sn has no such version"),
        (("show", "ghosts"), "there is none of that name; there are: incidents"),
        (("diff", "1", "2", "--entity", "ghosts"), "there is none of that name; there are: incidents"),
        (("show", "incidents", "--key", "none"), "there is no record 'none'"),
    ):
        refused = typed("dataset", "sn", *words)
        assert (refused.code, refused.out, said in refused.err) == (1, "", True), refused.err
    for words in (("erase", keys[0], "--yes", "--server", far.url), ("purge", "--yes")):
        why = f"no server is asked to {words[0]}: do it where the daemon is, with --state-dir"
        assert typed("dataset", "sn", *words).err == f"reconciler: {why}\n"
    missing = asked_here(typed, "dataset", "sn", "diff", "1", "2", "--entity", "ghosts")
    assert (missing.code, missing.out) == (1, "")


def test_rollback(far: Far, keys: list[str], typed: Typist, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = typed("dataset", "sn", "versions", "--limit", "1").out.splitlines()[1].split()[0]
    refused = typed("dataset", "sn", "rollback", "2")
    assert (refused.code, refused.err) == (1, "reconciler: nothing was done; --yes does it without being asked\n")
    assert "  incidents: 1 deleted since then come back, 1 get the content they had\n" in refused.out
    assert "Events: none (with --emit-events: 1 incident.created, 1 incident.updated)\n" in refused.out
    assert "nothing to do" in typed("dataset", "sn", "rollback", newest).out
    editor = new_token(
        far.town.stage.root,
        "editor",
        "--workspace",
        "it-ops",
        "--allow",
        "integration.view",
        "--allow",
        "integration.edit",
    )
    with monkeypatch.context() as patch:
        patch.setenv("RECONCILER_TOKEN", editor)
        blind = typed("dataset", "sn", "rollback", "2")
        assert "what changes is not for this token" in blind.out
    done = typed("dataset", "sn", "rollback", "2", "--yes", "--suspend")
    assert (done.code, done.err) == (0, "")
    assert "Next sync: none before `reconciler resume it-ops/sn`\n" in done.out
    assert done.out.endswith(f" is version {int(newest) + 1}: 1 added, 1 updated, 0 deleted\n")
    row = next(row for row in far.town.read(integrations.every) if row.name == "sn")
    assert row.is_suspended
    assert typed("resume", "sn").code == 0
