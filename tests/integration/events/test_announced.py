"""Event types that `config` lists, the schedule of a channel of its own, and a remote that wants no more."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from reconciler.control.orders import Orders
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import DeliveryStatus
from reconciler.sdk.errors import GoneError, RateLimitedError, TransientError
from reconciler.store import deliveries, events, journal
from reconciler.store.deliveries import Delivery
from reconciler.store.events import NewEvent
from tests.desk import HASTY, WORKSPACE, World, desired, tickets

C, S = ConditionType, DeliveryStatus
GONE = GoneError("the place is gone")


def _target(*types: str, **more: Any) -> dict[str, Any]:
    return {"config": {"events": list(types)}, **more}


async def _pair(world: World, *types: str, **more: Any) -> None:
    world.remote("source").pages["tickets"] = [[]]
    await world.wish(desired("source"), desired("target", _target(*types, **more)))
    for name in ("source", "target"):
        await world.reconcile(name)
        await world.sync_due(name)
    await world.router.route()
    await world.db.write(lambda tx: tx.execute("DELETE FROM delivery"))


async def _arrives(world: World, *ids: int, **more: Any) -> list[Delivery]:
    world.remote("source").pages["tickets"] = [tickets(*ids, **more)]
    await world.sync("source")
    await world.router.route()
    return await world.deliveries()


async def _send(world: World, delivery: Delivery) -> Delivery:
    await world.work("deliver", delivery.id, delivery.integration_id)
    found = await world.read(lambda tx: deliveries.get(tx, delivery.id))
    assert found is not None
    return found


async def _order(world: World, kind: str, **params: Any) -> None:
    row = await world.row("target")
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: journal.ask(tx, kind, row.id, params, "ada", at))
    await Orders(world.db, world.clock).tick()


async def test_what_config_lists_is_told_once_and_as_it_is(world: World) -> None:
    await _pair(world, "ticket.*", "ticket.created")
    (made,) = await _arrives(world, 7, owner=None)
    assert (made.synchronization, made.channel, made.event_type) == ("events", "told", "ticket.created")
    assert made.fields["data"] | {"at": ""} == tickets(7, owner=None)[0] | {"at": ""}
    assert made.fields["data"]["owner"] is None
    assert (made.fields["subject"], made.fields["occurred_at"]) == ("ticket/7", made.event_at)
    await _send(world, made)
    (sent,) = world.remote("target").sent
    assert sent.event_at == datetime.fromisoformat(made.event_at)


async def test_what_an_integration_tells_of_itself_names_it(world: World) -> None:
    await _pair(world, "integration.error")
    world.remote("source").probes.append(TransientError("down"))
    await world.reconcile("source")
    await world.router.route()
    (made,) = await world.deliveries()
    assert made.fields["subject"] == "integration/source"
    assert made.fields["data"]["message"] == "down"


async def test_what_was_published_has_the_time_that_it_happened(world: World) -> None:
    await _pair(world, "order.*")
    new = NewEvent(
        workspace=WORKSPACE, type="order.created", payload='{"total": "19.90"}', published_by="ada", subject="order/1001",
        occurred_at="2026-03-01T09:00:00.000000Z",
    )  # fmt: skip
    await world.db.write(lambda tx: events.publish(tx, [new], rfc3339(world.clock.now())))
    await world.router.route()
    (made,) = await world.deliveries()
    assert made.fields == {
        "subject": "order/1001", "text": "", "data": {"total": "19.90"}, "occurred_at": "2026-03-01T09:00:00.000000Z",
    }  # fmt: skip


@pytest.mark.parametrize(("own", "data"), [({"template": "x"}, {}), ({"map": {"subject": "s"}}, {})])
async def test_a_synchronization_with_words_of_its_own_tells_nothing_else(
    world: World, own: dict[str, Any], data: dict[str, Any]
) -> None:
    wanted = {"name": "s", "event_type": "ticket.created", "action": "told", **own}
    await _pair(world, synchronizations=[wanted])
    (made,) = await _arrives(world, 7)
    assert made.fields["data"] == data
    assert made.fields["occurred_at"] == made.event_at


async def test_inbound_takes_none_and_nobody_is_told_of_itself(world: World) -> None:
    await _pair(world, "*.*", sync_direction="inbound")
    assert await _arrives(world, 1) == []
    await _pair(world, "*.*")
    world.remote("target").probes.append(TransientError("down"))
    await world.reconcile("target")
    await world.router.route()
    assert await world.deliveries() == []


async def test_a_channel_has_its_own_schedule_and_is_told_how_long_to_wait(world: World) -> None:
    await _pair(world, "ticket.created")
    (made,) = await _arrives(world, 1)
    pauses = []
    for wait in (None, timedelta(seconds=3), None):
        world.remote("target").answers.append(RateLimitedError("slow", retry_after=wait))
        made = await _send(world, made)
        if made.next_at:
            pauses.append(datetime.fromisoformat(made.next_at) - world.clock.now())
    assert (made.status, made.attempts) == (S.DEAD, len(HASTY.pauses) + 1)
    assert 0.8 * HASTY.pauses[0] <= pauses[0] <= 1.2 * HASTY.pauses[0]
    assert pauses[1] == timedelta(seconds=3)


async def test_a_remote_that_wants_no_more_is_sent_nothing_until_the_manifest_changes(world: World) -> None:
    await _pair(world, "ticket.created")
    first, second = await _arrives(world, 1, 2)
    world.remote("target").answers.append(GONE)
    assert (await _send(world, first)).status is S.DEAD
    assert (await _send(world, second)).error == "not sent: the place is gone"
    await world.reconcile("target")
    *_, third = await _arrives(world, 1, 2, 3)
    third = await _send(world, third)
    assert (third.status, third.reason, third.attempts) == (S.DEAD, Reason.GONE, 0)
    assert len(world.remote("target").sent) == 1
    said = (await world.said("target"))[C.DELIVERING]
    assert (said.truth, said.reason, said.message) == (Truth.FALSE, Reason.GONE, "the place is gone")
    assert any("not sent: the place is gone" in message for _, message, _ in world.journal.lines)
    await world.wish(desired("source"), desired("target", _target("ticket.*")), revision="r2")
    await world.reconcile("target")
    assert C.DELIVERING not in await world.said("target")
    *_, fourth = await _arrives(world, 1, 2, 3, 4)
    assert (await _send(world, fourth)).status is S.DELIVERED


async def test_nothing_else_that_goes_wrong_makes_it_forgotten(world: World) -> None:
    broken = {
        "name": "s",
        "event_type": "ticket.created",
        "action": "safe",
        "template": "{{ record.title | plus: 'x' }}",
    }
    await _pair(world, "ticket.created", synchronizations=[broken | {"map": {"to": ["no", "text"]}}])
    first = next(d for d in await _arrives(world, 1) if d.channel == "told")
    world.remote("target").answers.append(GONE)
    await _send(world, first)
    made = await _arrives(world, 1, 2)
    assert any(d.error and d.channel == "safe" for d in made), "the other one cannot be rendered"
    assert (await world.said("target"))[C.DELIVERING].reason is Reason.GONE


@pytest.mark.parametrize("kind", ["retry-delivery", "retry-event", "replay-events"])
async def test_a_person_may_have_it_tried_again(world: World, kind: str) -> None:
    await _pair(world, "ticket.created")
    (made,) = await _arrives(world, 1)
    world.remote("target").answers.append(GONE)
    await _send(world, made)
    since = rfc3339(world.clock.now() - timedelta(hours=1))
    await _order(world, kind, delivery=made.public_id, event=made.event_id, since=since)
    await world.router.route()
    again = [d for d in await world.deliveries() if d.status is S.PENDING]
    assert [(await _send(world, d)).status for d in again] == [S.DELIVERED]
    assert (await world.said("target"))[C.DELIVERING].truth is Truth.TRUE


async def test_what_was_to_be_tried_again_is_not(world: World) -> None:
    await _pair(world, "ticket.created")
    first, second = await _arrives(world, 1, 2)
    world.remote("target").answers += [TransientError("away"), GONE]
    assert (await _send(world, first)).status is S.FAILED
    await _send(world, second)
    assert (await _send(world, first)).status is S.DEAD
    await _order(world, "retry-delivery", delivery=first.public_id)
    world.remote("target").answers.append(GONE)
    last = (await world.deliveries())[-1]
    assert (await _send(world, last)).status is S.DEAD
    assert len(world.remote("target").sent) == 3, "asked, and gone still"


async def test_what_was_interrupted_before_ends_in_doubt(world: World) -> None:
    await _pair(world, "ticket.created")
    first, second = await _arrives(world, 1, 2)
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: deliveries.begin(tx, second.id, 0, at))
    world.remote("target").answers.append(GONE)
    await _send(world, first)
    assert (await _send(world, second)).status is S.UNKNOWN
    assert len(world.remote("target").sent) == 1


async def test_what_an_older_manifest_was_told_does_not_hold_the_newer_up(world: World) -> None:
    await _pair(world, "ticket.created")
    (made,) = await _arrives(world, 1)
    target = world.remote("target")

    async def deliver(*_: Any) -> Any:
        await world.wish(desired("source"), desired("target", _target("ticket.*")), revision="r2")
        raise GONE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.desk.Desk.deliver", deliver)
        assert (await _send(world, made)).status is S.DEAD
    *_, second = await _arrives(world, 1, 2)
    assert (await _send(world, second)).status is S.DELIVERED
    assert len(target.sent) == 1
