"""Rollbacks as runs: what they bring back, what they tell, and what is left of them when somebody interferes."""

from collections.abc import Mapping

import pytest

from reconciler.control.schedule import make_run
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason
from reconciler.model.record import Scope
from reconciler.sdk.live import NotConnectableError
from reconciler.store import history, rollback, runs
from reconciler.store.database import Tx
from reconciler.store.dataset import FencedError
from reconciler.store.rollback import Place
from reconciler.store.runs import NewRun, Run
from tests.desk import World, desired, tickets

WANTS = {
    "name": "s",
    "event_type": "ticket.*",
    "action": "safe",
    "template": "{{ event.type }} {{ event.key }} was {{ previous.title }}, changed {{ changed | join: ',' }}",
}


@pytest.fixture
async def up(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Version 1: tickets 1 to 6 and people 1, 2. Version 2: 1 and 2 gone, 3 and 4 changed, 7 and 8 new, nobody there."""
    monkeypatch.setattr(rollback, "STRETCH", 2)
    remote = world.remote()
    remote.pages["tickets"], remote.pages["people"] = [tickets(*range(1, 7))], [tickets(1, 2)]
    await world.wish(desired("desk"), desired("target", {"synchronizations": [WANTS]}))
    for name in ("desk", "target"):
        await world.reconcile(name)
        await world.sync_due(name)
    changed = [t | {"title": "changed"} for t in tickets(3, 4)]
    remote.pages["tickets"], remote.pages["people"] = [[*changed, *tickets(5, 6, 7, 8)]], [[]]
    await world.sync(scope=Scope.FULL)
    await world.router.route()
    await world.db.write(lambda tx: tx.execute("DELETE FROM delivery"))
    return world


async def begin(world: World, number: int = 1, *, emits_events: bool = False) -> Run:
    row, at = await world.row(), rfc3339(world.clock.now())
    return await world.db.write(lambda tx: rollback.begin(tx, row.id, number, at, emits_events=emits_events))


async def held(world: World, number: int | None = None) -> Mapping[tuple[str, str], bytes]:
    """Everything at a version, or now."""
    row = await world.row()

    def read(tx: Tx) -> dict[tuple[str, str], bytes]:
        cut = history.at_version(tx, row.id, number) if number else history.at_present(tx, row.id, "")
        return {
            (e.name, r.key): r.payload
            for e in history.entities(tx, row.id)
            for r in history.records(tx, cut, e.id)[0]
        }  # fmt: skip

    return await world.read(read)


async def test_everything_is_as_it_was_in_one_new_version_and_nobody_is_told(up: World) -> None:
    run = await up.go_on(await begin(up))
    c = run.counts
    assert (run.result, run.dataset_version, c.added, c.updated, c.deleted) == ("success", 3, 4, 2, 2)
    assert await held(up) == await held(up, 1) == await held(up, 3) != await held(up, 2)
    await up.router.route()
    assert await up.deliveries() == []
    assert "rollback to version 1 success" in [message for _, message, _ in up.journal.lines]


async def test_asked_to_tell_it_tells_in_the_words_of_a_sync(up: World) -> None:
    await up.go_on(await begin(up, emits_events=True))
    await up.router.route()
    assert sorted(d.fields["text"] for d in await up.deliveries()) == [
        "ticket.created 1 was , changed ",
        "ticket.created 2 was , changed ",
        "ticket.deleted 7 was ticket 7, changed ",
        "ticket.deleted 8 was ticket 8, changed ",
        "ticket.updated 3 was changed, changed title",
        "ticket.updated 4 was changed, changed title",
    ]


async def test_it_says_nothing_of_how_fresh_the_records_are(up: World) -> None:
    before, said = await up.row(), await up.said()
    up.connections.unusable["desk"] = NotConnectableError(Reason.SECRET_MISSING, "no remote is asked")
    await up.go_on(await begin(up))
    after = await up.row()
    assert (after.last_sync_at, after.last_sync_result, after.total_syncs) == (
        before.last_sync_at, before.last_sync_result, before.total_syncs,
    )  # fmt: skip
    assert (await up.said())[ConditionType.FRESH] == said[ConditionType.FRESH]
    assert (await up.events()).count("sync.completed") == 3


async def test_an_incremental_sync_leaves_it_and_a_full_one_brings_the_remote_back(up: World) -> None:
    await up.go_on(await begin(up))
    up.remote().pages["tickets"] = [[]]  # nothing has changed there since the checkpoint
    assert (await up.sync(entities=("tickets",))).counts.changed == 0
    asked = up.remote().asked[-1][1]
    assert asked.since == {"": "2026-03-02T09:08:00.000000Z"}
    changed = [t | {"title": "changed"} for t in tickets(3, 4)]
    up.remote().pages["tickets"] = [[*changed, *tickets(5, 6, 7, 8)]]
    await up.sync(scope=Scope.FULL)
    assert await held(up) == await held(up, 2)


async def _stretches(world: World, run: Run, count: int, fence: int) -> Run:
    """A worker that is killed after so many of them."""
    taken = await world.db.write(lambda tx: rollback.take(tx, run, fence, "t"))
    assert taken is not None
    place: Place | None = (await world.read(lambda tx: rollback.places(tx, taken)))[0]
    for _ in range(count):
        assert place is not None
        at = place
        place = await world.db.write(lambda tx: rollback.restore_next(tx, taken, at, "t"))  # noqa: B023
    return taken


async def test_killed_half_way_it_goes_on_and_makes_one_version(up: World) -> None:
    run = await begin(up)
    await _stretches(up, run, 2, fence=1)
    assert await held(up) not in (await held(up, 1), await held(up, 2))
    done = await up.go_on(run)
    assert (done.result, done.dataset_version, done.counts.changed) == ("success", 3, 8)
    assert await held(up) == await held(up, 1)


async def test_a_worker_that_was_taken_over_writes_nothing_more(up: World) -> None:
    run = await begin(up)
    old = await _stretches(up, run, 1, fence=1)
    await up.go_on(run)
    place = Place(1, "", True, 0)
    with pytest.raises(FencedError):
        await up.db.write(lambda tx: rollback.restore_next(tx, old, place, "t"))


async def test_cancelled_half_way_what_was_restored_is_a_version_of_its_own(up: World) -> None:
    run = await begin(up)
    await _stretches(up, run, 1, fence=1)
    await up.db.write(lambda tx: runs.cancel(tx, run.id, "Cancelled"))
    done = await up.go_on(run)
    assert (done.result, done.dataset_version, done.counts.changed) == ("cancelled", 3, 2)
    assert await held(up) == await held(up, 3)
    await up.go_on(await begin(up, 2))
    assert await held(up) == await held(up, 2)


async def test_a_target_that_retention_took_meanwhile_fails_it(up: World) -> None:
    run = await begin(up)
    await up.db.write(lambda tx: tx.execute("DELETE FROM dataset_version WHERE number = 1"))
    done = await up.go_on(run)
    assert (done.result, done.dataset_version) == ("failed", None)
    assert done.error.startswith("version 1 is older than kept; the oldest is 2 of ")
    assert await held(up) == await held(up, 2)


async def test_rolled_back_and_forward_again(up: World) -> None:
    await up.go_on(await begin(up, 1))
    await up.go_on(await begin(up, 2))
    assert await held(up) == await held(up, 2)
    assert (await up.go_on(await begin(up, 2))).dataset_version is None
    await up.go_on(await begin(up, 3))
    assert await held(up) == await held(up, 1)


async def test_a_scheduled_sync_waits_until_it_has_ended(up: World) -> None:
    run, row, now = await begin(up), await up.row(), up.clock.now()
    tick = NewRun(row.id, Scope.INCREMENTAL, "schedule")
    assert await up.db.write(lambda tx: make_run(tx, tick, 50, now)) == run.public_id
    await up.go_on(run)
    assert await up.db.write(lambda tx: make_run(tx, tick, 50, now)) != run.public_id
