"""Listings of keys alone: what is gone is found, nothing else is touched, and no incomplete listing says anything."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.control.schedule import Scheduler
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.record import Scope
from reconciler.sdk.contract import Deletes
from reconciler.sdk.errors import ForbiddenError, TransientError
from reconciler.store import jobs, runs
from reconciler.store.runs import Run
from reconciler.sync.run import MAX_RETRIES
from tests.desk import Desk, World, desired, in_pages, tickets

C = ConditionType
KEYED = (replace(Desk.entities[0], deletes=Deletes.KEYS), *Desk.entities[1:])


@pytest.fixture
async def up(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Twenty tickets are known, and all are there."""
    monkeypatch.setattr(Desk, "entities", KEYED)
    await world.wish(desired("desk", {"sync": {"every": "10m"}}))
    await world.reconcile()
    _there(world, *range(1, 21))
    await world.sync_due()
    return world


def _there(world: World, *ids: int) -> None:
    world.remote().pages["tickets"] = list(in_pages(tickets(*ids), 5))


async def _keys(world: World) -> list[str]:
    sql = "SELECT h.key FROM head h JOIN entity e ON e.id = h.entity_id WHERE e.name = 'tickets' AND h.deleted = 0"
    return sorted((k for (k,) in await world.read(lambda tx: tx.all(sql))), key=int)


async def _listed(world: World, **more: Any) -> Run:
    return await world.sync(scope=Scope.KEYS, **more)


async def test_what_is_gone_is_marked_and_nothing_else_is_written(up: World) -> None:
    before = await up.read(lambda tx: tx.all("SELECT number FROM version"))
    stored = await up.read(lambda tx: tuple(tx.one("SELECT * FROM entity WHERE name = 'tickets'") or ()))
    row = await up.row()
    up.clock.advance(timedelta(hours=1))
    _there(up, *range(1, 18))
    run = await _listed(up)
    c = run.counts
    assert (run.result, c.listed, c.deleted, c.missing) == ("success", 17, 3, 0)
    assert (c.added, c.updated, c.unchanged) == (0, 0, 0)
    assert (run.scope, run.dataset_version) == (Scope.KEYS, 2)
    assert len(await _keys(up)) == 17
    after = await up.read(lambda tx: tx.all("SELECT op, payload FROM version ORDER BY number"))
    assert [tuple(v) for v in after[len(before) :]] == [(3, None)] * 3
    now = await up.read(lambda tx: tuple(tx.one("SELECT * FROM entity WHERE name = 'tickets'") or ()))
    assert [a for a, b in zip(stored, now, strict=True) if a != b] == [20], "only the count of records moves"
    assert [name for name, r in up.remote().asked if r.scope is Scope.KEYS] == ["tickets"]
    assert (await up.row()).last_sync_at == row.last_sync_at, "what records hold is no fresher than before"
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM seen_page")) == 0


async def test_too_much_waits_for_a_person(up: World) -> None:
    _there(up, 1, 2)
    refused = await _listed(up)
    assert (refused.result, refused.reason, len(await _keys(up))) == ("partial", Reason.PRUNE_BLOCKED, 20)
    assert "reconciler sync NAME --scope keys --allow-deletes" in refused.error
    assert (await up.said())[C.FRESH].truth is Truth.FALSE
    assert (await up.row()).last_sync_result == "partial"
    assert (await _listed(up, allow_deletes=True)).counts.deleted == 18
    assert ((await up.said())[C.FRESH].truth, (await up.row()).last_sync_result) == (Truth.TRUE, "success")


async def test_a_good_listing_does_not_make_up_for_a_bad_sync(up: World) -> None:
    up.remote().forever["people"] = ForbiddenError("403")
    assert (await up.sync()).result == "partial"
    assert (await _listed(up)).result == "success"
    assert ((await up.said())[C.FRESH].truth, (await up.row()).last_sync_result) == (Truth.FALSE, "partial")


@pytest.mark.parametrize("error", [TransientError("down"), ForbiddenError("403")])
async def test_an_incomplete_listing_sweeps_nothing(up: World, error: Exception) -> None:
    _there(up, *range(1, 18))
    up.remote().faults["tickets", 2] += [error] * (MAX_RETRIES + 1)
    run = await _listed(up)
    assert (run.result, run.counts.deleted, len(await _keys(up))) == ("failed", 0, 20)


async def test_a_key_that_cannot_be_read_sweeps_nothing(up: World) -> None:
    up.remote().pages["tickets"] = [[*tickets(*range(1, 18)), {"title": "whose key we may not see"}]]
    run = await _listed(up)
    assert (run.result, run.counts.deleted, run.counts.rejected) == ("failed", 0, 0)
    assert "nobody can tell who is gone" in run.error


async def test_a_killed_listing_goes_on_behind_its_last_page(up: World) -> None:
    _there(up, *range(1, 18))
    run = await up.make_run(scope=Scope.KEYS)

    async def die() -> None:
        raise asyncio.CancelledError

    up.remote().faults["tickets", 2].append(die)
    async with up.claimed("sync", run.id, run.integration_id) as (job, claim):
        with pytest.raises(asyncio.CancelledError):
            await up.syncer.run(job, claim)
    assert len(await _keys(up)) == 20
    done = await up.go_on(run)
    assert (done.result, done.attempts, done.counts.listed, done.counts.deleted) == ("success", 2, 17, 3)
    assert up.remote().asked[-1][1].resume is not None


async def test_cancelled_at_the_next_page(up: World) -> None:
    _there(up, *range(1, 18))
    run = await up.make_run(scope=Scope.KEYS)

    async def cancel() -> None:
        await up.db.write(lambda tx: runs.cancel(tx, run.id, Reason.CANCELLED))

    up.remote().faults["tickets", 2].append(cancel)
    assert ((await up.go_on(run)).result, len(await _keys(up))) == ("cancelled", 20)


@pytest.mark.parametrize("scope", [Scope.KEYS, Scope.FULL])
async def test_what_another_run_brought_meanwhile_is_not_taken_for_gone(up: World, scope: Scope) -> None:
    """The first page is past when a record appears on it; a sync of that hour stores it; then the listing goes on."""
    up.remote().faults["tickets", 1].append(TransientError("busy", retry_after=timedelta(minutes=20)))
    paused = await up.sync(scope=scope)
    assert paused.state == "due"
    whole = up.remote().pages["tickets"]
    up.remote().pages["tickets"] = [tickets(77)]
    assert (await up.sync()).counts.added == 1
    up.remote().pages["tickets"] = whole
    done = await up.go_on(paused)
    assert (done.result, done.counts.deleted, "77" in await _keys(up)) == ("success", 0, True)
    assert (await _listed(up)).counts.deleted == 1


async def test_a_reconcile_goes_first(up: World) -> None:
    row, now = await up.row(), up.clock.now()
    run = await up.make_run(scope=Scope.KEYS)

    async def changed() -> None:
        await up.db.write(lambda tx: jobs.put(tx, "reconcile", str(row.id), str(row.id), 10, now))

    up.remote().faults["tickets", 1].append(changed)
    assert (await up.go_on(run)).state == "due"
    await up.reconcile()
    assert (await up.go_on(run)).result == "success"


async def test_what_only_a_full_run_would_bring_is_counted(up: World) -> None:
    """Behind the checkpoint less the overlap the next sync sees it; what is older, or has no time, it does not."""
    stored = "2026-03-02T09:20:00Z"
    up.remote().pages["tickets"] = [
        [*tickets(*range(1, 21)), *tickets(90, at="2026-03-02T08:00:00Z"), *tickets(91, at=stored), {"id": "92"}]
    ]
    run = await _listed(up)
    assert (run.result, run.counts.missing, run.counts.deleted) == ("success", 2, 0)
    ((_, said, detail),) = [line for line in up.journal.lines if "not here" in line[1]]
    assert said.endswith("2 records")
    assert detail["remedy"] == "reconciler sync it-ops/desk --scope full"
    assert (await up.sync(scope=Scope.FULL)).counts.added == 3
    assert (await _listed(up)).counts.missing == 0


async def test_a_deleted_record_that_returns_is_missing_until_it_is_read(up: World) -> None:
    _there(up, *range(1, 20))
    assert (await _listed(up)).counts.deleted == 1
    up.remote().pages["tickets"] = [[*tickets(*range(1, 20)), *tickets(20, at="2026-03-01T09:00:00Z")]]
    again = await _listed(up)
    assert (again.counts.missing, again.counts.deleted, len(await _keys(up))) == (1, 0, 19)
    assert (await up.sync(scope=Scope.FULL)).counts.added == 1
    assert len(await _keys(up)) == 20


async def test_rejects_are_not_missing(up: World) -> None:
    await up.db.write(
        lambda tx: tx.execute(
            "INSERT INTO reject (run_id, entity_id, key, payload, violations, at) SELECT 1, id, '90', :p, '[]', 'x'"
            " FROM entity WHERE name = 'tickets'",
            {"p": b"{}"},
        )
    )
    up.remote().pages["tickets"] = [[*tickets(*range(1, 21)), *tickets(90, at="2026-03-02T08:00:00Z")]]
    assert (await _listed(up)).counts.missing == 0


async def test_before_the_first_read_nothing_is_gone_or_missing(up: World) -> None:
    await up.db.write(lambda tx: tx.execute("UPDATE entity SET completed_at = NULL, watermarks = '{}'"))
    _there(up, 1, 2, 99)
    run = await _listed(up)
    assert (run.result, run.counts.listed, run.counts.deleted, run.counts.missing) == ("success", 3, 0, 0)
    silent = await up.read(lambda tx: tx.value("SELECT completed_at FROM entity WHERE name = 'tickets'"))
    assert silent is None, "the first read is still to come"


async def test_what_lists_no_keys_is_refused(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await _listed(up, entities=["people"])
    assert (run.result, run.reason) == ("failed", Reason.VALIDATION_FAILED)
    assert "desk lists no keys alone of people; use --scope full" in run.error


# The schedule.


def _scheduler(world: World) -> Scheduler:
    return Scheduler(world.db, world.book, world.clock, world.random, lambda: None)


async def _tick_until(world: World, hours: int) -> list[Scope]:
    """The scopes of the runs that so many hours bring when the clock ticks every three."""
    scopes = []
    for _ in range(hours // 3):
        world.clock.advance(timedelta(hours=3))
        await _scheduler(world).tick()
        scopes += [run.scope for run in await world.sync_due()]
    return scopes


async def test_keys_are_listed_once_a_day_beside_the_syncs(up: World) -> None:
    scopes = await _tick_until(up, 48)
    assert (scopes.count(Scope.KEYS), scopes.count(Scope.INCREMENTAL)) == (2, 16)


@pytest.mark.parametrize(
    ("sync", "listings"),
    [
        ({"every": "1h", "deletions": {"every": "6h"}}, 4),
        ({"every": "1h", "deletions": {"enabled": False}}, 0),
        ({"every": "1h", "scope": "full"}, 0),
        ({}, 0),
        ({"deletions": {"schedule": "30 3 * * *"}}, 1),
    ],
)
async def test_the_manifest_says_how_often(up: World, sync: dict[str, object], listings: int) -> None:
    await up.wish(desired("desk", {"sync": sync}), revision="r2")
    await up.reconcile()
    assert (await _tick_until(up, 24)).count(Scope.KEYS) == listings


async def test_an_entity_that_cannot_is_not_listed(world: World) -> None:
    await world.up(sync={"every": "1h"})
    assert (await world.row()).next_keys_at is None


async def test_a_manifest_that_changes_every_day_does_not_put_it_off(up: World) -> None:
    scopes = []
    for day in range(4):
        await up.wish(desired("desk", {"sync": {"every": f"{day + 1}h"}}), revision=f"r{day + 2}")
        await up.reconcile()
        scopes += await _tick_until(up, 18)
    assert scopes.count(Scope.KEYS) >= 2


async def test_a_listing_waits_for_no_sync_and_a_sync_for_no_listing(up: World) -> None:
    row = await up.row()
    await up.db.write(lambda tx: tx.execute("UPDATE integration SET next_keys_at = next_sync_at"))
    up.clock.advance(timedelta(hours=1))
    await _scheduler(up).tick()
    up.clock.advance(timedelta(hours=30))
    await _scheduler(up).tick()
    found = await up.read(lambda tx: runs.open_runs(tx, row.id))
    assert sorted(run.scope for run in found) == [Scope.INCREMENTAL, Scope.KEYS]


async def test_a_full_run_stands_for_a_listing(up: World) -> None:
    row = await up.row()
    await up.make_run(scope=Scope.FULL)
    up.clock.advance(timedelta(hours=30))
    await _scheduler(up).tick()
    assert [run.scope for run in await up.read(lambda tx: runs.open_runs(tx, row.id))] == [Scope.FULL]


async def test_a_disconnected_integration_lists_nothing(up: World) -> None:
    assert (await up.row()).next_keys_at is not None
    await up.wish(desired("desk", {"enabled": False, "sync": {"every": "10m"}}), revision="r2")
    await up.reconcile()
    assert (await up.row()).next_keys_at is None
