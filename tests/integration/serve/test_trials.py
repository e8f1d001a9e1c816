"""A test over HTTP: whatever the remote says is a result; done once for a key; here, or by whoever leads."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from reconciler.api.trials import TestResult as Result
from reconciler.app.trials import Trials
from reconciler.control.orders import Orders
from reconciler.control.trial import Trial, trial_form, try_out
from reconciler.model.clock import SystemClock
from reconciler.model.condition import Reason
from reconciler.sdk.contract import Probe, Right
from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.live import Live, NotConnectableError
from reconciler.sdk.redact import Redactor
from reconciler.serve.ports import Ports
from reconciler.store import journal, requests
from reconciler.store.journal import OperatorRequest
from tests.desk import Desk, Remote
from tests.integration.serve.installation import Installation, Wish, want

PATH = "/v1/integrations/desk/test"
DEADLINE = timedelta(seconds=0.2)


async def alive(remote: Remote) -> Live:
    wish = Wish("desk", "desk", spec={"sync": {"entities": ["tickets"]}}).desired
    return Live(1, wish.ref, wish.manifest, Desk(remote), "", "", {}, "r")


async def tried(remote: Remote) -> Mapping[str, Any]:
    return trial_form(await try_out(alive(remote), SystemClock(), Redactor(), DEADLINE))


async def test_what_a_remote_may_say(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("desk", "desk")))
    rights = (Right("read:tickets", True), Right("write", None), Right("other", False, "not asked for"))
    remote = Remote(
        probes=[
            Probe(
                "ada", "acme", rights, {"tickets": True, "people": False}, timedelta(seconds=-2), "7.1", None, ("old",)
            ),
            Probe("ada", entities={"tickets": False}),
            UnauthorizedError("401 from the remote"),
        ]
    )

    async def probing(_: int) -> Mapping[str, Any]:
        return await tried(remote)

    installation.ports = Ports(probing=probing)
    async with installation.client() as client:
        answers = [await client.post(PATH) for _ in range(3)]
        bodies = [answer.json() for answer in answers]
    assert {answer.status_code for answer in answers} == {200}
    for body in bodies:
        Result.model_validate(body, strict=False)
    mixed, poor, refused = bodies
    assert (mixed["ok"], mixed["missing"], mixed["clock_skew_ms"]) == (False, ["other"], -2000.0)
    assert [right["granted"] for right in mixed["rights"]] == [True, None, False]
    assert mixed["entities"] == {"tickets": True, "people": False}
    assert (poor["ok"], poor["reason"], poor["detail"]) == (False, "PermissionDenied", "missing: read tickets")
    assert (refused["ok"], refused["reason"], refused["identity"]) == (False, "AuthenticationFailed", None)
    lines = await installation.database.read(lambda tx: requests.audit(tx, None))
    assert [line.detail["ok"] for line in lines] == [False, False, False]


async def test_what_is_slow_or_not_connectable_is_a_result() -> None:
    class Slow(Desk):
        async def probe(self) -> Probe:
            await asyncio.sleep(60)
            return Probe("late")

    async def slow() -> Live:
        live = await alive(Remote())
        return Live(1, live.ref, live.manifest, Slow(Remote()), "", "", {}, "r")

    async def closed() -> Live:
        raise NotConnectableError(Reason.SECRET_MISSING, "the secret cannot be read")

    late = await try_out(slow(), SystemClock(), Redactor(), DEADLINE)
    shut = await try_out(closed(), SystemClock(), Redactor(), DEADLINE)
    assert (late.reason, late.is_good) == (Reason.TIMED_OUT, False)
    assert (shut.reason, shut.error) == (Reason.SECRET_MISSING, "the secret cannot be read")
    assert trial_form(shut)["rights"] == []


async def test_the_same_key_asks_the_remote_once(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("desk", "desk")))
    remote = Remote()

    async def probing(_: int) -> Mapping[str, Any]:
        return await tried(remote)

    installation.ports = Ports(probing=probing)
    async with installation.client() as client:
        first, again = [await client.post(PATH, headers={"idempotency-key": "k"}) for _ in range(2)]
    assert (first.json()["ok"], again.json()) == (True, first.json())
    assert remote.probed == 1


async def test_a_process_without_connectors_says_so(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("desk", "desk")))
    async with installation.client() as client:
        answer = await client.post(PATH)
    assert (answer.status_code, answer.json()["code"]) == (503, "cannot-probe")


async def test_by_order_of_whoever_leads(either: Installation) -> None:
    """As in a process with role `api`; the leader hands such orders to somebody who has the time."""
    ids = await either.change(lambda tx: want(tx, Wish("desk", "desk")))
    database, aside = either.database, list[OperatorRequest]()
    orders = Orders(database, either.clock, aside={"test": aside.append})
    asking = asyncio.create_task(Trials(database, SystemClock(), None).probe(ids["desk"]))
    while not aside:
        await orders.tick()
        await asyncio.sleep(0.01)
    (order, *_) = aside
    assert (order.kind, order.integration_id) == ("test", ids["desk"])
    found = trial_form(Trial(probe=Probe("ada"), latency=timedelta(seconds=1)))
    await database.write(lambda tx: journal.answer(tx, order.id, {"ok": True, "trial": found}, "2026-03-01T12:00:00Z"))
    assert await asking == found
    assert await database.read(journal.open_requests) == []
