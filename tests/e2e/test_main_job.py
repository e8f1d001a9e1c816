"""The main job with real parts: Git -> plan -> connect -> sync -> deliver, and back to nothing."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.app.offline import Offline, applied_state
from reconciler.model.condition import ConditionType, Reason, Status, Truth
from reconciler.plan.render import exit_code
from reconciler.store import dataset, deliveries
from tests.e2e.stage import Stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    with made.servicenow, made.slack:
        for number in range(120):
            made.servicenow.put("incident", {"short_description": f"Old {number}", "priority": str(number % 5 + 1)})
        made.manifest("sn", **made.servicenow_spec())
        made.manifest("chat", **made.slack_spec(depends_on=["sn"]))
        made.commit()
        yield made


async def _messages(stage: Stage) -> list[str]:
    return [m["text"] for m in stage.slack.messages["C0000000OPS"].values()]


async def test_incident_reaches_slack_once_and_first_sync_is_silent(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        assert await _messages(stage) == []
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})
        stage.servicenow.put("incident", {"short_description": "Printer", "priority": "4"})
        await running.order("sync", "sn")
        await running.until_delivered()
        sent = await running.read(deliveries.listing)
        assert [(d.status, d.attempts) for d in sent] == [("delivered", 1)]
        assert ["Mail is down" in text for text in await _messages(stage)] == [True]
        assert stage.servicenow.violations == [] == stage.slack.violations
        view = await running.view("sn")
        assert (view.status, view.health, view.sync_status) == ("connected", "healthy", "healthy")


async def test_plan_and_work_are_counted(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        await running.leading.taken.wait()
        found = running.daemon.metrics.render().decode()
    assert 'reconciler_plan_changes{action="connect"} 2.0\n' in found
    assert float(re.findall(r'^reconciler_queue_adds_total{queue="work"} (.*)$', found, re.MULTILINE)[0]) >= 4


async def test_apply_then_plan_shows_nothing(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
    applied = applied_state(stage.root / "state" / "reconciler.db")
    assert applied is not None
    plan = Offline(stage.repo).plan_against(applied, "main")
    assert (plan.actions, plan.unchanged, exit_code(plan)) == ((), 2, 0)


async def test_restart_syncs_nothing_twice_and_sends_nothing_again(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        before = await running.read(lambda tx: tx.value("SELECT count(*) FROM version"))
    async with stage.daemon() as running:
        await running.leading.taken.wait()
        total = (await running.view("sn")).row.total_syncs
        await running.order("sync", "sn", scope="full")
        await running.until_view("sn", "has synced once more", lambda v: v.row.total_syncs > total)
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM version")) == before
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM dataset_version")) == 2


async def test_removal_disconnects_keeps_records_and_leaves_lists(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "chat.yaml").unlink()
        stage.commit("remove chat")
        await running.until_gone("chat")
        row = await running.read(lambda tx: tx.one("SELECT * FROM integration WHERE name = 'chat'"))
        assert row is not None
        assert (row["is_connected"], row["removed_at"] is not None) == (0, True)
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM head")) == 121


async def test_emptied_repository_is_blocked_until_approved(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        for name in ("sn", "chat"):
            (stage.repo / f"{name}.yaml").unlink()
        stage.commit("remove all")
        view = await running.until_view(
            "sn", "is kept", lambda v: v.conditions[ConditionType.VALID].reason is Reason.PRUNE_BLOCKED
        )
        assert {v.status for v in (await running.views()).values()} == {Status.CONNECTED}
        message = view.conditions[ConditionType.VALID].message
        await running.order("approve", digest=message.rsplit(" ", 1)[-1])
        await running.until_gone("sn", "chat")


async def test_broken_manifest_keeps_its_last_good_spec_and_harms_nobody(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "sn.yaml").write_text(
            "apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata: {name: sn, workspace: it-ops}\n"
        )
        stage.manifest("chat", **stage.slack_spec(display_name="Chat"))
        stage.commit("break sn, change chat")
        view = await running.until_view(
            "sn", "is invalid", lambda v: v.conditions[ConditionType.VALID].truth is Truth.FALSE
        )
        await running.until_view("chat", "has changed", lambda v: v.row.display_name == "Chat")
        assert view.status is Status.CONNECTED


async def test_wrong_password_stalls_and_a_mended_one_recovers(stage: Stage) -> None:
    stage.manifest(
        "sn",
        **stage.servicenow_spec(auth={"type": "basic", "username": "nobody", "password": {"from_env": "ITOPS_SN"}}),
    )
    stage.commit("wrong user")
    async with stage.daemon() as running:
        view = await running.until_view("sn", "is stalled", lambda v: ConditionType.STALLED in v.conditions)
        assert (view.status, view.ready.reason) == (Status.ERROR, Reason.AUTHENTICATION_FAILED)
        await running.until_view("chat", "waits", lambda v: v.ready.reason is Reason.DEPENDENCY_NOT_READY)
        stage.manifest("sn", **stage.servicenow_spec())
        stage.commit("right user")
        await running.until_synced("sn", "chat")


async def test_disabled_disconnects_and_enabling_connects_again(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        stage.manifest("chat", **stage.slack_spec(enabled=False))
        stage.commit("disable chat")
        await running.until_view("chat", "is disconnected", lambda v: v.status is Status.DISCONNECTED)
        stage.manifest("chat", **stage.slack_spec())
        stage.commit("enable chat")
        await running.until_view("chat", "is connected", lambda v: v.status is Status.CONNECTED)


async def test_forbidden_entity_is_partial_never_green(stage: Stage) -> None:
    stage.servicenow.denied.add("change_request")
    stage.manifest("sn", **stage.servicenow_spec(sync={"entities": ["incidents", "changes"]}))
    stage.commit("two entities, one denied")
    async with stage.daemon() as running:
        view = await running.until_view("sn", "has ended a sync", lambda v: v.row.last_sync_result)
        assert (view.row.last_sync_result, view.row.last_sync_reason) == ("partial", "PermissionDenied")
        assert (view.health, view.sync_status, view.row.last_sync_at) == ("degraded", "degraded", None)
        assert "changes" in view.row.last_sync_error


async def test_purge_policy_leaves_no_record(stage: Stage) -> None:
    stage.manifest("chat", **stage.slack_spec(deletion_policy="purge"))
    stage.commit("purge policy")
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "chat.yaml").unlink()
        stage.commit("remove chat")
        await running.until_gone("chat")
        row = await running.read(lambda tx: tx.one("SELECT id FROM integration WHERE name = 'chat'"))
        assert row is not None
        assert await running.read(lambda tx: dataset.log_after(tx, row["id"], 0, 10)) == []


async def test_suspend_and_resume(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        await running.order("suspend", "sn", reason="maintenance")
        await running.until_view("sn", "is suspended", lambda v: v.ready.reason is Reason.SUSPENDED)
        await running.order("resume", "sn")
        await running.until_view("sn", "is connected again", lambda v: v.status is Status.CONNECTED)
