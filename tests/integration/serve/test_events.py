"""Events and deliveries over HTTP: what is published is kept, shown to whom it may be, retried, cancelled and told again."""

from typing import Any

import httpx
import pytest

from reconciler.api.events import (
    DeliveryDetail,
    DeliveryList,
    EventDetail,
    EventList,
    EventRetried,
    PublishedEvents,
    ReplayShown,
    Sent,
)
from reconciler.model.access import Permission
from reconciler.model.clock import rfc3339
from reconciler.model.event import DeliveryStatus
from reconciler.serve.paging import encode
from reconciler.store import deliveries, events
from reconciler.store.database import Tx
from reconciler.store.deliveries import NewDelivery, Outcome
from tests.integration.serve.installation import Installation, Wish, connect, want

ORDER = {"type": "order.created", "data": {"number": 17}}


async def filled(installation: Installation) -> dict[str, int]:
    wishes = (Wish("sn", "servicenow"), Wish("chat", "slack"), Wish("other", "slack", "elsewhere"))
    ids: dict[str, int] = await installation.change(lambda tx: want(tx, *wishes))
    for number in ids.values():
        await installation.change(lambda tx, n=number: connect(tx, n))  # type: ignore[misc]
    return ids


async def published(client: httpx.AsyncClient, **more: Any) -> str:
    answer = await client.post("/v1/events", json=ORDER | more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["data"][0]["id"])


def made(tx: Tx, event_id: str, target: int, name: str = "s", source: int | None = None) -> int:
    event = events.find(tx, event_id)
    at = event.at if event else "2026-03-01T12:00:00.000000Z"
    kind = event.type if event else "incident.created"
    new = NewDelivery(
        f"{event_id}:{target}:{name}", event_id, kind, at, source, "", "", target, name, "c", {"text": "x"}
    )
    ((found, _),) = deliveries.create(tx, [new], at)
    return found


def ended(tx: Tx, delivery_id: int, status: DeliveryStatus, at: str) -> None:
    begun = deliveries.begin(tx, delivery_id, 1, at)
    assert begun is not None
    exchange = {"method": "POST", "url": "https://x/y", "status": 500, "request": "{}", "response": "no"}
    next_at = at if status is DeliveryStatus.FAILED else None
    assert deliveries.settle(tx, begun, Outcome(status, "Rejected", "no", next_at=next_at, exchange=exchange), at)


async def test_events_are_kept_before_the_answer_and_once(installation: Installation) -> None:
    await filled(installation)
    async with installation.client() as client:
        one = await client.post("/v1/events", json=ORDER | {"id": "o-17", "subject": "17"})
        many = await client.post(
            "/v1/events", json=[ORDER | {"id": "o-17"}, ORDER, {"type": "order.paid", "integration": "chat"}]
        )
        shown = [PublishedEvents.model_validate(a.json()).data for a in (one, many)]
        assert [e.is_new for page in shown for e in page] == [True, False, True, True]
        assert shown[0][0].id == shown[1][0].id
        key = {"idempotency-key": "k"}
        again = [await client.post("/v1/events", json=ORDER, headers=key) for _ in range(2)]
        assert again[0].content == again[1].content
        listed = EventList.model_validate((await client.get("/v1/events")).json()).data
        assert [(e.type, e.source, e.status) for e in listed].count(("order.created", "published", "none")) == 3
        assert {e.integration for e in listed} == {None, "chat"}
        found = EventDetail.model_validate((await client.get(f"/v1/events/{shown[0][0].id}")).json())
        assert (found.payload, found.subject, found.published_by) == ({"number": 17}, "17", "*/everything")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"type": "integration.error"}, "/type"),
        ({"type": "incident.created"}, "/type"),
        ({"type": "incident.escalated"}, "/type"),
        ({"type": "message.sent"}, "/type"),
        ({"type": "Order"}, "/type"),
        ([ORDER, {"type": "sync.failed"}], "/1/type"),
        ([ORDER, {"type": "order.x", "extra": 1}], "/1/extra"),
        ({"type": "order.x", "data": []}, "/data"),
        ({"type": "order.x", "occurred_at": "2026-01-01T00:00:00"}, "/occurred_at"),
    ],
)
async def test_nobody_poses_as_an_integration(installation: Installation, body: Any, pointer: str) -> None:
    ids = await filled(installation)
    await installation.change(
        lambda tx: tx.execute("INSERT INTO entity (integration_id, name) VALUES (:i, 'incidents')", {"i": ids["sn"]})
    )
    async with installation.client() as client:
        answer = await client.post("/v1/events", json=body)
        assert answer.status_code == 422
        assert [one["pointer"] for one in answer.json()["errors"]] == [pointer]
        assert (await client.get("/v1/events")).json()["data"] == []
        assert (await client.post("/v1/events", json=[])).status_code == 422
        assert (await client.post("/v1/events", json=[ORDER] * 501)).status_code == 422


async def test_another_workspace_sees_and_does_nothing(installation: Installation) -> None:
    ids = await filled(installation)
    stranger = await installation.issue("stranger", "elsewhere", Permission.ADMIN)
    async with installation.client() as client, installation.client(token=stranger) as foreign:
        event_id = await published(client, integration="chat")
        number = await installation.change(lambda tx: made(tx, event_id, ids["chat"]))
        found = await installation.database.read(lambda tx: deliveries.get(tx, number))
        assert found is not None
        public = found.public_id
        replay = (
            await client.post("/v1/events/replay", json={"integration": "chat", "since": "2026-01-01T00:00:00Z"})
        ).json()
        ReplayShown.model_validate(replay)
        for path in ("/v1/events", "/v1/deliveries"):
            assert (await foreign.get(path)).json()["data"] == []
        for method, path in (
            ("GET", f"/v1/events/{event_id}"),
            ("POST", f"/v1/events/{event_id}/retry"),
            ("POST", f"/v1/events/{event_id}/cancel"),
            ("GET", f"/v1/deliveries/{public}"),
            ("POST", f"/v1/deliveries/{public}/cancel"),
            ("GET", f"/v1/events/replays/{replay['id']}"),
            ("GET", f"/v1/events?integration={ids['chat']}"),
        ):
            there, nowhere = await foreign.request(method, path), await foreign.request(method, path.replace("_", "_x"))
            assert there.status_code == nowhere.status_code == 404
        assert (await foreign.post("/v1/events", json=ORDER | {"integration": "chat"})).status_code == 404
        assert (await foreign.post("/v1/events", json=ORDER | {"workspace": "default"})).status_code == 422
        assert (
            await foreign.post("/v1/integrations/chat/send", json={"channel": "c", "fields": {}})
        ).status_code == 404
        still = await installation.database.read(lambda tx: deliveries.get(tx, number))
        assert still is not None
        assert still.status is DeliveryStatus.PENDING


async def test_data_is_shown_to_its_publisher_and_admins_only(installation: Installation) -> None:
    ids = await filled(installation)
    rights = (Permission.EVENT_VIEW, Permission.EVENT_PUBLISH)
    mine, other = [await installation.issue(name, "default", *rights) for name in ("mine", "other")]
    async with installation.client(token=mine) as own, installation.client(token=other) as viewer:
        event_id = await published(own)
        number = await installation.change(lambda tx: made(tx, event_id, ids["chat"]))
        await installation.change(lambda tx: ended(tx, number, DeliveryStatus.DEAD, rfc3339(installation.clock.now())))
        seen, hidden = [
            EventDetail.model_validate((await c.get(f"/v1/events/{event_id}")).json()) for c in (own, viewer)
        ]
        assert (seen.payload, hidden.payload, hidden.has_payload) == ({"number": 17}, None, True)
        assert (seen.attempts[0].fields, hidden.attempts[0].fields) == ({"text": "x"}, None)
        (shown,), (bare,) = seen.attempts[0].tries, hidden.attempts[0].tries
        assert shown.exchange
        assert (shown.exchange.request, shown.exchange.response, shown.exchange.status) == (
            "{}",
            "no",
            500,
        )
        assert bare.exchange
        assert (bare.exchange.request, bare.exchange.response, bare.exchange.status) == (
            None,
            None,
            500,
        )
        assert (await viewer.post(f"/v1/events/{event_id}/retry")).status_code == 403
        sent = await viewer.post("/v1/integrations/chat/send", json={"channel": "post_message", "fields": {}})
        assert (sent.status_code, sent.json()["code"]) == (403, "not-granted")


async def test_retry_touches_only_what_did_not_arrive(installation: Installation) -> None:
    ids, at = await filled(installation), rfc3339(installation.clock.now())
    async with installation.client() as client:
        event_id = await published(client)
        numbers = {}
        for name in ("delivered", "failed", "dead", "unknown", "cancelled", "pending"):
            numbers[name] = await installation.change(lambda tx, n=name: made(tx, event_id, ids["chat"], n))  # type: ignore[misc]
        for name in ("delivered", "failed", "dead", "unknown"):
            await installation.change(lambda tx, n=name: ended(tx, numbers[n], DeliveryStatus(n), at))  # type: ignore[misc]
        await installation.change(lambda tx: deliveries.cancel(tx, numbers["cancelled"], "x", at))
        key = {"idempotency-key": "r"}
        answers = [await client.post(f"/v1/events/{event_id}/retry", headers=key) for _ in range(2)]
        assert answers[0].content == answers[1].content
        told = EventRetried.model_validate(answers[0].json())
        assert len(told.deliveries) == 3
        detail = EventDetail.model_validate((await client.get(f"/v1/events/{event_id}")).json())
        by_name = {d.synchronization: d.status for d in detail.attempts[:6]}
        assert by_name == {n: n for n in numbers} | {"failed": "cancelled"}
        assert sorted(d.synchronization or "" for d in detail.attempts[6:]) == ["dead", "failed", "unknown"]
        assert detail.status == "pending"
        assert (await client.post(f"/v1/events/{event_id}/retry")).json()["code"] == "refused"
        cancelled = (await client.post(f"/v1/events/{event_id}/cancel")).json()
        assert len(cancelled["deliveries"]) == 4
        DeliveryList.model_validate((await client.get("/v1/deliveries")).json())


async def test_a_stuck_one_that_is_cancelled_does_not_come_back(installation: Installation) -> None:
    ids, at = await filled(installation), installation.clock.now
    async with installation.client() as client:
        event_id = await published(client)
        number = await installation.change(lambda tx: made(tx, event_id, ids["chat"]))
        deadline = rfc3339(at())
        begun = await installation.change(lambda tx: deliveries.begin(tx, number, 5, rfc3339(at()), deadline))
        path = f"/v1/deliveries/{begun.public_id}"
        assert (await client.post(f"{path}/cancel")).status_code == 409
        installation.clock.add(1)
        assert (await client.post(f"{path}/cancel")).status_code == 200
        done = Outcome(DeliveryStatus.DELIVERED, "Succeeded")
        assert not await installation.change(lambda tx: deliveries.settle(tx, begun, done, rfc3339(at())))
        assert await installation.change(lambda tx: deliveries.take_over(tx, number, 9)) is None
        found = DeliveryDetail.model_validate((await client.get(path)).json())
        assert (found.status, "may have arrived" in (found.error or "")) == ("cancelled", True)


async def test_filters_pages_and_statuses(installation: Installation) -> None:
    ids, at = await filled(installation), rfc3339(installation.clock.now())
    async with installation.client() as client:
        for n in range(25):
            installation.clock.add(1)
            await published(
                client, type="order.paid" if n % 5 else "ship.sent", **({"integration": "chat"} if n < 10 else {})
            )
        ids_of = [e["id"] for e in (await client.get("/v1/events", params={"limit": 100})).json()["data"]]
        assert len(ids_of) == 25
        seen: list[str] = []
        cursor = None
        while True:
            page = (await client.get("/v1/events", params={"limit": 7} | ({"cursor": cursor} if cursor else {}))).json()
            seen += [e["id"] for e in page["data"]]
            cursor = page["next_cursor"]
            if not page["has_more"]:
                break
            await published(client)
        assert seen == ids_of

        async def count(**asked: Any) -> int:
            return len(
                (
                    await client.post(
                        "/v1/events/filter", json={"limit": 100, "types": ["order.paid", "ship.*"]} | asked
                    )
                ).json()["data"]
            )

        number = await installation.change(lambda tx: made(tx, ids_of[3], ids["chat"]))
        await installation.change(lambda tx: ended(tx, number, DeliveryStatus.DEAD, at))
        middle = "2026-03-01T12:00:10Z"
        assert await count(types=["ship.*"]) == 5
        assert await count(integrations=["chat"]) == 10
        assert (await count(to=middle), await count(**{"from": middle})) == (9, 16)
        assert (await count(statuses=["dead"]), await count(statuses=["none"])) == (1, 24)
        for bad in ({"cursor": "!"}, {"limit": 0}, {"status": "odd"}, {"surprise": 1}, {"from": "yesterday"}):
            assert (await client.get("/v1/events", params=bad)).status_code == 400


async def test_send_checks_the_fields_and_waits_for_the_outcome(installation: Installation) -> None:
    await filled(installation)
    async with installation.client() as client:
        path = "/v1/integrations/chat/send"
        wrong = await client.post(path, json={"channel": "post_message", "fields": {"txt": "x"}})
        assert wrong.status_code == 422
        assert {"/fields/txt"} <= {one["pointer"] for one in wrong.json()["errors"]}
        assert (await client.post(path, json={"channel": "odd", "fields": {}})).json()["errors"][0][
            "pointer"
        ] == "/channel"
        body = {"channel": "post_message", "fields": {"channel": "C0000000OPS", "text": "hello"}}
        sent = Sent.model_validate((await client.post(path, json=body, params={"wait": 1})).json())
        assert sent.status == "pending"
        event = EventDetail.model_validate((await client.get(f"/v1/events/{sent.event}")).json())
        assert (event.type, event.source, event.status, event.attempts[0].fields) == (
            "message.sent",
            "sent",
            "pending",
            event.attempts[0].fields,
        )


@pytest.mark.parametrize(
    ("method", "place", "body", "status"),
    [
        ("GET", f"/v1/deliveries?cursor={encode((1 << 70,))}", None, 400),
        ("GET", "/v1/events?from=9999-12-31T23:59:59-12:00", None, 400),
        ("POST", "/v1/events", {"type": "order.created", "occurred_at": "0001-01-01T00:00:00+12:00"}, 422),
        ("POST", "/v1/integrations/chat/sync", {"since": "9999-12-31T23:59:59-12:00"}, 422),
    ],
)
async def test_places_and_times_that_nothing_can_be_counted_from(
    installation: Installation, method: str, place: str, body: Any, status: int
) -> None:
    async with installation.client() as client:
        answer = await client.request(method, place, json=body)
        assert answer.status_code == status, answer.text
