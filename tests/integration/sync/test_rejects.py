"""Records that cannot be taken: kept once and bounded, tried again by a run of its own, forgotten when a sync takes them."""

import json
from datetime import timedelta
from typing import Any

import pytest

from reconciler.control.orders import Orders
from reconciler.control.schedule import make_run
from reconciler.model.clock import rfc3339
from reconciler.model.record import Page, Scope
from reconciler.sdk.contract import Entity
from reconciler.sdk.errors import RejectedError, TransientError
from reconciler.store import history, journal, rejects, retention, runs
from reconciler.store.rejects import Kept
from reconciler.store.retention import Moments, Tenants
from reconciler.store.runs import NewRun, Run
from tests.desk import Desk, World, desired, tickets

NAMELESS = {"at": "2026-03-02T10:00:00Z", "title": "whose key we may not see"}


@pytest.fixture
async def up(world: World) -> World:
    """Connected, with tickets 1 and 2."""
    world.remote().pages["tickets"] = [tickets(1, 2)]
    await world.up()
    return world


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer connector takes the title where there is no id."""
    monkeypatch.setattr(Desk, "retake", _by_title)


def _by_title(_: Desk, entity: Entity, payload: bytes, key: str, listing: str) -> Page:
    assert (entity.name, listing) == ("tickets", "")
    title = json.loads(payload)["title"]
    if title == "cursed":
        raise KeyError("canary")
    if title == "refused":
        raise RejectedError("still nothing to go by")
    return Page((), (), deleted=(title,)) if title == "gone" else Page((title,), (payload,))


async def _kept(world: World, name: str = "desk") -> list[Kept]:
    row = await world.row(name)
    return await world.read(lambda tx: rejects.listing(tx, row.id, None, 2000))


async def _reject(world: World, *records: dict[str, Any], **more: Any) -> Run:
    world.remote().pages["tickets"] = [[*tickets(1, 2), *records]]
    return await world.sync(**more)


async def _order(world: World, name: str = "desk", **params: Any) -> dict[str, Any]:
    row, at = await world.row(name), rfc3339(world.clock.now())
    public = await world.db.write(lambda tx: journal.ask(tx, "replay", row.id, params, "ada", at))
    await Orders(world.db, world.clock).tick()
    answer = await world.read(lambda tx: journal.answer_of(tx, public))
    return dict(answer or {})


async def _replay(world: World, **params: Any) -> Run:
    answer = await _order(world, **params)
    run = await world.read(lambda tx: runs.find(tx, answer["run"]))
    assert run is not None
    return await world.go_on(run)


async def _watermark(world: World) -> str:
    return str(await world.read(lambda tx: tx.value("SELECT watermarks FROM entity WHERE name = 'tickets'")))


async def _records(world: World) -> dict[str, Any]:
    row = await world.row()
    entity = next(e for e in await world.read(lambda tx: history.entities(tx, row.id)) if e.name == "tickets")
    now = await world.read(lambda tx: history.at_present(tx, row.id, ""))
    found, _ = await world.read(lambda tx: history.records(tx, now, entity.id))
    return {e.key: json.loads(e.payload) for e in found}


async def test_what_comes_again_is_kept_once_with_the_run_that_met_it_last(up: World) -> None:
    await _reject(up, NAMELESS)
    up.clock.advance(timedelta(hours=1))
    again = await _reject(up, NAMELESS)
    (kept,) = await _kept(up)
    assert (kept.entity, kept.key, kept.violations, kept.run) == ("tickets", "", ("id is missing",), again.public_id)
    assert (json.loads(kept.payload), kept.at) == (NAMELESS, rfc3339(up.clock.now()))
    assert (again.result, again.counts.rejected) == ("success", 1)


async def test_the_number_kept_is_bounded_and_so_is_each(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "MOST_KEPT", 3)
    monkeypatch.setattr(rejects, "MOST_BYTES", 100)
    run = await _reject(up, *({"title": f"no {n}"} for n in range(5)), {"title": "x" * 200})
    kept = await _kept(up)
    assert run.counts.rejected == 6
    assert [json.loads(k.payload).get("title") for k in kept] == [None, "no 4", "no 3"]
    assert [k.is_whole for k in kept] == [False, True, True]


async def test_the_log_names_a_few_of_a_page_and_how_many_more(up: World) -> None:
    await _reject(up, *({"title": f"no {n}"} for n in range(25)))
    said = [message for _, message, _ in up.journal.lines if "rejected" in message]
    assert said == ["record rejected"] * 20 + [
        "5 more records of the page rejected; see: reconciler rejects it-ops/desk"
    ]


async def test_what_fields_leave_out_is_not_kept_either(up: World) -> None:
    fields = {"exclude": ["phone"], "mask": ["mail"]}
    await up.wish(desired("desk", {"sync": {"fields": fields}}), revision="r2")
    await up.reconcile()
    await _reject(up, {**NAMELESS, "phone": "canary", "mail": "canary"})
    (kept,) = await _kept(up)
    assert json.loads(kept.payload) == {**NAMELESS, "mail": "********"}


async def test_a_replay_takes_in_what_passes_as_a_version_and_keeps_the_rest(up: World, mended: None) -> None:
    others = [{"title": t} for t in ("refused", "cursed", "gone")]
    await _reject(up, {**NAMELESS, "title": "Lost"}, *others)
    run = await _replay(up)
    assert (run.result, run.counts.added, run.counts.rejected, run.is_replay) == ("success", 1, 2, True)
    version = await up.read(lambda tx: history.version(tx, run.integration_id, run.dataset_version or 0))
    assert (version.run, version.counts.added) == (run.public_id, 1)
    assert (await _records(up))["Lost"] == {**NAMELESS, "title": "Lost"}
    left = {json.loads(k.payload)["title"]: k.violations for k in await _kept(up)}
    assert left["refused"] == ("still nothing to go by",)
    assert left["cursed"][0].startswith("unexpected KeyError")
    assert "canary" not in left["cursed"][0]


async def test_a_replay_says_nothing_of_how_fresh_the_records_are(up: World, mended: None) -> None:
    await _reject(up, {**NAMELESS, "title": "Lost"})
    before, events, mark = await up.row(), await up.events(), await _watermark(up)
    up.clock.advance(timedelta(hours=1))
    await _replay(up)
    after = await up.row()
    assert (after.last_sync_at, after.total_syncs, await up.events()) == (
        before.last_sync_at,
        before.total_syncs,
        events,
    )
    assert await _watermark(up) == mark


async def test_what_a_sync_has_brought_since_then_is_not_undone(up: World, mended: None) -> None:
    await _reject(up, {**NAMELESS, "title": "3"})
    up.clock.advance(timedelta(hours=1))
    up.remote().pages["tickets"] = [tickets(1, 2, 3)]
    await up.sync()
    run = await _replay(up)
    assert (run.counts.changed, run.counts.rejected, await _kept(up)) == (0, 0, [])
    assert (await _records(up))["3"]["title"] == "ticket 3"


async def test_without_a_mended_connector_all_stay(up: World) -> None:
    await _reject(up, NAMELESS)
    run = await _replay(up)
    assert (run.result, run.counts.rejected, run.dataset_version) == ("success", 1, None)
    assert [k.violations for k in await _kept(up)] == [("id: expected a string or an integer",)]


async def test_records_of_a_silent_first_sync_stay_silent(world: World, mended: None) -> None:
    world.remote().pages["tickets"] = [[{"title": "first"}]]
    await world.up()
    await _reject(world, {"title": "second"})
    await _replay(world)
    silent = {k: bool(s) for k, s in await world.read(lambda tx: tx.all("SELECT key, silent FROM version"))}
    assert (silent["first"], silent["second"]) == (True, False)


async def test_a_complete_full_read_forgets_what_it_did_not_meet(up: World) -> None:
    await _reject(up, NAMELESS, {"title": "other"})
    await _reject(up, NAMELESS)
    assert len(await _kept(up)) == 2
    await _reject(up, NAMELESS, scope=Scope.FULL)
    assert [json.loads(k.payload) for k in await _kept(up)] == [NAMELESS]


async def test_an_incomplete_full_read_forgets_nothing(up: World) -> None:
    await _reject(up, NAMELESS)
    up.remote().pages["tickets"] = [tickets(1), tickets(2)]
    up.remote().forever["tickets"] = TransientError("down")
    await up.sync(scope=Scope.FULL)
    assert len(await _kept(up)) == 1


async def test_a_replay_in_a_pause_of_a_full_read_leaves_it_unable_to_tell_who_is_gone(up: World, mended: None) -> None:
    """The record has come in behind the read's back: a sweep would take it for gone."""
    up.remote().pages["tickets"] = [[*tickets(1), {**NAMELESS, "title": "Lost"}], tickets(2)]
    up.remote().faults["tickets", 1].append(TransientError("later", retry_after=timedelta(minutes=20)))
    half = await up.sync(scope=Scope.FULL)
    assert (half.state, (await _replay(up)).counts.added) == ("due", 1)
    up.clock.advance(timedelta(minutes=20))
    assert (await up.go_on(half)).counts.deleted == 0
    assert set(await _records(up)) == {"1", "2", "Lost"}


async def test_a_replay_goes_on_where_it_was_killed(up: World, mended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rejects, "STRETCH", 2)
    await _reject(up, *({"title": f"t{n}"} for n in range(5)))
    answer = await _order(up)
    run = await up.read(lambda tx: runs.find(tx, answer["run"]))
    assert run is not None
    tried: list[str] = []

    def killed(desk: Desk, entity: Entity, payload: bytes, key: str, listing: str) -> Page:
        tried.append(json.loads(payload)["title"])
        if len(tried) == 4:
            raise KeyboardInterrupt
        return _by_title(desk, entity, payload, key, listing)

    monkeypatch.setattr(Desk, "retake", killed)
    with pytest.raises(KeyboardInterrupt):
        await up.go_on(run)
    done = await up.go_on(run)
    assert (done.result, done.counts.added, await _kept(up)) == ("success", 5, [])
    assert tried == ["t0", "t1", "t2", "t3", "t2", "t3", "t4"]


@pytest.mark.parametrize(
    ("params", "why"), [({}, "has no rejects"), ({"entity": "people"}, "has no rejects of people")]
)
async def test_nothing_to_try_again_is_refused(up: World, params: dict[str, str], why: str) -> None:
    if params:
        await _reject(up, NAMELESS)
    answer = await _order(up, **params)
    assert (answer["ok"], answer["error"]) == (False, f"it-ops/desk {why}")


async def test_only_the_entity_that_was_asked_for(up: World, mended: None) -> None:
    up.remote().pages["people"] = [[{"title": "somebody"}]]
    await _reject(up, NAMELESS)
    run = await _replay(up, entity="tickets")
    assert (run.entities, run.counts.added) == (("tickets",), 1)
    assert [k.entity for k in await _kept(up)] == ["people"]


async def test_suspended_means_not_now(up: World) -> None:
    await _reject(up, NAMELESS)
    await up.wish(desired("desk", {"suspend": True}), revision="r2")
    await up.reconcile()
    answer = await _order(up)
    assert answer["error"].startswith("rejects of it-ops/desk cannot be tried again now: suspended by")


async def test_a_schedule_does_not_take_a_replay_for_its_sync(up: World) -> None:
    await _reject(up, NAMELESS)
    await _order(up)
    row = await up.row()
    new = NewRun(row.id, Scope.INCREMENTAL, "schedule")
    made = await up.db.write(lambda tx: make_run(tx, new, 50, up.clock.now()))
    causes = [r.cause for r in await up.read(lambda tx: runs.open_runs(tx, row.id))]
    assert causes == ["replay", "schedule"]
    assert await up.db.write(lambda tx: make_run(tx, new, 50, up.clock.now())) == made


async def test_old_ones_go_and_so_do_those_of_an_older_release(up: World) -> None:
    await _reject(up, NAMELESS)
    await up.db.write(lambda tx: tx.execute("UPDATE reject SET identity = NULL"))
    await _reject(up, NAMELESS)
    assert len(await _kept(up)) == 2
    later = rfc3339(up.clock.now() + timedelta(days=1))
    await up.db.write(lambda tx: retention.drop_history(tx, Tenants(), Moments("", later, "")))
    assert await _kept(up) == []
