"""Checks of bad days: refusals, limits, stalls and broken answers in the middle of a read.

Called by pytest through `Conformance`, once per shape: entities that are read by the same code need not all have their bad
day. Faults strike the second page, so that a reader that takes a broken answer for the end would bring some records and
look healthy.
"""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from reconciler.sdk.errors import ForbiddenError, RateLimitedError, TransientError, UnauthorizedError
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.sdk.testing.faults import Armed, Fault, html, reset, slow, stall, status, truncated
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import Dataset, Trial, trial

BROKEN = {
    "500": status(500),
    "502": status(502),
    "503": status(503, retry_after="1"),
    "reset": reset(),
    "truncated JSON": truncated(),
    "HTML instead of JSON": html(),
}


class Enduring:
    """`shape` is the name of one entity of each shape; parametrised by `Conformance`."""

    case: Case

    @pytest.mark.parametrize("fault", BROKEN)
    async def test_a_broken_page_is_a_transient_error_and_the_read_resumes(self, shape: str, fault: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(shape)
            keys = t.seed(of)
            aimed = self._on_second_page(t, shape, BROKEN[fault], times=None)
            part = Dataset()
            with pytest.raises(TransientError) as caught:
                await t.read(of, into=part)
            assert aimed.struck, "nothing went wrong: the check proves nothing"
            assert not part.is_complete
            assert not t.bench.leaks(CANARY, caught.value)
            t.sim.faults.clear()
            assert (await t.read(of, into=part)).keys == set(keys)

    @pytest.mark.parametrize("fault", ["500", "reset"])
    async def test_a_single_hiccup_is_endured(self, shape: str, fault: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(shape))
            aimed = self._on_second_page(t, shape, BROKEN[fault])
            assert (await t.read(t.entity(shape))).keys == set(keys)
            assert aimed.struck

    async def test_a_stall_ends_in_time(self, shape: str) -> None:
        async with trial(self.case, read_timeout=timedelta(milliseconds=60), tries=1) as t:
            t.seed(t.entity(shape))
            self._on_second_page(t, shape, stall(), times=None)
            with pytest.raises(TransientError):
                await t.read(t.entity(shape))

    async def test_a_slow_remote_is_only_slow(self, shape: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(shape))
            self._on_second_page(t, shape, slow(0.03))
            assert (await t.read(t.entity(shape))).keys == set(keys)

    @pytest.mark.parametrize("wait", ["seconds", "date", "none"])
    async def test_a_rate_limit_is_waited_for(self, shape: str, wait: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(shape)
            keys = t.seed(of)
            at = format_datetime(t.clock.now() + timedelta(seconds=7), usegmt=True)
            self._on_second_page(t, shape, status(429, retry_after={"seconds": "7", "date": at, "none": None}[wait]))
            part = Dataset()
            try:
                await t.read(of, into=part)
            except RateLimitedError:
                t.clock.advance(timedelta(minutes=1))
                await t.read(of, into=part)
            assert part.keys == set(keys)
            assert t.clock.slept or wait == "none", "the remote asked for a wait"
            assert sum(t.clock.slept) >= (7 if wait != "none" else 0), "asked again before the remote allowed it"

    async def test_a_long_wait_is_the_engines(self, shape: str) -> None:
        async with trial(self.case) as t:
            t.seed(t.entity(shape))
            self._on_second_page(t, shape, status(429, retry_after="3600"), times=None)
            with pytest.raises(RateLimitedError) as caught:
                await t.read(t.entity(shape))
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= timedelta(minutes=59)

    async def test_refused_in_the_middle_is_no_end(self, shape: str) -> None:
        async with trial(self.case) as t:
            t.seed(t.entity(shape))
            self._on_second_page(t, shape, status(403), times=None)
            with pytest.raises(ForbiddenError):
                await t.read(t.entity(shape))

    async def test_a_credential_that_dies_in_the_middle(self, shape: str) -> None:
        async with trial(self.case) as t:
            t.seed(t.entity(shape))
            self._on_second_page(t, shape, status(401), times=None)
            with pytest.raises(UnauthorizedError) as caught:
                await t.read(t.entity(shape))
            assert not t.bench.leaks(CANARY, caught.value)

    async def test_a_token_that_dies_in_the_middle_is_renewed(self, shape: str) -> None:
        if not self.case.renews:
            pytest.skip("no auth type of this connector can be renewed")
        async with trial(self.case, auth=self.case.renewable_auth) as t:
            of = t.entity(shape)
            keys = t.seed(of)
            read = await t.read(of, between=lambda n: self.case.expire(t.sim) if n == 1 else None)
            assert read.keys == set(keys)

    def _on_second_page(self, t: Trial, shape: str, fault: Fault, *, times: int | None = 1) -> Armed:
        """Aim at the second page."""
        if not isinstance(t.sim, Simulator):
            pytest.skip("faults of HTTP do not apply to this remote")
        return t.sim.faults.add(fault, path=self.case.listing(t.entity(shape)), first=2, times=times)
