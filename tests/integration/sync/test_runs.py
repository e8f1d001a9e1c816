"""Runs on real SQLite against a scripted remote: nothing lost, nothing doubled, and never green without cause."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from reconciler.model.clock import rfc3339
from reconciler.model.condition import ConditionType, Reason, Truth
from reconciler.model.record import LogLevel, Page, Scope
from reconciler.sdk.contract import Entity
from reconciler.sdk.errors import ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.live import NotConnectableError
from reconciler.store import jobs, runs
from reconciler.store.runs import Run
from reconciler.sync import entity
from reconciler.sync import run as run_module
from reconciler.sync.run import MAX_RETRIES
from tests.desk import Desk, World, desired, in_pages, tickets

C = ConditionType


async def _keys(world: World, name: str = "tickets") -> list[str]:
    sql = (
        "SELECT h.key FROM head h JOIN entity e ON e.id = h.entity_id WHERE e.name = :n AND h.deleted = 0 ORDER BY h.id"
    )
    return [k for (k,) in await world.read(lambda tx: tx.all(sql, n=name))]


async def _versions(world: World) -> int:
    return int(await world.read(lambda tx: tx.value("SELECT count(*) FROM version")))


async def _watermark(world: World, name: str = "tickets") -> str:
    return str(await world.read(lambda tx: tx.value("SELECT watermarks FROM entity WHERE name = :n", n=name)))


@pytest.fixture
async def up(world: World) -> World:
    await world.wish(desired("desk", {"sync": {"timeout": "2h"}}))
    await world.reconcile()
    await world.db.write(lambda tx: tx.execute("DELETE FROM run"))
    world.remote().pages["tickets"] = list(in_pages(tickets(*range(1, 10)), 3))
    return world


async def test_a_run_counts_versions_and_says_it_succeeded(up: World) -> None:
    up.remote().counted = 9
    run = await up.sync()
    c = run.counts
    assert (run.result, c.added, c.updated, c.unchanged, c.estimated) == ("success", 9, 0, 0, 18)
    assert (run.dataset_version, c.pages, (await up.said())[C.FRESH].truth) == (1, 4, Truth.TRUE)
    assert "sync.completed" in await up.events()
    again = await up.sync()
    assert (again.counts.unchanged, again.counts.changed, again.dataset_version) == (9, 0, None)
    assert (await up.row()).last_sync_at is not None


async def test_transient_errors_go_on_from_the_last_stored_page(up: World) -> None:
    up.remote().faults["tickets", 1] += [TransientError("reset"), TransientError("500")]
    run = await up.sync()
    resumed = [r.resume for name, r in up.remote().asked if name == "tickets"]
    assert (run.result, await _keys(up)) == ("success", [str(n) for n in range(1, 10)])
    assert resumed == [None, {"page": 1}, {"page": 1}]
    warned = [d for level, _, d in up.journal.lines if level is LogLevel.WARN]
    assert [(d["retry_attempt"], d["max_retries"]) for d in warned] == [(1, MAX_RETRIES), (2, MAX_RETRIES)]
    assert all(d["retry_after_ms"] >= 0 for d in warned)


async def test_errors_are_counted_in_a_row_not_over_the_whole_read(up: World) -> None:
    up.remote().pages["tickets"] = list(in_pages(tickets(*range(1, 21)), 1))
    for page in range(20):
        up.remote().faults["tickets", page].append(TransientError("now and then"))
    assert (await up.sync()).result == "success"


async def test_too_many_errors_in_a_row_end_the_entity(up: World) -> None:
    up.remote().forever["tickets"] = TransientError("down")
    run = await up.sync()
    assert (run.result, run.reason) == ("partial", Reason.REMOTE_UNAVAILABLE)
    assert len([n for n, _ in up.remote().asked if n == "tickets"]) == MAX_RETRIES + 1


async def test_restarting_again_and_again_is_not_getting_on(up: World) -> None:
    up.remote().faults["tickets", 2] += [TransientError("token expired", detail={"restart": True})] * 20
    assert (await up.sync()).result == "partial"


async def test_a_long_retry_after_pauses_and_the_same_run_goes_on(up: World) -> None:
    up.remote().faults["tickets", 1].append(TransientError("busy", retry_after=timedelta(minutes=20)))
    run = await up.sync()
    assert (run.state, run.result, await _keys(up)) == ("due", None, ["1", "2", "3"])
    assert (await up.jobs_of("sync"))[str(run.id)] == rfc3339(up.clock.now() + timedelta(minutes=20))
    other = await up.sync(entities=["people"])
    assert other.result == "success"
    up.clock.advance(timedelta(minutes=20))
    run = await up.go_on(run)
    assert (run.result, run.attempts, len(await _keys(up))) == ("success", 2, 9)


async def test_a_wait_beyond_the_deadline_ends_the_run_honestly(up: World) -> None:
    up.remote().faults["tickets", 1].append(TransientError("quota", retry_after=timedelta(hours=9)))
    run = await up.sync()
    assert (run.result, run.reason, len(await _keys(up))) == ("partial", Reason.REMOTE_UNAVAILABLE, 3)
    assert "beyond the deadline" in run.error


@pytest.mark.parametrize(
    ("faults", "result", "reason"),
    [
        ({"tickets": UnauthorizedError("401")}, "failed", Reason.AUTHENTICATION_FAILED),
        ({"tickets": ForbiddenError("403")}, "partial", Reason.PERMISSION_DENIED),
        ({"tickets": ForbiddenError("403"), "people": ForbiddenError("403")}, "failed", Reason.PERMISSION_DENIED),
        ({"people": RejectedError("404")}, "partial", Reason.REJECTED),
        ({"people": KeyError("canary")}, "partial", Reason.INTERNAL_ERROR),
    ],
)
async def test_what_could_not_be_read_is_never_green(
    up: World, faults: dict[str, Exception], result: str, reason: Reason
) -> None:
    up.remote().forever.update(faults)
    run = await up.sync()
    fresh = (await up.said())[C.FRESH]
    assert (run.result, run.reason, fresh.truth, fresh.reason) == (result, reason, Truth.FALSE, reason)
    assert (await up.row()).last_sync_at is None
    assert "canary" not in run.error
    assert ("sync.failed" in await up.events()) is (result == "failed")
    is_asked = str((await up.row()).id) in await up.jobs_of("reconcile")
    assert is_asked is (reason is Reason.AUTHENTICATION_FAILED)
    up.remote().forever.clear()
    await up.reconcile()
    assert (await up.sync()).result == "success"
    assert (await up.said())[C.FRESH].truth is Truth.TRUE


async def test_a_fault_outside_of_reading_ends_the_run_and_says_so(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Desk, config: object) -> tuple[Entity, ...]:
        raise KeyError("canary")

    monkeypatch.setattr(Desk, "entities_of", broken)
    run = await up.sync()
    assert (run.state, run.result, run.reason) == ("done", "failed", Reason.INTERNAL_ERROR)
    assert "KeyError in test_runs.py" in run.error
    assert "canary" not in run.error
    assert (await up.said())[C.FRESH].truth is Truth.FALSE


async def test_a_part_that_a_person_chose_does_not_speak_for_the_whole(up: World) -> None:
    up.remote().forever["people"] = ForbiddenError("403")
    await up.sync()
    assert (await up.sync(entities=["tickets"])).result == "success"
    row = await up.row()
    assert ((await up.said())[C.FRESH].truth, row.last_sync_at, row.last_sync_result) == (Truth.FALSE, None, "partial")
    up.remote().forever.clear()
    assert (await up.sync(entities=["tickets", "people", "notes"])).result == "success"
    assert (await up.said())[C.FRESH].truth is Truth.TRUE


async def test_an_unknown_entity_is_refused_and_harms_nothing(up: World) -> None:
    await up.sync()
    run = await up.sync(entities=["tickts"])
    assert (run.result, run.reason) == ("failed", Reason.VALIDATION_FAILED)
    assert "desk has: tickets, people, notes" in run.error
    assert (await up.said())[C.FRESH].truth is Truth.TRUE


async def test_a_change_feed_that_does_not_exist_is_refused_clearly(up: World) -> None:
    run = await up.sync(scope=Scope.DELTA)
    assert run.result == "failed"
    assert "no change feed; use --scope incremental or full" in run.error


@pytest.mark.parametrize("what", ["token", "page"])
async def test_a_remote_that_repeats_itself_is_an_error(up: World, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def looping(self: Desk, wanted: object, request: object) -> AsyncIterator[Page]:
        for number in range(50):
            keys = ("1", "2") if what == "page" else (f"{number}a", f"{number}b")
            payloads = tuple(f'{{"id":"{k}"}}'.encode() for k in keys)
            yield Page(keys, payloads, position={"token": number if what == "page" else "same"})

    monkeypatch.setattr(Desk, "read", looping)
    run = await up.sync()
    assert (run.result, run.reason) == ("failed", Reason.PROTOCOL_ERROR)


async def test_a_cursor_in_the_future_does_not_hide_what_comes_before_it(up: World) -> None:
    up.remote().pages["tickets"] = [tickets(1), [{"id": "2", "at": "2031-01-01T00:00:00Z"}]]
    await up.sync()
    assert rfc3339(up.clock.now()) in await _watermark(up)
    up.remote().pages["tickets"] = [[{"id": "3", "at": None}, {"id": "4"}]]
    assert (await up.sync()).counts.added == 2


async def test_the_watermark_of_an_ordered_entity_survives_a_failure_and_a_full_run_never_takes_it_back(
    up: World,
) -> None:
    await up.sync()
    before = await _watermark(up)
    up.remote().forever["people"] = UnauthorizedError("401")
    up.remote().faults["tickets", 1] += [TransientError("x")] * 9
    await up.sync(scope=Scope.FULL)
    assert await _watermark(up) == before


async def test_since_reads_from_there_and_leaves_no_gap_behind(up: World) -> None:
    await up.sync()
    stored = await _watermark(up)
    up.remote().pages["tickets"] = [tickets(55, at="2026-03-02T09:59:00Z")]
    await up.sync(since="2026-03-02T09:30:00.000000Z")
    assert await _watermark(up) == stored
    asked = up.remote().asked[-2][1]
    assert asked.since["any partition"] == "2026-03-02T09:30:00.000000Z"
    await up.sync(since="2026-03-02T00:00:00.000000Z")
    assert "09:59" in await _watermark(up)


async def test_since_on_what_was_never_read_keeps_the_first_read_first(up: World) -> None:
    await up.sync(since="2026-03-02T09:05:00.000000Z")
    assert await _watermark(up) == "{}"
    await up.sync()
    silent = await up.read(lambda tx: tx.value("SELECT min(silent) FROM version"))
    assert silent == 1


async def test_fields_are_left_out_and_masked_before_anything_is_stored(world: World) -> None:
    fields = {"exclude": ["secret", "id", "deep.token", "at"], "mask": ["mail", "rows.iban"]}
    await world.wish(desired("desk", {"sync": {"fields": fields}}))
    await world.reconcile()
    record = {
        "id": "1", "at": "2026-03-02T09:00:00Z", "secret": "canary-1", "deep": {"token": "canary-2", "x": 1},
        "mail": "canary-3", "rows": [{"iban": "canary-4"}, {"other": 1}],
    }  # fmt: skip
    world.remote().pages["tickets"] = [[record]]
    await world.sync_due()
    (payload,) = await world.read(lambda tx: tx.all("SELECT payload FROM version"))
    text = bytes(payload[0]).decode()
    assert "canary" not in text
    assert '"id":"1"' in text
    assert '"at":"2026' in text
    assert '"deep":{"x":1}' in text


async def test_only_what_is_included_is_kept_with_key_and_cursor(world: World) -> None:
    await world.wish(desired("desk", {"sync": {"fields": {"include": ["title"]}}}))
    await world.reconcile()
    world.remote().pages["tickets"] = [tickets(1, body="canary")]
    await world.sync_due()
    (payload,) = await world.read(lambda tx: tx.all("SELECT payload FROM version"))
    assert sorted(json.loads(payload[0])) == ["at", "id", "title"]


async def test_cancelled_at_the_next_page_and_what_was_stored_stays_in_a_version(up: World) -> None:
    run = await up.make_run()

    async def cancel() -> None:
        await up.db.write(lambda tx: runs.cancel(tx, run.id, Reason.CANCELLED))

    up.remote().faults["tickets", 2].append(cancel)
    ended = await up.go_on(run)
    assert (ended.result, ended.reason, ended.dataset_version) == ("cancelled", Reason.CANCELLED, 1)
    assert len(await _keys(up)) < 9
    assert C.FRESH not in await up.said()


async def test_a_taken_over_run_writes_nothing_more_and_makes_no_second_version(up: World) -> None:
    run = await up.make_run()
    others: list[asyncio.Task[Run]] = []

    async def other_worker() -> None:
        others.append(asyncio.create_task(up.go_on(run)))
        await asyncio.shield(others[0])  # we may be cancelled: a page of ours is refused as soon as the other has begun

    up.remote().faults["tickets", 1].append(other_worker)
    async with up.claimed("sync", run.id, run.integration_id) as (job, claim):
        await up.syncer.run(job, claim)
    assert (await others[0]).result == "success"
    assert (await _versions(up), len(await _keys(up))) == (9, 9)
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM dataset_version")) == 1


async def test_a_run_that_a_crash_left_running_keeps_nobody_else_from_starting(up: World) -> None:
    crashed = await up.make_run()

    async def die() -> None:
        raise asyncio.CancelledError

    up.remote().faults["tickets", 1].append(die)
    async with up.claimed("sync", crashed.id, crashed.integration_id) as (job, claim):
        with pytest.raises(asyncio.CancelledError):
            await up.syncer.run(job, claim)
    assert (await up.sync()).result == "success"
    resumed = await up.go_on(crashed)
    assert (resumed.result, resumed.attempts, len(await _keys(up))) == ("success", 2, 9)
    assert await _versions(up) == 9


async def test_a_reconcile_goes_first_at_the_next_page(up: World) -> None:
    run = await up.make_run()
    row = await up.row()

    async def changed() -> None:
        now = up.clock.now()
        await up.db.write(lambda tx: jobs.put(tx, "reconcile", str(row.id), str(row.id), 10, now))

    up.remote().faults["tickets", 1].append(changed)
    paused = await up.go_on(run)
    assert paused.state == "due"
    assert len(await _keys(up)) in {3, 6}  # the page before may be committed before or after the order
    await up.reconcile()
    assert (await up.go_on(run)).result == "success"
    assert len(await _keys(up)) == 9


async def test_page_and_run_deadlines(up: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    up.remote().faults["tickets", 1] += [hang]
    tight = await _with_page_deadline(up, timedelta(milliseconds=20), monkeypatch)
    assert tight.result == "success"
    timed_out = [d["reason"] for _, text, d in up.journal.lines if "no page within" in text]
    assert timed_out == [Reason.TIMED_OUT]
    await up.wish(desired("desk", {"sync": {"timeout": "3s"}}), revision="r2")
    await up.reconcile()
    up.remote().faults["tickets", 1] += [hang]
    run = await up.sync()
    assert (run.result, run.reason) == ("partial", Reason.TIMED_OUT)


async def _with_page_deadline(up: World, limit: timedelta, monkeypatch: pytest.MonkeyPatch) -> Run:
    def reading(*args: Any) -> entity.Reading:
        return replace(entity.Reading(*args), page_deadline=limit)

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "Reading", reading)
        return await up.sync()


async def test_a_full_read_deletes_what_is_gone_but_not_too_much(up: World) -> None:
    up.remote().pages["tickets"] = list(in_pages(tickets(*range(1, 41)), 10))
    await up.sync()
    up.remote().pages["tickets"] = list(in_pages(tickets(*range(1, 36)), 10))
    assert (await up.sync()).counts.deleted == 0
    assert (await up.sync(scope=Scope.FULL)).counts.deleted == 5
    up.remote().pages["tickets"] = [tickets(1)]
    refused = await up.sync(scope=Scope.FULL)
    assert (refused.result, refused.reason, len(await _keys(up))) == ("partial", Reason.PRUNE_BLOCKED, 35)
    assert "--allow-deletes" in refused.error
    assert (await up.sync(scope=Scope.FULL, allow_deletes=True)).counts.deleted == 34
    assert await up.read(lambda tx: tx.value("SELECT count(*) FROM seen_page")) == 0


async def test_an_incomplete_full_read_deletes_nothing(up: World) -> None:
    await up.sync()
    up.remote().pages["tickets"] = list(in_pages(tickets(1, 2, 3, 4), 2))
    up.remote().faults["tickets", 1] += [TransientError("down")] * (MAX_RETRIES + 1)
    assert (await up.sync(scope=Scope.FULL)).counts.deleted == 0
    assert len(await _keys(up)) == 9


async def test_a_full_read_with_rejects_deletes_nothing(up: World) -> None:
    """Who a record is may be what could not be read: it is no proof that another one is gone."""
    await up.sync()
    up.remote().pages["tickets"] = [[*tickets(1, 2, 3, 4, 5, 6, 7, 8), {"title": "whose key we may not see"}]]
    run = await up.sync(scope=Scope.FULL)
    assert (run.counts.deleted, run.counts.rejected, len(await _keys(up))) == (0, 1, 9)
    assert "records were rejected, so none is marked as deleted" in [said for _, said, _ in up.journal.lines]
    up.remote().pages["tickets"] = [tickets(1, 2, 3, 4, 5, 6, 7, 8)]
    assert (await up.sync(scope=Scope.FULL)).counts.deleted == 1


async def test_what_sweeps_never_hears_not_modified(up: World) -> None:
    await up.sync()
    await up.db.write(lambda tx: tx.execute('UPDATE entity SET validators = \'{"u": "etag"}\''))
    await up.sync()
    asked = {name: request.validators for name, request in up.remote().asked[-2:]}
    assert asked == {"tickets": {"u": "etag"}, "people": {}}


async def test_work_that_begins_before_git_was_read_waits(up: World) -> None:
    up.connections.unusable["desk"] = NotConnectableError(Reason.PENDING, "not read yet")
    run = await up.sync()
    assert (run.state, run.result) == ("due", None)
    up.connections.unusable.clear()
    assert (await up.go_on(run)).result == "success"


async def test_a_spec_that_cannot_be_used_fails_the_run_with_its_reason(up: World) -> None:
    up.connections.unusable["desk"] = NotConnectableError(Reason.KEY_MISSING, "no key")
    run = await up.sync()
    assert (run.result, run.reason, (await up.said())[C.FRESH].truth) == ("failed", Reason.KEY_MISSING, Truth.FALSE)


async def test_a_cancelled_run_that_nobody_closed_is_closed_by_its_job(up: World) -> None:
    run = await up.make_run()
    await up.db.write(
        lambda tx: tx.execute("UPDATE run SET state = 'running', is_cancelling = 1, reason = 'Suspended'")
    )
    up.connections.unusable["desk"] = NotConnectableError(Reason.PENDING, "not read yet")
    ended = await up.go_on(run)
    assert (ended.result, ended.reason) == ("cancelled", Reason.SUSPENDED)


async def test_the_first_read_is_silent_unless_asked(world: World) -> None:
    for name, initial in (("quiet", "none"), ("loud", "all")):
        world.remote(name).pages["tickets"] = [tickets(1)]
        await world.wish(desired(name, {"sync": {"initial_events": initial}}))
        await world.reconcile(name)
        await world.sync_due(name)
    assert [s for (s,) in await world.read(lambda tx: tx.all("SELECT silent FROM version ORDER BY number"))] == [1, 0]


async def test_a_removed_integration_is_told_nothing_by_a_late_run(up: World) -> None:
    run = await up.make_run()

    async def removed() -> None:
        await up.wish(desired("other"), revision="r2")
        await up.reconcile()

    up.remote().faults["tickets", 1].append(removed)
    await up.go_on(run)
    assert await up.said() == {}
    assert (await up.row()).removed_at is not None
