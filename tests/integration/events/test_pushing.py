"""What is pushed, in the transaction that stores it: new, the same, stale or missing, and nothing of what is refused."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from reconciler.events.inbound import FullError
from reconciler.events.pushing import (
    Batch,
    Push,
    SnapshotError,
    StaleError,
    Stored,
    push_batch,
    push_events,
    push_record,
)
from reconciler.sdk.inbound import Told
from reconciler.sdk.pushed import Events, Pushed, encoded
from reconciler.store import inbox, integrations
from reconciler.store.database import Tx
from tests.desk import World


@pytest.fixture
async def pushing(world: World) -> World:
    await world.up()
    return world


async def push(world: World, *, message: str = "") -> Push:
    row = await world.row()
    return Push(row=row, live=await world.connections.live(row.id), now=world.clock.now(), message=message)


async def done(world: World, call: Callable[[Tx, Push], Stored], **more: Any) -> Stored:
    by = await push(world, **more)
    return await world.db.write(lambda tx: call(tx, by))


def one(
    key: str, n: int | None = 1, version: str = "", days: float | None = None, world: World | None = None
) -> Pushed:
    at = world.clock.now() + timedelta(days=days) if world is not None and days is not None else None
    return Pushed(key, None if n is None else encoded({"n": n}), version, at)


async def record(world: World, given: Pushed) -> Stored:
    return await done(world, lambda tx, by: push_record(tx, by, "orders", given))


async def batch(world: World, *records: Pushed, **more: Any) -> Stored:
    whole = Batch(entity="orders", records=list(enumerate(records)), **more)
    return await done(world, lambda tx, by: push_batch(tx, by, whole))


async def queued(world: World) -> list[tuple[str, str]]:
    rows = await world.read(lambda tx: tx.all("SELECT op, key FROM inbox_item ORDER BY id"))
    return [(op, key) for op, key in rows]


def state(stored: Stored) -> str:
    assert stored.verdict is not None
    return stored.verdict.state


async def test_versions_decide_where_both_are_numbers(pushing: World) -> None:
    assert [state(await record(pushing, one("1", n, v))) for n, v in ((1, "9"), (1, "9"), (2, "10"))] == [
        "new", "unchanged", "changed",
    ]  # fmt: skip
    with pytest.raises(StaleError) as caught:
        await record(pushing, one("1", 3, "9"))
    assert caught.value.version == "10"
    assert state(await record(pushing, one("1", None, "11"))) == "changed"
    with pytest.raises(StaleError):
        await record(pushing, one("1", 3, "10"))
    assert state(await record(pushing, one("1", 3, "12"))) == "new"
    assert await queued(pushing) == [("put", "1"), ("put", "1"), ("delete", "1"), ("put", "1")]


async def test_times_decide_else_and_one_in_the_future_counts_as_now(pushing: World) -> None:
    await record(pushing, one("1", 1, "a", days=5, world=pushing))
    with pytest.raises(StaleError):
        await record(pushing, one("1", 2, "b", days=-1, world=pushing))
    pushing.clock.advance(timedelta(hours=1))
    assert state(await record(pushing, one("1", 2, "b", days=0, world=pushing))) == "changed"


async def test_a_batch_lists_what_is_stale_among_what_is_wrong(pushing: World) -> None:
    await batch(pushing, one("a", 1, "5"), one("b", 1, "5"))
    bad = [{"index": 0, "code": "schema", "detail": "id: is missing"}]
    records = [(3, one("a", 2, "4")), (1, one("b", 1, "5")), (2, one("c")), (4, one("d", None))]
    whole = Batch(entity="orders", records=records, rejected=bad)
    stored = await done(pushing, lambda tx, by: push_batch(tx, by, whole))
    assert [(r["index"], r["code"]) for r in stored.rejected] == [(0, "schema"), (3, "stale-version")]
    assert (stored.accepted, stored.duplicates) == (2, 1)
    assert (await queued(pushing))[2:] == [("put", "c"), ("delete", "d")]


async def test_a_snapshot_deletes_what_none_of_its_pages_named(pushing: World) -> None:
    await batch(pushing, *(one(str(n)) for n in range(10)))
    await batch(pushing, *(one(str(n)) for n in range(5)), snapshot="s1")
    await batch(pushing, *(one(str(n)) for n in range(5, 10)), snapshot="other")
    before = await queued(pushing)
    with pytest.raises(SnapshotError, match="5 of 10"):
        await batch(pushing, snapshot="s1", complete=True)
    assert await queued(pushing) == before
    stored = await batch(pushing, one("5"), one("6"), snapshot="s1", complete=True)
    assert (stored.accepted, stored.duplicates) == (0, 2)
    assert (await queued(pushing))[10:] == [("delete", "7"), ("delete", "8"), ("delete", "9")], (
        "3 of 10 are just allowed"
    )
    with pytest.raises(SnapshotError, match="7 of 7"):
        await batch(pushing, snapshot="s1", complete=True)


async def test_a_deletion_of_a_snapshot_names_nothing(pushing: World) -> None:
    await batch(pushing, *(one(str(n)) for n in range(4)))
    await batch(pushing, *(one(str(n)) for n in range(3)), one("3", None), snapshot="s", complete=True)
    assert (await queued(pushing))[4:] == [("delete", "3")]


def told(world: World, *names: str) -> Events:
    every = [Told(id=name, type="order.paid", at=world.clock.now(), data={}) for name in names]
    return Events(every, range(len(every)), [])


async def test_an_event_counts_once_in_a_request_and_over_several(pushing: World) -> None:
    first = await done(pushing, lambda tx, by: push_events(tx, by, told(pushing, "a", "b", "a")))
    again = await done(pushing, lambda tx, by: push_events(tx, by, told(pushing, "b", "c")))
    assert [(s.accepted, s.duplicates, s.taken.tells) for s in (first, again)] == [(2, 1, True), (1, 1, True)]
    sql = "SELECT count(*) FROM event WHERE type = 'order.paid'"
    assert await pushing.read(lambda tx: tx.value(sql)) == 3


async def test_a_full_queue_takes_nothing(pushing: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "MOST_QUEUED", 2)
    await batch(pushing, one("1"), one("2"))
    calls: Sequence[Callable[[], Any]] = (
        lambda: record(pushing, one("3")),
        lambda: batch(pushing, one("3")),
        lambda: done(pushing, lambda tx, by: push_events(tx, by, told(pushing, "a"))),
    )
    for call in calls:
        with pytest.raises(FullError):
            await call()
    assert len(await queued(pushing)) == 2
    assert await pushing.read(lambda tx: tx.value("SELECT count(*) FROM pushed")) == 2, "not even remembered"


async def test_what_comes_while_it_is_suspended_waits_without_a_run(pushing: World) -> None:
    row = await pushing.row()
    await pushing.db.write(lambda tx: integrations.suspend(tx, row.id, "ada", "audit", None))
    assert (await record(pushing, one("1"))).taken.run_id is None
    assert await queued(pushing) == [("put", "1")]
    await pushing.db.write(lambda tx: integrations.suspend(tx, row.id, "", "", None))
    assert (await record(pushing, one("2"))).taken.run_id is not None
