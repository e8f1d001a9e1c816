"""Token buckets and addresses, with a clock that nobody waits for."""

from typing import Any

import pytest

from reconciler.serve.buckets import Buckets, Flow
from reconciler.serve.limits import FAILURES, FAILURES_WINDOW, MOST_DEBT, Limits
from reconciler.serve.problem import SAID, ProblemError
from tests.unit.sdk.virtual_clock import VirtualClock


def test_a_burst_then_the_rate() -> None:
    clock = VirtualClock()
    buckets, flow = Buckets(clock), Flow(per_second=2, burst=3)
    assert [buckets.take("a", flow).remaining for _ in range(3)] == [2, 1, 0]
    assert buckets.take("a", flow).wait == pytest.approx(0.5)
    assert buckets.take("b", flow).remaining == 2
    clock.advance(0.5)
    assert [buckets.take("a", flow).wait for _ in range(2)] == [0, pytest.approx(0.5)]
    clock.advance(100)
    assert [buckets.take("a", flow).wait for _ in range(4)] == [0, 0, 0, pytest.approx(0.5)]


def test_each_key_may_have_a_flow_of_its_own() -> None:
    buckets = Buckets(VirtualClock())
    for flow in (Flow(1, 2), Flow(10, 100)):
        left = buckets.take(str(flow), flow)
        assert (left.remaining, left.headers[0]) == (flow.burst - 1, (b"ratelimit-limit", str(flow.burst).encode()))
        assert buckets.look(str(flow), flow) == left


def test_no_more_is_remembered_than_wanted() -> None:
    buckets = Buckets(VirtualClock(), most=100)
    for n in range(1000):
        buckets.take(str(n), Flow(1, 1))
    assert len(buckets._kept) == 100


def test_too_many_requests_say_when_to_come_again() -> None:
    limits = Limits(VirtualClock(), Flow(per_second=0.4, burst=2))
    scope: dict[str, Any] = {}
    limits.request(scope, "a")
    assert dict(scope[SAID]) == {b"ratelimit-limit": b"2", b"ratelimit-remaining": b"1", b"ratelimit-reset": b"3"}
    limits.request(scope, "a")
    with pytest.raises(ProblemError) as raised:
        limits.request(scope, "a")
    assert (raised.value.status, raised.value.code) == (429, "rate-limited")
    assert raised.value.headers == {"retry-after": "3"}
    assert dict(scope[SAID]) == {b"ratelimit-limit": b"2", b"ratelimit-remaining": b"0", b"ratelimit-reset": b"5"}
    limits.request({}, "b")


def test_guesses_of_one_address_are_counted_and_what_was_right_stays_welcome() -> None:
    clock = VirtualClock()
    limits = Limits(clock)
    limits.right("1.2.3.4", "good")
    for n in range(FAILURES):
        limits.attempt("1.2.3.4", str(n))
        limits.wrong("1.2.3.4", str(n))
    for token in ("other", "0", "good-elsewhere"):
        with pytest.raises(ProblemError, match="from this address"):
            limits.attempt("1.2.3.4", token)
    limits.attempt("1.2.3.4", "good")
    limits.attempt("1.2.3.5", "other")
    clock.advance(6.1)
    limits.attempt("1.2.3.4", "other")
    limits.wrong("1.2.3.4", "good")
    with pytest.raises(ProblemError):
        limits.attempt("1.2.3.4", "good")


def test_guesses_at_once_are_paid_for_later() -> None:
    clock = VirtualClock()
    limits = Limits(clock)
    for n in range(1000):
        limits.wrong("1.2.3.4", str(n))
    clock.advance((MOST_DEBT + 1) * FAILURES_WINDOW / FAILURES - 1)
    with pytest.raises(ProblemError):
        limits.attempt("1.2.3.4", "next")
    clock.advance(2)
    limits.attempt("1.2.3.4", "next")


@pytest.mark.parametrize(
    ("peer", "said", "source"),
    [
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "1.1.1.1, nonsense", "10.0.0.1"),
        ("10.0.0.1", "10.0.0.3", "10.0.0.3"),
        ("::ffff:10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("fd00::1", "2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:9::9", "", "2001:db8:1:2::/64"),
        ("::ffff:1.1.1.1", "", "1.1.1.1"),
    ],
)
def test_the_address_that_counts(peer: str, said: str, source: str) -> None:
    limits = Limits(VirtualClock(), proxies=("10.0.0.0/8", "fd00::1"))
    headers = [(b"x-forwarded-for", part.encode()) for part in said.split("|") if part]
    assert limits.source({"client": (peer, 1), "headers": headers}) == source


def test_without_a_peer_nothing_is_counted() -> None:
    limits = Limits(VirtualClock())
    assert limits.source({"client": None, "headers": []}) == ""
    for n in range(20):
        limits.wrong("", str(n))
        limits.attempt("", str(n))
