"""Why a sync does not begin: said for every state that keeps it, with what to do only where somebody has to."""

from datetime import timedelta
from typing import Any

import pytest

from reconciler.control import holdup
from reconciler.control.holdup import Holdup
from reconciler.control.orders import Orders
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.record import RunResult
from reconciler.sdk.errors import RateLimitedError, TransientError, UnauthorizedError
from reconciler.sdk.live import NotConnectableError
from reconciler.store import conditions, journal, runs
from reconciler.store.conditions import Say
from reconciler.store.journal import SourceRow
from reconciler.store.runs import Run
from tests.desk import World, desired


async def _held(world: World, name: str = "desk") -> Holdup | None:
    row = await world.row(name)
    return await world.read(lambda tx: holdup.of_integration(tx, row))


async def _run_held(world: World, run: Run) -> Holdup | None:
    def look(now_run: Run | None) -> Run:
        assert now_run is not None
        return now_run

    return await world.read(lambda tx: holdup.of_run(tx, look(runs.get(tx, run.id)), world.clock.now()))


async def _answer(world: World, kind: str, name: str | None = "desk", *, observing: bool = False) -> dict[str, Any]:
    row_id = (await world.row(name)).id if name else None
    at = rfc3339(world.clock.now())
    public_id = await world.db.write(lambda tx: journal.ask(tx, kind, row_id, {"delivery": "dlv_x"}, "ada", at))
    await Orders(world.db, world.clock, is_observing=observing).tick()
    answer = await world.read(lambda tx: journal.answer_of(tx, public_id))
    assert answer is not None
    return dict(answer)


async def test_what_passes_by_itself_has_no_remedy(world: World) -> None:
    await world.wish(desired("first"), desired("desk", {"depends_on": ["first"]}))
    assert await _held(world, "first") == Holdup("not connected yet: applying r1")
    await world.reconcile()
    assert await _held(world) == Holdup("not connected yet: waiting for it-ops/first")
    world.remote("first").probes.append(TransientError("503 from the remote"))
    await world.reconcile("first")
    held = await _held(world, "first")
    assert held is not None
    assert held.message.startswith("not connected yet: RemoteUnavailable: 503 from the remote; next try 20")
    assert held.remedy == ""
    for name in ("first", "desk"):
        await world.reconcile(name)
        assert await _held(world, name) is None


async def test_what_needs_somebody_says_who_has_to_do_what(world: World) -> None:
    await world.up()
    assert await _held(world) is None
    world.remote().probes.append(UnauthorizedError("401 from the remote"))
    await world.reconcile()
    stalled = Holdup(
        "stalled: AuthenticationFailed: 401 from the remote", "mend that, then: reconciler reconcile it-ops/desk --wait"
    )
    assert await _held(world) == stalled
    assert (await _answer(world, "sync"))["error"] == f"it-ops/desk cannot be synced now: {stalled}"
    await world.wish(desired("desk", {"enabled": False}), revision="r2")
    await world.reconcile()
    assert await _held(world) == Holdup("disabled", "set spec.enabled to true in desk.yaml")
    await world.wish(desired("desk", {"suspend": True}), revision="r3")
    await world.reconcile()
    held = Holdup("suspended by git: spec.suspend is true", "end it: set spec.suspend to false in desk.yaml")
    assert await _held(world) == held


async def test_a_manifest_that_was_never_right_keeps_it_until_somebody_mends_it(world: World) -> None:
    await world.wish(desired("desk"))
    row, at = await world.row(), rfc3339(world.clock.now())
    said = [
        Say(ConditionType.VALID, Truth.FALSE, Reason.VALIDATION_FAILED, "desk.yaml:3:1: wrong"),
        Say(ConditionType.RECONCILING, None),
    ]
    await world.db.write(lambda tx: conditions.say(tx, row.id, row.generation, said, at))
    assert await _held(world) == Holdup("ValidationFailed: desk.yaml:3:1: wrong", "mend desk.yaml in Git")


async def test_a_run_waits_for_the_one_before_it_and_for_a_reconcile(world: World) -> None:
    await world.up()
    first, second = await world.make_run(), await world.make_run()
    assert await _run_held(world, second) is None
    lineage, at = runs.Lineage(1, "r1", "", "1"), rfc3339(world.clock.now())
    await world.db.write(lambda tx: runs.start(tx, first.id, 1, lineage, at))
    assert await _run_held(world, first) is None
    assert await _run_held(world, second) == Holdup(f"{first.public_id} of the same integration is under way")
    taken = await world.read(lambda tx: runs.get(tx, first.id))
    assert taken is not None
    await world.db.write(lambda tx: runs.finish(tx, taken, RunResult.SUCCESS, "Succeeded", "", at))
    assert (await _answer(world, "reconcile"))["ok"] is True
    assert await _run_held(world, second) == Holdup("the integration is being reconciled first")


async def test_a_pause_that_the_remote_asks_for_is_told_until_the_run_goes_on(world: World) -> None:
    await world.up()
    wait = RateLimitedError("429 from the remote", retry_after=timedelta(minutes=10))
    world.remote().faults["tickets", 0].append(wait)
    paused = await world.sync()
    assert (paused.state, paused.reason, paused.error) == ("due", "RateLimited", "429 from the remote")
    goes_on = rfc3339(world.clock.now() + timedelta(minutes=10))[:19]
    assert await _run_held(world, paused) == Holdup(f"RateLimited: 429 from the remote; goes on at {goes_on}Z")
    done = await world.go_on(paused)
    assert (done.result, done.reason, done.error) == ("success", "Succeeded", "")
    assert await _run_held(world, done) is None


async def test_a_cancelled_pause_leaves_no_reason_of_its_own(world: World) -> None:
    await world.up()
    world.remote().faults["tickets", 0].append(RateLimitedError("429", retry_after=timedelta(minutes=10)))
    paused = await world.sync()
    await world.db.write(lambda tx: runs.cancel(tx, paused.id, Reason.CANCELLED))
    await world.stopper.end([paused.id])
    ended = await world.read(lambda tx: runs.get(tx, paused.id))
    assert ended is not None
    assert (ended.result, ended.reason, ended.error) == ("cancelled", "Cancelled", "")


async def test_a_manifest_that_nobody_knows_any_more_is_told_with_what_is_wrong(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.up()

    async def unknown(_: int) -> None:
        raise NotConnectableError(Reason.PENDING, "its manifest is not known")

    monkeypatch.setattr(world.connections, "live", unknown)
    waiting = await world.sync()
    assert waiting.state == "due"
    held = await _run_held(world, waiting)
    assert held is not None
    assert held.message.startswith("Pending: its manifest is not known; goes on at ")
    row, at = await world.row(), rfc3339(world.clock.now())
    said = [Say(ConditionType.VALID, Truth.FALSE, Reason.VALIDATION_FAILED, "desk.yaml:3:1: wrong")]
    await world.db.write(lambda tx: conditions.say(tx, row.id, row.generation, said, at))
    told = "its manifest is not known; ValidationFailed: desk.yaml:3:1: wrong"
    assert await _run_held(world, waiting) == Holdup(told, "mend it in Git")


async def test_git_that_cannot_be_read_is_told_where_nothing_else_keeps_it(world: World) -> None:
    await world.up()
    run, at = await world.make_run(), rfc3339(world.clock.now())
    broken = SourceRow("main", "https://git.test/x", "", "", None, "unreachable", "no route to git.test", at)
    await world.db.write(lambda tx: journal.put_source(tx, broken, at))
    assert await _run_held(world, run) == Holdup("source main cannot be read: no route to git.test")


async def test_a_daemon_that_only_observes_refuses_what_it_would_never_do(world: World) -> None:
    await world.up()
    for kind in ("sync", "reconcile", "retry-delivery"):
        refused = await _answer(world, kind, observing=True)
        assert refused["error"] == "this daemon only observes (--observe): it changes, syncs and sends nothing"
    assert (await _answer(world, "reconcile", None, observing=True))["ok"] is True
