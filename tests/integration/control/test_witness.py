"""Orders of commands are audited with their outcome, by whoever gave them; those of the API have their line already."""

from collections.abc import Sequence
from typing import Any

import pytest

from reconciler.control.orders import Orders
from reconciler.model.clock import rfc3339
from reconciler.store import journal, requests
from reconciler.store.requests import AuditLine
from tests.desk import World


async def ordered(world: World, kind: str, name: str | None = None, **params: Any) -> str:
    """By a command; returns its id."""
    row_id, at = (await world.row(name)).id if name else None, rfc3339(world.clock.now())
    public = await world.db.write(lambda tx: journal.ask(tx, kind, row_id, params, "ada", at, is_of_command=True))
    await Orders(world.db, world.clock).tick()
    return public


async def audited(world: World) -> Sequence[AuditLine]:
    return (await world.read(lambda tx: requests.audit(tx, None)))[::-1]


async def test_who_ordered_what_of_which_and_what_came_of_it(world: World) -> None:
    await world.up()
    row = await world.row("desk")
    order = await ordered(world, "suspend", "desk", reason="move", until=None)
    await ordered(world, "sync", "desk", scope="full")
    done, refused = await audited(world)
    assert (done.caller, done.identity, done.action, done.request_id) == ("ada", "os:ada", "order suspend", order)
    assert (done.workspace, done.target) == (row.workspace, row.public_id)
    assert (done.outcome, done.status, done.detail["reason"]) == ("done", 200, "move")
    assert (refused.action, refused.target) == ("order sync", row.public_id)
    assert (refused.outcome, refused.status) == ("refused", 409)
    assert refused.detail == {"scope": "full", "code": "refused"}


async def test_a_run_is_its_integrations(world: World) -> None:
    await world.up()
    run = await world.make_run()
    await ordered(world, "cancel-sync", run=run.public_id)
    (line,) = await audited(world)
    assert (line.target, line.detail) == ((await world.row("desk")).public_id, {"run": run.public_id})


async def test_what_concerns_all_is_nobodys(world: World) -> None:
    await ordered(world, "approve", digest="abc")
    (line,) = await audited(world)
    assert (line.workspace, line.target, line.detail) == (None, "", {"digest": "abc"})


@pytest.mark.parametrize(("until", "outcome"), [(5, ("failed", 500)), ("2020-01-01T00:00:00Z", ("refused", 409))])
async def test_what_cannot_be_understood_has_failed(world: World, until: object, outcome: tuple[str, int]) -> None:
    await world.up()
    await ordered(world, "suspend", "desk", until=until, workspace=5)
    (line,) = await audited(world)
    assert (line.outcome, line.status) == outcome


async def test_what_is_to_be_forgotten_is_not_in_the_audit(world: World) -> None:
    await world.up()
    await ordered(world, "erase", "desk", keys=["ada-lovelace"], entity=None)
    (line,) = await audited(world)
    assert line.outcome == "done"
    assert "ada-lovelace" not in str(line)


async def test_an_order_of_the_api_is_in_the_audit_of_the_api_only(world: World) -> None:
    at = rfc3339(world.clock.now())
    await world.db.write(lambda tx: journal.ask(tx, "reconcile", None, {}, "token", at))
    await Orders(world.db, world.clock).tick()
    assert await audited(world) == []
