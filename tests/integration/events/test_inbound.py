"""Requests of remotes from their signature to the dataset: two processes at once, poison, listings that fail, a fence."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest

from reconciler.events.inbound import FullError, NotVerifiedError, Reception
from reconciler.model.ids import Ref
from reconciler.model.record import Page
from reconciler.sdk.contract import Entity
from reconciler.sdk.errors import ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.inbound import Inbound, Told, Touched
from reconciler.sdk.live import Live
from reconciler.store import dataset, inbox, runs
from reconciler.store import events as event_log
from reconciler.sync.run import Syncer
from tests.desk import WORKSPACE, Desk, World

PLACE = Ref(WORKSPACE, "desk")


class SigningDesk(Desk):
    """Signs with the word `good`; a body names a listing and tickets. `refused` listings fail, once or for ever."""

    refused: Mapping[str, list[Exception]] = {}

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        if headers.get("signature") != "good":
            raise UnauthorizedError("no")

    def receive(self, headers: Mapping[str, str], body: bytes) -> Inbound:
        said = json.loads(body)
        if said == "boom":
            raise ZeroDivisionError("canary")
        if "keys" not in said:
            raise RejectedError("no keys")
        now = "2026-03-02T09:00:00+00:00"
        touched = [Touched("tickets", key, {"at": now}, said.get("listing", "")) for key in said["keys"]]
        told = [Told(id=name, type="desk.rang", at=self.now, data={}) for name in said.get("events", ())]
        return Inbound(delivery_id=headers.get("delivery", ""), touched=touched, events=told)

    now: Any = None

    async def reread(self, entity: Entity, touched: Sequence[Touched]) -> AsyncGenerator[Page, None]:
        faults = self.refused.get(touched[0].listing, [])
        if faults:
            raise faults.pop() if isinstance(faults[-1], TransientError) else faults[-1]
        keys = tuple(one.key for one in touched)
        yield Page(keys, tuple(json.dumps({"id": k, "again": True}).encode() for k in keys))


class Connected:
    def __init__(self, world: World, refused: Mapping[str, list[Exception]]) -> None:
        self._world, self._refused = world, refused

    async def live(self, integration_id: int) -> Live:
        found = await self._world.connections.live(integration_id)
        desk = SigningDesk(self._world.remote())
        desk.refused, desk.now = self._refused, self._world.clock.now()
        return Live(
            integration_id, found.ref, found.manifest, desk, found.source_hash, found.effective_hash, {}, found.revision
        )

    async def drop(self, integration_id: int) -> None:
        """Nothing is kept."""


@pytest.fixture
def refused() -> dict[str, list[Exception]]:
    return {}


@pytest.fixture
async def up(world: World, refused: dict[str, list[Exception]]) -> World:
    await world.up()
    connected = Connected(world, refused)
    world.syncer = Syncer(world.db, connected, world.journal, world.clock, world.random, lambda: None)
    return world


@pytest.fixture
def receptions(up: World, refused: dict[str, list[Exception]]) -> Sequence[Reception]:
    return [Reception(up.db, Connected(up, refused), up.journal, up.clock) for _ in range(2)]


def sent(*keys: str, **more: Any) -> bytes:
    return json.dumps({"keys": keys, **more}).encode()


GOOD = {"signature": "good", "delivery": "d-1"}


async def again(world: World) -> list[str]:
    row = await world.row()
    found = await world.read(lambda tx: dataset.log_after(tx, row.id, 0, 1000))
    return [v.key for v in found if v.payload and b"again" in v.payload]


async def test_two_processes_that_get_the_same_take_it_once(up: World, receptions: Sequence[Reception]) -> None:
    takes = [receptions[n % 2].take(PLACE, GOOD, sent("1", events=["e1"])) for n in range(10)]
    found = await asyncio.gather(*takes)
    assert sorted(t.is_repeat for t in found) == [False] + [True] * 9
    assert len({t.receipt for t in found}) == 1
    up.journal.unflushed = 0
    (run,) = await up.sync_due()
    assert (run.cause, run.result, run.counts.added + run.counts.updated) == ("inbound", "success", 1)
    assert await again(up) == ["1"]
    assert (await up.events()).count("desk.rang") == 1


async def test_other_bodies_with_other_ids_are_taken_together(up: World, receptions: Sequence[Reception]) -> None:
    for number in range(5):
        await receptions[0].take(PLACE, {**GOOD, "delivery": f"d-{number}"}, sent(str(number)))
    up.journal.unflushed = 0
    assert len(await up.sync_due()) == 1
    assert sorted(await again(up)) == ["0", "1", "2", "3", "4"]
    assert (await up.events()).count("sync.completed") == 1, "only the first sync is told of"


async def test_a_refusal_does_not_say_why(up: World, receptions: Sequence[Reception]) -> None:
    for place, headers in ((PLACE, {}), (Ref(WORKSPACE, "nobody"), GOOD), (Ref("elsewhere", "desk"), GOOD)):
        with pytest.raises(NotVerifiedError) as caught:
            await receptions[0].take(place, headers, sent("1"))
        assert str(caught.value) == ""
    assert all(wait <= 0.021 for wait in up.clock.slept[-3:])
    told = [message for _, message, _ in up.journal.lines if "refused" in message]
    assert len(told) == 1


async def test_poison_is_kept_as_failed_and_may_come_again(up: World, receptions: Sequence[Reception]) -> None:
    row = await up.row()
    poison = await receptions[0].take(PLACE, GOOD, b'"boom"')
    odd = await receptions[0].take(PLACE, {**GOOD, "delivery": "d-2"}, b"{}")
    for taken in (poison, odd):
        found = await up.read(lambda tx, t=taken: inbox.receipt(tx, row.id, t.receipt))  # type: ignore[misc]
        assert found is not None
        assert found.state == "failed"
        assert "canary" not in found.error
    mended = await receptions[0].take(PLACE, GOOD, sent("1"))
    assert not mended.is_repeat
    up.journal.unflushed = 0
    await up.sync_due()
    assert await again(up) == ["1"]


async def test_one_listing_that_fails_holds_up_no_other(
    up: World, receptions: Sequence[Reception], refused: dict[str, list[Exception]]
) -> None:
    refused["bad"], refused["shaky"] = [ForbiddenError("not yours", status=403)], [TransientError("later")]
    for listing in ("bad", "shaky", "good"):
        await receptions[0].take(PLACE, {**GOOD, "delivery": listing}, sent(listing, listing=listing))
    up.journal.unflushed = 0
    (run,) = await up.sync_due()
    assert sorted(await again(up)) == ["good", "shaky"]
    assert (run.result, "not yours" in run.error) == ("failed", True)
    view = await up.row()
    assert view.last_sync_result == "success", "a record that cannot be read again says nothing of the syncs"


async def test_a_run_that_was_fenced_off_leaves_what_waits(up: World, receptions: Sequence[Reception]) -> None:
    row = await up.row()
    taken = await receptions[0].take(PLACE, GOOD, sent("1"))
    run_id = taken.run_id
    assert run_id is not None
    await up.db.write(lambda tx: runs.cancel(tx, run_id, "Cancelled"))
    up.journal.unflushed = 0
    await up.sync_due()
    assert await again(up) == []
    assert len(await up.read(lambda tx: inbox.waiting_entities(tx, row.id))) == 1
    await up.db.write(lambda tx: inbox.ask_run(tx, row.id, up.clock.now()))
    await up.sync_due()
    assert await again(up) == ["1"]


async def test_too_much_is_refused(up: World, receptions: Sequence[Reception], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_QUEUED", 2)
    await receptions[0].take(PLACE, GOOD, sent("1", "2"))
    with pytest.raises(FullError):
        await receptions[0].take(PLACE, {**GOOD, "delivery": "d-2"}, sent("3"))


async def test_an_event_is_told_once_whatever_it_came_with(up: World, receptions: Sequence[Reception]) -> None:
    for number in range(3):
        await receptions[0].take(PLACE, {**GOOD, "delivery": f"d-{number}"}, sent(events=["e1", f"e{number}"]))
    told = [e for e in await up.read(lambda tx: event_log.to_route(tx, 0, 1000)) if e.type == "desk.rang"]
    assert [e.detail["id"] for e in told] == ["e1", "e0", "e2"]
