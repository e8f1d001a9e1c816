"""Job rows on both databases: order, lanes, claims, fences, and what becomes of lost work."""

from datetime import UTC, datetime, timedelta

from reconciler.model.job import Claim, Job, Window
from reconciler.store import jobs
from reconciler.store.database import Tx

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LEASE = timedelta(seconds=15)
TTL = timedelta(seconds=10)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def put(tx: Tx, ref: str, *, key: str = "", kind: str = "sync", prio: int = 10, at: datetime = NOW) -> None:
    jobs.put(tx, kind, ref, key or ref, prio, at)


def take(tx: Tx, limit: int = 10, at: datetime = NOW) -> list[Job]:
    return jobs.take_due(tx, at, limit, "work")


def started(tx: Tx, job: Job, owner: str = "me", at: datetime = NOW) -> Claim:
    begun = jobs.start(tx, job.id, job.attempt, owner, at, LEASE)
    assert begun is not None
    assert begun[0] == job
    return begun[1]


def state(tx: Tx, ref: str) -> str | None:
    found: str | None = tx.value("SELECT state FROM job WHERE ref = :ref", ref=ref)
    return found


def refs(taken: list[Job]) -> list[str]:
    return [job.ref for job in taken]


def test_due_rows_are_taken_by_priority_then_age(tx: Tx) -> None:
    put(tx, "late", at=after(-1))
    put(tx, "early", at=after(-9))
    put(tx, "urgent", prio=1, at=after(-2))
    put(tx, "future", at=after(1))
    assert refs(take(tx)) == ["urgent", "early", "late"]


def test_one_of_a_lane_is_taken_and_others_do_not_wait_behind_it(tx: Tx) -> None:
    for number in range(50):
        put(tx, f"a{number}", key="busy", at=after(-100 + number))
    put(tx, "b", key="other")
    assert refs(take(tx, limit=2)) == ["a0", "b"]
    assert take(tx) == []


def test_the_limit_stops_scheduled_rows_but_not_asked_ones(tx: Tx) -> None:
    for number in range(3):
        put(tx, f"s{number}", at=after(-number))
    put(tx, "wanted", at=after(3600))
    assert jobs.ask(tx, "sync", "wanted", NOW)
    assert refs(take(tx, limit=1)) == ["wanted", "s2"]


def test_lanes_of_the_two_queues_do_not_exclude_each_other(tx: Tx) -> None:
    put(tx, "r", key="7", kind="reconcile")
    put(tx, "d", key="7", kind="deliver")
    assert refs(take(tx)) == ["r"]
    assert refs(jobs.take_due(tx, NOW, 5, "deliver")) == ["d"]


def test_put_again_brings_a_due_row_forward_only(tx: Tx) -> None:
    put(tx, "x", at=after(60), prio=50)
    put(tx, "x", at=after(30), prio=20)
    put(tx, "x", at=after(90), prio=90)
    row = tx.one("SELECT due_at, prio FROM job")
    assert row is not None
    assert (row["due_at"], row["prio"]) == ("2026-05-04T12:00:30.000000Z", 20)


def test_attempt_numbers_are_never_given_twice(tx: Tx) -> None:
    seen = set()
    for _ in range(3):
        put(tx, "x")
        [job] = take(tx)
        seen.add(job.attempt)
        assert jobs.finish(tx, started(tx, job), None)
        assert state(tx, "x") is None
    assert len(seen) == 3


def test_a_start_is_good_once_and_only_for_its_attempt(tx: Tx) -> None:
    put(tx, "x")
    [job] = take(tx)
    assert jobs.start(tx, job.id, job.attempt + 1, "me", NOW, LEASE) is None
    started(tx, job)
    assert jobs.start(tx, job.id, job.attempt, "me", NOW, LEASE) is None


def test_a_busy_lane_refuses_and_the_row_comes_back_soon(tx: Tx) -> None:
    put(tx, "one", key="k")
    [one] = take(tx)
    put(tx, "two", key="k")
    tx.execute("UPDATE job SET state = 'queued', attempt = 77, queued_at = '2026' WHERE ref = 'two'")
    started(tx, one)
    two_id = tx.value("SELECT id FROM job WHERE ref = 'two'")
    assert jobs.start(tx, two_id, 77, "other", NOW, LEASE) is None
    assert state(tx, "two") == "due"
    assert tx.value("SELECT due_at FROM job WHERE ref = 'two'") == "2026-05-04T12:00:01.000000Z"


def test_a_lane_whose_lease_is_over_is_taken_with_a_higher_fence(tx: Tx) -> None:
    put(tx, "one", key="k")
    [one] = take(tx)
    first = started(tx, one)
    put(tx, "two", key="k")
    tx.execute("UPDATE job SET state = 'queued', attempt = 77 WHERE ref = 'two'")
    two_id = tx.value("SELECT id FROM job WHERE ref = 'two'")
    begun = jobs.start(tx, two_id, 77, "other", after(16), LEASE)
    assert begun is not None
    second = begun[1]
    assert second.fence == first.fence + 1
    assert not jobs.holds(tx, first)
    assert jobs.holds(tx, second)
    assert jobs.finish(tx, first, None) is False
    assert jobs.holds(tx, second)
    assert state(tx, "one") == "running"  # the watchdog decides about it


def test_finishing_with_a_time_makes_the_row_due_then(tx: Tx) -> None:
    put(tx, "x")
    assert jobs.finish(tx, started(tx, take(tx)[0]), after(300))
    assert take(tx, at=after(299)) == []
    assert refs(take(tx, at=after(300))) == ["x"]


def test_put_while_running_runs_it_once_more(tx: Tx) -> None:
    put(tx, "x")
    claim = started(tx, take(tx)[0])
    put(tx, "x", at=after(5))
    assert state(tx, "x") == "running"
    assert jobs.finish(tx, claim, after(600))
    assert refs(take(tx, at=after(5))) == ["x"]


def test_asked_while_running_is_asked_again_once(tx: Tx) -> None:
    put(tx, "x")
    claim = started(tx, take(tx)[0])
    assert jobs.ask(tx, "sync", "x", after(1))
    assert jobs.finish(tx, claim, None)
    [again] = take(tx, limit=0, at=after(2))
    assert again.is_asked
    assert jobs.finish(tx, started(tx, again), after(9))
    assert take(tx, limit=0, at=after(9)) == []
    assert not take(tx, limit=1, at=after(9))[0].is_asked


def test_failures_count_in_a_row(tx: Tx) -> None:
    put(tx, "x")
    for expected in (0, 1, 2):
        [job] = take(tx)
        assert job.failures == expected
        jobs.finish(tx, started(tx, job), NOW, failed=True)
    jobs.finish(tx, started(tx, take(tx)[0]), NOW)
    assert take(tx)[0].failures == 0


def test_a_dropped_job_loses_its_claim_but_keeps_the_lane_shut_until_it_stopped(tx: Tx) -> None:
    put(tx, "x", key="k")
    claim = started(tx, take(tx)[0])
    dropped = jobs.drop(tx, "sync", "x")
    assert dropped is not None
    assert dropped.attempt == claim.attempt
    assert not jobs.holds(tx, claim)
    put(tx, "next", key="k")
    assert take(tx) == []
    assert jobs.finish(tx, claim, None) is False
    assert refs(take(tx)) == ["next"]
    assert jobs.drop(tx, "sync", "x") is None


def test_renew_keeps_what_is_ours_and_names_what_is_lost(tx: Tx) -> None:
    put(tx, "kept")
    put(tx, "lost")
    kept, lost = (started(tx, job) for job in take(tx))
    jobs.drop(tx, "sync", "lost")
    assert jobs.renew(tx, [lost, kept], after(100)) == [lost]
    assert jobs.stranded(tx, after(119)) == []
    assert refs(jobs.stranded(tx, after(121))) == ["kept"]


def test_stranded_rows_become_due_and_their_old_start_is_refused(tx: Tx) -> None:
    put(tx, "queued")
    put(tx, "running")
    queued, running = take(tx)
    claim = started(tx, running)
    assert jobs.stranded(tx, after(34)) == []
    assert refs(jobs.stranded(tx, after(36))) == ["running"]
    assert refs(jobs.stranded(tx, after(61))) == ["queued"]
    assert not jobs.holds(tx, claim)
    assert jobs.start(tx, queued.id, queued.attempt, "me", after(61), LEASE) is None
    assert refs(take(tx, at=after(61))) == ["queued", "running"]


def test_leases_from_a_clock_that_was_set_back_do_not_block_for_hours(tx: Tx) -> None:
    put(tx, "x", at=after(-7200))
    started(tx, take(tx)[0])
    assert refs(jobs.stranded(tx, after(-3600))) == ["x"]


def test_dead_processes_are_found_and_their_work_released(tx: Tx) -> None:
    put(tx, "a")
    put(tx, "b")
    first, second = take(tx)
    started(tx, first, "gone")
    started(tx, second, "here")
    jobs.beat(tx, "gone", NOW)
    jobs.beat(tx, "here", after(11))
    assert jobs.dead(tx, after(11), TTL) == ["gone"]
    assert refs(jobs.release(tx, "gone")) == ["a"]
    assert (state(tx, "a"), state(tx, "b")) == ("due", "running")
    jobs.forget(tx, "gone")
    assert jobs.dead(tx, after(11), TTL) == []


def test_room_counts_waiting_and_running_rows_of_all_processes(tx: Tx) -> None:
    window = Window(queued=2, running=3, least=1)
    for number in range(9):
        put(tx, f"x{number}", at=after(-number))
    assert jobs.room(tx, NOW, "work", window, TTL) == 2
    first, _second = take(tx, limit=2)
    assert jobs.room(tx, NOW, "work", window, TTL) is None
    started(tx, first)
    assert jobs.room(tx, NOW, "work", window, TTL) == 1
    jobs.beat(tx, "me", NOW)
    jobs.beat(tx, "peer", NOW)
    assert jobs.room(tx, NOW, "work", window, TTL) == 3
    assert jobs.room(tx, NOW, "deliver", window, TTL) is None


def test_room_is_made_for_what_a_person_asked(tx: Tx) -> None:
    put(tx, "x", at=after(60))
    closed = Window(queued=0, running=0)
    assert jobs.room(tx, NOW, "work", closed, TTL) is None
    jobs.ask(tx, "sync", "x", NOW)
    assert jobs.room(tx, NOW, "work", closed, TTL) == 0


def test_what_the_engine_did_not_take_is_due_in_its_old_place(tx: Tx) -> None:
    put(tx, "old", at=after(-9))
    put(tx, "new")
    taken = take(tx, limit=1)
    assert refs(jobs.waiting(tx, after(1))) == ["old"]
    jobs.give_back(tx, taken)
    assert refs(take(tx)) == ["old", "new"]


def test_reset_frees_every_lane(tx: Tx) -> None:
    put(tx, "a", key="k")
    claim = started(tx, take(tx)[0])
    put(tx, "b")
    take(tx)
    assert sorted(refs(jobs.reset(tx))) == ["a", "b"]
    assert not jobs.holds(tx, claim)
    assert sorted(refs(take(tx))) == ["a", "b"]


def test_counts_by_queue_and_state(tx: Tx) -> None:
    put(tx, "a")
    put(tx, "b", at=after(5))
    take(tx, limit=1)
    found = {(row.queue, row.state): (row.count, row.oldest_due_at) for row in jobs.counts(tx)}
    assert found == {("work", "queued"): (1, NOW), ("work", "due"): (1, after(5))}
