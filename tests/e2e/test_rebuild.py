"""Remotes that are set up already: adopted by a fresh daemon, repaired when they drift, left by `deletion_policy`."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.condition import ConditionType, Reason
from reconciler.sdk.testing.faults import reset
from reconciler.store import dataset, inventory, journal
from reconciler.store.database import Tx
from simulators.github import GitHub
from tests.e2e.keys import Keys
from tests.e2e.stage import HOOK_CANARY, PUBLIC_URL, Running, Stage, git

HOOK_URL = f"{PUBLIC_URL}/v1/inbound/it-ops/gh"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    with made.servicenow, made.github:
        repo = made.github.repos["acme/app"]
        for number in range(1, 6):
            made.github.put_issue(repo, number, made.github.now(), title=f"Issue {number}")
        made.manifest("gh", **made.github_spec())
        made.manifest("sn", **made.servicenow_spec())
        made.commit()
        yield made


def hooks(stage: Stage) -> list[dict[str, Any]]:
    return list(stage.github.repos["acme/app"].hooks.values())


def posted(github: GitHub) -> int:
    return sum(1 for r in github.requests if r.method == "POST" and r.url_path.endswith("/hooks"))


def row_of(tx: Tx, name: str) -> Any:
    return tx.one("SELECT * FROM integration WHERE name = :n", n=name)


async def items(running: Running) -> list[inventory.InventoryItem]:
    return await running.read(lambda tx: inventory.items(tx, row_of(tx, "gh")["id"]))


def remove(stage: Stage) -> None:
    (stage.repo / "gh.yaml").unlink()
    stage.commit("remove gh")


async def reconciled(running: Running) -> None:
    """One more look at gh, asked for by a person."""
    before = (await running.view("gh")).row.probe_at
    await running.order("reconcile", "gh")
    await running.until_view("gh", "was looked at again", lambda v: v.row.probe_at != before)


async def test_fresh_state_adopts_the_webhook_and_makes_no_second(stage: Stage) -> None:
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        assert [i.is_adopted for i in await items(running)] == [False]
    made = [hook["id"] for hook in hooks(stage)]
    shutil.rmtree(stage.state)
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        found = await items(running)
        assert [(i.state, i.is_adopted) for i in found] == [("present", True)]
        assert [hook["id"] for hook in hooks(stage)] == made
        assert posted(stage.github) == 1
        assert list(stage.github.repos["acme/app"].secrets.values()) == [HOOK_CANARY]
    assert stage.github.violations == []


async def test_foreign_webhook_is_left_alone(stage: Stage) -> None:
    repo = stage.github.repos["acme/app"]
    stage.github._keep(repo, 7, ["issues"], {"url": "https://elsewhere.example.org", "content_type": "json"})
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        assert {h["config"]["url"] for h in hooks(stage)} == {"https://elsewhere.example.org", HOOK_URL}
        remove(stage)
        await running.until_gone("gh")
    assert [h["config"]["url"] for h in hooks(stage)] == ["https://elsewhere.example.org"]


@pytest.mark.parametrize(("policy", "left", "records"), [("disconnect", 0, 5), ("orphan", 1, 5), ("purge", 0, 0)])
async def test_removal_follows_the_deletion_policy(stage: Stage, policy: str, left: int, records: int) -> None:
    stage.manifest("gh", **stage.github_spec(deletion_policy=policy))
    stage.commit("policy")
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        remove(stage)
        await running.until_gone("gh")
        assert len(hooks(stage)) == left
        kept = await running.read(lambda tx: dataset.log_after(tx, row_of(tx, "gh")["id"], 0, 100))
        assert len(kept) == records


@pytest.mark.parametrize("change", ["deleted", "events", "inactive"])
async def test_drift_is_repaired(stage: Stage, change: str) -> None:
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        _tamper(stage, change)
        await reconciled(running)
        assert [(h["active"], h["events"]) for h in hooks(stage)] == [(True, ["issues"])]
        assert list(stage.github.repos["acme/app"].secrets.values()) == [HOOK_CANARY]


def _tamper(stage: Stage, change: str) -> None:
    repo = stage.github.repos["acme/app"]
    (number,) = repo.hooks
    if change == "deleted":
        repo.hooks.clear()
        repo.secrets.clear()
    elif change == "events":
        repo.hooks[number]["events"] = ["push"]
    else:
        repo.hooks[number]["active"] = False


async def test_detect_mode_reports_drift_and_changes_nothing(stage: Stage) -> None:
    stage.manifest("gh", **stage.github_spec(drift={"mode": "detect"}))
    stage.commit("detect")
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh")
        _tamper(stage, "events")
        await reconciled(running)
        view = await running.view("gh")
        assert [h["events"] for h in hooks(stage)] == [["push"]]
        assert view.conditions[ConditionType.DRIFTED].reason is Reason.DRIFT_DETECTED
        assert len(view.row.drifted) == 1
        _tamper(stage, "deleted")
        await reconciled(running)
        assert hooks(stage) == []
        assert len((await running.view("gh")).row.drifted) == 1


async def test_removed_while_no_daemon_ran(stage: Stage) -> None:
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh", "sn")
    remove(stage)
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_gone("gh")
    assert hooks(stage) == []


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_removal_that_a_crash_interrupted_is_ended_by_the_next_daemon(stage: Stage, is_encrypted: bool) -> None:
    """The first daemon has taken the removal over, so the revision in force when the second starts has no manifest."""
    keys = Keys()
    if is_encrypted:
        _encrypted(stage, keys)
    env = keys.env
    async with stage.daemon(public_url=PUBLIC_URL, env=env) as running:
        await running.until_synced("gh", "sn")
        stage.github.faults.add(reset())
        remove(stage)
        await running.until_view("gh", "could not be left", lambda v: v.row.retries > 0)
    stage.github.faults.clear()
    assert len(hooks(stage)) == 1
    async with stage.daemon(public_url=PUBLIC_URL, env=env) as running:
        await running.until_gone("gh")
    assert hooks(stage) == []


def _encrypted(stage: Stage, keys: Keys) -> None:
    """The credential in the manifest itself, the webhook's secret in a file beside it."""
    spec = stage.github_spec()
    spec["auth"]["token"] = keys.env["ITOPS_GITHUB"]
    (stage.repo / "secrets").mkdir()
    (stage.repo / "secrets" / "gh.yaml").write_text(f"hook: {HOOK_CANARY}\n")
    spec["config"]["webhook"]["secret"] = {"from_sops": {"file": "secrets/gh.yaml", "key": "hook"}}
    stage.manifest("gh", **spec)
    keys.encrypt(stage.repo / "gh.yaml", stage.repo / "secrets" / "gh.yaml")
    stage.commit("encrypt")


async def test_what_cannot_be_removed_any_more_is_named(stage: Stage) -> None:
    """The manifest's commit is gone from the mirror: the end is stated, with what is left."""
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_synced("gh", "sn")
        stage.github.faults.add(reset())
        remove(stage)
        await running.until_view("gh", "could not be left", lambda v: v.row.retries > 0)
    stage.github.faults.clear()
    (tip,) = stage.state.glob("git/*/tip.git")
    git(tip, "gc", "--quiet", "--prune=now")
    async with stage.daemon(public_url=PUBLIC_URL) as running:
        await running.until_gone("gh")
        gh = (await running.read(lambda tx: row_of(tx, "gh")))["id"]

        async def told() -> list[str]:
            said = await running.read(lambda tx: journal.logs(tx, gh, level="error"))
            return [str(line.detail["left"]) for line in said if "left" in line.detail]

        (left,) = await running.until("what is left is told", told)
        assert "acme/app/hooks/" in left
    assert len(hooks(stage)) == 1
