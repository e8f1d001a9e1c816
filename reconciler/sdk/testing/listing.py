"""Checks of listings of keys alone: they name exactly the records there are, so what they miss is gone.

Called by pytest through `Conformance`, once per entity of the case's connector; skipped where deletions become known
another way.
"""

from datetime import timedelta

import pytest

from reconciler.model.clock import from_rfc3339
from reconciler.model.record import Scope
from reconciler.sdk.contract import Deletes, Entity
from reconciler.sdk.errors import ForbiddenError
from reconciler.sdk.testing.case import Case
from reconciler.sdk.testing.faults import capped
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import SEEDS, Dataset, Trial, texts, trial


class Listing:
    """`entity` is the name of an entity; parametrised by `Conformance`."""

    case: Case

    async def test_keys_are_those_of_a_full_read(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            keys = t.seed(of)
            if entity in self.case.null_cursors:
                keys += [t.put(of, SEEDS + n, None, "timeless") for n in range(self.case.page_size + 1)]
            listing = await t.read(of, Scope.KEYS)
            assert listing.keys == set(keys) == (await t.read(of)).keys, (
                "the listing of keys is not that of a full read"
            )
            assert len(listing.pages) > 1, "every key came in one page: the check proves nothing"

    async def test_keys_come_without_their_records(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            t.seed(of)
            listing = await t.read(of, Scope.KEYS)
            brought = {text for payload in listing.records.values() for text in texts(payload)}
            assert not any(text.startswith("seed ") for text in brought), (
                "whole records were fetched to learn their keys"
            )

    async def test_change_times_stand_beside_their_keys(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            t.seed(of)
            for page in (await t.read(of, Scope.KEYS)).pages:
                assert len(page.changed_at) in (0, len(page.keys))
                assert page.watermark is None, "a listing of keys has read no change: it may not say up to which"
                assert all(from_rfc3339(at) for at in page.changed_at if at)

    async def test_what_is_gone_is_missed_and_what_returns_is_listed(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            keys = t.seed(of)
            stored = await t.read(of)
            self.case.remove(t.sim, of, keys[2])
            stored.sweep(await t.read(of, Scope.KEYS))
            assert stored.deleted == {keys[2]}, "the deletion did not become known"
            t.put(of, 2, t.clock.now() - timedelta(hours=1), "back again")
            assert keys[2] in (await t.read(of, Scope.KEYS)).keys
            assert (await t.read(of, into=Dataset(stored.records, stored.deleted))).keys == set(keys)

    async def test_an_interrupted_listing_sweeps_nothing_and_goes_on(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            keys = t.seed(of)
            stored = await t.read(of)
            self.case.remove(t.sim, of, keys[SEEDS - 1])
            whole = await t.read(of, Scope.KEYS)
            for stop in range(1, len(whole.pages)):
                part = await t.read(of, Scope.KEYS, stop_after=stop)
                stored.sweep(part)
                assert not stored.deleted, "an incomplete listing proves nothing"
                rest = await t.read(of, Scope.KEYS, into=part)
                assert rest.keys == whole.keys, f"keys were lost when going on after page {stop}"

    async def test_a_record_that_moves_while_keys_are_listed_is_not_missed(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            keys = t.seed(of)

            def move(pages: int) -> None:
                if pages == 1:
                    t.put(of, SEEDS - 1, t.clock.now(), "moved")
                    t.put(of, 0, t.clock.now(), "moved")

            assert (await t.read(of, Scope.KEYS, between=move)).keys == set(keys), "a change made a record look deleted"

    async def test_smaller_pages_than_asked_for_lose_no_key(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            if not isinstance(t.sim, Simulator):
                pytest.skip("faults of HTTP do not apply to this remote")
            keys = t.seed(of)
            t.sim.faults.add(capped(self.case.page_size - 1), path=self.case.listing(of), times=None)
            assert (await t.read(of, Scope.KEYS)).keys == set(keys), (
                "a page shorter than asked for was taken for the end"
            )

    async def test_an_empty_page_in_the_middle_loses_no_key(self, entity: str) -> None:
        if not self.case.pages_may_be_empty:
            pytest.skip("this vendor's empty page is its end")
        async with trial(self.case) as t:
            of = _listable(t, entity)
            keys = t.seed(of)
            self.case.empty_page(t.sim, of)
            assert (await t.read(of, Scope.KEYS)).keys == set(keys), "an empty page was taken for the end"

    async def test_refused_keys_are_never_no_keys(self, entity: str) -> None:
        async with trial(self.case) as t:
            of = _listable(t, entity)
            t.seed(of)
            self.case.deny(t.sim, of)
            with pytest.raises(ForbiddenError):
                await t.read(of, Scope.KEYS)


def _listable(t: Trial, name: str) -> Entity:
    entity = t.entity(name)
    if entity.deletes is not Deletes.KEYS:
        pytest.skip("keys of this entity are not listed alone")
    return entity
