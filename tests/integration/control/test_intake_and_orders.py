"""From a revision to due work, the clock that makes runs, freshness, and what a person may ask for."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from reconciler.control.book import Resolution
from reconciler.control.intake import Intake
from reconciler.control.orders import Orders
from reconciler.control.probe import Prober
from reconciler.control.schedule import Scheduler, next_due
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import DeliveryStatus
from reconciler.model.finding import Code, Finding
from reconciler.model.manifest import Sync
from reconciler.model.record import LogLevel, Scope
from reconciler.model.state import DesiredState
from reconciler.sdk.errors import TransientError, UnauthorizedError
from reconciler.sdk.live import NotConnectableError
from reconciler.store import deliveries, integrations, journal, runs
from reconciler.store.database import Tx
from reconciler.store.deliveries import NewDelivery
from reconciler.store.errors import StoreFullError
from tests.desk import FakeBook, World, desired

C = ConditionType


def _scheduler(world: World) -> Scheduler:
    return Scheduler(world.db, world.book, world.clock, Random(3), lambda: None)


def _due(sync: Mapping[str, object], after: str, seed: int = 1) -> datetime:
    found = next_due(Sync.model_validate(sync), datetime.fromisoformat(after), Random(seed))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        ("30 9 * * *", "2026-01-10T07:00:00+00:00", "2026-01-10T08:30:00+00:00"),
        ("30 9 * * *", "2026-07-10T07:00:00+00:00", "2026-07-10T07:30:00+00:00"),
        ("30 2 * * *", "2026-03-29T00:00:00+00:00", "2026-03-29T01:00:00+00:00"),
        ("30 2 * * *", "2026-10-24T23:00:00+00:00", "2026-10-25T00:30:00+00:00"),
        ("30 2 * * *", "2026-10-25T00:31:00+00:00", "2026-10-26T01:30:00+00:00"),
    ],
)
def test_cron_is_read_in_its_zone_over_changes_of_the_clock(schedule: str, after: str, expected: str) -> None:
    sync = {"schedule": schedule, "time_zone": "Europe/Berlin", "jitter": "0s"}
    assert _due(sync, after) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("seed", range(20))
def test_jitter_stays_in_its_bounds(seed: int) -> None:
    after = "2026-03-02T10:00:00+00:00"
    tick = datetime(2026, 3, 2, 10, 15, tzinfo=UTC)
    assert timedelta() <= _due({"schedule": "*/15 * * * *"}, after, seed) - tick <= timedelta(seconds=30)
    assert timedelta() <= _due({"schedule": "*/15 * * * *", "jitter": "5m"}, after, seed) - tick <= timedelta(minutes=5)
    start = datetime.fromisoformat(after)
    assert start < _due({"every": "10s", "jitter": "1h"}, after, seed) <= start + timedelta(seconds=10)
    assert _due({"schedule": "*/15 * * * *", "jitter": "9h"}, after, seed) < tick + timedelta(minutes=15)


def test_without_a_schedule_only_a_person_starts_syncs() -> None:
    assert next_due(Sync(), datetime(2026, 1, 1, tzinfo=UTC), Random(1)) is None


async def test_missed_ticks_coalesce_and_a_paused_run_is_not_hurried(world: World) -> None:
    await world.wish(desired("desk", {"sync": {"every": "10m"}}))
    await world.reconcile()
    await world.sync_due()
    world.clock.advance(timedelta(hours=5))
    assert await _scheduler(world).tick() == 1
    row = await world.row()
    (run,) = await world.read(lambda tx: runs.open_runs(tx, row.id))
    world.remote().faults["tickets", 0].append(TransientError("busy", retry_after=timedelta(hours=1)))
    await world.go_on(run)
    resumes = (await world.jobs_of("sync"))[str(run.id)]
    assert resumes == rfc3339(world.clock.now() + timedelta(hours=1))
    world.clock.advance(timedelta(minutes=30))
    assert await _scheduler(world).tick() == 1
    assert (await world.jobs_of("sync")) == {str(run.id): resumes}
    assert len(await world.read(lambda tx: runs.open_runs(tx, row.id))) == 1


async def test_the_schedule_survives_a_start_before_git_was_read_and_a_broken_file(world: World) -> None:
    wish = desired("desk", {"sync": {"every": "10m"}})
    await world.wish(wish)
    await world.reconcile()
    await world.sync_due()
    world.clock.advance(timedelta(hours=1))
    world.book.state = None
    assert await _scheduler(world).tick() == 0
    world.book.state = DesiredState("r2", {}, held=frozenset({wish.ref}))
    world.book.departed.clear()
    await _scheduler(world).tick()
    assert (await world.row()).next_sync_at is not None
    await world.wish(wish, revision="r3")
    world.clock.advance(timedelta(hours=1))
    await _scheduler(world).tick()
    assert len(await world.sync_due()) == 1


async def test_no_run_is_made_that_could_only_fail_for_want_of_a_key(world: World) -> None:
    """As after a start without it: the tick may come before the reconcile that says so."""
    wish = desired("desk", {"sync": {"every": "1h"}})
    await world.wish(wish)
    await world.reconcile()
    await world.sync_due()
    world.clock.advance(timedelta(hours=1))
    world.book.failed[wish.ref] = (Finding("desk.yaml", 4, 5, Code.SOPS_KEY_MISSING, "no key for this file"),)
    await _scheduler(world).tick()
    assert await world.sync_due() == []
    world.book.failed.clear()
    world.clock.advance(timedelta(hours=1))
    await _scheduler(world).tick()
    assert [run.result for run in await world.sync_due()] == ["success"]


async def test_late_stale_and_fresh_again(world: World) -> None:
    await world.up(objectives={"freshness": "30m"})
    scheduler = _scheduler(world)
    await scheduler.state_freshness()
    assert (await world.said())[C.FRESH].truth is Truth.TRUE
    for minutes, reason in ((31, Reason.LATE), (31, Reason.STALE)):
        world.clock.advance(timedelta(minutes=minutes))
        await scheduler.state_freshness()
        fresh = (await world.said())[C.FRESH]
        assert (fresh.truth, fresh.reason) == (Truth.FALSE, reason)
    await world.wish(desired("desk", {"objectives": {"freshness": "3h"}}), revision="r2")
    await world.reconcile()
    await scheduler.state_freshness()
    assert (await world.said())[C.FRESH].truth is Truth.TRUE


async def test_a_failed_sync_is_not_hidden_behind_late(world: World) -> None:
    await world.up(objectives={"freshness": "30m"})
    world.remote().forever["tickets"] = UnauthorizedError("401")
    await world.sync()
    world.clock.advance(timedelta(hours=3))
    await _scheduler(world).state_freshness()
    assert (await world.said())[C.FRESH].reason is Reason.AUTHENTICATION_FAILED


async def test_what_is_suspended_grows_no_older(world: World) -> None:
    await world.up(objectives={"freshness": "30m"})
    row = await world.row()
    await world.db.write(lambda tx: integrations.suspend(tx, row.id, "ada", "", None))
    world.clock.advance(timedelta(hours=3))
    await _scheduler(world).state_freshness()
    assert (await world.said())[C.FRESH].truth is Truth.TRUE


async def test_probes_are_counted_and_a_bad_one_asks_for_a_reconcile(world: World) -> None:
    await world.up()
    prober = Prober(world.db, world.connections, world.clock, Random(1), timedelta(minutes=5))
    for answer, is_asked in ((None, False), (TransientError("x"), True), (KeyError("fault"), True)):
        world.clock.advance(timedelta(minutes=6))
        await world.db.write(lambda tx: tx.execute("DELETE FROM job"))
        if answer:
            world.remote().probes.append(answer)
        assert await prober.tick() == 1
        assert (await world.jobs_of("reconcile") != {}) is is_asked


async def test_a_probe_before_git_was_read_says_nothing(world: World) -> None:
    await world.up()
    await world.db.write(lambda tx: tx.execute("DELETE FROM job"))
    world.clock.advance(timedelta(minutes=6))
    world.connections.unusable["desk"] = NotConnectableError(Reason.PENDING, "not read yet")
    prober = Prober(world.db, world.connections, world.clock, Random(1), timedelta(minutes=5))
    await prober.tick()
    assert await world.jobs_of("reconcile") == {}
    assert (await world.row()).next_probe_at == rfc3339(world.clock.now() + timedelta(seconds=10))


async def test_removal_of_many_is_blocked_said_and_free_when_approved(world: World) -> None:
    names = [f"d{n}" for n in range(5)]
    await world.up(*names)
    taken = await world.wish(desired("d0"), desired("d1"), desired("d2"), revision="r2")
    (block,) = taken.plan.blocks
    assert (block.code, taken.removed) == ("prune-limit", ())
    said = (await world.said("d4"))[C.VALID]
    assert (said.truth, said.reason) == (Truth.FALSE, Reason.PRUNE_BLOCKED)
    digest = block.remedy.rsplit(" ", 1)[-1]
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: journal.approve(tx, digest, "ada", at))
    taken = await world.wish(desired("d0"), desired("d1"), desired("d2"), revision="r2")
    assert (taken.plan.blocks, len(taken.removed)) == ((), 2)


async def test_blocked_and_back_again_is_valid_again(world: World) -> None:
    wishes = [desired(f"d{n}") for n in range(5)]
    await world.up(*(w.ref.name for w in wishes))
    await world.wish(*wishes[:2], revision="r2")
    await world.wish(*wishes, revision="r3")
    assert (await world.said("d4"))[C.VALID].truth is Truth.TRUE


async def test_an_incomplete_checkout_removes_nothing(world: World) -> None:
    await world.up("a", "b")
    finding = Finding("x.yaml", 0, 0, Code.FILE_UNREADABLE, "gone")
    taken = await world.wish(desired("a"), revision="r2", is_complete=False, findings=(finding,))
    assert (taken.removed, [b.code for b in taken.plan.blocks]) == ((), ["incomplete"])


async def test_an_older_state_never_overtakes_a_newer_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = asyncio.Event()
    resolve = FakeBook.resolve

    async def once_slow(self: FakeBook, wanted: DesiredState) -> Resolution:
        if wanted.revision == "r1":
            await slow.wait()
        return await resolve(self, wanted)

    monkeypatch.setattr(FakeBook, "resolve", once_slow)
    old = DesiredState("r1", {desired("old").ref: desired("old")})
    new = DesiredState("r2", {desired("new").ref: desired("new")})
    first = asyncio.create_task(world.intake.take(old))
    await asyncio.sleep(0)
    second = asyncio.create_task(world.intake.take(new))
    await asyncio.sleep(0)
    slow.set()
    await asyncio.gather(first, second)
    assert await world.read(lambda tx: [r.name for r in integrations.every(tx) if r.is_desired]) == ["new"]


async def _ask(world: World, kind: str, name: str | None = None, **params: object) -> dict[str, object]:
    row_id = (await world.row(name)).id if name else None
    at = rfc3339(world.clock.now())
    public = await world.db.write(lambda tx: journal.ask(tx, kind, row_id, params, "ada", at))
    for carried in await Orders(world.db, world.clock).tick():
        await world.stopper.end([int(asked.ref) for asked in carried.stop])
    answer = await world.read(lambda tx: journal.answer_of(tx, public))
    return dict(answer or {})


async def test_a_person_orders_a_sync_and_cancels_it(world: World) -> None:
    await world.up()
    made = await _ask(world, "sync", "desk", scope="full", entities=["tickets"], since="2026-03-01T00:00:00+01:00")
    run = await world.read(lambda tx: runs.find(tx, str(made["run"])))
    assert run is not None
    assert (run.scope, run.entities, run.since) == (Scope.FULL, ("tickets",), "2026-02-28T23:00:00.000000Z")
    assert (await _ask(world, "cancel-sync", run=made["run"]))["ok"] is True
    assert (await _ask(world, "cancel-sync", run=made["run"]))["ok"] is False
    ended = await world.read(lambda tx: runs.get(tx, run.id))
    assert ended is not None
    assert (ended.state, ended.result, ended.reason) == ("done", "cancelled", Reason.CANCELLED)


async def test_a_cancelled_run_is_told_once_whether_it_ran_or_waited(world: World) -> None:
    await world.up()
    waiting = await world.make_run()
    running = await world.make_run()
    lineage = runs.Lineage(1, "r1", "", "1")
    await world.db.write(lambda tx: runs.start(tx, running.id, 1, lineage, rfc3339(world.clock.now())))
    world.journal.lines.clear()
    for run in (waiting, running):
        assert (await _ask(world, "cancel-sync", run=run.public_id))["ok"] is True
    counts = {"added": 0, "updated": 0, "deleted": 0, "unchanged": 0}
    line = (LogLevel.INFO, "sync cancelled", {"reason": "Cancelled", "scope": "incremental", **counts})
    assert world.journal.lines == [line, line]
    assert world.halted == [waiting.id, running.id]
    assert await world.read(runs.unfinished) == []
    await world.stopper.end([waiting.id, running.id])
    assert world.journal.lines == [line, line]


@pytest.mark.parametrize(
    ("kind", "name", "params"),
    [
        ("sync", "desk", {"scope": "everything"}),
        ("sync", "desk", {"since": "yesterday"}),
        ("sync", "desk", {"since": 5}),
        ("sync", None, {}),
        ("suspend", "desk", {"until": "2020-01-01T00:00:00Z"}),
        ("suspend", "desk", {"until": 5}),
        ("retry-delivery", None, {"delivery": "dlv_none"}),
        ("cancel-delivery", None, {"delivery": "dlv_none"}),
        ("cancel-sync", None, {"run": "run_none"}),
        ("dance", None, {}),
    ],
)
async def test_an_order_that_makes_no_sense_is_answered_and_blocks_no_other(
    world: World, kind: str, name: str | None, params: dict[str, object]
) -> None:
    await world.up()
    answer = await _ask(world, kind, name, **params)
    assert answer["ok"] is False
    assert answer["error"]
    assert (await _ask(world, "reconcile", "desk"))["ok"] is True


async def test_reconcile_of_all_and_approve_ask_for_a_new_plan(world: World) -> None:
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: journal.ask(tx, "reconcile", None, {}, "ada", at))
    await world.db.write(lambda tx: journal.ask(tx, "approve", None, {"digest": "abc"}, "ada", at))
    carried = await Orders(world.db, world.clock).tick()
    assert [c.is_replan for c in carried] == [True, True]
    assert [(c.kind, c.by) for c in carried] == [("reconcile", "ada"), ("approve", "ada")]
    assert await world.read(journal.approvals) == frozenset({"abc"})


async def test_suspend_and_resume_by_order(world: World) -> None:
    await world.up()
    run = await world.make_run()
    assert (await _ask(world, "suspend", "desk", reason="move"))["ok"] is True
    found = await world.read(lambda tx: runs.get(tx, run.id))
    assert found is not None
    assert found.result == "cancelled"
    assert (await _ask(world, "sync", "desk"))["ok"] is False
    assert (await _ask(world, "resume", "desk"))["ok"] is True
    await world.wish(desired("desk", {"suspend": True}), revision="r2")
    await world.reconcile()
    assert "spec.suspend" in str((await _ask(world, "resume", "desk"))["error"])


async def _delivery(world: World, name: str = "desk") -> deliveries.Delivery:
    row, at = await world.row(name), rfc3339(world.clock.now())
    new = NewDelivery(f"d{at}{name}", "evt_1", "ticket.created", at, None, "", "", row.id, "s", "safe", {"text": "x"})
    ((delivery_id, _),) = await world.db.write(lambda tx: deliveries.create(tx, [new], at))
    found = await world.read(lambda tx: deliveries.get(tx, delivery_id))
    assert found is not None
    return found


async def test_deliveries_are_cancelled_retried_and_linked_to_the_first(world: World) -> None:
    await world.up()
    first = await _delivery(world)
    assert (await _ask(world, "retry-delivery", delivery=first.public_id))["ok"] is False
    assert (await _ask(world, "cancel-delivery", delivery=first.public_id))["ok"] is True
    again = await _ask(world, "retry-delivery", delivery=first.public_id)
    await _ask(world, "cancel-delivery", delivery=again["delivery"])
    third = await _ask(world, "retry-delivery", delivery=again["delivery"])
    found = {d.public_id: d for d in await world.deliveries()}
    assert found[str(again["delivery"])].retry_of == first.id
    assert found[str(third["delivery"])].retry_of == first.id
    assert found[str(third["delivery"])].status is DeliveryStatus.PENDING


async def test_cancelling_the_last_failing_delivery_clears_what_was_said_of_it(world: World) -> None:
    await world.up(synchronizations=[{"name": "s", "event_type": "ticket.created", "action": "safe", "template": "x"}])
    delivery = await _delivery(world)
    world.remote().answers.append(TransientError("down"))
    await world.work("deliver", delivery.id, delivery.integration_id)
    assert (await world.said())[C.DELIVERING].reason is Reason.DELIVERY_FAILING
    await _ask(world, "cancel-delivery", delivery=delivery.public_id)
    assert C.DELIVERING not in await world.said()


async def test_a_delivery_to_what_is_gone_is_not_sent_again(world: World) -> None:
    await world.up()
    delivery = await _delivery(world)
    await world.wish(desired("other"), revision="r2")
    await world.reconcile()
    assert "gone" in str((await _ask(world, "retry-delivery", delivery=delivery.public_id))["error"])


async def test_observing_plans_and_changes_nothing(world: World) -> None:
    watching = Intake(world.db, world.book, world.clock, is_observing=True)
    taken = await watching.take(DesiredState("r1", {desired("desk").ref: desired("desk")}))
    assert (len(taken.plan.actions), taken.changed) == (1, ())
    assert await world.read(integrations.every) == []


async def test_apply_then_plan_shows_nothing_whatever_the_state(world: World) -> None:
    wishes = (
        desired("plain"),
        desired("defaults", {"enabled": True, "sync": {"timeout": "6h"}, "depends_on": []}),
        desired("off", {"enabled": False}),
        desired("held", {"suspend": True, "display_name": "x"}),
        desired("noted", {"display_name": "a"}),
    )
    await world.up("plain", "held", "noted")
    await world.wish(*wishes, revision="r2")
    for wish in wishes:
        await world.reconcile(wish.ref.name)
    taken = await world.wish(*wishes, revision="r3")
    assert [(str(a.ref), a.action, a.reason) for a in taken.plan.actions] == []
    lifted = desired("held", {"display_name": "x"})
    taken = await world.wish(*(lifted if w.ref == lifted.ref else w for w in wishes), revision="r4")
    assert [(a.ref.name, a.action, {c.path for c in a.changes}) for a in taken.plan.actions] == [
        ("held", "update", {"display_name", "suspend"})
    ]


async def test_what_was_carried_out_before_the_store_failed_is_still_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.up()
    at = rfc3339(world.clock.now())
    row = await world.row()
    for _ in range(2):
        await world.db.write(lambda tx: journal.ask(tx, "reconcile", row.id, {}, "ada", at))
    orders, write, calls = Orders(world.db, world.clock), world.db.write, iter((True, False))

    async def once(query: Callable[[Tx], object], **more: bool) -> object:
        if next(calls):
            return await write(query, **more)
        raise StoreFullError("no room left")

    with monkeypatch.context() as patched:
        patched.setattr(world.db, "write", once)
        assert len(await orders.tick()) == 1
    assert len(await orders.tick()) == 1
