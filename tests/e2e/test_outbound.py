"""A whole daemon tells a system of one's own what happens: by a list of event types, and no more once it says that it is gone."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.condition import ConditionType, Reason
from reconciler.model.event import DeliveryStatus
from reconciler.sdk.testing.faults import status
from reconciler.store import deliveries
from reconciler.store.deliveries import Delivery
from simulators.custom import CustomSystem
from tests.e2e.stage import Running, Stage
from tests.e2e.test_ingest import FULL_ENV, SIGNING, Pusher, event, key_for, served, spec

pytestmark = pytest.mark.timeout(300)
EVERYTHING = ["order.*", "order.created", "integration.suspended"]


@pytest.fixture
def system() -> Iterator[CustomSystem]:
    with CustomSystem(SIGNING) as made:
        yield made


def told(system: CustomSystem, *types: str, path: str = "/hook") -> dict[str, Any]:
    secret = {"from_env": "ITOPS_SIGNING"}
    return spec(outbound={"url": f"{system.url}{path}", "secret": secret, "events": list(types or EVERYTHING)})


@pytest.fixture
def stage(tmp_path: Path, system: CustomSystem) -> Stage:
    made = Stage(tmp_path)
    made.manifest("erp", **told(system))
    made.manifest("shop", **spec())
    made.commit()
    return made


@asynccontextmanager
async def both(stage: Stage) -> AsyncIterator[tuple[Pusher, Pusher]]:
    """`shop`, of which `erp` is told."""
    async with served(stage, "shop", env=FULL_ENV) as erp:
        key = await erp.running.daemon.database.write(lambda tx: key_for(tx, "shop"))
        await erp.running.daemon.window.board.reload()
        shop = Pusher(erp.running, erp.client, key, "it-ops.shop")
        for one in (shop, erp):
            await erp.running.until(f"{one.name} is served", partial(_is_served, one))
        yield shop, erp


async def _is_served(pusher: Pusher) -> bool:
    """After a restart it is connected from before, and its manifest may not be read yet."""
    return (await pusher.call("GET", "/ping")).status_code == 200


async def until(running: Running, count: int, *ended: DeliveryStatus) -> list[Delivery]:
    """So many deliveries, oldest first, all of which are in one of these states."""

    async def there() -> list[Delivery]:
        found = await running.read(lambda tx: deliveries.listing(tx, limit=200))
        return found[::-1] if len(found) == count and all(d.status in ended for d in found) else []

    return await running.until(f"{count} deliveries are {ended}", there)


def posts(system: CustomSystem) -> int:
    return sum(1 for call in system.requests if call.method == "POST")


@pytest.mark.asyncio
async def test_a_list_of_event_types_is_enough(stage: Stage, system: CustomSystem) -> None:
    async with both(stage) as (shop, erp):
        await shop.put("1001", {"total": "19.90", "note": None})
        at = "2026-01-02T03:04:05Z"
        await shop.call("POST", "/events", json=event("evt_1", occurred_at=at, subject="order/7"))
        await erp.put("2002", {"total": "1"})
        await erp.running.order("suspend", "shop", reason="audit")
        await erp.until_done()
        sent = await until(erp.running, 3, DeliveryStatus.DELIVERED)
    assert {d.synchronization for d in sent} == {"outbound"}
    bodies = {one["type"]: one for one in system.received.values()}
    assert {kind: (one["subject"], one["data"]) for kind, one in bodies.items()} == {
        "order.created": ("order/1001", {"total": "19.90", "note": None}),
        "order.paid": ("order/7", {"total": "1"}),
        "integration.suspended": ("integration/shop", {"message": "suspended by ada: audit"}),
    }
    assert bodies["order.paid"]["occurred_at"] == "2026-01-02T03:04:05.000000Z"
    assert {one["id"] for one in bodies.values()} == {d.event_id for d in sent}
    assert system.violations == []


@pytest.mark.asyncio
async def test_gone_is_gone_over_a_restart_and_pushing_goes_on(stage: Stage, system: CustomSystem) -> None:
    system.faults.add(status(410), path="/hook", times=None)
    async with both(stage) as (shop, erp):
        assert (await shop.put("1", {"total": "1"})).status_code == 201
        await until(erp.running, 1, DeliveryStatus.DEAD)
        assert (await shop.put("2", {"total": "2"})).status_code == 201
        assert (await erp.put("3", {"total": "3"})).status_code == 201
        assert await erp.records() == {"1": {"total": "1"}, "2": {"total": "2"}, "3": {"total": "3"}}
        _, second = await until(erp.running, 2, DeliveryStatus.DEAD)
        assert (second.reason, second.attempts) == (Reason.GONE, 0)
        view = await erp.running.view("erp")
        assert (view.status, view.health, view.conditions[ConditionType.DELIVERING].reason) == (
            "connected", "degraded", Reason.GONE,
        )  # fmt: skip
    system.faults.clear()
    asked = len(system.requests)
    async with both(stage) as (shop, erp):
        await erp.running.order("reconcile", "erp")
        assert (await shop.put("4", {"total": "4"})).status_code == 201
        await until(erp.running, 3, DeliveryStatus.DEAD)
        assert len(system.requests) == asked, "not even looked at"
        stage.manifest("erp", **told(system, "order.*"))
        stage.commit()
        await erp.running.order("reconcile")
        await erp.running.until_view("erp", "told anew", lambda v: ConditionType.DELIVERING not in v.conditions)
        assert (await shop.put("5", {"total": "5"})).status_code == 201
        sent = await until(erp.running, 4, DeliveryStatus.DEAD, DeliveryStatus.DELIVERED)
        await erp.running.order("retry-delivery", delivery=sent[0].public_id)
        await until(erp.running, 5, DeliveryStatus.DEAD, DeliveryStatus.DELIVERED)
    assert sorted(one["subject"] for one in system.received.values()) == ["order/1", "order/5"]


@pytest.mark.asyncio
async def test_what_waits_is_taken_back_with_the_manifest(stage: Stage, system: CustomSystem) -> None:
    system.faults.add(status(503, retry_after="3600"), method="POST", path="/hook", times=None)
    async with both(stage) as (shop, erp):
        assert (await shop.put("1", {"total": "1"})).status_code == 201
        await until(erp.running, 1, DeliveryStatus.FAILED)
        (stage.repo / "erp.yaml").unlink()
        stage.commit()
        await erp.running.order("reconcile")
        await erp.running.until_gone("erp")
        (taken,) = await until(erp.running, 1, DeliveryStatus.CANCELLED)
    assert (taken.reason, posts(system)) == (Reason.PRUNED, 1)


@pytest.mark.asyncio
async def test_an_address_in_the_house_is_not_asked(stage: Stage, system: CustomSystem) -> None:
    stage.manifest("erp", **told(system))
    stage.commit()
    async with stage.daemon(env=FULL_ENV, hosts={"allow": ()}) as running:
        view = await running.until_view("erp", "stalled", lambda v: ConditionType.STALLED in v.conditions)
    assert view.conditions[ConditionType.STALLED].reason is Reason.HOST_NOT_PERMITTED
    assert "hosts.allow" in view.conditions[ConditionType.STALLED].message
    assert system.requests == []
