"""What is published is routed and delivered like any other event, replays tell it once more, and nothing is doubled."""

import asyncio
from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from reconciler.control import event_orders, publishing
from reconciler.control.carried import OrderError
from reconciler.control.orders import Orders
from reconciler.control.publishing import Draft
from reconciler.events import making
from reconciler.events.deliver import Deliverer
from reconciler.events.route import Router
from reconciler.model.clock import rfc3339
from reconciler.model.event import DeliveryStatus
from reconciler.sdk.errors import AmbiguousError, RejectedError, TransientError
from reconciler.store import deliveries, delivery_list, event_list, events, jobs, journal, replays
from reconciler.store.events import Sieve
from tests.desk import WORKSPACE, World, desired, tickets

S = DeliveryStatus


def _wants(name: str = "s", action: str = "safe", event_type: str = "order.created", **more: Any) -> dict[str, Any]:
    return {"name": name, "event_type": event_type, "action": action, "template": "#{{ record.n }}"} | more


async def _target(world: World, *wanted: dict[str, Any]) -> None:
    await world.wish(desired("source"), desired("target", {"synchronizations": list(wanted or (_wants(),))}))
    for name in ("source", "target"):
        await world.reconcile(name)
        await world.sync_due(name)
    await world.router.route()


async def _publish(
    world: World, *numbers: int, about: str = "", kind: str = "order.created", ids: bool = False
) -> list[str]:
    about_id = (await world.row(about)).id if about else None
    drafts = [
        Draft(
            workspace=WORKSPACE, type=kind, payload={"n": n}, integration_id=about_id, dedupe=f"o{n}" if ids else None
        )
        for n in numbers
    ]
    made = await world.db.write(lambda tx: publishing.publish(tx, drafts, "ada", world.clock.now()))
    return [one.public_id for one in made]


async def _order(world: World, kind: str, integration_id: int | None = None, **params: Any) -> dict[str, Any]:
    at = rfc3339(world.clock.now())
    public = await world.db.write(lambda tx: journal.ask(tx, kind, integration_id, params, "ada", at))
    await Orders(world.db, world.clock).tick()
    answer = await world.read(lambda tx: journal.answer_of(tx, public))
    return dict(answer or {})


async def _replayed(world: World) -> None:
    while await world.read(replays.running):
        world.clock.advance(timedelta(milliseconds=1))
        await world.router.route()


async def test_what_is_published_is_delivered(world: World) -> None:
    await _target(
        world,
        _wants(template="{{ record.n }} {{ event.source }} {{ event.subject }}"),
        _wants("other", event_type="ship.*"),
    )
    await _publish(world, 1, 2)
    await world.router.route()
    assert [d.fields["text"] for d in await world.deliveries()] == ["1 published ", "2 published "]
    for made in await world.deliveries():
        await world.work("deliver", made.id, made.integration_id)
    assert [m.event_type for m in world.remote("target").sent] == ["order.created"] * 2


@pytest.mark.parametrize(
    ("named", "about", "count"),
    [(None, "", 1), (None, "source", 1), (["source"], "source", 1), (["source"], "", 0), (None, "target", 0)],
)
async def test_from_names_what_the_event_is_about(
    world: World, named: list[str] | None, about: str, count: int
) -> None:
    await _target(world, _wants() | ({"from": named} if named else {}))
    await _publish(world, 1, about=about)
    await world.router.route()
    assert len(await world.deliveries()) == count


async def test_published_twice_under_one_id_is_told_once_and_by_two_routers_too(world: World) -> None:
    await _target(world)
    first, again = await _publish(world, 1, ids=True), await _publish(world, 1, ids=True)
    assert first == again
    await asyncio.gather(*(Router(world.db, world, world.clock, lambda _: None).route() for _ in range(4)))
    assert len(await world.deliveries()) == 1


async def test_a_crash_between_publishing_and_routing_loses_and_doubles_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _target(world)
    await _publish(world, *range(5))
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
    await world.router.route()
    assert len(await world.deliveries()) == 5


async def test_a_record_change_is_listed_once_it_was_told_and_cannot_be_forged(world: World) -> None:
    await _target(world, _wants(event_type="ticket.created", template="{{ record.title }}"))
    world.remote("source").pages["tickets"] = [tickets(1)]
    await world.sync("source")
    await world.router.route()
    (made,) = await world.deliveries()
    page = await world.read(
        lambda tx: event_list.page(tx, Sieve(workspace=WORKSPACE), ["ticket.*"], ["pending"], None, 10)
    )
    assert [(e.public_id, e.source) for e, _ in page.found] == [(made.event_id, "record")]
    payload = await world.read(lambda tx: event_list.payload_of(tx, made.event_id))
    assert payload is not None
    assert b"ticket 1" in payload
    for kind in ("ticket.created", "ticket.odd", "integration.error", "schema.changed"):
        with pytest.raises(OrderError, match=r"reserved|changes of records"):
            await _publish(world, 1, kind=kind)


async def test_a_replay_tells_once_more_what_has_ended_and_survives_interruptions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _target(world, _wants(), _wants("t", event_type="ticket.created", template="{{ record.title }}"))
    await _publish(world, 0)
    await world.router.route()
    world.clock.advance(timedelta(hours=1))
    since = rfc3339(world.clock.now())
    await _publish(world, *range(1, 8))
    world.remote("source").pages["tickets"] = [tickets(1, 2, 3)]
    await world.sync("source")
    await world.router.route()
    made = await world.deliveries()
    for one in made[:-1]:
        await world.work("deliver", one.id, one.integration_id)
    target = await world.row("target")
    monkeypatch.setattr("reconciler.events.replay.BATCH", 2)
    answer = await _order(world, "replay-events", target.id, since=since)
    assert answer["ok"] is True
    create = making.create

    def dies(tx: Any, new: Any, *more: Any) -> Any:
        create(tx, new, *more)
        if new and world.random.random() < 0.5:
            raise OSError("power")
        return []

    await _publish(world, 99)
    for _ in range(6):
        with monkeypatch.context() as patched:
            patched.setattr("reconciler.events.replay.create", dies)
            try:
                await Router(world.db, world, world.clock, lambda _: None).route()
            except OSError:
                continue
    await _replayed(world)
    anew = [d for d in await world.deliveries() if d.id not in {one.id for one in made}]
    told = Counter(d.event_id for d in anew if d.fields["text"] != "#99")
    late = [one for one in made if one.event_at >= since]
    assert told == Counter(one.event_id for one in late if one.id != made[-1].id)
    done = await world.read(lambda tx: replays.find(tx, answer["replay"]))
    assert done is not None
    assert (done.state, done.deliveries <= len(anew)) == ("done", True)


async def test_a_replay_ends_with_its_target(world: World) -> None:
    await _target(world)
    await _publish(world, 1)
    await world.router.route()
    target = await world.row("target")
    answer = await _order(world, "replay-events", target.id, since="2020-01-01T00:00:00Z")
    await world.wish(desired("source"), revision="r2")
    await world.reconcile("target")
    await world.router.route()
    done = await world.read(lambda tx: replays.find(tx, answer["replay"]))
    assert done is not None
    assert done.state == "cancelled"


async def test_what_was_erased_is_not_told_again(world: World) -> None:
    await _target(world, _wants(event_type="ticket.created", template="{{ record.title }}"))
    world.remote("source").pages["tickets"] = [tickets(1, 2)]
    await world.sync("source")
    await world.router.route()
    for one in await world.deliveries():
        await world.work("deliver", one.id, one.integration_id)
    source, target = await world.row("source"), await world.row("target")
    await _order(world, "erase", source.id, keys=["1"])
    await _order(world, "replay-events", target.id, since="2020-01-01T00:00:00Z")
    await _replayed(world)
    assert [d.fields.get("text") for d in await world.deliveries()] == [None, "ticket 2", "ticket 2"]


async def test_a_row_of_deliveries_goes_to_its_end_under_one_claim(world: World) -> None:
    await _target(world)
    await _publish(world, *range(6))
    await world.router.route()
    attempted: list[str] = []
    deliverer = Deliverer(
        world.db,
        world.connections,
        world.journal,
        world.clock,
        Random(1),
        attempted=lambda _, d, s, __: attempted.append(s),
    )
    first = (await world.deliveries())[0]
    async with world.claimed("deliver", first.id, first.integration_id) as (job, claim):
        await deliverer.run(job, claim)
    assert [d.status for d in await world.deliveries()] == [S.DELIVERED] * 6
    assert attempted == [S.DELIVERED] * 5
    assert list(await world.jobs_of("deliver")) == [str(first.id)]
    await world.db.write(lambda tx: jobs.finish(tx, claim, None))


async def test_a_row_stops_at_a_failure_and_where_the_claim_is_lost(world: World) -> None:
    await _target(world)
    await _publish(world, *range(4))
    await world.router.route()
    first, second, *_ = await world.deliveries()
    from reconciler.model.event import Receipt

    world.remote("target").answers += [Receipt("m"), TransientError("down")]
    deliverer = Deliverer(world.db, world.connections, world.journal, world.clock, Random(1))
    async with world.claimed("deliver", first.id, first.integration_id) as (job, claim):
        await deliverer.run(job, claim)
    assert [d.status for d in await world.deliveries()] == [S.DELIVERED, S.FAILED, S.PENDING, S.PENDING]
    waiting = await world.read(lambda tx: deliveries.get(tx, second.id))
    assert waiting is not None
    assert (await world.jobs_of("deliver"))[str(second.id)] == waiting.next_at
    third = (await world.deliveries())[2]
    async with world.claimed("deliver", third.id, third.integration_id) as (job, claim):
        await world.db.write(lambda tx: jobs.drop(tx, "deliver", str(third.id)))
        await deliverer.run(job, claim)
    assert [d.status for d in await world.deliveries()][2:] == [S.DELIVERED, S.PENDING]


@pytest.mark.parametrize("seed", range(6))
async def test_no_order_doubles_a_message_that_cannot_be_recognised(world: World, seed: int) -> None:
    """A channel that knows no repeats: a message is sent again only where it surely did not arrive, or a person says so.

    Event retries of an unknown one are such a word; each of them may send it once more.
    """
    random = Random(seed)
    await _target(world, _wants(action="unsafe"))
    ids = await _publish(world, *range(4))
    await world.router.route()
    arrived: Counter[str] = Counter()
    allowed: Counter[str] = Counter(ids)
    for _ in range(40):
        world.clock.advance(timedelta(minutes=random.choice([0, 1, 20])))
        event_id = random.choice(ids)
        what = random.choice(["send", "send", "send", "die", "retry", "cancel"])
        standing = (await world.read(lambda tx, e=event_id: delivery_list.standing(tx, [e])))[event_id]  # type: ignore[misc]
        if what in {"retry", "cancel"}:
            before = delivery_list.current(standing)
            answer = await _order(world, f"{what}-event", event=event_id)
            if what == "retry" and answer["ok"]:
                allowed[event_id] += any(one.status is S.UNKNOWN for one in before)
            continue
        (last,) = delivery_list.current(standing)
        if last.status not in {S.PENDING, S.FAILED, S.SENDING}:
            continue
        error = random.choice([None, TransientError("refused"), AmbiguousError("no answer"), RejectedError("no")])
        sent = len(world.remote("target").sent)
        if what == "die" and last.status is not S.SENDING:
            at, number = rfc3339(world.clock.now()), last.id
            await world.db.write(lambda tx, n=number, a=at: deliveries.begin(tx, n, 0, a, a))  # type: ignore[misc]
            arrived[event_id] += 1  # the worst: it was sent, and nobody lived to tell
            continue
        world.remote("target").answers[:] = [error] if error else []
        await world.work("deliver", last.id, last.integration_id)
        if len(world.remote("target").sent) > sent and (error is None or isinstance(error, AmbiguousError)):
            arrived[event_id] += 1
    assert {e: n for e, n in arrived.items() if n > allowed[e]} == {}


async def test_what_may_have_arrived_is_sent_again_under_its_own_id(world: World) -> None:
    await _target(world)
    (event_id,) = await _publish(world, 1)
    await world.router.route()
    (made,) = await world.deliveries()
    world.remote("target").answers.append(AmbiguousError("no answer"))
    await world.work("deliver", made.id, made.integration_id)
    assert (await _order(world, "retry-event", event=event_id))["ok"] is True
    first, again = await world.deliveries()
    assert (first.status, again.retry_of) == (S.CANCELLED, first.id)
    await world.work("deliver", again.id, again.integration_id)
    assert [(m.delivery_id, m.is_repeat) for m in world.remote("target").sent] == [
        (made.public_id, False),
        (made.public_id, True),
    ]


async def test_orders_of_the_command_line(world: World) -> None:
    await _target(world)
    answer = await _order(
        world, "publish-events", workspace=WORKSPACE, events=[{"type": "order.created", "data": {"n": 5}, "id": "x"}]
    )
    assert answer["ok"] is True
    await world.router.route()
    (made,) = await world.deliveries()
    assert made.fields["text"] == "#5"
    for kind, params in (
        ("publish-events", {"workspace": WORKSPACE, "events": []}),
        ("publish-events", {"workspace": WORKSPACE, "events": [{"type": "sync.failed"}]}),
        ("publish-events", {"workspace": WORKSPACE, "events": [{"type": "a.b", "integration": "nobody"}]}),
        ("retry-event", {"event": "evt_none"}),
        ("retry-event", {"event": answer["events"][0]["id"]}),
        ("cancel-event", {"event": "evt_none"}),
        ("cancel-replay", {"replay": "rpl_none"}),
    ):
        refused = await _order(world, kind, **params)
        assert (refused["ok"], "cannot be understood" in refused["error"]) == (False, False), kind
    assert event_orders.KNOWN.keys() >= {"replay-events"}
    assert await world.read(lambda tx: events.find(tx, "evt_none")) is None
