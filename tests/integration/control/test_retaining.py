"""How long things are kept: as each workspace says, never past what is still to be done with them, never by guess."""

import json
from datetime import timedelta
from typing import Any, cast

import pytest

from reconciler.control.retaining import Retaining
from reconciler.model.clock import rfc3339
from reconciler.model.event import Lifecycle
from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.manifest import Workspace
from reconciler.model.record import Scope
from reconciler.model.state import DesiredState
from reconciler.sdk.testing.room import VirtualClock
from reconciler.store import history, journal, retention, rollback
from reconciler.store.database import Database
from reconciler.store.history import NotKeptError
from tests.desk import WORKSPACE, World, tickets

BROKEN = Finding("w.yaml", 1, 1, Code.UNKNOWN_EVENT, "broken", "mend it", Severity.ERROR)


def _state(workspaces: dict[str, Any], *findings: Finding) -> DesiredState:
    made = {
        name: Workspace.model_validate(
            {
                "apiVersion": "reconciler.dev/v1",
                "kind": "Workspace",
                "metadata": {"name": name},
                "spec": {"retention": kept},
            }
        )
        for name, kept in workspaces.items()
    }
    return DesiredState("r", {}, made, findings)


@pytest.fixture
async def up(world: World) -> World:
    """Two desks in two workspaces, each with a log line, an event and a run of today; all is routed."""
    await world.up("desk", "other")
    await world.db.write(lambda tx: tx.execute("UPDATE integration SET workspace = 'sales' WHERE name = 'other'"))
    await world.db.write(lambda tx: tx.execute("DELETE FROM event"))
    for name, workspace in (("desk", WORKSPACE), ("other", "sales")):
        await world.db.write(lambda tx, n=name, w=workspace: _history(tx, world, n, w))  # type: ignore[misc]
    await world.db.write(lambda tx: tx.execute("INSERT INTO route_cursor VALUES ('lifecycle', 1000)"))
    await world.db.write(lambda tx: journal.record_revision(tx, "r", "applied", "d", {}, 0, rfc3339(world.clock.now())))
    await world.db.write(lambda tx: journal.approve(tx, "d", "ada", rfc3339(world.clock.now())))
    return world


def _history(tx: Any, world: World, name: str, workspace: str) -> None:
    row = tx.one("SELECT id FROM integration WHERE name = :n AND workspace = :w", n=name, w=workspace)
    at = rfc3339(world.clock.now())
    journal.write_logs(tx, [journal.LogLine(row["id"], at, "info", "x", {})])
    journal.emit(tx, row["id"], Lifecycle.CONNECTED, at, {})


async def _left(world: World) -> dict[str, list[str]]:
    """table -> the workspaces that have rows in it."""
    sql = "SELECT DISTINCT i.workspace FROM {} x JOIN integration i ON i.id = x.integration_id ORDER BY 1"
    return {
        table: [w for (w,) in await world.read(lambda tx, t=table: tx.all(sql.format(t)))]  # type: ignore[misc]
        for table in ("log", "run", "event")
    }


async def _shared(world: World) -> list[int]:
    tables = ("revision", "approval")
    return [await world.read(lambda tx, t=t: tx.value(f"SELECT count(*) FROM {t}")) for t in tables]  # type: ignore[misc]


async def test_each_workspace_keeps_what_it_says_and_the_rest_90_days(up: World) -> None:
    retaining = Retaining(up.db, up.clock)
    both = [WORKSPACE, "sales"]
    desired = _state({"sales": {"logs": "30d", "runs": "200d", "events": "10d"}})
    up.clock.advance(timedelta(days=31))
    await retaining.tick(desired)
    assert await _left(up) == {"log": [WORKSPACE], "run": both, "event": [WORKSPACE]}
    up.clock.advance(timedelta(days=60))
    assert (await _shared(up))[1] == 1
    await retaining.tick(desired)
    assert await _left(up) == {"log": [], "run": ["sales"], "event": []}
    assert await _shared(up) == [0, 0]


async def test_nothing_goes_before_git_was_read(up: World) -> None:
    up.clock.advance(timedelta(days=400))
    before = await _left(up)
    await Retaining(up.db, up.clock).tick(None)
    assert await _left(up) == before


async def test_a_broken_workspace_keeps_its_setting_also_over_a_restart(up: World) -> None:
    await Retaining(up.db, up.clock).tick(_state({"sales": {"logs": "300d", "runs": "300d", "events": "300d"}}))
    up.clock.advance(timedelta(days=100))
    await Retaining(up.db, up.clock).tick(_state({}, BROKEN))
    assert await _left(up) == {"log": ["sales"], "run": ["sales"], "event": ["sales"]}
    await Retaining(up.db, up.clock).tick(_state({}))
    assert await _left(up) == {"log": [], "run": [], "event": []}


async def test_a_span_beyond_all_time_keeps_everything(up: World) -> None:
    up.clock.advance(timedelta(days=400))
    forever = {"logs": "9000000d", "runs": "9000000d", "events": "9000000d", "versions": {"age": "9000000d"}}
    before = await _left(up)
    await Retaining(up.db, up.clock).tick(_state({WORKSPACE: forever, "sales": forever}))
    assert await _left(up) == before


async def _versions(world: World) -> list[int]:
    row = await world.row()
    return [v.number for v in reversed(await world.read(lambda tx: history.versions(tx, row.id, 100)))]


async def _export(world: World, number: int) -> dict[str, bytes]:
    row = await world.row()
    cut = await world.read(lambda tx: history.at_version(tx, row.id, number))
    entity = next(e for e in await world.read(lambda tx: history.entities(tx, row.id)) if e.name == "tickets")
    return {e.key: e.payload for e in (await world.read(lambda tx: history.records(tx, cut, entity.id)))[0]}


@pytest.fixture
async def many(up: World) -> World:
    """Six versions, a day apart; ticket 2 is gone since the third."""
    await up.db.write(lambda tx: tx.execute("UPDATE integration SET workspace = :w", {"w": WORKSPACE}))
    for day in range(6):
        ids = (1, 3, *range(10, 10 + day)) if day >= 2 else (1, 2, 3)
        up.remote().pages["tickets"] = [tickets(*ids, step=day)]
        up.clock.advance(timedelta(days=1))
        await up.sync(scope=Scope.FULL)
    await up.router.route()
    return up


@pytest.mark.parametrize(
    ("versions", "kept"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"keep": 2}, [5, 6]),
        ({"keep": 1}, [6]),
        ({"age": "2d12h"}, [4, 5, 6]),
        ({"age": "1h", "keep": 3}, [6]),
        ({"age": "100d", "keep": 4}, [3, 4, 5, 6]),
    ],
)
async def test_versions_go_by_count_and_age_and_those_that_stay_are_as_they_were(
    many: World, versions: dict[str, Any], kept: list[int]
) -> None:
    many.clock.advance(timedelta(hours=2))
    before = {number: await _export(many, number) for number in kept}
    await Retaining(many.db, many.clock).tick(_state({WORKSPACE: {"versions": versions}}))
    assert await _versions(many) == kept
    assert {number: await _export(many, number) for number in kept} == before
    if kept[0] > 1:
        with pytest.raises(NotKeptError, match=f"version 1 is older than kept; the oldest is {kept[0]} of"):
            await _export(many, 1)
    if kept[0] > 3:
        stored = await many.read(lambda tx: tx.value("SELECT count(*) FROM version WHERE key = '2'"))
        assert stored == 0
    many.remote().pages["tickets"] = [tickets(1, 2, 3, step=9)]
    run = await many.sync()
    assert (run.result, run.dataset_version) == ("success", 7)
    assert json.loads((await _export(many, 7))["2"])["step"] == 9


async def test_what_is_not_routed_yet_stays_with_what_it_replaced(many: World) -> None:
    row = await many.row()
    await many.db.write(lambda tx: tx.execute("UPDATE integration SET routed_seq = 0"))
    count = "SELECT count(*) FROM version"
    before = await many.read(lambda tx: tx.value(count))
    desired = _state({WORKSPACE: {"versions": {"keep": 1}}})
    await Retaining(many.db, many.clock).tick(desired)
    assert (await many.read(lambda tx: tx.value(count)), await _versions(many)) == (before, [6])
    await many.db.write(lambda tx: tx.execute("UPDATE integration SET routed_seq = seq"))
    await Retaining(many.db, many.clock).tick(desired)
    assert await many.read(lambda tx: tx.value(count)) < before
    assert len(await _export(many, 6)) == 7
    assert (await many.row()).id == row.id


async def test_a_version_that_is_brought_back_stays_meanwhile(many: World) -> None:
    row, at = await many.row(), rfc3339(many.clock.now())
    run = await many.db.write(lambda tx: rollback.begin(tx, row.id, 2, at, emits_events=False))
    desired = _state({WORKSPACE: {"versions": {"keep": 1}}})
    await Retaining(many.db, many.clock).tick(desired)
    assert await _versions(many) == [1, 2, 3, 4, 5, 6]
    wanted = await _export(many, 2)
    assert (await many.go_on(run)).result == "success"
    await many.router.route()
    await Retaining(many.db, many.clock).tick(desired)
    assert (await _versions(many), await _export(many, 7)) == ([7], wanted)


async def test_a_cut_goes_in_bites(many: World, monkeypatch: pytest.MonkeyPatch) -> None:
    row = await many.row()
    (one,) = await many.read(lambda tx: retention.surplus(tx, retention.Tenants((WORKSPACE,), is_rest=False), 1, None))
    assert (one.integration_id, one.oldest) == (row.id, 6)
    bites = 1
    while await many.db.write(lambda tx: retention.cut_versions(tx, one, 4)):
        bites += 1
    assert bites > 3
    assert await many.read(lambda tx: retention.surplus(tx, retention.Tenants(), 1, None)) == []


def test_what_is_said_anew_is_due_at_once() -> None:
    retaining = Retaining(cast("Database", None), VirtualClock())
    turns = []
    for said in ({}, {}, {"sales": {"logs": "30d"}}, {"sales": {"logs": "30d"}}, {}):
        retaining.turned.clear()
        retaining.note(_state(said))
        turns.append(retaining.turned.is_set())
    assert turns == [True, False, True, False, True]
