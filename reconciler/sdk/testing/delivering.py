"""Checks of delivering: once where that can be had, and never silently twice or not at all.

Called by pytest through `Conformance`, once per channel.
"""

from datetime import timedelta

import pytest

from reconciler.sdk.contract import Channel, Finds, Repeat
from reconciler.sdk.errors import AmbiguousError, ConnectorError, RateLimitedError, RejectedError, TransientError
from reconciler.sdk.rest import RestChannel
from reconciler.sdk.testing.case import CANARY, Case, Dispatch, message
from reconciler.sdk.testing.faults import Armed, Fault, lost_answer, stall, status, truncated
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import Trial, trial


class Delivering:
    """`channel` is the name of a channel; parametrised by `Conformance`."""

    case: Case

    async def test_a_delivery_arrives_once_and_has_a_receipt(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            assert parcel.arrived(t.sim) == 0
            receipt = await t.connector.deliver(to, message(to, parcel.fields))
            assert receipt.remote_id, "a receipt names what the remote made of it"
            assert receipt.url or not isinstance(to, RestChannel) or not to.link, "its address is not where `link` says"
            assert parcel.arrived(t.sim) == 1
            assert not t.bench.leaks(CANARY, receipt)

    async def test_a_lost_answer_is_ambiguous_and_not_repeated_blindly(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            aimed = self._while_sending(t, to, lost_answer(), times=None)
            with pytest.raises(TransientError) as caught:
                await t.connector.deliver(to, message(to, parcel.fields))
            assert to.repeat is Repeat.SAFE or isinstance(caught.value, AmbiguousError), "it may have arrived: say so"
            assert to.repeat is Repeat.SAFE or aimed.struck == 1, "it was sent again although the remote may have it"
            assert parcel.arrived(t.sim) == 1
            assert not t.bench.leaks(CANARY, caught.value)

    async def test_half_an_answer_is_not_repeated_blindly(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            self._while_sending(t, to, truncated(), times=None)
            try:
                await t.connector.deliver(to, message(to, parcel.fields))
            except ConnectorError as error:
                assert to.repeat is Repeat.SAFE or isinstance(error, AmbiguousError), "it may have arrived: say so"
            assert parcel.arrived(t.sim) == 1

    async def test_a_stall_after_sending_is_ambiguous(self, channel: str) -> None:
        async with trial(self.case, read_timeout=timedelta(milliseconds=500), tries=1) as t:
            to, parcel = self._parcel(t, channel)
            self._while_sending(t, to, stall(), times=None)
            with pytest.raises(TransientError) as caught:
                await t.connector.deliver(to, message(to, parcel.fields))
            assert to.repeat is Repeat.SAFE or isinstance(caught.value, AmbiguousError)

    async def test_a_safe_channel_sent_twice_does_no_more_than_once(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            if to.repeat is not Repeat.SAFE:
                pytest.skip(f"the channel is declared {to.repeat}")
            for is_repeat in (False, True):
                await t.connector.deliver(to, message(to, parcel.fields, is_repeat=is_repeat))
            assert parcel.arrived(t.sim) == 1, "declared SAFE, but the remote took it twice"

    async def test_what_arrived_is_found(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            if to.repeat is not Repeat.FIND:
                pytest.skip(f"the channel is declared {to.repeat}")
            assert isinstance(t.connector, Finds)
            again = message(to, parcel.fields, is_repeat=True, at=t.clock.now())
            assert await t.connector.find(to, again) is None, "found what was never sent"
            self._while_sending(t, to, lost_answer())
            with pytest.raises(AmbiguousError):
                await t.connector.deliver(to, message(to, parcel.fields))
            t.clock.advance(timedelta(minutes=2))
            found = await t.connector.find(to, again)
            assert found is not None, "it arrived, but was not found"
            assert found.remote_id
            assert parcel.arrived(t.sim) == 1

    async def test_another_delivery_is_not_taken_for_this_one(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            if to.repeat is not Repeat.FIND or to.name in self.case.finds_by_content:
                pytest.skip("not a channel that finds by the delivery's own mark")
            assert isinstance(t.connector, Finds)
            await t.connector.deliver(to, message(to, parcel.fields, number=1))
            other = message(to, parcel.fields, number=2, is_repeat=True, at=t.clock.now())
            assert await t.connector.find(to, other) is None

    @pytest.mark.parametrize("code", [400, 403, 404])
    async def test_a_refusal_is_final(self, channel: str, code: int) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            aimed = self._while_sending(t, to, status(code), times=None)
            with pytest.raises(ConnectorError) as caught:
                await t.connector.deliver(to, message(to, parcel.fields))
            assert not isinstance(caught.value, TransientError), "a refusal is not tried again"
            assert code != 400 or isinstance(caught.value, RejectedError)
            assert aimed.struck == 1
            assert parcel.arrived(t.sim) == 0
            assert not t.bench.leaks(CANARY, caught.value)

    async def test_a_rate_limit_says_when(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            self._while_sending(t, to, status(429, retry_after="120"), times=None)
            with pytest.raises(RateLimitedError) as caught:
                await t.connector.deliver(to, message(to, parcel.fields))
            assert caught.value.retry_after is not None
            assert caught.value.retry_after >= timedelta(seconds=119)
            assert parcel.arrived(t.sim) == 0

    async def test_an_outage_is_transient(self, channel: str) -> None:
        async with trial(self.case) as t:
            to, parcel = self._parcel(t, channel)
            self._while_sending(t, to, status(503), times=None)
            with pytest.raises(TransientError):
                await t.connector.deliver(to, message(to, parcel.fields))
            assert parcel.arrived(t.sim) == 0

    def _parcel(self, t: Trial, channel: str) -> tuple[Channel, Dispatch]:
        to = t.connector.channel(channel)
        assert to is not None
        return to, self.case.dispatch(t.sim, to)

    def _while_sending(self, t: Trial, channel: Channel, fault: Fault, *, times: int | None = 1) -> Armed:
        if not isinstance(t.sim, Simulator):
            pytest.skip("faults of HTTP do not apply to this remote")
        method = self.case.sending_method(channel)
        return t.sim.faults.add(fault, method=method, path=self.case.sending(channel), times=times)
