"""Rate budgets on a virtual clock: windows, reserve, reported quotas, blocks, sharing, concurrency."""

import asyncio
import itertools
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.sdk.budget import Budget, Budgets, BudgetSettings, BudgetSpentError, Lane
from reconciler.sdk.contract import Limit
from reconciler.sdk.errors import RateLimitedError
from tests.unit.sdk.virtual_clock import START, VirtualClock

MINUTE = timedelta(minutes=1)
TEN = Limit(requests=10, window=MINUTE)


def budgets(clock: VirtualClock, share: float = 1.0, **values: object) -> Budgets:
    made = Budgets(clock, settings=BudgetSettings(**values))  # type: ignore[arg-type]
    made.share.part = share
    return made


async def ask(budget: Budget, times: int = 1, lane: Lane = "sync", scope: str = "") -> None:
    for _ in range(times):
        async with budget.turn(lane, scope):
            pass


async def test_without_limits_nothing_waits() -> None:
    clock = VirtualClock()
    await ask(budgets(clock).of("h", "c"), 1000)
    assert clock.slept == []


async def test_syncs_stop_at_the_reserve_and_deliveries_may_use_it() -> None:
    clock = VirtualClock()
    budget = budgets(clock).of("h", "c", [TEN])
    await ask(budget, 8)
    with pytest.raises(BudgetSpentError) as caught:
        await ask(budget)
    assert caught.value.retry_after is not None
    assert timedelta(seconds=60) <= caught.value.retry_after <= timedelta(seconds=64)
    await ask(budget, 1, "deliver")
    await ask(budget, 1, "probe")
    with pytest.raises(RateLimitedError, match="h is used up"):
        await ask(budget, 1, "deliver")
    assert clock.slept == []


async def test_a_short_wait_is_slept_and_a_long_one_raised() -> None:
    clock = VirtualClock()
    budget = budgets(clock, max_wait=timedelta(seconds=70)).of("h", "c", [TEN])
    await ask(budget, 9)
    assert len(clock.slept) == 1
    assert 60 <= clock.slept[0] <= 64


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 100),
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=120),
)
def test_no_window_ever_holds_more_than_the_limit(requests: int, seconds: int, pauses: list[float]) -> None:
    clock, taken = VirtualClock(), []

    async def drive() -> None:
        limit = Limit(requests=requests, window=timedelta(seconds=seconds))
        budget = budgets(clock, max_wait=timedelta(days=1)).of("h", "c", [limit])
        for pause in pauses:
            clock.advance(pause)
            await ask(budget, 1, "deliver")
            taken.append(clock.seconds)

    asyncio.run(drive())
    for start in taken:
        assert sum(start <= t < start + seconds for t in taken) <= requests


async def test_a_limit_is_kept_fully_used() -> None:
    clock = VirtualClock()
    budget = budgets(clock, max_wait=timedelta(hours=1)).of("h", "c", [TEN])
    await ask(budget, 100, "deliver")
    assert clock.seconds <= 9 * 64


async def test_clients_of_one_credential_share_and_others_do_not() -> None:
    clock = VirtualClock()
    registry = budgets(clock)
    await ask(registry.of("h", "c", [TEN]), 10, "deliver")
    with pytest.raises(RateLimitedError):
        await ask(registry.of("h", "c", [TEN]), 1, "deliver")
    await ask(registry.of("h", "other", [TEN]), 10, "deliver")
    await ask(registry.of("elsewhere", "c", [TEN]), 10, "deliver")


async def test_a_share_of_the_limit() -> None:
    budget = budgets(VirtualClock(), share=0.5).of("h", "c", [TEN])
    await ask(budget, 5, "deliver")
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver")


async def test_a_share_that_changes_counts_at_once() -> None:
    registry = budgets(VirtualClock())
    budget = registry.of("h", "c", [TEN])
    await ask(budget, 5, "deliver")
    registry.share.part = 0.5
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver")
    registry.share.part = 1.0
    await ask(budget, 5, "deliver")


async def test_what_cannot_be_divided_is_taken_at_longer_intervals() -> None:
    clock = VirtualClock()
    budget = budgets(clock, share=0.25).of("h", "c", [Limit(requests=1, window=timedelta(seconds=1))])
    await ask(budget, 4, "deliver")
    assert 12 <= clock.seconds <= 13


async def test_the_strictest_of_several_windows_counts() -> None:
    clock = VirtualClock()
    limits = [Limit(requests=2, window=timedelta(seconds=1)), TEN]
    budget = budgets(clock, reserved=0.0).of("h", "c", limits)
    await ask(budget, 10)
    assert 4 <= clock.seconds <= 5
    with pytest.raises(RateLimitedError):
        await ask(budget)


async def test_limits_per_method_count_per_scope() -> None:
    budget = budgets(VirtualClock()).of("slack.com", "c", [Limit(requests=1, window=MINUTE, scope="method")])
    await ask(budget, 1, "deliver", "chat.postMessage")
    await ask(budget, 1, "deliver", "conversations.list")
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver", "chat.postMessage")
    assert budget.is_per_method


async def test_a_block_per_method_leaves_other_methods_alone() -> None:
    budget = budgets(VirtualClock()).of("slack.com", "c", [Limit(requests=50, window=MINUTE, scope="method")])
    await budget.block(100, "chat.postMessage")
    await ask(budget, 1, "sync", "conversations.list")
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver", "chat.postMessage")


async def test_a_block_holds_for_everything_and_ends() -> None:
    clock = VirtualClock()
    budget = budgets(clock).of("h", "c", [TEN])
    await budget.block(100, "/a")
    with pytest.raises(RateLimitedError) as caught:
        await ask(budget, 1, "probe", "/b")
    assert caught.value.retry_after == timedelta(seconds=100)
    await budget.block(10)
    assert budget.states()[0].blocked_until == START + timedelta(seconds=100)
    clock.advance(101)
    await ask(budget, 1, "probe", "/b")
    assert budget.states()[0].blocked_until is None


async def test_reported_quotas_correct_the_count() -> None:
    clock = VirtualClock()
    budget = budgets(clock).of("h", "c")
    async with budget.turn("sync", "/a"):
        budget.observe({"ratelimit-limit": "100", "ratelimit-remaining": "22", "ratelimit-reset": "600"}, "/a")
    await ask(budget, 2, "sync", "/b")
    with pytest.raises(RateLimitedError) as caught:
        await ask(budget, 1, "sync", "/a")
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(600, abs=1)
    await ask(budget, 20, "deliver", "/a")
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver", "/a")
    state = budget.states()[0]
    assert (state.limit, state.remaining, state.reset_at) == (100, 0, START + timedelta(seconds=600))
    clock.advance(601)
    await ask(budget, 5, "sync", "/a")


async def test_a_used_up_resource_leaves_others_alone() -> None:
    budget = budgets(VirtualClock()).of("api.github.com", "c")
    headers = {
        "x-ratelimit-limit": "30",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": "60",
        "x-ratelimit-resource": "search",
    }
    async with budget.turn("sync", "/search/issues"):
        budget.observe(headers, "/search/issues")
    await ask(budget, 5, "sync", "/repos/*/issues")
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver", "/search/issues")
    assert [s.quota for s in budget.states()] == ["search"]


async def test_requests_in_flight_are_not_in_the_remotes_figure_yet() -> None:
    budget = budgets(VirtualClock()).of("h", "c")
    async with budget.turn(), budget.turn(), budget.turn():
        budget.observe({"ratelimit-limit": "100", "ratelimit-remaining": "50", "ratelimit-reset": "60"})
    assert budget.states()[0].remaining == 48


async def test_a_quota_without_a_reset_uses_the_declared_window() -> None:
    budget = budgets(VirtualClock()).of("h", "c", [TEN])
    async with budget.turn():
        budget.observe({"x-ratelimit-total": "10", "x-ratelimit-remaining": "0"})
    with pytest.raises(RateLimitedError):
        await ask(budget, 1, "deliver")


async def test_concurrency_is_bounded_and_syncs_leave_room() -> None:
    budget = budgets(VirtualClock(), concurrency=3, concurrency_reserved=1).of("h", "c")
    release, running = asyncio.Event(), []

    async def hold(lane: Lane) -> None:
        async with budget.turn(lane):
            running.append(lane)
            await release.wait()

    tasks = [asyncio.create_task(hold(lane)) for lane in ("sync", "sync", "sync", "deliver", "deliver")]
    for _ in range(20):
        await asyncio.sleep(0)
    assert sorted(running) == ["deliver", "sync", "sync"]
    assert budget.states()[0].in_flight == 3
    release.set()
    await asyncio.gather(*tasks)
    assert budget.in_flight == 0


async def test_a_failed_request_gives_its_place_back() -> None:
    budget = budgets(VirtualClock(), concurrency=1, concurrency_reserved=0).of("h", "c")
    for lane in ("sync", "deliver"):
        with pytest.raises(ValueError, match="boom"):
            async with budget.turn(lane):
                raise ValueError("boom")
    assert budget.in_flight == 0
    await ask(budget)


class Board:
    """Two processes' common memory of blocks."""

    def __init__(self) -> None:
        self.until: dict[str, datetime] = {}
        self.loads = 0

    async def load(self, key: str) -> datetime | None:
        self.loads += 1
        return self.until.get(key)

    async def save(self, key: str, until: datetime) -> None:
        self.until[key] = until


async def test_a_block_reaches_other_processes() -> None:
    clock, board = VirtualClock(), Board()
    here, there = (Budgets(clock, shared=board).of("h", "c") for _ in range(2))
    await ask(there, 50)
    assert board.loads == 1
    await here.block(120)
    clock.advance(5)
    with pytest.raises(RateLimitedError) as caught:
        await ask(there)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == pytest.approx(115)


async def test_shared_blocks_of_one_method() -> None:
    clock, board = VirtualClock(), Board()
    limits = [Limit(requests=50, window=MINUTE, scope="method")]
    here, there = (Budgets(clock, shared=board).of("h", "c", limits) for _ in range(2))
    await here.block(120, "chat.postMessage")
    await ask(there, 1, "sync", "conversations.list")
    with pytest.raises(RateLimitedError):
        await ask(there, 1, "sync", "chat.postMessage")


async def test_idle_budgets_are_dropped_and_busy_ones_kept() -> None:
    clock = VirtualClock()
    registry = budgets(clock)
    blocked = registry.of("h", "blocked")
    await blocked.block(90_000)
    for i in range(1100):
        registry.of("h", f"c{i}")
        clock.advance(10)
    assert len(registry.states()) < 1101
    assert registry.of("h", "blocked") is blocked


async def test_scopes_are_bounded() -> None:
    budget = budgets(VirtualClock()).of("h", "c", [Limit(requests=50, window=MINUTE, scope="method")])
    for i in range(2000):
        await ask(budget, 1, "deliver", f"/path-{i}")
    assert len(budget._scopes) <= 512


POINTS = Limit(requests=10, window=MINUTE, points={"GET": 1, "*": 5})


async def write(budget: Budget, scope: str = "/repos/x/issues", verb: str = "POST") -> None:
    async with budget.turn("deliver", scope, verb):
        pass


async def test_a_request_takes_the_points_of_its_verb() -> None:
    clock = VirtualClock()
    budget = budgets(clock).of("h", "c", [POINTS])
    await write(budget)
    await ask(budget, 5, "deliver")
    for verb in ("POST", "PATCH", "GET"):
        with pytest.raises(BudgetSpentError):
            await write(budget, verb=verb)
    clock.advance(64)
    await write(budget, verb="DELETE")
    await ask(budget, 3)
    with pytest.raises(BudgetSpentError):
        await ask(budget)


async def test_points_above_the_whole_share_wait_for_an_empty_window() -> None:
    clock = VirtualClock()
    budget = budgets(clock, share=0.1, max_wait=timedelta(minutes=2)).of("h", "c", [POINTS])
    await write(budget)
    assert clock.slept == []
    await write(budget)
    assert 60 <= clock.seconds <= 64


async def test_a_limit_counts_the_verbs_and_paths_that_it_names() -> None:
    clock = VirtualClock()
    limit = Limit(requests=1, window=MINUTE, points={"POST": 1, "*": 0}, path="/repos/*")
    budget = budgets(clock).of("h", "c", [limit])
    for _ in range(3):
        await write(budget, verb="PATCH")
        await write(budget, "/app/installations/*/access_tokens")
        await ask(budget, 1, "sync", "/repos/x/issues")
    await write(budget)
    with pytest.raises(BudgetSpentError):
        await write(budget, "/repos/y/issues")


async def test_what_is_serial_goes_one_after_another_and_counts_from_the_answer() -> None:
    clock = VirtualClock()
    limit = Limit(requests=1, window=timedelta(seconds=1), points={"GET": 0, "*": 1}, is_serial=True)
    budget = budgets(clock).of("h", "c", [limit])
    spans: list[tuple[float, float]] = []

    async def slow() -> None:
        async with budget.turn("deliver", "/x", "POST"):
            begun = clock.seconds
            await ask(budget)
            clock.advance(3)
            await asyncio.sleep(0)
            spans.append((begun, clock.seconds))

    await asyncio.gather(*(slow() for _ in range(4)))
    assert all(later[0] - earlier[1] >= 1 for earlier, later in itertools.pairwise(spans))
    assert clock.seconds < 4 * 3 + 3 * 1.1


async def test_the_time_in_line_counts_as_waiting() -> None:
    clock = VirtualClock()
    limit = Limit(requests=1, window=timedelta(seconds=10), is_serial=True)
    budget = budgets(clock, max_wait=timedelta(seconds=25)).of("h", "c", [limit])
    found = await asyncio.gather(*(write(budget) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in found] == [type(None)] * 3 + [BudgetSpentError] * 2
    assert clock.seconds < 25


async def test_a_wait_in_vain_does_not_move_the_window_of_a_serial_limit() -> None:
    clock = VirtualClock()
    limit = Limit(requests=1, window=MINUTE, is_serial=True)
    budget = budgets(clock).of("h", "c", [limit])
    await write(budget)
    clock.advance(20)
    with pytest.raises(BudgetSpentError):
        await write(budget)
    clock.advance(44)
    await write(budget)
    assert clock.slept == []
