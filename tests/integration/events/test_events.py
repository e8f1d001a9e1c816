"""From record versions and lifecycle events to deliveries, and each delivery to an honest end."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from reconciler.control.lateness import DeliveryLateness
from reconciler.events.route import Router
from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.event import TRANSITIONS, DeliveryStatus, Receipt
from reconciler.sdk.budget import BudgetSpentError
from reconciler.sdk.contract import RETRIES
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    PartialDeliveryError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
    UnsupportedError,
)
from reconciler.sdk.live import NotConnectableError
from reconciler.store import deliveries, integrations
from reconciler.store.deliveries import Delivery, NewDelivery, Outcome
from tests.desk import World, desired, tickets

C, S = ConditionType, DeliveryStatus


def _wants(action: str = "safe", **more: Any) -> dict[str, Any]:
    return {"name": "s", "event_type": "ticket.created", "action": action, "template": "{{ record.title }}"} | more


async def _pair(world: World, *wanted: dict[str, Any], first: int = 0) -> None:
    """A source with one old ticket, and a target that wants its events."""
    world.remote("source").pages["tickets"] = [tickets(*range(first))] if first else [[]]
    await world.wish(desired("source"), desired("target", {"synchronizations": list(wanted or (_wants(),))}))
    for name in ("source", "target"):
        await world.reconcile(name)
        await world.sync_due(name)
    await world.router.route()


async def _arrives(world: World, *ids: int, **more: Any) -> list[Delivery]:
    world.remote("source").pages["tickets"] = [tickets(*ids, **more)]
    await world.sync("source")
    await world.router.route()
    return await world.deliveries()


async def _send(world: World, delivery: Delivery) -> Delivery:
    outcome = await world.work("deliver", delivery.id, delivery.integration_id)
    found = await world.read(lambda tx: deliveries.get(tx, delivery.id))
    assert found is not None
    assert found.next_at == (
        rfc3339(outcome.again_at) if outcome.again_at and found.status is S.FAILED else found.next_at
    )
    return found


async def test_a_change_becomes_one_rendered_delivery_and_a_first_read_none(world: World) -> None:
    await _pair(world, first=5)
    assert await world.deliveries() == []
    (made,) = await _arrives(world, 0, 1, 2, 3, 4, 7)
    assert (made.fields, made.event_type, made.key) == ({"text": "ticket 7", "to": "ops"}, "ticket.created", "7")
    sent = await _send(world, made)
    assert (sent.status, sent.attempts, sent.receipt["remote_id"]) == (S.DELIVERED, 1, "m0")
    assert (await world.said("target"))[C.DELIVERING].truth is Truth.TRUE


async def test_when_map_and_operations(world: World) -> None:
    await _pair(
        world,
        _wants(name="big", when="record.weight > 5"),
        _wants(
            name="changed", event_type="ticket.updated", template="{{ changed | join: ',' }} was {{ previous.weight }}"
        ),
        _wants(
            name="gone", event_type="ticket.deleted", map={"text": "{{ record.title }} gone", "to": "x"}, template=None
        ),
        first=1,
    )
    await _arrives(world, 0, 1, weight=3)
    await _arrives(world, 0, 1, weight=9)
    world.remote("source").pages["tickets"] = [[]]
    world.remote("source").deleted["tickets"] = ["1"]
    await world.sync("source")
    await world.router.route()
    texts = [(d.synchronization, d.fields["text"], d.fields["to"]) for d in await world.deliveries()]
    assert texts == [
        ("changed", "weight was ", "ops"),
        ("changed", "weight was 3", "ops"),
        ("changed", "weight was 3", "ops"),
        ("gone", "ticket 1 gone", "x"),
    ]


async def test_nobody_hears_itself_unless_asked(world: World) -> None:
    await world.wish(
        desired("a", {"synchronizations": [_wants()]}), desired("b", {"synchronizations": [_wants() | {"from": ["b"]}]})
    )
    for name in ("a", "b"):
        await world.reconcile(name)
        await world.sync_due(name)
    for name in ("a", "b"):
        world.remote(name).pages["tickets"] = [tickets(1)]
        await world.sync(name)
    await world.router.route()
    rows = {(await world.row(n)).id: n for n in ("a", "b")}
    heard = [(rows[d.source_id or 0], rows[d.integration_id]) for d in await world.deliveries()]
    assert heard == [("b", "a"), ("b", "b")]


async def test_lifecycle_events_are_delivered_like_any_other(world: World) -> None:
    await _pair(world, _wants(event_type="integration.*", template="{{ integration.name }} {{ event.type }}"))
    world.remote("source").probes.append(TransientError("down"))
    await world.reconcile("source")
    await world.router.route()
    assert "source integration.error" in [d.fields["text"] for d in await world.deliveries()]


async def test_nothing_is_routed_before_desired_state_is_known(world: World) -> None:
    await _pair(world)
    subscriptions, world.subscriptions = world.subscriptions, None
    assert await _arrives(world, 1) == []
    world.subscriptions = subscriptions
    await world.router.route()
    assert len(await world.deliveries()) == 1


async def test_two_routers_at_once_make_nothing_twice(world: World) -> None:
    await _pair(world)
    world.remote("source").pages["tickets"] = [tickets(*range(40))]
    await world.sync("source")
    others = [Router(world.db, world, world.clock, lambda _: None) for _ in range(4)]
    await asyncio.gather(*(r.route() for r in others))
    assert len(await world.deliveries()) == 40


async def test_a_crash_between_making_and_moving_the_cursor_leaves_neither(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _pair(world)
    world.remote("source").pages["tickets"] = [tickets(1, 2)]
    await world.sync("source")
    create = deliveries.create

    def crash(*args: Any) -> Any:
        create(*args)
        raise OSError("power")

    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "create", crash)
        with pytest.raises(OSError, match="power"):
            await world.router.route()
    assert await world.deliveries() == []
    await world.router.route()
    assert len(await world.deliveries()) == 2


async def test_a_message_that_cannot_be_made_is_dead_shown_and_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _pair(world, _wants(name="bad", map={"to": "{{ record.list }}"}), _wants(name="good"))
    from reconciler.events.subscriptions import Subscription

    render = Subscription.render

    def fails(self: Subscription, context: Any) -> Any:
        if self.name == "bad":
            raise RecursionError
        return render(self, context)

    monkeypatch.setattr(Subscription, "render", fails)
    made = await _arrives(world, 1)
    assert [(d.synchronization, d.status, d.reason) for d in made] == [
        ("bad", S.DEAD, Reason.INTERNAL_ERROR),
        ("good", S.PENDING, ""),
    ]
    assert (await world.said("target"))[C.DELIVERING].truth is Truth.FALSE


@pytest.mark.parametrize(
    ("action", "found", "status", "calls"),
    [
        ("safe", None, S.DELIVERED, 1),
        ("find", Receipt("m9"), S.DELIVERED, 0),
        ("find", None, S.DELIVERED, 1),
        ("unsafe", None, S.UNKNOWN, 0),
    ],
)
async def test_after_an_interruption(
    world: World, action: str, found: Receipt | None, status: DeliveryStatus, calls: int
) -> None:
    await _pair(world, _wants(action))
    (made,) = await _arrives(world, 1)
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: deliveries.begin(tx, made.id, 0, at))
    world.remote("target").found = found
    ended = await _send(world, made)
    assert (ended.status, len(world.remote("target").sent)) == (status, calls)
    assert all(m.is_repeat for m in world.remote("target").sent)
    assert ((await world.said("target"))[C.DELIVERING].truth is Truth.TRUE) is (status is S.DELIVERED)


@pytest.mark.parametrize(
    ("action", "error", "status"),
    [
        ("safe", AmbiguousError("no answer"), S.FAILED),
        ("find", AmbiguousError("no answer"), S.FAILED),
        ("unsafe", AmbiguousError("no answer"), S.UNKNOWN),
        ("unsafe", KeyError("canary"), S.UNKNOWN),
        ("safe", KeyError("canary"), S.FAILED),
        ("unsafe", TransientError("refused"), S.FAILED),
        ("safe", RejectedError("too long"), S.DEAD),
        ("safe", UnauthorizedError("401"), S.FAILED),
    ],
)
async def test_each_error_has_its_fate(
    world: World, action: str, error: ConnectorError, status: DeliveryStatus
) -> None:
    await _pair(world, _wants(action))
    (made,) = await _arrives(world, 1)
    await world.db.write(lambda tx: tx.execute("DELETE FROM job WHERE kind = 'reconcile'"))
    world.remote("target").answers.append(error)
    ended = await _send(world, made)
    assert ended.status is status
    assert (ended.next_at is not None) is (status is S.FAILED)
    assert "canary" not in ended.error
    said = (await world.said("target"))[C.DELIVERING]
    assert said.truth is Truth.FALSE
    assert bool(await world.jobs_of("reconcile")) is isinstance(error, UnauthorizedError)
    if status is S.FAILED:
        assert (await _send(world, ended)).status is S.DELIVERED
        assert (await world.said("target"))[C.DELIVERING].truth is Truth.TRUE


@pytest.mark.parametrize(
    ("first", "status", "calls"),
    [(AmbiguousError("no answer"), S.UNKNOWN, 1), (TransientError("refused"), S.DELIVERED, 2)],
)
async def test_what_cannot_be_looked_up_is_sent_again_only_without_doubt(
    world: World, first: ConnectorError, status: DeliveryStatus, calls: int
) -> None:
    await _pair(world, _wants("find"))
    (made,) = await _arrives(world, 1)
    target = world.remote("target")
    target.answers.append(first)
    target.found = UnsupportedError("this credential may not read")
    failed = await _send(world, made)
    assert failed.status is S.FAILED
    ended = await _send(world, failed)
    assert (ended.status, len(target.sent)) == (status, calls)
    assert ("find" in target.calls) is isinstance(first, AmbiguousError)


async def test_a_delivery_that_waits_beyond_its_objective_is_late_until_it_arrives(world: World) -> None:
    await _pair(world)
    wish = desired("target", {"synchronizations": [_wants()], "objectives": {"delivery": "5m"}})
    await world.wish(desired("source"), wish, revision="r2")
    await world.reconcile("target")
    (made,) = await _arrives(world, 1)
    watch = DeliveryLateness(world.db, world.book, world.clock)
    await watch.tick()
    assert C.DELIVERING not in await world.said("target")
    world.clock.advance(timedelta(minutes=6))
    await watch.tick()
    late = (await world.said("target"))[C.DELIVERING]
    assert (late.truth, late.reason) == (Truth.FALSE, Reason.LATE)
    await _send(world, made)
    assert (await world.said("target"))[C.DELIVERING].truth is Truth.TRUE


async def test_lateness_ends_when_nothing_waits_any_more(world: World) -> None:
    await _pair(world)
    wish = desired("target", {"synchronizations": [_wants()], "objectives": {"delivery": "5m"}})
    await world.wish(desired("source"), wish, revision="r2")
    await world.reconcile("target")
    (made,) = await _arrives(world, 1)
    watch = DeliveryLateness(world.db, world.book, world.clock)
    world.clock.advance(timedelta(minutes=6))
    await watch.tick()
    await world.db.write(lambda tx: deliveries.cancel(tx, made.id, Reason.CANCELLED, rfc3339(world.clock.now())))
    await watch.tick()
    assert (await world.said("target"))[C.DELIVERING].truth is Truth.TRUE


async def test_the_schedule_ends_in_dead_and_retry_after_moves_it(world: World) -> None:
    await _pair(world)
    (made,) = await _arrives(world, 1)
    pauses = []
    for attempt in range(len(RETRIES.pauses) + 1):
        more = {"retry_after": timedelta(hours=1)} if attempt == 0 else {}
        world.remote("target").answers.append(RateLimitedError("slow", **more))
        made = await _send(world, made)
        if made.next_at:
            pauses.append(datetime.fromisoformat(made.next_at) - world.clock.now())
    assert (made.status, made.attempts) == (S.DEAD, 10)
    assert pauses[0] == timedelta(hours=1)
    assert all(0.9 * s <= p <= 1.1 * s for p, s in zip(pauses[1:], RETRIES.pauses[1:], strict=True))
    assert len(await world.read(lambda tx: deliveries.attempts(tx, made.id))) == 10


async def test_waiting_for_the_rate_budget_is_no_attempt(world: World) -> None:
    """Else a long queue to a slow remote would end as dead without having been sent."""
    await _pair(world)
    (delivery,) = await _arrives(world, 1)
    for _ in range(len(RETRIES.pauses) + 2):
        spent = BudgetSpentError("used up for 40 s", retry_after=timedelta(seconds=40))
        world.remote("target").answers.append(spent)
        outcome = await world.work("deliver", delivery.id, delivery.integration_id)
        assert outcome.again_at == world.clock.now() + timedelta(seconds=40)
        world.clock.advance(timedelta(seconds=40))
    waiting = await world.read(lambda tx: deliveries.get(tx, delivery.id))
    assert waiting is not None
    assert (waiting.status, waiting.attempts, waiting.first_attempt_at) == (S.PENDING, 0, None)
    assert await world.read(lambda tx: deliveries.attempts(tx, delivery.id)) == []
    sent = await _send(world, delivery)
    assert (sent.status, sent.attempts) == (S.DELIVERED, 1)


async def test_what_arrived_in_part_goes_on_from_there(world: World) -> None:
    await _pair(world)
    (made,) = await _arrives(world, 1)
    world.remote("target").answers.append(PartialDeliveryError("one of two", progress={"done": ["a"]}))
    await _send(world, await _send(world, made))
    assert [dict(m.progress) for m in world.remote("target").sent] == [{}, {"done": ["a"]}]
    assert len({m.delivery_id for m in world.remote("target").sent}) == 1


async def test_waiting_for_a_target_is_no_attempt_and_ends_when_it_is_back(world: World) -> None:
    await _pair(world)
    (made,) = await _arrives(world, 1)
    row = await world.row("target")
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: integrations.suspend(tx, row.id, "ada", "", None))
    assert (await _send(world, made)).attempts == 0
    waits = (await world.jobs_of("deliver"))[str(made.id)]
    assert waits >= rfc3339(world.clock.now() + timedelta(minutes=5))
    await world.db.write(lambda tx: integrations.suspend(tx, row.id, "", "", None))
    await world.reconcile("target")
    assert (await world.jobs_of("deliver"))[str(made.id)] == at
    world.connections.unusable["target"] = NotConnectableError(Reason.PENDING, "not read yet")
    await _send(world, made)
    assert (await world.jobs_of("deliver"))[str(made.id)] == rfc3339(world.clock.now() + timedelta(seconds=5))


async def test_a_stalled_target_is_not_knocked_at(world: World) -> None:
    await _pair(world)
    (made,) = await _arrives(world, 1)
    world.remote("target").probes.append(UnauthorizedError("401"))
    await world.reconcile("target")
    assert (await _send(world, made)).attempts == 0
    assert world.remote("target").sent == []


@pytest.mark.parametrize(("is_begun", "status"), [(False, S.CANCELLED), (True, S.UNKNOWN)])
async def test_what_was_for_an_integration_that_is_gone_ends(
    world: World, is_begun: bool, status: DeliveryStatus
) -> None:
    await _pair(world)
    (made,) = await _arrives(world, 1)
    at = rfc3339(world.clock.now())
    if is_begun:
        await world.db.write(lambda tx: deliveries.begin(tx, made.id, 0, at))
    await world.wish(desired("source"), revision="r2")
    await world.reconcile("target")
    assert (await _send(world, made)).status is status


async def test_a_status_moves_only_along_the_table(world: World) -> None:
    await _pair(world)
    row, at = await world.row("target"), rfc3339(world.clock.now())

    async def in_status(status: DeliveryStatus) -> Delivery:
        new = NewDelivery(f"x{status}", "e", "t", at, None, "", "", row.id, "s", "safe", {"text": "x"})
        ((found, _),) = await world.db.write(lambda tx: deliveries.create(tx, [new], at))
        await world.db.write(
            lambda tx: tx.execute("UPDATE delivery SET status = :s WHERE id = :i", {"s": status, "i": found})
        )
        delivery = await world.read(lambda tx: deliveries.get(tx, found))
        assert delivery is not None
        return delivery

    for status in S:
        made = await in_status(status)
        begun = await world.db.write(lambda tx, made=made: deliveries.begin(tx, made.id, 1, at))  # type: ignore[misc]
        assert (begun is not None) is (S.SENDING in TRANSITIONS[status])
        await world.db.write(lambda tx: tx.execute("DELETE FROM delivery"))
        made = await in_status(status)
        cancelled = await world.db.write(lambda tx, made=made: deliveries.cancel(tx, made.id, "r", at))  # type: ignore[misc]
        assert cancelled is (S.CANCELLED in TRANSITIONS[status] and status is not S.SENDING)
        await world.db.write(lambda tx: tx.execute("DELETE FROM delivery"))
        made = await in_status(status)
        for target in S:
            if target in TRANSITIONS[S.SENDING]:
                ok = await world.db.write(lambda tx, m=made, t=target: deliveries.settle(tx, m, Outcome(t), at))  # type: ignore[misc]
                assert ok is (status is S.SENDING)
                break
        with pytest.raises(ValueError, match="cannot go"):
            await world.db.write(lambda tx, m=made: deliveries.settle(tx, m, Outcome(S.PENDING), at))  # type: ignore[misc]
        await world.db.write(lambda tx: tx.execute("DELETE FROM delivery"))
