"""What a sync tells over HTTP: on both databases, cut at every event, killed in the middle, refused, never read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from reconciler.model.clock import rfc3339
from reconciler.model.condition import Reason
from reconciler.model.record import Scope
from reconciler.sdk.errors import ForbiddenError, TransientError
from reconciler.store import erasure, progress, rollback, runs
from reconciler.store.database import Tx
from reconciler.store.errors import StoreFullError
from reconciler.store.runs import Run
from tests.desk import WORKSPACE, World, desired, in_pages, tickets
from tests.integration.serve.listening import (
    PATIENCE,
    STREAM,
    Event,
    Served,
    heard,
    listening,
    next_of,
    raw,
    serving,
    until,
)

SYNC = "/v1/integrations/desk/sync"


@pytest.fixture
async def up(world: World) -> World:
    await world.wish(desired("desk", {"sync": {"timeout": "2h", "entities": ["tickets", "people", "notes"]}}))
    await world.reconcile()
    await world.db.write(lambda tx: tx.execute("DELETE FROM run"))
    world.remote().pages["tickets"] = list(in_pages(tickets(*range(1, 10)), 3))
    world.remote().pages["people"] = [[{"id": "ada"}], [{"id": "bob"}, {"id": "eve"}]]
    return world


@pytest.fixture
async def served(up: World) -> AsyncIterator[Served]:
    async with serving(up.db) as found:
        yield found


async def the_run(world: World) -> Run:
    row = await world.row("desk")
    (run,) = await world.read(lambda tx: runs.history(tx, row.id))
    return run


async def begun(world: World, served: Served, **more: Any) -> tuple[Run, str]:
    """A run that a client asked for and left at once, and the id of the event that it has heard."""
    async with listening(served.client, SYNC, "POST", **more) as events:
        first = await next_of(events)
    assert first.body["message"] == "queued"
    return await the_run(world), first.id


def ids(events: list[Event]) -> list[str]:
    return [record for event in events for record in event.body.get("ids", ())]


def numbers(events: list[Event]) -> list[int]:
    return [int(event.id.rpartition(":")[2]) for event in events]


async def test_a_sync_is_told_while_it_goes_on(up: World, served: Served) -> None:
    up.remote().counted = 4
    telling = asyncio.create_task(heard(served.client, SYNC, "POST", json={"scope": "full"}))
    await until(lambda: served.streams.open)
    await up.go_on(await the_run(up))
    told = await telling
    assert numbers(told) == list(range(1, len(told) + 1))
    assert [event.kind for event in told] == ["progress"] * (len(told) - 1) + ["complete"]
    assert ids(told) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "ada", "bob", "eve"]
    batches = [event.body for event in told if event.body.get("ids")]
    assert [one["batch"] for one in batches] == [1, 2, 3, 4, 5]
    assert batches[0]["totalBatches"] == 4
    assert batches[0]["message"] == "tickets: 3 records stored"
    last = told[-1].body
    assert last["integration"] == {
        "id": (await up.row()).public_id,
        "workspace": WORKSPACE,
        "name": "desk",
        "type": "desk",
    }
    assert last["stats"] == {"added": 12, "updated": 0, "deleted": 0, "rejected": 0, "total": 12}
    assert last["last_synced"] == (await up.row()).last_sync_at
    assert (last["result"], last["sync_job_id"]) == ("success", (await the_run(up)).public_id)


async def test_cut_at_every_event_and_resumed_there_is_no_gap_and_no_repeat(up: World, served: Served) -> None:
    """The same request again, and the sync's own address; while it goes on, and when it is over."""
    up.remote().faults["tickets", 1] += [TransientError("reset"), TransientError("500")]
    up.remote().faults["people", 1] += [TransientError("again", detail={"restart": True})]
    up.remote().forever["notes"] = ForbiddenError("403")
    run, last = await begun(up, served)
    pieces: list[Event] = []

    async def piecewise() -> None:
        at = last
        while not pieces or pieces[-1].kind == "progress":
            async with listening(served.client, SYNC, "POST", at) as events:
                pieces.append(await next_of(events))
            at = pieces[-1].id

    async with asyncio.timeout(PATIENCE):
        done, _ = await asyncio.gather(up.go_on(run), piecewise())
    assert done.result == "partial"
    own = f"/v1/syncs/{run.public_id}/events"
    whole = await heard(served.client, own)
    assert whole[1:] == pieces
    assert numbers(whole) == list(range(1, len(whole) + 1))
    assert ids(whole) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "ada", "bob", "eve"]
    said = [event.body["message"] for event in whole]
    assert "notes: 403" in said
    assert any(text.startswith("tickets: reset; tried again in") for text in said)
    for place, event in enumerate(whole[:-1]):
        assert await heard(served.client, own, last=event.id) == whole[place + 1 :]
        assert await heard(served.client, SYNC, "POST", event.id) == whole[place + 1 :]
    for method, path in (("GET", own), ("POST", SYNC)):
        over = await served.client.request(method, path, headers={**STREAM, "last-event-id": whole[-1].id})
        assert (over.status_code, over.content) == (204, b"")
    assert (await the_run(up)).id == run.id


async def test_a_run_that_dies_tells_nothing_twice(up: World, served: Served) -> None:
    """Its process ends between two pages; what another one reads again, from a place or from the beginning, was told."""
    reached, never = asyncio.Event(), asyncio.Event()

    async def stuck() -> None:
        reached.set()
        await never.wait()

    up.remote().faults["people", 1].append(stuck)
    run, last = await begun(up, served)
    first = asyncio.create_task(heard(served.client, SYNC, "POST", last))
    dying = asyncio.create_task(up.go_on(run))
    async with asyncio.timeout(PATIENCE):
        await reached.wait()
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    up.journal.unflushed = 0
    # as where the remote gives no place to resume from: every page of the entity is read once more
    await up.db.write(lambda tx: tx.execute("UPDATE run_entity SET position = NULL"))
    async with serving(up.db) as after_restart:
        second = asyncio.create_task(heard(after_restart.client, f"/v1/syncs/{run.public_id}/events", last=last))
        assert (await up.go_on(run)).result == "success"
        assert await first == await second
    told = await first
    assert ids(told) == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "ada", "bob", "eve"]
    assert "goes on (attempt 2)" in [event.body["message"] for event in told]
    assert numbers(told) == list(range(2, len(told) + 2))


async def test_an_event_is_heard_soon_after_its_page(up: World, served: Served) -> None:
    loop, stored = asyncio.get_running_loop(), dict[str, float]()
    go_on = asyncio.Event()

    async def note() -> None:
        """The page before is stored, or is about to be: reading is one page ahead."""
        stored["at"] = loop.time()
        await go_on.wait()

    up.remote().faults["tickets", 2].append(note)
    run, last = await begun(up, served)
    async with listening(served.client, SYNC, "POST", last) as events:
        going = asyncio.create_task(up.go_on(run))
        while (await next_of(events)).body["ids"] != ["4", "5", "6"]:
            pass
        late = loop.time() - stored["at"]
        go_on.set()
        await going
    assert late < 5  # of a busy machine; how long it is otherwise: see LOOK_SECONDS


async def test_one_that_nobody_watches_writes_nothing(up: World, served: Served) -> None:
    run = await up.sync()
    assert run.result == "success"
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM run_event")) == 0
    assert not run.is_watched
    (only,) = await heard(served.client, f"/v1/syncs/{run.public_id}/events")
    assert (only.kind, only.body["stats"]["added"]) == ("complete", 12)


async def test_one_may_begin_to_watch_in_the_middle(up: World, served: Served) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await go_on.wait()

    up.remote().faults["people", 0].append(wait)
    run = await up.make_run()
    going = asyncio.create_task(up.go_on(run))
    await reached.wait()
    async with listening(served.client, f"/v1/syncs/{run.public_id}/events") as events:
        first = await next_of(events)
        go_on.set()
        rest = [event async for event in events]
    await going
    assert first.body["message"] == "3 batches were stored before this stream began"
    assert ids(rest) == ["ada", "bob", "eve"]
    assert [event.body["batch"] for event in rest if event.body.get("ids")] == [4, 5]


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda world: world.remote().forever.update(tickets=ForbiddenError("no"), people=ForbiddenError("no")),
         "fetch-failed", "no"),
        (lambda world: world.remote().pages.clear() or world.remote().forever.update(dict.fromkeys(
            ("tickets", "people", "notes"), TransientError("down"))), "fetch-failed", "down"),
    ],
)  # fmt: skip
async def test_a_run_that_fails_ends_with_an_error(
    up: World, served: Served, spoil: Callable[[World], None], code: str, said: str
) -> None:
    spoil(up)
    up.remote().forever.setdefault("notes", ForbiddenError("no"))
    run, last = await begun(up, served)
    await up.go_on(run)
    end = (await heard(served.client, SYNC, "POST", last))[-1]
    assert (end.kind, end.body["code"], end.body["result"]) == ("error", code, "failed")
    assert said in end.body["detail"]


async def test_a_pause_is_told_and_so_is_its_end(up: World, served: Served) -> None:
    up.remote().faults["tickets", 1].append(TransientError("busy", retry_after=timedelta(minutes=20)))
    run, last = await begun(up, served)
    assert (await up.go_on(run)).state == "due"
    up.clock.advance(timedelta(minutes=20))
    await up.go_on(run)
    said = [event.body["message"] for event in await heard(served.client, SYNC, "POST", last)]
    assert "paused: busy" in said
    assert said.index("paused: busy") < said.index("goes on (attempt 2)")


async def test_a_cancelled_run_ends_with_an_error(up: World, served: Served) -> None:
    run, last = await begun(up, served)
    await up.db.write(lambda tx: runs.cancel(tx, run.id, Reason.CANCELLED))
    await up.db.write(lambda tx: runs.close_cancelled(tx, [run.id], rfc3339(up.clock.now())))
    # who still works on it has not heard yet
    await up.db.write(lambda tx: progress.say(tx, run.id, "tried again", rfc3339(up.clock.now())))
    (end,) = await heard(served.client, SYNC, "POST", last)
    assert (end.kind, end.body["code"]) == ("error", "cancelled")


async def test_what_a_client_is_told_where_nothing_begins(up: World, served: Served) -> None:
    async def refused(path: str = SYNC, **more: Any) -> Any:
        (only,) = await heard(served.client, path, "POST", **more)
        assert (only.kind, only.id) == ("error", "")
        return only.body

    assert (await refused("/v1/integrations/nothing/sync"))["code"] == "integration-not-found"
    assert (await refused(json={"scope": "full", "since": "2026-01-01T00:00:00Z"}))["code"] == "invalid-body"
    assert (await refused(last="run_2345:1"))["code"] == "sync-not-found"
    assert (await refused(last="rubbish"))["code"] == "invalid-event-id"
    await up.db.write(lambda tx: tx.execute("UPDATE integration SET is_connected = 0, is_desired = 0"))
    served.board._loaded_at = None
    assert (await refused())["code"] == "refused"
    row = await up.row()
    assert await up.read(lambda tx: runs.history(tx, row.id)) == []


async def test_what_the_door_refuses_is_a_problem(served: Served) -> None:
    client = served.client
    bad = await client.post(SYNC, headers={**STREAM, "authorization": "Bearer no"})
    odd = await client.post(SYNC, headers=STREAM, json={"scope": "sideways"})
    gone = await client.get("/v1/syncs/run_2345/events", headers=STREAM)
    wrong = await client.get("/v1/syncs/run_2345/events", headers={**STREAM, "last-event-id": "x"})
    assert [a.status_code for a in (bad, odd, gone, wrong)] == [401, 422, 404, 400]
    assert {a.headers["content-type"] for a in (bad, odd, gone, wrong)} == {"application/problem+json"}


async def test_the_same_key_is_the_same_run(up: World, served: Served) -> None:
    key: dict[str, Any] = {"headers": {"idempotency-key": "k-1"}}
    run, last = await begun(up, served, **key)
    queued = await served.client.post(SYNC, headers=key["headers"])
    assert (queued.status_code, queued.json()["sync_job_id"]) == (202, run.public_id)
    await up.go_on(run)
    again = await heard(served.client, SYNC, "POST", **key)
    assert (again[0].body["message"], again[-1].kind) == ("queued", "complete")
    assert again[1:] == await heard(served.client, SYNC, "POST", last, **key)
    assert (await the_run(up)).id == run.id
    async with served.client.stream(
        "POST", SYNC, headers={**STREAM, **key["headers"]}, json={"scope": "full"}
    ) as answer:
        (other,) = [event async for event in _events(answer)]
    assert other["code"] == "idempotency-mismatch"


async def _events(answer: httpx.Response) -> AsyncIterator[Any]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def test_a_rollback_tells_what_it_brings_back(up: World, served: Served) -> None:
    assert (await up.sync()).dataset_version == 1
    up.remote().pages["people"] = [[{"id": "ada", "age": 1}, {"id": "new"}]]
    assert (await up.sync(scope=Scope.FULL)).dataset_version == 2
    row, at = await up.row(), rfc3339(up.clock.now())

    def begin(tx: Tx) -> Run:
        run = rollback.begin(tx, row.id, 1, at, emits_events=False)
        progress.watch(tx, run.id, at)
        return run

    run = await up.db.write(begin)
    assert (await up.go_on(run)).result == "success"
    told = await heard(served.client, f"/v1/syncs/{run.public_id}/events")
    people = [event.body for event in told if event.body.get("entity") == "people"]
    assert [(sorted(one["ids"]), one["deleted"]) for one in people] == [(["ada", "bob", "eve"], ["new"])]
    assert (told[-1].kind, told[-1].body["stats"]["deleted"]) == ("complete", 1)


async def test_what_cannot_be_read_is_a_fault_of_the_configuration(up: World, served: Served) -> None:
    run, last = await begun(up, served, json={"entities": ["nonsense"]})
    await up.go_on(run)
    end = (await heard(served.client, SYNC, "POST", last))[-1]
    assert (end.kind, end.body["code"]) == ("error", "configuration-missing")
    assert "no entity nonsense" in end.body["detail"]


async def test_a_store_that_fails_ends_the_stream_and_the_client_goes_on(
    up: World, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, last = await begun(up, served)

    async def fails(*_: object) -> None:
        raise StoreFullError("no room left")

    with monkeypatch.context() as patch:
        patch.setattr(served.streams.runs, "stored", fails)
        assert await heard(served.client, SYNC, "POST", last) == []
    await up.go_on(run)
    assert (await heard(served.client, SYNC, "POST", last))[-1].kind == "complete"


async def test_an_erased_record_is_in_no_event(up: World, served: Served) -> None:
    run, _ = await begun(up, served)
    await up.go_on(run)
    row = await up.row()
    await up.db.write(lambda tx: erasure.erase(tx, row.id, ["ada"], None, "2026"))
    bodies = await up.read(lambda tx: [body for (body,) in tx.all("SELECT body FROM run_event")])
    assert not any('"ada"' in body for body in bodies)
    whole = await heard(served.client, f"/v1/syncs/{run.public_id}/events")
    assert "[erased]" in ids(whole)
    await up.db.write(lambda tx: erasure.purge(tx, row.id, "2026"))
    (end,) = await heard(served.client, f"/v1/syncs/{run.public_id}/events")
    assert end.kind == "complete"


async def test_events_go_with_their_run(up: World, served: Served) -> None:
    run, last = await begun(up, served)
    await until(lambda: not served.streams.open)
    waiting = asyncio.create_task(heard(served.client, SYNC, "POST", last))
    await until(lambda: served.streams.runs._tails)
    await up.db.write(lambda tx: tx.execute("DELETE FROM run WHERE id = :i", {"i": run.id}))
    (only,) = await waiting
    assert only.body["code"] == "run-gone"
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM run_event")) == 0


async def test_five_hundred_watch_one_run(up: World, served: Served) -> None:
    run, last = await begun(up, served)
    own = f"/v1/syncs/{run.public_id}/events"
    watching = [asyncio.create_task(raw(served.client, own, b'"dataset_version":1}', last)) for _ in range(500)]
    async with asyncio.timeout(PATIENCE):
        await until(lambda: len(served.streams.open) >= 500)
        assert (await served.client.get("/v1/integrations")).status_code == 200
        await up.go_on(run)
        told = await asyncio.gather(*watching)
        await until(lambda: not served.streams.open)
    for record in ("1", "9", "ada", "eve"):
        assert all(one.count(b'"%b"' % record.encode()) == 1 for one in told)
    assert served.streams.runs._looking is None
