"""`spec.sync.schema` over runs: fields that appear, vanish or change type become events, rejects, or the end of an entity."""

import json
from typing import Any

import pytest

from reconciler.control.orders import Orders
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.record import LogLevel, Scope
from reconciler.store import events, journal, rejects, runs
from reconciler.store.runs import Run
from reconciler.sync import schema
from tests.desk import World, desired, tickets
from tests.integration.sync.test_rejects import _kept, _order, _records, _replay

FIRST = tickets(*range(1, 26), priority=3)


async def _up(world: World, policy: str, **sync: Any) -> World:
    """The first sync has seen 25 tickets."""
    world.remote().pages["tickets"] = [FIRST]
    await world.up(sync={"schema": policy, **sync})
    return world


async def _sync(world: World, *records: dict[str, Any], **more: Any) -> Run:
    world.remote().pages["tickets"] = [FIRST[:20], [*FIRST[20:], *records]]
    return await world.sync(**more)


async def _told(world: World) -> list[dict[str, Any]]:
    found = await world.read(lambda tx: events.to_route(tx, 0, 1000))
    return [dict(e.detail) for e in found if e.type == "schema.changed"]


def _news(*detail: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(d["appeared"], d["vanished"], d["retyped"]) for d in detail]


NEW = tickets(30, priority=3, color="red")[0]
RETYPED = tickets(31, priority="high")[0]
LESS = tickets(32)[0]


async def test_evolve_takes_it_and_tells_it_once(world: World) -> None:
    await _up(world, "evolve")
    assert await _told(world) == []
    run = await _sync(world, NEW, RETYPED, LESS)
    assert (run.result, run.counts.added) == ("success", 3)
    (told,) = await _told(world)
    retyped = [{"field": "priority", "before": "number", "after": "string"}]
    assert _news(told) == [(["color"], ["priority"], retyped)]
    assert (told["run"], told["entity"], told["policy"]) == (run.public_id, "tickets", "evolve")
    said = [(level, text) for level, text, _ in world.journal.lines if text.startswith("schema")]
    message = "field color (string) is new, field priority (number) is missing, field priority is string, it was number"
    assert said == [(LogLevel.INFO, f"schema changed: {message}")]
    await _sync(world, NEW, RETYPED, LESS, {**NEW, "id": "33"}, {**RETYPED, "id": "34"}, {**LESS, "id": "35"})
    assert len(await _told(world)) == 1


async def test_evolve_looks_at_a_sample_of_a_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SAMPLE", 2)
    await _up(world, "evolve")
    await _sync(world, *tickets(40, 41, 42, priority=3), {**NEW, "id": "43"})
    assert await _told(world) == []
    await _sync(world, *tickets(44, 45, priority=3), {**NEW, "id": "46"}, *tickets(47, priority=3))
    assert len(await _told(world)) == 1


async def test_what_did_not_change_is_not_looked_at(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _up(world, "reject")
    monkeypatch.setattr(schema.SchemaWatch, "look", lambda *_: pytest.fail("looked"))
    assert (await _sync(world)).counts.unchanged == 25


async def test_reject_keeps_the_record_out_and_the_run_partial(world: World) -> None:
    await _up(world, "reject")
    changed = {**FIRST[0], "priority": "high"}
    world.remote().pages["tickets"] = [[changed, *FIRST[1:], NEW]]
    run = await world.sync(scope=Scope.FULL)
    assert (run.result, run.reason, run.counts.rejected, run.counts.changed) == ("partial", Reason.SCHEMA_CHANGED, 2, 0)
    assert "reconciler sync it-ops/desk --accept-schema" in run.error
    assert {k.key: k.violations for k in await _kept(world)} == {
        "1": ("field priority is string, it was number",),
        "30": ("field color (string) is new",),
    }
    assert (await _records(world))["1"] == FIRST[0]
    assert (await world.said())[ConditionType.FRESH].reason is Reason.SCHEMA_CHANGED
    again = await world.sync(scope=Scope.FULL)
    assert (again.result, len(await _kept(world)), len(await _told(world))) == ("partial", 2, 1)


async def test_a_rejected_record_that_fits_again_is_taken_and_its_reject_cleared(world: World) -> None:
    await _up(world, "reject")
    await _sync(world, NEW)
    run = await _sync(world, tickets(30, priority=3)[0])
    assert (run.result, run.counts.added, await _kept(world)) == ("success", 1, [])


async def test_accepting_takes_what_comes_and_goes_on_from_there(world: World) -> None:
    await _up(world, "reject")
    await _sync(world, NEW)
    accepted = await _sync(world, NEW, accepts_schema=True)
    assert (accepted.result, accepted.counts.added, await _kept(world)) == ("success", 1, [])
    run = await _sync(world, NEW, {**NEW, "id": "33"}, RETYPED)
    assert (run.counts.added, [k.key for k in await _kept(world)]) == (1, ["31"])


async def test_a_replay_judges_by_the_schema_unless_it_is_accepted(world: World) -> None:
    await _up(world, "reject")
    await _sync(world, NEW, RETYPED)
    run = await _replay(world, accept_schema=False)
    assert (run.result, run.counts.rejected, run.counts.added) == ("success", 2, 0)
    run = await _replay(world, accept_schema=True)
    assert (run.counts.rejected, run.counts.added, await _kept(world)) == (0, 2, [])
    assert (await _sync(world, NEW, RETYPED, {**NEW, "id": "33"})).result == "success"


async def test_a_replay_under_another_policy_takes_them(world: World) -> None:
    await _up(world, "reject")
    await _sync(world, NEW)
    await world.wish(desired("desk", {"sync": {"schema": "evolve"}}), revision="r2")
    await world.reconcile()
    assert (await _replay(world)).counts.added == 1
    assert len(await _told(world)) == 1


async def test_freeze_ends_the_entity_before_the_page_is_stored(world: World) -> None:
    await _up(world, "freeze")
    world.remote().pages["people"] = [[{"id": "ada"}]]
    for _ in range(2):
        run = await _sync(world, NEW)
        assert (run.result, run.reason, run.counts.pages) == ("partial", Reason.SCHEMA_CHANGED, 2)
    assert run.error == (
        "tickets: the schema is frozen, but field color (string) is new; if this is right: reconciler sync it-ops/desk"
        " --accept-schema"
    )
    assert "30" not in await _records(world)
    said = (await world.said())[ConditionType.FRESH]
    assert (said.truth, said.reason) == (Truth.FALSE, Reason.SCHEMA_CHANGED)
    assert _news(*await _told(world)) == [(["color"], [], [])]
    assert (await _sync(world, NEW, accepts_schema=True)).result == "success"
    assert (await _sync(world, NEW, {**NEW, "id": "33"})).result == "success"
    await _sync(world, NEW, RETYPED)
    assert len(await _told(world)) == 2


async def test_other_fields_let_through_are_no_change_of_the_remote(world: World) -> None:
    await _up(world, "freeze")
    await world.wish(
        desired("desk", {"sync": {"schema": "freeze", "fields": {"exclude": ["priority"]}}}), revision="r2"
    )
    await world.reconcile()
    assert (await _sync(world, RETYPED)).result == "success"
    assert (await _sync(world, RETYPED, {**NEW, "id": "33"})).reason == Reason.SCHEMA_CHANGED


async def test_a_field_that_is_left_out_is_nowhere(world: World) -> None:
    await _up(world, "reject", fields={"exclude": ["canary"]})
    await _sync(world, {**NEW, "canary": "x"})
    (kept,) = await _kept(world)
    stored = await world.read(lambda tx: tx.value("SELECT shape FROM entity WHERE name = 'tickets'"))
    assert "canary" not in kept.payload.decode() + str(kept.violations) + json.dumps(json.loads(stored)["types"])


async def test_a_sync_by_order_may_accept(world: World) -> None:
    await _up(world, "reject")
    row = await world.row()
    public = await world.db.write(lambda tx: journal.ask(tx, "sync", row.id, {"accept_schema": True}, "ada", "t"))
    await Orders(world.db, world.clock).tick()
    answer = await world.read(lambda tx: journal.answer_of(tx, public))
    run = await world.read(lambda tx: runs.find(tx, str((answer or {})["run"])))
    assert run is not None
    assert run.accepts_schema


async def test_a_read_that_sweeps_goes_by_what_it_could_name(world: World) -> None:
    """A record that does not fit is not gone; others may be."""
    await _up(world, "reject")
    world.remote().pages["tickets"] = [[*FIRST[1:20], {**FIRST[20], "color": "red"}]]
    run = await world.sync(scope=Scope.FULL)
    assert (run.result, run.counts.deleted, run.counts.rejected) == ("partial", 5, 1)
    assert set(await _records(world)) == {str(n) for n in range(2, 22)}
    assert (await _order(world))["ok"]
    assert await world.read(lambda tx: rejects.tally(tx, run.integration_id)) == {"tickets": 1}
