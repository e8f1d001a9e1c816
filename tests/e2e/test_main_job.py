"""The main job with real parts: Git -> plan -> connect -> sync -> deliver, and back to nothing."""

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

        async def delivered() -> bool:
            return any(d.finished_at for d in await running.read(deliveries.listing))

        await running.until("the delivery is done", delivered)
        sent = await running.read(deliveries.listing)
        assert [(d.status, d.attempts) for d in sent] == [("delivered", 1)]
        assert ["Mail is down" in text for text in await _messages(stage)] == [True]
        assert stage.servicenow.violations == [] == stage.slack.violations
        view = await running.view("sn")
        assert (view.status, view.health, view.sync_status) == ("connected", "healthy", "healthy")


async def test_apply_then_plan_shows_nothing(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
    applied = applied_state(stage.root / "state")
    assert applied is not None
    plan = Offline(stage.repo).plan_against(applied[0], "main", applied[1])
    assert (plan.actions, plan.unchanged, exit_code(plan)) == ((), 2, 0)


async def test_restart_syncs_nothing_twice_and_sends_nothing_again(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        before = await running.read(lambda tx: tx.value("SELECT count(*) FROM version"))
    async with stage.daemon() as running:
        await running.daemon.taken.wait()
        await running.order("sync", "sn", scope="full")
        total = (await running.view("sn")).row.total_syncs

        async def again() -> bool:
            return (await running.view("sn")).row.total_syncs > total

        await running.until("one more sync", again)
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM version")) == before
        assert await running.read(lambda tx: tx.value("SELECT count(*) FROM dataset_version")) == 2


async def test_removal_disconnects_keeps_records_and_leaves_lists(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "chat.yaml").unlink()
        stage.commit("remove chat")

        async def gone() -> bool:
            return "chat" not in await running.views()

        await running.until("chat is gone", gone)
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

        async def blocked() -> str | None:
            valid = (await running.view("sn")).conditions[ConditionType.VALID]
            return valid.message if valid.reason is Reason.PRUNE_BLOCKED else None

        message = await running.until("prune blocked", blocked)
        assert {v.status for v in (await running.views()).values()} == {Status.CONNECTED}
        assert message is not None
        await running.order("approve", digest=message.rsplit(" ", 1)[-1])

        async def empty() -> bool:
            return not await running.views()

        await running.until("both gone", empty)


async def test_broken_manifest_keeps_its_last_good_spec_and_harms_nobody(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        (stage.repo / "sn.yaml").write_text(
            "apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata: {name: sn, workspace: it-ops}\n"
        )
        stage.manifest("chat", **stage.slack_spec(display_name="Chat"))
        stage.commit("break sn, change chat")

        async def told() -> bool:
            views = await running.views()
            valid = views["sn"].conditions[ConditionType.VALID]
            return valid.truth is Truth.FALSE and views["chat"].row.display_name == "Chat"

        await running.until("sn is invalid, chat has changed", told)
        assert (await running.view("sn")).status is Status.CONNECTED


async def test_wrong_password_stalls_and_a_mended_one_recovers(stage: Stage) -> None:
    stage.manifest(
        "sn",
        **stage.servicenow_spec(auth={"type": "basic", "username": "nobody", "password": {"from_env": "ITOPS_SN"}}),
    )
    stage.commit("wrong user")
    async with stage.daemon() as running:

        async def stalled() -> bool:
            views = await running.views()
            return "sn" in views and ConditionType.STALLED in views["sn"].conditions

        await running.until("sn is stalled", stalled)
        view = await running.view("sn")
        assert (view.status, view.ready.reason) == (Status.ERROR, Reason.AUTHENTICATION_FAILED)
        assert (await running.view("chat")).ready.reason is Reason.DEPENDENCY_NOT_READY
        stage.manifest("sn", **stage.servicenow_spec())
        stage.commit("right user")
        await running.until_synced("sn", "chat")


async def test_disabled_disconnects_and_enabling_connects_again(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        stage.manifest("chat", **stage.slack_spec(enabled=False))
        stage.commit("disable chat")

        async def disabled() -> bool:
            return (await running.view("chat")).status is Status.DISCONNECTED

        await running.until("chat is disconnected", disabled)
        stage.manifest("chat", **stage.slack_spec())
        stage.commit("enable chat")

        async def connected() -> bool:
            return (await running.view("chat")).status is Status.CONNECTED

        await running.until("chat is connected", connected)


async def test_forbidden_entity_is_partial_never_green(stage: Stage) -> None:
    stage.servicenow.denied.add("change_request")
    stage.manifest("sn", **stage.servicenow_spec(sync={"entities": ["incidents", "changes"]}))
    stage.commit("two entities, one denied")
    async with stage.daemon() as running:

        async def ended() -> bool:
            views = await running.views()
            return "sn" in views and bool(views["sn"].row.last_sync_result)

        await running.until("a sync of sn ended", ended)
        view = await running.view("sn")
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

        async def gone() -> bool:
            return "chat" not in await running.views()

        await running.until("chat is gone", gone)
        row = await running.read(lambda tx: tx.one("SELECT id FROM integration WHERE name = 'chat'"))
        assert row is not None
        assert await running.read(lambda tx: dataset.log_after(tx, row["id"], 0, 10)) == []


async def test_suspend_and_resume(stage: Stage) -> None:
    async with stage.daemon() as running:
        await running.until_synced("sn", "chat")
        await running.order("suspend", "sn", reason="maintenance")

        async def suspended() -> bool:
            return (await running.view("sn")).ready.reason is Reason.SUSPENDED

        await running.until("sn is suspended", suspended)
        await running.order("resume", "sn")

        async def resumed() -> bool:
            return (await running.view("sn")).status is Status.CONNECTED

        await running.until("sn is connected again", resumed)
