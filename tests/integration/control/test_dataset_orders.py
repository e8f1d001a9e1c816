"""Orders about what was synced: who has to stop for them, what they answer, and what they leave for others to do."""

from datetime import timedelta
from typing import Any

import pytest

from reconciler.control import holdup
from reconciler.control.carried import Asked, Carried
from reconciler.control.orders import Orders
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason
from reconciler.model.record import Page, Scope
from reconciler.sdk.errors import TransientError
from reconciler.store import dataset, history, journal, runs, scrub
from reconciler.store.dataset import FencedError, PageCommit
from reconciler.store.runs import Lineage, Run
from tests.desk import World, desired, tickets


async def _ask(world: World, kind: str, name: str | None = "desk", **params: Any) -> tuple[dict[str, Any], Carried]:
    row_id = (await world.row(name)).id if name else None
    at = rfc3339(world.clock.now())
    public = await world.db.write(lambda tx: journal.ask(tx, kind, row_id, params, "ada", at))
    (carried,) = await Orders(world.db, world.clock).tick()
    answer = await world.read(lambda tx: journal.answer_of(tx, public))
    return dict(answer or {}), carried


async def _run(world: World, public_id: str) -> Run:
    run = await world.read(lambda tx: runs.find(tx, public_id))
    assert run is not None
    return run


@pytest.fixture
async def up(world: World) -> World:
    """Version 1 has tickets 1 to 3."""
    world.remote().pages["tickets"] = [tickets(1, 2, 3)]
    await world.up()
    return world


async def _half_read(world: World) -> Run:
    """A sync that has stored a page and waits for its remote."""
    world.remote().pages["tickets"] = [tickets(1, 2, 3, 4), tickets(5)]
    world.remote().faults["tickets", 1].append(TransientError("later", retry_after=timedelta(minutes=20)))
    run = await world.sync(scope=Scope.FULL)
    assert run.state == "due"
    return run


async def _versions(world: World) -> list[tuple[int, int | None, int]]:
    row = await world.row()
    found = await world.read(lambda tx: history.versions(tx, row.id, 10))
    return [(v.number, v.restores, v.counts.changed) for v in reversed(found)]


async def test_a_rollback_ends_the_sync_under_way_and_keeps_what_it_stored(up: World) -> None:
    half = await _half_read(up)
    answer, carried = await _ask(up, "rollback", version=1)
    run = await _run(up, answer["run"])
    assert (run.restores, run.state, carried.start, carried.stop) == (
        1, "due", (Asked("sync", str(run.id)),), (Asked("sync", str(half.id)),),
    )  # fmt: skip
    assert (await up.go_on(half)).result == "cancelled"
    await up.go_on(run)
    assert await _versions(up) == [(1, None, 3), (2, None, 1), (3, 1, 1)]
    (line,) = await up.read(lambda tx: journal.logs(tx, half.integration_id, run_id=half.id, level="info"))
    assert (line.message, line.detail["reason"], line.detail["added"]) == ("sync cancelled", "Cancelled", 1)


async def test_suspended_with_it_the_rollback_still_happens(up: World) -> None:
    up.remote().pages["tickets"] = [tickets(1, 2, 3, 4)]
    await up.sync()
    half = await _half_read(up)
    answer, carried = await _ask(up, "rollback", version=1, suspend=True)
    assert [asked.kind for asked in carried.start] == ["reconcile", "sync"]
    await up.reconcile()
    said = (await up.said())[ConditionType.CONNECTED]
    assert (said.reason, said.message) == (Reason.SUSPENDED, "suspended by ada: rolled back to version 1")
    waiting = await _run(up, answer["run"])
    assert await up.read(lambda tx: holdup.of_run(tx, waiting, up.clock.now())) is None
    done = await up.go_on(waiting)
    assert (done.result, done.counts.deleted) == ("success", 1)
    assert (await up.go_on(half)).result == "cancelled"
    assert (await _ask(up, "sync"))[0]["ok"] is False


async def test_a_suspension_by_order_lets_a_rollback_end(up: World) -> None:
    up.remote().pages["tickets"] = [tickets(1, 2, 3, 4)]
    await up.sync()
    answer, _ = await _ask(up, "rollback", version=1)
    _, carried = await _ask(up, "suspend", reason="move")
    assert carried.stop == ()
    assert (await up.go_on(await _run(up, answer["run"]))).result == "success"


async def test_a_suspension_in_git_lets_a_rollback_end(up: World) -> None:
    up.remote().pages["tickets"] = [tickets(1, 2, 3, 4)]
    await up.sync()
    answer, _ = await _ask(up, "rollback", version=1)
    await up.wish(desired("desk", {"suspend": True}), revision="r2")
    assert (await up.go_on(await _run(up, answer["run"]))).result == "success"


async def test_letting_go_ends_a_rollback(up: World) -> None:
    answer, _ = await _ask(up, "rollback", version=1)
    await up.wish(desired("other"), revision="r2")
    await up.reconcile()
    assert (await _run(up, answer["run"])).result == "cancelled"


@pytest.mark.parametrize("params", [{}, {"version": 9}, {"version": 0}, {"version": "x"}])
async def test_a_rollback_to_nowhere_is_refused_and_ends_no_sync(up: World, params: dict[str, Any]) -> None:
    half = await _half_read(up)
    answer, carried = await _ask(up, "rollback", **params)
    assert (answer["ok"], carried.stop, (await _run(up, half.public_id)).state) == (False, (), "due")


async def test_a_daemon_that_only_observes_starts_no_rollback(up: World) -> None:
    row, at = await up.row(), rfc3339(up.clock.now())
    public = await up.db.write(lambda tx: journal.ask(tx, "rollback", row.id, {"version": 1}, "ada", at))
    await Orders(up.db, up.clock, is_observing=True).tick()
    answer = await up.read(lambda tx: journal.answer_of(tx, public)) or {}
    assert "only observes" in answer["error"]
    assert await up.read(lambda tx: runs.open_runs(tx, row.id)) == []


async def test_an_order_to_erase_names_nobody_afterwards(up: World) -> None:
    answer, _ = await _ask(up, "erase", keys=["2"], entity=None)
    assert answer == {"ok": True, "records": 1, "versions": 1, "rejects": 0, "deliveries": 0, "log_lines": 0}
    assert (await _ask(up, "erase", keys=["nobody@example.org"]))[0]["versions"] == 0
    assert (await _ask(up, "erase", name=None, keys=["nobody@example.org"]))[0]["ok"] is False
    assert await up.read(lambda tx: {p for (p,) in tx.all("SELECT params FROM request WHERE kind = 'erase'")}) == {"{}"}
    row = await up.row()
    (line, *_) = await up.read(lambda tx: journal.logs(tx, row.id))
    assert (line.message, line.detail["records"], line.detail["requested_by"]) == ("records erased", 1, "ada")
    assert await up.read(lambda tx: scrub.is_due(tx) or tx.dialect == "postgresql")


async def test_erasing_takes_back_what_was_said_of_a_failing_delivery(up: World) -> None:
    wanted = {"name": "s", "event_type": "ticket.created", "action": "safe", "template": "{{ record.title }}"}
    await up.wish(desired("desk"), desired("target", {"synchronizations": [wanted]}), revision="r2")
    await up.reconcile("target")
    up.remote().pages["tickets"] = [tickets(7)]
    await up.sync()
    await up.router.route()
    up.remote("target").answers.append(TransientError("ticket 7 cannot be taken"))
    (made,) = await up.deliveries()
    await up.work("deliver", made.id, made.integration_id)
    assert "ticket 7" in (await up.said("target"))[ConditionType.DELIVERING].message
    await _ask(up, "erase", keys=["7"])
    assert ConditionType.DELIVERING not in await up.said("target")
    answer, _ = await _ask(up, "retry-delivery", name=None, delivery=made.public_id)
    assert answer["error"] == f"{made.public_id} cannot be sent again: its content was erased"


async def test_a_purge_stops_the_sync_and_leaves_no_version_of_it(up: World) -> None:
    half = await _half_read(up)
    answer, carried = await _ask(up, "purge")
    assert (answer["records"], answer["versions"]) == (4, 4)
    assert carried.stop == (Asked("sync", str(half.id)),)
    assert (await up.go_on(half)).result == "cancelled"
    assert await _versions(up) == []
    up.remote().faults.clear()
    again = await up.sync()
    assert (again.result, again.counts.added) == ("success", 5)
    assert await _versions(up) == [(1, None, 5)]


async def test_a_page_that_is_on_its_way_when_everything_is_purged_is_not_stored(up: World) -> None:
    half, row, at = await _half_read(up), await up.row(), rfc3339(up.clock.now())
    running = await up.db.write(lambda tx: runs.start(tx, half.id, half.fence + 1, Lineage(1, "r", "h", "1"), at))
    assert running is not None
    progress = await up.db.write(lambda tx: runs.open_entity(tx, running, "tickets", True))
    await _ask(up, "purge")
    assert (await _run(up, half.public_id)).result == "cancelled"
    commit = PageCommit(running.id, running.fence, row.id, progress.entity_id, 2, True, True, at)
    with pytest.raises(FencedError):
        await up.db.write(lambda tx: dataset.commit_page(tx, commit, Page(("5",), (b"{}",))))
    assert await _versions(up) == []


async def test_what_git_no_longer_names_can_be_purged_but_not_rolled_back(up: World) -> None:
    await up.wish(desired("other"), revision="r2")
    await up.reconcile()
    assert (await _ask(up, "rollback", version=1))[0]["error"] == "no such integration"
    assert (await _ask(up, "purge"))[0]["records"] == 3
