"""The inbox and keys to push with, statement by statement, on both databases; two processes at once on PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from reconciler.control import push_keys
from reconciler.control.carried import OrderError
from reconciler.control.push_keys import KeyLimitError, KeyWish, MadeKey, OtherKeyError
from reconciler.control.stranded import Stranded
from reconciler.model.access import hash_of
from reconciler.model.clock import rfc3339
from reconciler.model.ids import Ref
from reconciler.model.ingest_key import key_id_of, new_key
from reconciler.sdk.pushed import Pushed
from reconciler.store import erasure, inbox, ingest_keys, integrations, pushed, runs
from reconciler.store.database import Database, Tx
from reconciler.store.inbox import Item
from reconciler.store.integrations import IntegrationRow
from tests.desk import WORKSPACE, World, desired

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
VECTOR = "rck_k7Qm2XaB_QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8"
STORED = "42cb20c77b299f0ab56d7574c7fe38c03694c8909d5c7041910868adb6f3beaa"


@pytest.fixture
async def up(world: World) -> World:
    await world.wish(desired("desk"), desired("other"))
    return world


def put(tx: Tx, i: int, key: str, payload: bytes = b'{"a":1}') -> int:
    number, _ = inbox.open_request(tx, i, "record", rfc3339(NOW))
    inbox.put_items(tx, i, number, [Item(entity="orders", key=key, op="put", payload=payload)])
    return number


def test_the_vector_of_keys() -> None:
    assert (key_id_of(VECTOR), hash_of(VECTOR)) == ("k7Qm2XaB", STORED)
    made = new_key()
    assert len(made.clear.reveal()) == 56
    assert key_id_of(made.clear.reveal()) == made.key_id
    assert key_id_of(made.clear.reveal() + "x") == key_id_of("rct_1_2") == ""


async def test_an_id_is_new_once_and_again_after_a_failure(up: World) -> None:
    row = await up.row()

    def take(tx: Tx) -> tuple[bool, bool, str | None]:
        number, public = inbox.open_request(tx, row.id, "webhook", rfc3339(NOW))
        first = inbox.is_new(tx, row.id, "delivery:1", number, rfc3339(NOW))
        second = inbox.is_new(tx, row.id, "delivery:1", number, rfc3339(NOW))
        before = inbox.taken_by(tx, row.id, ["delivery:1"])
        inbox.close_request(tx, number, 0, error="it was poison")
        assert before == public
        return first, second, inbox.taken_by(tx, row.id, ["delivery:1"])

    assert await up.db.write(take) == (True, False, None)


async def test_what_waits_is_taken_in_order_and_told_of(up: World) -> None:
    row = await up.row()

    def fill(tx: Tx) -> str:
        number, public = inbox.open_request(tx, row.id, "batch", rfc3339(NOW))
        items = [Item(entity="orders", key=str(n), op="put", payload=b"{}", position=n) for n in range(5)]
        inbox.put_items(tx, row.id, number, [*items, Item(entity="orders", key="r", op="read", payload=b"{}")])
        inbox.close_request(tx, number, 6)
        return public

    public = await up.db.write(fill)
    found = await up.read(lambda tx: inbox.waiting(tx, row.id, "orders", 3, reads=False))
    assert [i.key for i in found] == ["0", "1", "2"]
    assert [i.key for i in await up.read(lambda tx: inbox.waiting(tx, row.id, "orders", reads=True))] == ["r"]
    await up.db.write(lambda tx: inbox.settle(tx, found[:2]))
    await up.db.write(lambda tx: inbox.settle(tx, found[2:], "does not fit"))
    half = await up.read(lambda tx: inbox.receipt(tx, row.id, public))
    assert half is not None
    assert (half.state, half.waiting, half.failed, half.errors[0]["index"]) == ("queued", 3, 1, 2)
    last = await up.read(inbox.newest)
    await up.db.write(lambda tx: inbox.fail_waiting(tx, row.id, "orders", last, "no"))
    done = await up.read(lambda tx: inbox.receipt(tx, row.id, public))
    assert done is not None
    assert (done.state, done.failed) == ("failed", 4)
    assert await up.read(lambda tx: inbox.receipt(tx, row.id + 1, public)) is None
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM inbox_item WHERE payload IS NOT NULL")) == 0


async def test_one_run_takes_all_that_waits(up: World) -> None:
    row = await up.row()
    one, two = [await up.db.write(lambda tx: inbox.ask_run(tx, row.id, NOW)) for _ in range(2)]
    assert one == two
    found = await up.read(lambda tx: runs.get(tx, one))
    assert found is not None
    assert (found.cause, found.is_inbound) == ("inbound", True)


async def test_versions_of_pushed_records(up: World) -> None:
    row = await up.row()

    async def state(payload: bytes | None, version: str = "", day: int | None = None) -> str:
        at = datetime(2026, 1, day, tzinfo=UTC) if day else None
        one = Pushed("k", payload, version, at)
        verdict = await up.db.write(lambda tx: pushed.accept(tx, row.id, "orders", one, NOW))
        return verdict.state

    assert await state(b"1", "1") == "new"
    assert await state(b"1", "1") == "unchanged"
    assert await state(b"2", "2") == "changed"
    assert await state(b"3", "1") == "stale"
    assert await state(None, "3") == "changed"
    assert await state(None, "3") == "unchanged"
    assert await state(b"2", "2") == "stale"
    assert await state(b"2", "4", 5) == "new"
    assert await state(b"5", "", 4) == "stale"
    await up.db.write(lambda tx: pushed.forget_contents(tx, row.id))
    assert await state(b"2", "4") == "changed"
    assert await state(None, "5") == "changed"
    await up.db.write(lambda tx: pushed.forget_contents(tx, row.id))
    assert await state(None, "5") == "changed"


async def test_what_could_not_be_stored_is_a_change_when_it_comes_again(up: World) -> None:
    row = await up.row()

    def push(tx: Tx, key: str) -> str:
        return pushed.accept(tx, row.id, "orders", Pushed(key, b"1", "7"), NOW).state

    def fail(tx: Tx) -> None:
        push(tx, "a")
        put(tx, row.id, "a")
        pushed.forget_waiting(tx, row.id, "orders", inbox.newest(tx))
        inbox.fail_waiting(tx, row.id, "orders", inbox.newest(tx), "no")

    await up.db.write(lambda tx: push(tx, "b"))
    await up.db.write(fail)
    assert [await up.db.write(partial(push, key=key)) for key in "aab"] == ["changed", "unchanged", "unchanged"]


async def test_a_snapshot_knows_what_it_did_not_name(up: World) -> None:
    row = await up.row()

    def fill(tx: Tx) -> tuple[list[str], int]:
        for key in "abc":
            pushed.accept(tx, row.id, "orders", Pushed(key, b"1"), NOW)
        pushed.note_snapshot(tx, row.id, "orders", "s", ["a", "a"], rfc3339(NOW))
        return pushed.missing(tx, row.id, "orders", "s")

    assert await up.db.write(fill) == (["b", "c"], 3)


async def test_erasing_reaches_what_waits(up: World) -> None:
    row = await up.row()
    await up.db.write(lambda tx: put(tx, row.id, "somebody", b'{"name":"canary"}'))
    await up.db.write(lambda tx: pushed.accept(tx, row.id, "orders", Pushed("somebody", b"1"), NOW))
    await up.db.write(lambda tx: erasure.erase(tx, row.id, ["somebody"], None, rfc3339(NOW)))
    left = await up.read(lambda tx: [tx.value(f"SELECT count(*) FROM {t}") for t in ("inbox_item", "pushed")])
    assert left == [0, 0]


async def test_what_is_old_goes(up: World) -> None:
    row = await up.row()
    number = await up.db.write(lambda tx: put(tx, row.id, "a"))
    await up.db.write(lambda tx: inbox.is_new(tx, row.id, "event:1", number, rfc3339(NOW)))
    later = rfc3339(NOW + timedelta(days=7))
    assert await up.db.write(lambda tx: inbox.drop_old(tx, rfc3339(NOW))) == 0
    assert await up.db.write(lambda tx: inbox.drop_old(tx, later)) == 1
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM inbox_item")) == 1  # the answer said that it is kept
    await up.db.write(lambda tx: inbox.settle(tx, inbox.waiting(tx, row.id, "orders", reads=False)))
    assert await up.db.write(lambda tx: inbox.drop_old(tx, later)) == 1
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM inbox_item")) == 0


async def test_what_waits_at_an_integration_that_is_gone_goes_with_it(up: World) -> None:
    row = await up.row()
    await up.db.write(lambda tx: put(tx, row.id, "a"))
    await up.db.write(lambda tx: tx.execute("UPDATE integration SET removed_at = :t", {"t": rfc3339(NOW)}))
    assert await up.db.write(lambda tx: inbox.drop_old(tx, rfc3339(NOW + timedelta(days=7)))) == 1


async def test_what_nobody_takes_gets_a_run_when_it_can(up: World) -> None:
    row, stranded = await up.row(), Stranded(up.db, up.clock)
    await up.db.write(lambda tx: put(tx, row.id, "a"))
    assert await stranded.tick() == 0  # not connected yet
    await up.reconcile()
    assert await stranded.tick() == 1
    assert await stranded.tick() == 0  # that one is open


def _key_row(tx: Tx, name: str = "desk") -> IntegrationRow:
    row = integrations.find(tx, Ref(WORKSPACE, name))
    assert row is not None
    return row


def _regenerate(tx: Tx, now: datetime, grace: timedelta, instead_of: str | None = None) -> MadeKey:
    return push_keys.regenerate(tx, _key_row(tx), KeyWish(by="ada"), now, grace=grace, instead_of=instead_of)


@pytest.fixture
def pushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk is nothing that is pushed to; what is tested here are rows."""
    monkeypatch.setattr(push_keys, "demand_pushes", lambda _: None)


@pytest.mark.usefixtures("pushes")
async def test_there_are_two_keys_at_most(up: World) -> None:
    states = []
    for step, grace in enumerate((0, 60, 60, 0)):
        now = NOW + timedelta(seconds=step)
        await up.db.write(partial(_regenerate, now=now, grace=timedelta(seconds=grace)))
        keys = await up.read(lambda tx: ingest_keys.of_integration(tx, _key_row(tx).id))
        states.append([key.state(now) for key in keys])
    assert states == [
        ["active"],
        ["active", "retiring"],
        ["active", "retiring", "revoked"],
        ["active", "revoked", "revoked", "revoked"],
    ]


@pytest.mark.usefixtures("pushes")
async def test_a_key_whose_time_is_over_is_not_revoked_once_more(up: World) -> None:
    old = await up.db.write(partial(_regenerate, now=NOW, grace=timedelta()))
    await up.db.write(partial(_regenerate, now=NOW, grace=timedelta(hours=1)))

    def revoke(tx: Tx, minutes: int) -> bool:
        return push_keys.revoke(tx, _key_row(tx), old.row.key_id, "ada", NOW + timedelta(minutes=minutes))

    assert [await up.db.write(partial(revoke, minutes=minutes)) for minutes in (60, 59)] == [False, True]


@pytest.mark.usefixtures("pushes")
async def test_of_two_who_replace_a_key_at_once_one_is_second(up: World) -> None:
    first = await up.db.write(lambda tx: push_keys.regenerate(tx, _key_row(tx), KeyWish(by="ada"), NOW))
    replace = partial(push_keys.regenerate, wish=KeyWish(by="bob"), now=NOW, instead_of=first.row.key_id)

    async def ask() -> bool:
        try:
            await up.db.write(lambda tx: replace(tx, _key_row(tx)))
        except OtherKeyError:
            return False
        return True

    assert sorted(await asyncio.gather(*(ask() for _ in range(4)))) == [False, False, False, True]


@pytest.mark.usefixtures("pushes")
async def test_two_keys_may_be_active_and_each_is_replaced_by_name(up: World) -> None:
    erp = await up.db.write(lambda tx: push_keys.create(tx, _key_row(tx), KeyWish(by="ada", label="erp"), NOW))
    shop = await up.db.write(lambda tx: push_keys.create(tx, _key_row(tx), KeyWish(by="ada", label="shop"), NOW))

    async def states() -> dict[str, str]:
        keys = await up.read(lambda tx: ingest_keys.of_integration(tx, _key_row(tx).id))
        return {key.key_id: key.state(NOW) for key in keys}

    assert await states() == {shop.row.key_id: "active", erp.row.key_id: "active"}
    with pytest.raises(KeyLimitError, match="2 keys open"):
        await up.db.write(lambda tx: push_keys.create(tx, _key_row(tx), KeyWish(by="ada"), NOW))
    with pytest.raises(OrderError, match="say which"):
        await up.db.write(partial(_regenerate, now=NOW, grace=timedelta()))
    with pytest.raises(KeyLimitError, match="three keys"):
        await up.db.write(partial(_regenerate, now=NOW, grace=timedelta(hours=1), instead_of=erp.row.key_id))
    new = await up.db.write(partial(_regenerate, now=NOW, grace=timedelta(), instead_of=erp.row.key_id))
    assert await states() == {new.row.key_id: "active", shop.row.key_id: "active", erp.row.key_id: "revoked"}
    assert await up.db.write(lambda tx: push_keys.revoke(tx, _key_row(tx), shop.row.key_id, "ada", NOW))
    counted = await up.read(ingest_keys.operations)
    assert counted == [(WORKSPACE, "desk", *one) for one in (("create", 2), ("regenerate", 1), ("revoke", 1))]
    seen = await up.read(ingest_keys.seen)
    assert [key.key_id for key in seen.active[Ref(WORKSPACE, "desk")]] == [new.row.key_id]


@pytest.mark.usefixtures("pushes")
async def test_a_key_that_would_open_nothing_is_not_made(up: World) -> None:
    wish = KeyWish(by="ada", expires_at=NOW - timedelta(seconds=1))
    with pytest.raises(OrderError, match="expires_at is over"):
        await up.db.write(lambda tx: push_keys.create(tx, _key_row(tx), wish, NOW))


@pytest.mark.usefixtures("pushes")
async def test_who_is_let_go_has_no_keys(up: World) -> None:
    made = await up.db.write(lambda tx: push_keys.regenerate(tx, _key_row(tx), KeyWish(by="ada"), NOW))
    await up.wish(desired("other"))
    row = await up.row()
    assert await up.db.write(lambda tx: integrations.record_removed(tx, row.id, row.generation, rfc3339(NOW)))
    (key,) = await up.read(lambda tx: ingest_keys.of_integration(tx, row.id))
    assert key.key_id == made.row.key_id
    assert not key.opens(NOW)


async def test_many_at_once_with_one_id_are_taken_once(up: World) -> None:
    row = await up.row()

    async def take(db: Database) -> bool:
        def one(tx: Tx) -> bool:
            number, _ = inbox.open_request(tx, row.id, "webhook", rfc3339(NOW))
            return inbox.is_new(tx, row.id, "delivery:x", number, rfc3339(NOW))

        return await db.write(one)

    assert sum(await asyncio.gather(*(take(up.db) for _ in range(16)))) == 1
