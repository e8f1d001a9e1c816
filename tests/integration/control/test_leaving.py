"""Removal by each deletion policy, with inventory and credentials; remote objects made, adopted, mended, never doubled."""

from collections.abc import Mapping
from typing import Any

import pytest

from reconciler.control.leaving import LETTING_GO_TRIES
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason
from reconciler.sdk.contract import RemoteObject
from reconciler.sdk.errors import TransientError, UnauthorizedError
from reconciler.store import integrations, inventory
from reconciler.store.inventory import InventoryItem, Sealed
from tests.desk import World, desired, tickets

HOOK = RemoteObject(
    "webhook", "it-ops/desk#1", {"url": "https://r.example/in", "events": ["push", "issues"]}, "", "fp1"
)


async def _hooked(world: World, spec: Mapping[str, Any] | None = None, *wanted: RemoteObject) -> None:
    world.connections.hooked.add("desk")
    world.remote().wanted = wanted or (HOOK,)
    world.remote().pages["tickets"] = [tickets(1, 2)]
    await world.wish(desired("desk", spec))
    await world.reconcile()
    await world.sync_due()


async def _items(world: World) -> list[InventoryItem]:
    row = await world.row()
    return await world.read(lambda tx: inventory.items(tx, row.id))


async def _count(world: World, table: str) -> int:
    return int(await world.read(lambda tx: tx.value(f"SELECT count(*) FROM {table}")))


async def _remove(world: World) -> None:
    await world.wish(desired("other"), revision="r2")
    await world.reconcile()


@pytest.mark.parametrize(
    ("policy", "objects", "revoked", "records"), [("disconnect", 0, 1, 2), ("purge", 0, 1, 0), ("orphan", 1, 0, 2)]
)
async def test_removal_follows_the_policy(world: World, policy: str, objects: int, revoked: int, records: int) -> None:
    await _hooked(world, {"deletion_policy": policy})
    row, at = await world.row(), rfc3339(world.clock.now())
    await world.db.write(lambda tx: inventory.put_credential(tx, row.id, "t", Sealed(b"x", "k", None), at))
    await _remove(world)
    assert (len(world.remote().objects), world.remote().revoked) == (objects, revoked)
    assert (await _count(world, "head"), await _count(world, "version")) == (records, records)
    assert await _count(world, "credential") == 0
    row = await world.row()
    assert (row.is_connected, row.removed_at is not None) == (False, True)
    assert await world.said() == {}
    assert (await world.events())[-1] == "integration.disconnected"


async def test_removal_with_a_dead_credential_ends_and_says_what_is_left(world: World) -> None:
    await _hooked(world)
    world.remote().object_faults["list"].append(UnauthorizedError("revoked long ago"))
    await _remove(world)
    assert (await world.row()).removed_at is not None
    left = [detail["left"] for _, text, detail in world.journal.lines if "are left" in text]
    assert left == [["webhook h1"]]


async def test_a_remote_that_is_down_is_tried_again_long_before_objects_are_left(world: World) -> None:
    await _hooked(world)
    world.remote().object_faults["list"] += [TransientError("down")] * LETTING_GO_TRIES
    await world.wish(desired("other"), revision="r2")
    for _ in range(LETTING_GO_TRIES):
        assert (await world.reconcile()).again_at is not None
    assert (await world.row()).removed_at is None
    await world.reconcile()
    assert world.remote().objects == {}
    assert (await world.row()).removed_at is not None


async def test_what_was_made_before_the_first_connect_is_removed_too(world: World) -> None:
    second = RemoteObject("webhook", "it-ops/desk#2", {"url": "u"})
    world.remote().object_faults["create"] += [None, TransientError("down")]  # type: ignore[list-item]
    await _hooked(world, None, HOOK, second)
    assert (await world.row()).is_connected is False
    assert len(world.remote().objects) == 1
    await _remove(world)
    assert world.remote().objects == {}


async def test_wanted_again_while_it_was_let_go_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _hooked(world)
    await world.wish(desired("other"), revision="r2")
    drop = world.connections.drop

    async def wanted_again(integration_id: int) -> None:
        monkeypatch.setattr(world.connections, "drop", drop)
        await world.wish(desired("other"), desired("desk"), revision="r3")

    monkeypatch.setattr(world.connections, "drop", wanted_again)
    await world.reconcile()
    assert (await world.row()).removed_at is None
    await world.reconcile()
    row = await world.row()
    assert (row.is_connected, row.removed_at, len(world.remote().objects)) == (True, None, 1)


async def test_removal_cancels_runs_at_once_and_takes_deliveries_back(world: World) -> None:
    await _hooked(world)
    run = await world.make_run()
    taken = await world.wish(desired("other"), revision="r2")
    assert taken.stopped == (run.id,)
    assert (await world.go_on(run)).result == "cancelled"


async def test_interrupted_creation_is_adopted_never_doubled(world: World) -> None:
    world.remote().object_faults["created"].append(TransientError("connection lost"))
    await _hooked(world)
    assert [i.state for i in await _items(world)] == ["creating"]
    await world.reconcile()
    assert [c for c in world.remote().calls if c.startswith("create")] == [f"create {HOOK.marker}"]
    assert [(i.state, i.is_adopted) for i in await _items(world)] == [("present", False)]


async def test_an_empty_store_adopts_what_bears_our_marker(world: World) -> None:
    world.remote().objects["h9"] = RemoteObject(HOOK.kind, HOOK.marker, {**HOOK.spec, "id": 9}, "h9")
    await _hooked(world)
    assert (list(world.remote().objects), world.remote().calls) == (["h9"], [f"update {HOOK.marker}"])
    assert [(i.remote_id, i.is_adopted) for i in await _items(world)] == [("h9", True)]
    await world.reconcile()
    assert world.remote().calls == [f"update {HOOK.marker}"]


async def test_twins_are_reduced_to_one(world: World) -> None:
    for remote_id in ("h1", "h2", "h3"):
        world.remote().objects[remote_id] = RemoteObject(HOOK.kind, HOOK.marker, HOOK.spec, remote_id)
    await _hooked(world)
    assert list(world.remote().objects) == ["h1"]


async def test_a_listing_that_fails_is_never_an_empty_one(world: World) -> None:
    await _hooked(world)
    world.remote().object_faults["list"].append(TransientError("500"))
    await world.reconcile()
    assert [c for c in world.remote().calls if c.startswith("create")] == [f"create {HOOK.marker}"]
    assert (await world.said())[ConditionType.CONNECTED].reason is Reason.REMOTE_UNAVAILABLE


def _bend(world: World) -> None:
    world.remote().objects["h1"] = RemoteObject(HOOK.kind, HOOK.marker, {**HOOK.spec, "events": ["push"]}, "h1")


@pytest.mark.parametrize(
    ("drift", "events", "drifted"),
    [
        ({"mode": "correct"}, ["push", "issues"], []),
        ({"mode": "detect"}, ["push"], [HOOK.marker]),
        ({"mode": "off"}, ["push"], []),
        ({"mode": "correct", "ignore": ["/events"]}, ["push"], []),
    ],
)
async def test_drift_by_its_mode(world: World, drift: dict[str, Any], events: list[str], drifted: list[str]) -> None:
    await _hooked(world, {"drift": drift})
    _bend(world)
    await world.reconcile()
    assert world.remote().objects["h1"].spec["events"] == events
    assert list((await world.row()).drifted) == drifted
    assert (ConditionType.DRIFTED in await world.said()) is bool(drifted)
    assert (await world.events()).count("integration.drifted") == len(drifted)
    await world.reconcile()
    assert (await world.events()).count("integration.drifted") == len(drifted)


@pytest.mark.parametrize(("mode", "kept"), [("correct", 1), ("detect", 0), ("off", 0)])
async def test_an_object_that_vanished_is_drift(world: World, mode: str, kept: int) -> None:
    await _hooked(world, {"drift": {"mode": mode}})
    world.remote().objects.clear()
    await world.reconcile()
    assert len(world.remote().objects) == kept
    assert (ConditionType.DRIFTED in await world.said()) is (mode == "detect")


async def test_detect_holds_for_adopted_objects_too(world: World) -> None:
    wanted = RemoteObject(HOOK.kind, HOOK.marker, HOOK.spec)
    world.remote().objects["h1"] = RemoteObject(HOOK.kind, HOOK.marker, {**HOOK.spec, "id": 9}, "h1")
    await _hooked(world, {"drift": {"mode": "detect"}}, wanted)
    _bend(world)
    await world.reconcile()
    assert world.remote().calls == []
    assert ConditionType.DRIFTED in await world.said()


async def test_order_in_a_list_and_what_the_remote_adds_are_no_drift(world: World) -> None:
    await _hooked(world)
    spec = {**HOOK.spec, "events": ["issues", "push"], "created": "2026"}
    world.remote().objects["h1"] = RemoteObject(HOOK.kind, HOOK.marker, spec, "h1")
    await world.reconcile()
    assert [c for c in world.remote().calls if c.startswith("update")] == []


async def test_a_changed_or_dropped_wish_is_written_and_removed(world: World) -> None:
    await _hooked(world)
    world.remote().wanted = (RemoteObject(HOOK.kind, HOOK.marker, {"url": "https://new"}, "", "fp2"),)
    await world.reconcile()
    assert world.remote().objects["h1"].spec == {"url": "https://new"}
    world.remote().wanted = ()
    await world.reconcile()
    assert (world.remote().objects, await _items(world)) == ({}, [])


async def test_a_suspension_by_a_person_does_not_outlive_the_integration(world: World) -> None:
    await world.up()
    row = await world.row()
    await world.db.write(lambda tx: integrations.suspend(tx, row.id, "ada", "", None))
    await _remove(world)
    assert (await world.row()).is_suspended is False
