"""Checks of reading: nothing is lost, whatever the remote's pages look like.

Called by pytest through `Conformance`, once per entity of the case's connector.
"""

from datetime import timedelta

import pytest

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.record import Scope
from reconciler.sdk.contract import Counts, Deletes, Entity
from reconciler.sdk.errors import ConnectorError, ForbiddenError
from reconciler.sdk.testing.case import Case
from reconciler.sdk.testing.faults import Armed, Fault, capped, replay
from reconciler.sdk.testing.room import START
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import SEEDS, Dataset, RepeatedPageError, Trial, texts, trial

HOSTILE = (
    "plain",
    "\U0001f9d1\u200d\U0001f680 \U0001f4a5 emoji",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "quote \" backslash \\ slash / <b>&amp;</b> {{ x }} '; --",
    "tab\tand\nline",
    "2026-03-02 10:00:00",
    "null",
    "x" * 20_000,
)


class Reading:
    """`entity` is the name of an entity; parametrised by `Conformance`."""

    case: Case

    async def test_a_full_read_brings_every_record(self, entity: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity))
            read = await t.read(t.entity(entity))
            assert read.keys == set(keys), "a full read over several pages is incomplete"
            assert not any(page.rejects for page in read.pages)

    async def test_nothing_there_is_no_error(self, entity: str) -> None:
        async with trial(self.case) as t:
            read = await t.read(t.entity(entity))
            assert read.keys == set()
            assert read.is_complete

    async def test_smaller_pages_than_asked_for_lose_nothing(self, entity: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity))
            cap = self._fault(t, entity, capped(self.case.page_size - 1), times=None)
            read = await t.read(t.entity(entity))
            assert cap.struck, "the simulator does not cut its pages with call.size()"
            assert read.keys == set(keys), "a page that is shorter than asked for was taken for the end"

    async def test_an_empty_page_in_the_middle_loses_nothing(self, entity: str) -> None:
        if not self.case.pages_may_be_empty:
            pytest.skip("this vendor's empty page is its end")
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity))
            self.case.empty_page(t.sim, t.entity(entity))
            read = await t.read(t.entity(entity))
            assert any(not page.keys for page in read.pages), "no page was empty: the check proves nothing"
            assert read.keys == set(keys), "an empty page was taken for the end although the remote said more"

    async def test_equal_change_times_over_a_page_border_lose_nothing(self, entity: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity), step=timedelta(0))
            first = await t.read(t.entity(entity))
            again = await t.read(t.entity(entity), Scope.INCREMENTAL, since=first.watermarks)
            assert first.keys == set(keys)
            if self._asks_for_changes(t.entity(entity)):
                assert again.keys == set(keys), "the lower bound must be closed (>=)"

    @pytest.mark.parametrize("moving", ["read already", "not read yet"])
    async def test_a_record_that_moves_while_reading_is_found(self, entity: str, moving: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            keys = t.seed(of)

            def move(pages: int) -> None:
                if pages == 1:
                    number = 0 if moving == "read already" else SEEDS - 1
                    assert t.put(of, number, t.clock.now(), "moved") == keys[number], "put() must update by number"

            read = await t.read(of, between=move)
            scope = Scope.INCREMENTAL if self._asks_for_changes(of) else Scope.FULL
            read = await t.read(of, scope, since=read.watermarks, into=Dataset(read.records, read.deleted))
            assert read.keys == set(keys)
            number = 0 if moving == "read already" else SEEDS - 1
            assert "moved" in set(texts(read.records[keys[number]])), "the newest state was not read"

    async def test_a_record_that_appears_while_reading_is_found(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            keys = t.seed(of)
            read = await t.read(
                of, between=lambda n: keys.append(t.put(of, SEEDS, t.clock.now(), "new")) if n == 1 else None
            )
            scope = Scope.INCREMENTAL if self._asks_for_changes(of) else Scope.FULL
            read = await t.read(of, scope, since=read.watermarks, into=Dataset(read.records, read.deleted))
            assert read.keys == set(keys)

    async def test_incremental_reads_what_changed_and_no_more(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = self._incremental(t, entity)
            start = START - timedelta(days=3)
            keys = t.seed(of, start=start, step=timedelta(hours=1))
            first = await t.read(of)
            later = start + timedelta(days=1)
            fresh = [t.put(of, 0, later, "changed"), t.put(of, SEEDS, later + self.case.tick, "new")]
            read = await t.read(of, Scope.INCREMENTAL, since=first.watermarks)
            bound = max(map(from_rfc3339, first.watermarks.values())) - of.overlap
            untouched = {k for n, k in enumerate(keys) if n and start + n * timedelta(hours=1) < bound}
            assert set(fresh) <= read.keys, "a change was not read"
            assert not read.keys & untouched, "records older than the watermark less the overlap were read again"

    async def test_the_lower_bound_is_closed_and_widened_by_the_overlap(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = self._incremental(t, entity)
            watermark = START - timedelta(days=1)
            on_it = t.put(of, 1, watermark, "on the watermark")
            below = t.put(of, 2, watermark - of.overlap + self.case.tick, "came late")
            since = {p: rfc3339(watermark) for p in (await t.read(of)).watermarks}
            read = await t.read(of, Scope.INCREMENTAL, since=since)
            assert on_it in read.keys, "a record on the watermark was not read again: the bound is open"
            assert below in read.keys, "a record inside the overlap was not read again"

    async def test_a_watermark_from_the_future_reads_nothing_and_does_not_fail(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = self._incremental(t, entity)
            t.seed(of)
            ahead = {p: rfc3339(t.clock.now() + of.overlap + timedelta(days=2)) for p in (await t.read(of)).watermarks}
            read = await t.read(of, Scope.INCREMENTAL, since=ahead)
            assert read.keys == set()
            assert read.is_complete

    async def test_records_without_a_change_time_are_in_a_full_read(self, entity: str) -> None:
        if entity not in self.case.null_cursors:
            pytest.skip("this vendor always gives a change time")
        async with trial(self.case) as t:
            of = t.entity(entity)
            keys = t.seed(of) + [t.put(of, SEEDS + n, None, "timeless") for n in range(self.case.page_size + 1)]
            read = await t.read(of)
            assert read.keys == set(keys), "records without a change time are lost"

    async def test_reading_twice_gives_the_same_keys_and_hashes(self, entity: str) -> None:
        async with trial(self.case) as t:
            t.seed(t.entity(entity))
            first = await t.read(t.entity(entity))
            second = await t.read(t.entity(entity))
            assert first.hashes == second.hashes, "an unchanged record must hash the same: something in it varies"
            assert first.watermarks == second.watermarks

    @pytest.mark.parametrize("scope", [Scope.FULL, Scope.INCREMENTAL])
    async def test_an_interrupted_read_resumes_from_every_position(self, entity: str, scope: Scope) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            keys = t.seed(of)
            whole = await t.read(of, scope)
            for stop in range(1, len(whole.pages)):
                part = await t.read(of, scope, stop_after=stop)
                assert not part.is_complete
                rest = await t.read(of, scope, into=part)
                assert rest.keys == set(keys), f"records were lost when resuming after page {stop}"
                assert rest.watermarks == whole.watermarks

    async def test_a_watermark_never_passes_what_was_not_read(self, entity: str) -> None:
        """After a run that failed for good, the next one starts at the stored watermarks, without a position."""
        async with trial(self.case) as t:
            of = self._incremental(t, entity)
            start = START - timedelta(days=SEEDS)
            keys = [t.put(of, n, start + timedelta(hours=SEEDS - n), f"seed {n}") for n in range(SEEDS)]
            failed = await t.read(of, Scope.INCREMENTAL, stop_after=1)
            stored = Dataset(failed.records, failed.deleted, failed.watermarks)
            read = await t.read(of, Scope.INCREMENTAL, since=failed.watermarks, into=stored)
            assert read.keys == set(keys), "declared ordered, but the remote does not sort by the cursor"

    async def test_a_page_that_comes_twice_loses_nothing(self, entity: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity))
            self._fault(t, entity, replay(), first=2)
            try:
                read = await t.read(t.entity(entity))
            except (RepeatedPageError, ConnectorError):
                return  # the engine ends the run visibly
            assert read.keys == set(keys), "a duplicate page made the read skip records"

    async def test_a_listing_that_never_ends_is_detected(self, entity: str) -> None:
        async with trial(self.case) as t:
            keys = t.seed(t.entity(entity))
            self._fault(t, entity, replay(), first=2, times=None)
            try:
                read = await t.read(t.entity(entity))
            except (RepeatedPageError, ConnectorError):
                return
            assert read.keys == set(keys), "the same page for ever ended as if everything had been read"

    async def test_deletions_become_known_the_declared_way(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            keys = t.seed(of)
            first = await t.read(of)
            t.clock.advance(timedelta(hours=1))
            self.case.remove(t.sim, of, keys[2])
            scope = {Deletes.FLAG: Scope.INCREMENTAL, Deletes.FEED: Scope.DELTA}.get(of.deletes, Scope.FULL)
            read = await t.read(of, scope, since=first.watermarks)
            if scope is Scope.FULL:
                assert read.keys == set(keys) - {keys[2]}
            else:
                assert keys[2] in read.deleted, "the deletion was not told"

    async def test_delta_tells_changes_and_deletions(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            if not of.has_delta:
                pytest.skip("this entity has no delta scope")
            keys = t.seed(of)
            first = await t.read(of, Scope.DELTA)
            t.clock.advance(timedelta(hours=1))
            changed = t.put(of, 1, t.clock.now(), "changed")
            self.case.remove(t.sim, of, keys[2])
            read = await t.read(of, Scope.DELTA, since=first.watermarks)
            assert first.keys == set(keys)
            assert changed in read.keys
            assert keys[2] in read.deleted

    async def test_hostile_values_survive(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            kept = [text for text in HOSTILE if self.case.same_text(of, text)]
            assert kept, "same_text() lets nothing pass"
            keys = [t.put(of, n, START - timedelta(minutes=9 - n), text) for n, text in enumerate(kept)]
            read = await t.read(of)
            for key, text in zip(keys, kept, strict=True):
                assert text in set(texts(read.records[key])), f"{text[:40]!r} did not survive"

    async def test_a_refused_entity_is_never_an_empty_one(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = t.entity(entity)
            t.seed(of)
            self.case.deny(t.sim, of)
            with pytest.raises(ForbiddenError) as caught:
                await t.read(of)
            assert not t.bench.leaks("canary", caught.value)

    async def test_the_count_is_what_the_read_brings(self, entity: str) -> None:
        async with trial(self.case) as t:
            if not isinstance(t.connector, Counts):
                pytest.skip("the connector does not count")
            t.seed(t.entity(entity))
            assert await t.connector.count(t.entity(entity), t.request()) in (None, SEEDS)

    def _asks_for_changes(self, entity: Entity) -> bool:
        return entity.cursor is not None and entity.name not in self.case.reads_all

    def _incremental(self, t: Trial, name: str) -> Entity:
        if not self._asks_for_changes(t.entity(name)):
            pytest.skip("the remote cannot be asked for changes of this entity: every run reads everything")
        return t.entity(name)

    def _fault(self, t: Trial, entity: str, fault: Fault, *, first: int = 1, times: int | None = 1) -> Armed:
        if not isinstance(t.sim, Simulator):
            pytest.skip("faults of HTTP do not apply to this remote")
        return t.sim.faults.add(fault, path=self.case.listing(t.entity(entity)), first=first, times=times)
