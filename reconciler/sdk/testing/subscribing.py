"""Checks of remote objects: created once, found again by their marker, repaired and removed.

Called by pytest through `Conformance` for connectors that are `Subscribes`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from reconciler.sdk.contract import RemoteObject, Subscribes
from reconciler.sdk.errors import ConnectorError
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.sdk.testing.faults import html, status
from reconciler.sdk.testing.simulator import Simulator
from reconciler.sdk.testing.trial import Trial, trial


class Subscribing:
    """One cycle of the plan, step by step."""

    case: Case

    async def test_nothing_is_there_at_first(self) -> None:
        async with self._subscribing() as (_, connector):
            assert connector.wanted_objects(), "the case's config must want at least one remote object"
            assert await connector.list_objects() == ()

    async def test_created_objects_are_listed_as_they_are_wanted(self) -> None:
        async with self._subscribing() as (_, connector):
            made = [await connector.create_object(wanted) for wanted in connector.wanted_objects()]
            found = await connector.list_objects()
            assert all(m.remote_id for m in made)
            assert _identities(found) == _identities(made)
            for wanted in connector.wanted_objects():
                twin = next(f for f in found if (f.kind, f.marker) == (wanted.kind, wanted.marker))
                assert twin.spec == wanted.spec, "the plan after an apply would not be empty"

    async def test_another_connector_of_this_integration_adopts_them(self) -> None:
        async with self._subscribing() as (t, connector):
            for wanted in connector.wanted_objects():
                await connector.create_object(wanted)
            second = t.bench.connector(self.case.connector, self.case.config(t.sim), self.case.auth(t.sim))
            assert isinstance(second, Subscribes)
            markers = {w.marker for w in second.wanted_objects()}
            assert {f.marker for f in await second.list_objects()} == markers, "a crash would make a second object"

    async def test_objects_of_other_integrations_are_not_ours(self) -> None:
        async with self._subscribing() as (t, connector):
            for wanted in connector.wanted_objects():
                await connector.create_object(wanted)
            t.bench.marker = "kit/another"
            t.bench.inbound_url = "https://reconciler.example/hooks/kit/another"
            other = t.bench.connector(self.case.connector, self.case.config(t.sim), self.case.auth(t.sim))
            assert isinstance(other, Subscribes)
            assert await other.list_objects() == ()

    async def test_drift_is_seen_and_repaired(self) -> None:
        async with self._subscribing() as (t, connector):
            wanted = connector.wanted_objects()[0]
            made = await connector.create_object(wanted)
            self.case.disturb(t.sim, made)
            found = await self._only(connector, wanted)
            assert found.spec != wanted.spec, "the drift is not visible in what was read back"
            await connector.update_object(found.remote_id, wanted)
            assert (await self._only(connector, wanted)).spec == wanted.spec

    async def test_deleted_objects_are_gone_and_stay_deletable(self) -> None:
        async with self._subscribing() as (_, connector):
            made = [await connector.create_object(wanted) for wanted in connector.wanted_objects()]
            for found in (*made, *made):
                await connector.delete_object(found)
            assert await connector.list_objects() == ()

    @pytest.mark.parametrize("fault", [status(403), status(500), html()], ids=["403", "500", "HTML"])
    async def test_an_error_while_listing_is_never_an_empty_list(self, fault: object) -> None:
        async with self._subscribing() as (t, connector):
            if not isinstance(t.sim, Simulator):
                pytest.skip("faults of HTTP do not apply to this remote")
            t.sim.faults.add(fault, method="GET", path=self.case.objects_path(), times=None)  # type: ignore[arg-type]
            with pytest.raises(ConnectorError) as caught:
                await connector.list_objects()
            assert not t.bench.leaks(CANARY, caught.value)

    @asynccontextmanager
    async def _subscribing(self) -> AsyncIterator[tuple[Trial, Subscribes]]:
        if not issubclass(self.case.connector, Subscribes):
            pytest.skip("the connector keeps no objects at the remote")
        async with trial(self.case) as t:
            assert isinstance(t.connector, Subscribes)
            yield t, t.connector

    async def _only(self, connector: Subscribes, wanted: RemoteObject) -> RemoteObject:
        (found,) = [f for f in await connector.list_objects() if (f.kind, f.marker) == (wanted.kind, wanted.marker)]
        return found


def _identities(objects: "list[RemoteObject] | tuple[RemoteObject, ...]") -> set[tuple[str, str, str]]:
    return {(o.kind, o.marker, o.remote_id) for o in objects}
