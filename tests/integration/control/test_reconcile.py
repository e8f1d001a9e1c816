"""Reconcile on real rows: what each outcome says, when it is tried again, and which events are told, once."""

import asyncio
import json
from datetime import timedelta
from random import Random

import pytest

from reconciler.control.failing import MOST_BACKOFF
from reconciler.control.orders import carry_out
from reconciler.control.probe import Prober
from reconciler.control.reconcile import Pace, Reconciler
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Status, Truth, status
from reconciler.model.finding import Code, Finding
from reconciler.sdk.contract import Probe
from reconciler.sdk.errors import (
    ConnectorError,
    ForbiddenError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
    UnsupportedError,
)
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.store import conditions, jobs
from reconciler.store.conditions import Say
from reconciler.store.journal import OperatorRequest
from tests.desk import Desk, Remote, World, desired, tickets

C = ConditionType


async def test_a_new_wish_is_connected_syncs_at_once_and_is_told(world: World) -> None:
    await world.wish(desired("desk", {"sync": {"every": "1h"}}))
    assert (await world.said())[C.RECONCILING].reason is Reason.PROGRESSING
    outcome = await world.reconcile()
    said, row = await world.said(), await world.row()
    assert outcome.again_at is None
    assert (row.is_connected, row.observed_generation, row.identity) == (True, 1, "ada")
    assert (said[C.CONNECTED].truth, said[C.VALID].truth, C.RECONCILING in said) == (Truth.TRUE, Truth.TRUE, False)
    assert await world.events() == ["integration.connected"]
    assert len(await world.sync_due()) == 1
    assert row.next_sync_at is not None


@pytest.mark.parametrize(
    ("error", "reason", "stalls"),
    [
        (UnauthorizedError("wrong password"), Reason.AUTHENTICATION_FAILED, True),
        (ForbiddenError("no right"), Reason.PERMISSION_DENIED, True),
        (RejectedError("bad url"), Reason.REJECTED, True),
        (UnsupportedError("install bonsai"), Reason.MISSING_DEPENDENCY, True),
        (TransientError("down"), Reason.REMOTE_UNAVAILABLE, False),
        (RateLimitedError("slow down"), Reason.RATE_LIMITED, False),
        (TransientError("late", reason=Reason.TIMED_OUT), Reason.TIMED_OUT, False),
    ],
)
async def test_each_class_of_error_has_its_conditions(
    world: World, error: ConnectorError, reason: Reason, stalls: bool
) -> None:
    world.remote().probes.append(error)
    await world.wish(desired("desk"))
    outcome = await world.reconcile()
    said = await world.said()
    assert (said[C.CONNECTED].truth, said[C.CONNECTED].reason) == (Truth.FALSE, reason)
    assert (C.STALLED in said, C.RECONCILING in said, outcome.again_at is None) == (stalls, not stalls, stalls)
    assert status(said, is_syncing=False) is Status.ERROR
    assert await world.events() == ["integration.error"]


async def test_waiting_for_consent_is_no_failure_and_not_stalled(world: World) -> None:
    world.remote().probes.append(UnauthorizedError("authorize first", reason=Reason.AWAITING_AUTHORIZATION))
    await world.wish(desired("desk"))
    assert (await world.reconcile()).again_at is None
    said = await world.said()
    assert (C.STALLED in said, status(said, is_syncing=False)) == (False, Status.PENDING_AUTH)


async def test_error_and_recovery_are_told_exactly_once_per_turn(world: World) -> None:
    await world.up()
    for _ in range(3):
        world.remote().probes.append(TransientError("down"))
        await world.reconcile()
    await world.reconcile()
    await world.reconcile()
    told = [e for e in await world.events() if e.startswith("integration.")]
    assert told == ["integration.connected", "integration.error", "integration.recovered"]


async def test_a_turn_from_healthy_to_degraded_is_told_once(world: World) -> None:
    await world.up()
    row, before = await world.row(), await world.events()

    async def say(*said: Say) -> list[str]:
        at = rfc3339(world.clock.now())
        await world.db.write(lambda tx: conditions.say(tx, row.id, row.generation, said, at))
        return (await world.events())[len(before) :]

    late = Say(C.FRESH, Truth.FALSE, Reason.LATE, "no sync for 2h")
    failing = Say(C.DELIVERING, Truth.FALSE, Reason.DELIVERY_FAILING, "3 deliveries wait")
    assert await say(late) == ["integration.degraded"]
    assert await say(late, failing) == ["integration.degraded"]
    fine = [Say(C.FRESH, Truth.TRUE, Reason.SUCCEEDED, "ok"), Say(C.DELIVERING, Truth.TRUE, Reason.SUCCEEDED, "ok")]
    assert await say(*fine) == ["integration.degraded"]
    down = Say(C.CONNECTED, Truth.FALSE, Reason.REMOTE_UNAVAILABLE, "down")
    assert await say(down, failing) == ["integration.degraded"]
    up = Say(C.CONNECTED, Truth.TRUE, Reason.SUCCEEDED, "up")
    assert await say(up, failing) == ["integration.degraded"]
    await say(*fine)
    assert await say(late, failing) == ["integration.degraded"] * 2
    detail = await world.read(lambda tx: tx.value("SELECT detail FROM event ORDER BY id DESC LIMIT 1"))
    assert json.loads(detail) == {
        "message": "Delivering: DeliveryFailing, Fresh: Late",
        "conditions": {"Delivering": "DeliveryFailing", "Fresh": "Late"},
    }


async def test_a_changed_wish_is_told_as_updated(world: World) -> None:
    await world.up()
    await world.wish(desired("desk", {"display_name": "Desk"}), revision="r2")
    await world.reconcile()
    assert "integration.updated" in await world.events()


async def test_backoff_is_full_jitter_up_to_five_minutes_and_begins_anew(world: World) -> None:
    await world.wish(desired("desk"))
    pauses = []
    for _ in range(14):
        world.remote().probes.append(TransientError("down"))
        again_at = (await world.reconcile()).again_at
        assert again_at is not None
        pauses.append(again_at - world.clock.now())
    expected = Random(7)
    limits = [min(timedelta(seconds=2**n), MOST_BACKOFF) for n in range(14)]
    assert pauses == [limit * expected.random() for limit in limits]
    assert (await world.row()).retries == 14
    await world.wish(desired("desk", {"display_name": "other"}), revision="r2")
    assert (await world.row()).retries == 0
    await world.reconcile()
    world.remote().probes.append(TransientError("down"))
    again_at = (await world.reconcile()).again_at
    assert again_at is not None
    assert again_at - world.clock.now() <= timedelta(seconds=1)


async def test_retry_after_is_the_least_pause_and_no_probe_comes_before(world: World) -> None:
    await world.up()
    world.remote().probes.append(RateLimitedError("slow", retry_after=timedelta(hours=2)))
    again_at = (await world.reconcile()).again_at
    assert again_at == world.clock.now() + timedelta(hours=2)
    world.clock.advance(timedelta(hours=1))
    prober = Prober(world.db, world.connections, world.clock, world.random, timedelta(minutes=5))
    assert await prober.tick() == 0


async def test_what_stalled_is_left_alone_until_something_changes(world: World) -> None:
    await world.wish(desired("desk", {"sync": {"every": "1h"}}))
    await world.reconcile()
    await world.sync_due()
    world.remote().probes.append(UnauthorizedError("password changed"))
    await world.reconcile()
    world.clock.advance(timedelta(days=1))
    row = await world.row()
    assert (row.next_sync_at, row.next_probe_at) == (None, None)
    world.book.secrets[row.ref] = "new password"
    await world.wish(desired("desk", {"sync": {"every": "1h"}}), revision="r2")
    assert C.STALLED not in await world.said()
    await world.reconcile()
    row = await world.row()
    assert (row.next_sync_at is not None, row.next_probe_at is not None) == (True, True)
    assert (await world.events())[-1] == "integration.recovered"


async def test_a_mended_credential_syncs_what_had_failed(world: World) -> None:
    await world.up()
    world.remote().forever["tickets"] = UnauthorizedError("401")
    assert (await world.sync()).result == "failed"
    assert str((await world.row()).id) in await world.jobs_of("reconcile")
    world.remote().probes.append(UnauthorizedError("401"))
    await world.reconcile()
    world.remote().forever.clear()
    world.book.secrets[(await world.row()).ref] = "new"
    await world.wish(desired("desk"), revision="r2")
    await world.reconcile()
    assert [run.result for run in await world.sync_due()] == ["success"]
    assert (await world.said())[C.FRESH].truth is Truth.TRUE


async def test_a_fault_of_the_connector_is_a_condition_with_backoff_and_keeps_its_text_to_the_log(world: World) -> None:
    world.remote().probes.append(KeyError("canary-secret"))
    await world.wish(desired("desk"))
    outcome = await world.reconcile()
    said = await world.said()
    assert (said[C.CONNECTED].reason, C.STALLED in said) == (Reason.INTERNAL_ERROR, False)
    assert "KeyError in desk.py" in said[C.CONNECTED].message
    assert "canary-secret" not in said[C.CONNECTED].message
    assert outcome.again_at is not None
    assert any("canary-secret" in text for _, text, _ in world.journal.lines)


async def test_a_remote_that_never_answers_is_a_timeout(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.reconciler = Reconciler(
        world.db, world.book, world.connections, world.journal, world.clock, world.random, world._halt,
        Pace(deadline=timedelta(milliseconds=20)),
    )  # fmt: skip

    async def hang(self: Desk) -> Probe:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Desk, "probe", hang)
    await world.wish(desired("desk"))
    await world.reconcile()
    assert (await world.said())[C.CONNECTED].reason is Reason.TIMED_OUT


async def test_secrets_that_cannot_be_read_stall_and_clear_when_they_can(world: World) -> None:
    wish = desired("desk")
    finding = Finding("desk.yaml", 4, 5, Code.SOPS_KEY_MISSING, "no key for this file")
    world.book.failed[wish.ref] = (finding,)
    world.connections.unusable["desk"] = NotConnectableError(Reason.KEY_MISSING, str(finding), (finding,))
    await world.wish(wish)
    await world.reconcile()
    said = await world.said()
    assert (said[C.SECRETS_DECRYPTED].reason, C.STALLED in said) == (Reason.KEY_MISSING, True)
    world.book.failed.clear()
    world.connections.unusable.clear()
    await world.wish(wish)
    await world.reconcile()
    said = await world.said()
    assert (said[C.SECRETS_DECRYPTED].truth, said[C.CONNECTED].truth) == (Truth.TRUE, Truth.TRUE)
    assert C.STALLED not in said


async def test_dependents_wait_and_are_woken_by_the_event(world: World) -> None:
    world.remote("base").probes.append(TransientError("down"))
    await world.wish(desired("base"), desired("top", {"depends_on": ["base"]}))
    await world.reconcile("base")
    await world.reconcile("top")
    said = await world.said("top")
    assert (said[C.CONNECTED].truth, said[C.RECONCILING].reason) == (Truth.UNKNOWN, Reason.DEPENDENCY_NOT_READY)
    top = str((await world.row("top")).id)
    assert (await world.jobs_of("reconcile"))[top] > rfc3339(world.clock.now())
    await world.reconcile("base")
    assert (await world.jobs_of("reconcile"))[top] == rfc3339(world.clock.now())
    await world.reconcile("top")
    assert (await world.said("top"))[C.CONNECTED].truth is Truth.TRUE


async def test_what_is_connected_stays_so_while_its_dependency_is_away(world: World) -> None:
    await world.up("base", "top")
    await world.wish(desired("base", {"enabled": False}), desired("top", {"depends_on": ["base"]}), revision="r2")
    await world.reconcile("base")
    await world.reconcile("top")
    said = await world.said("top")
    assert (said[C.CONNECTED].truth, C.RECONCILING in said) == (Truth.TRUE, True)
    await world.wish(desired("base"), desired("top", {"depends_on": ["base"]}), revision="r3")
    await world.reconcile("base")
    top = str((await world.row("top")).id)
    assert (await world.jobs_of("reconcile"))[top] == rfc3339(world.clock.now())
    await world.reconcile("top")
    assert C.RECONCILING not in await world.said("top")


async def test_disabled_is_disconnected_and_enabling_connects_and_syncs_again(world: World) -> None:
    await world.up()
    run = await world.make_run()
    await world.wish(desired("desk", {"enabled": False}), revision="r2")
    await world.reconcile()
    said, row = await world.said(), await world.row()
    assert (row.is_connected, said[C.CONNECTED].reason, world.remote().revoked) == (False, Reason.DISABLED, 1)
    assert set(said) == {C.CONNECTED, C.VALID, C.SECRETS_DECRYPTED}
    assert (await world.go_on(run)).result == "cancelled"
    await world.wish(desired("desk"), revision="r3")
    await world.reconcile()
    assert [r.result for r in await world.sync_due()] == ["success"]
    told = [e for e in await world.events() if e.startswith("integration.")]
    assert told == ["integration.connected", "integration.disconnected", "integration.connected"]


async def _order(world: World, kind: str, **params: object) -> None:
    row = await world.row()
    order = OperatorRequest(1, "req", kind, row.id, params, "ada")
    await world.db.write(lambda tx: carry_out(tx, order, world.clock.now()))


async def test_a_persons_suspension_ends_at_its_time(world: World) -> None:
    await world.up()
    until = world.clock.now() + timedelta(hours=1)
    await _order(world, "suspend", reason="maintenance", until=rfc3339(until))
    assert (await world.reconcile()).again_at == until
    said = await world.said()
    assert (said[C.CONNECTED].reason, C.RECONCILING in said) == (Reason.SUSPENDED, False)
    assert status(said, is_syncing=False) is Status.DISCONNECTED
    world.clock.advance(timedelta(hours=1))
    await world.reconcile()
    row = await world.row()
    assert (row.is_suspended, (await world.said())[C.CONNECTED].truth) == (False, Truth.TRUE)


async def test_suspension_cancels_runs_and_resume_goes_on(world: World) -> None:
    await world.up()
    run = await world.make_run()
    await _order(world, "suspend")
    await world.reconcile()
    assert (await world.go_on(run)).result == "cancelled"
    await _order(world, "resume")
    await world.reconcile()
    assert (await world.said())[C.CONNECTED].truth is Truth.TRUE


async def test_gits_suspension_ends_with_its_field(world: World) -> None:
    await world.up()
    await world.wish(desired("desk", {"suspend": True}), revision="r2")
    assert (await world.reconcile()).again_at is None
    assert (await world.row()).suspended_by == "git"
    await world.wish(desired("desk"), revision="r3")
    await world.reconcile()
    assert ((await world.row()).is_suspended, (await world.said())[C.CONNECTED].truth) == (False, Truth.TRUE)


async def test_an_outcome_for_a_wish_that_moved_on_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.wish(desired("desk"))
    row = await world.row()
    world.remote().probes.append(UnauthorizedError("old password"))
    async with world.claimed("reconcile", row.id, row.id) as (job, claim):
        original = world.connections.live

        async def live(integration_id: int) -> Live:
            await world.wish(desired("desk", {"display_name": "new"}), revision="r2")
            return await original(integration_id)

        monkeypatch.setattr(world.connections, "live", live)
        await world.reconciler.run(job, claim)
    said = await world.said()
    assert (C.STALLED in said, said[C.RECONCILING].reason) == (False, Reason.PROGRESSING)
    assert (await world.row()).error_count == 0


async def test_a_lost_claim_records_nothing(world: World) -> None:
    await world.wish(desired("desk"))
    row = await world.row()
    async with world.claimed("reconcile", row.id, row.id) as (job, claim):
        await world.db.write(lambda tx: jobs.drop(tx, "reconcile", job.ref))
        await world.reconciler.run(job, claim)
    assert (await world.row()).is_connected is False
    assert await world.events() == []


async def test_outbound_only_reads_nothing_and_freshness_is_not_asked_for(world: World) -> None:
    await world.up()
    world.remote().forever["tickets"] = RejectedError("no")
    world.remote().forever["people"] = RejectedError("no")
    await world.sync()
    assert (await world.said())[C.FRESH].truth is Truth.FALSE
    await world.wish(desired("desk", {"sync_direction": "outbound"}), revision="r2")
    await world.reconcile()
    assert C.FRESH not in await world.said()


async def test_a_broken_manifest_stays_told_over_a_reconcile(world: World) -> None:
    wish = desired("desk")
    await world.up()
    finding = Finding("desk.yaml", 3, 1, Code.UNKNOWN_FIELD, "no field sink")
    other = Finding("a.yaml", 1, 1, Code.YAML_SYNTAX, "another file")
    await world.wish(wish, revision="r2", held=frozenset({wish.ref}), findings=(other, finding))
    await world.reconcile()
    said = await world.said()
    assert (said[C.VALID].truth, said[C.VALID].message) == (Truth.FALSE, str(finding))
    assert status(said, is_syncing=False) is Status.CONNECTED
    await world.wish(wish, revision="r3")
    assert (await world.said())[C.VALID].truth is Truth.TRUE


async def test_missing_rights_show_in_what_connected_says(world: World) -> None:
    world.remote().probes.append(Probe("ada", entities={"tickets": True, "people": False}))
    await world.wish(desired("desk"))
    await world.reconcile()
    assert "missing: read people" in (await world.said())[C.CONNECTED].message


async def test_new_entities_in_a_manifest_are_read_without_waiting(world: World) -> None:
    await world.up(sync={"entities": ["tickets"]})
    world.remote().pages["people"] = [tickets(1)]
    await world.wish(desired("desk", {"sync": {"entities": ["tickets", "people"]}}), revision="r2")
    await world.reconcile()
    (run,) = await world.sync_due()
    assert run.counts.added == 1


async def test_reconcile_waits_for_git(world: World) -> None:
    await world.wish(desired("desk"))
    world.book.state = None
    again_at = (await world.reconcile()).again_at
    assert again_at == world.clock.now() + timedelta(seconds=1)
    assert isinstance(world.remote(), Remote)
    assert world.remote().probed == 0
