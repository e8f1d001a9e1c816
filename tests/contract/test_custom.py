"""The custom connector: signatures of Standard Webhooks in both directions, rules of manifests, what its probe says."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.custom import Custom
from connectors.custom.signing import signature
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Channel, KeyFacts, Verifies
from reconciler.sdk.errors import RejectedError, UnauthorizedError
from reconciler.sdk.inbound import Accepts
from reconciler.sdk.pushed import NotUnderstoodError, Pushed, is_older, read_events, strict
from reconciler.sdk.testing.case import CANARY, Case, Dispatch
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.room import START, Bench, VirtualClock
from simulators.custom import CustomSystem

SECRET = "whsec_ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8="
BODY = (
    b'{"id":"evt_01JD5T6Z8QW3","type":"order.created","occurred_at":"2026-11-20T12:00:00Z",'
    b'"data":{"order_id":"1001","total":"19.90","currency":"EUR"}}'
)
SIGNATURE = "v1,9QPa+Ie6zmOJx7WzLK8s/oxAFZqp5bh6rkExTWj77LE="
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
VECTOR = {"Webhook-Id": "evt_01JD5T6Z8QW3", "Webhook-Timestamp": "1795176000", "Webhook-Signature": SIGNATURE}
KEY = {"type": "generated_api_key", "signing_secret": SECRET}


class CustomCase(Case):
    connector = Custom

    def simulator(self, now: Callable[[], datetime]) -> CustomSystem:
        return CustomSystem(f"{CANARY}-outbound", now=now)

    def config(self, sim: CustomSystem) -> Mapping[str, Any]:
        url = f"{sim.url}/hook" if sim._port else "http://127.0.0.1:1/hook"
        return {"outbound": {"url": url, "secret": f"{CANARY}-outbound"}}

    def auth(self, sim: CustomSystem) -> Mapping[str, Any]:
        return {"type": "generated_api_key", "signing_secret": f"{CANARY}-inbound"}

    def wrong_auth(self, sim: CustomSystem) -> Mapping[str, Any]:
        return {"type": "generated_api_key", "signing_secret": f"whsec_{CANARY}"}

    def sending(self, channel: Channel) -> str:
        return "/hook"

    def sending_method(self, channel: Channel) -> str:
        return "POST"

    def dispatch(self, sim: CustomSystem, channel: Channel) -> Dispatch:
        fields = {"text": "on fire", "subject": "order/1", "data": {"n": 1}}
        return Dispatch(fields=fields, arrived=lambda s: len(s.received))


class TestCustomConformance(Conformance):
    case = CustomCase()


def made(bench: Bench, config: Mapping[str, Any] | None = None, auth: Mapping[str, Any] = KEY) -> Custom:
    found = bench.connector(Custom, config or {}, auth)
    assert isinstance(found, Custom)
    return found


def at(moment: datetime) -> Bench:
    return Bench(clock=VirtualClock(moment))


def test_it_has_the_capabilities() -> None:
    bench = Bench()
    assert isinstance(made(bench), Verifies)
    assert isinstance(made(bench), Accepts)


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": 5}, "type does not fit"),
        ({"properties": {"x": {"pattern": "(("}}}, "properties.x.pattern does not fit format"),
        ({"$ref": "https://example.org/x.json"}, "others are not read"),
        ({"items": [{"$ref": "#/$defs/nothing"}]}, "items does not fit"),
        ({"properties": {"x": {"$ref": "#/$defs/nothing"}}}, "no such place"),
    ],
)
def test_a_schema_that_nothing_can_be_checked_by(schema: Mapping[str, Any], wrong: str) -> None:
    for kind, name in (("entities", "orders"), ("events", "order.paid")):
        with pytest.raises(ValidationError, match=wrong):
            Custom.Config.model_validate({"schemas": {kind: {name: schema}}})


def test_schemas_that_refer_to_themselves() -> None:
    tree = {"type": "object", "properties": {"next": {"$ref": "#"}, "of": {"$ref": "#/$defs/a"}}, "$defs": {"a": {}}}
    named = {
        "$id": "https://example.org/a",
        "$ref": "https://example.org/a#/$defs/b",
        "$defs": {"b": {"type": "object"}},
    }
    rules = {"schemas": {"entities": {"tree": tree, "named": named, "circle": {"$ref": "#"}}}}
    custom = made(Bench(), rules)
    assert custom.check_record("tree", {"next": {"next": {}}}) == custom.check_record("named", {}) == ""
    assert custom.check_record("tree", {"next": {"next": 1}}) == "data.next.next: must be object"
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"next": deep}
    for entity, record in (("tree", deep), ("circle", {})):
        assert custom.check_record(entity, record) == "data: the rule of config.schemas cannot be applied to it"


def test_the_vector() -> None:
    assert signature(Secret(SECRET), VECTOR["Webhook-Id"], VECTOR["Webhook-Timestamp"], BODY) == SIGNATURE
    made(at(AT)).verify(VECTOR, BODY)


def test_one_of_several_signatures_is_enough() -> None:
    made(at(AT)).verify({**VECTOR, "Webhook-Signature": f"v1,AAAA {SIGNATURE} v2,x"}, BODY)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (VECTOR, BODY + b" "),
        (VECTOR, b""),
        ({**VECTOR, "Webhook-Id": "evt_other"}, BODY),
        ({**VECTOR, "Webhook-Timestamp": "1795176001"}, BODY),
        ({**VECTOR, "Webhook-Timestamp": "soon"}, BODY),
        ({**VECTOR, "Webhook-Signature": ""}, BODY),
        ({**VECTOR, "Webhook-Signature": "v1," + "ä" * 10}, BODY),
        ({}, BODY),
    ],
)
def test_what_was_tampered_with_is_refused(headers: Mapping[str, str], body: bytes) -> None:
    with pytest.raises(UnauthorizedError):
        made(at(AT)).verify(headers, body)


@pytest.mark.parametrize("away", [timedelta(seconds=301), timedelta(seconds=-301)])
def test_what_is_old_is_refused_though_its_signature_fits(away: timedelta) -> None:
    with pytest.raises(UnauthorizedError, match="five minutes"):
        made(at(AT + away)).verify(VECTOR, BODY)


def test_without_a_signing_secret_nothing_is_verified() -> None:
    with pytest.raises(UnauthorizedError, match="signing_secret"):
        made(at(AT), auth={"type": "generated_api_key"}).verify(VECTOR, BODY)


def test_what_is_sent_there_becomes_events() -> None:
    found = made(at(AT)).receive(VECTOR, BODY)
    assert (found.delivery_id, [e.id for e in found.events]) == ("evt_01JD5T6Z8QW3", ["evt_01JD5T6Z8QW3"])
    assert found.events[0].data["total"] == "19.90"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":NaN}', b'{"id":"x"}', b'{"events":[]}', b"\xff"])
def test_what_is_no_event_is_rejected(body: bytes) -> None:
    with pytest.raises(RejectedError):
        made(at(AT)).receive(VECTOR, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}', b'{"a":1,"a":2}', b'{"a":{"b":1,"b":1}}', b'{"a":"\\ud800"}',
        b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b"",
    ],
)  # fmt: skip
def test_json_that_may_be_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(NotUnderstoodError) as caught:
        strict(body)
    assert caught.value.code == "invalid-json"


def _rules(**rules: Any) -> Custom:
    return made(at(AT), {"schemas": rules})


def test_rules_say_where_and_never_what() -> None:
    of = _rules(entities={"orders": {"properties": {"total": {"type": "string"}, "note": {"maxLength": 3}}}})
    assert of.check_record("orders", {"total": "1"}) == ""
    assert of.check_record("orders", {"total": 4711}) == "data.total: must be string"
    assert of.check_record("orders", {"note": CANARY}) == "data.note: does not fit maxLength"
    assert of.check_record("unheard", {"total": 1}) == ""


def test_what_is_not_named_may_be_refused() -> None:
    of = made(at(AT), {"schemas": {"entities": {"orders": {}}}, "unknown": "reject"})
    assert of.check_record("orders", {}) == ""
    assert of.check_record("people", {}) != ""
    assert of.check_event("order.paid", {}) != ""


def test_nobody_signs_with_nothing() -> None:
    with pytest.raises(UnauthorizedError, match="empty"):
        made(at(AT), auth={**KEY, "signing_secret": "whsec_"}).verify(VECTOR, BODY)


def test_a_rule_fetches_nothing() -> None:
    with CustomSystem(SECRET) as there, pytest.raises(ValidationError, match="others are not read"):
        _rules(entities={"orders": {"$ref": f"{there.url}/schema.json"}})
    assert not there.requests


def test_good_events_count_though_others_are_bad() -> None:
    of = _rules(events={"order.paid": {"properties": {"total": {"type": "string"}}}})
    good = {"id": "e1", "type": "order.paid", "occurred_at": "2026-11-20T12:00:00+01:00", "data": {"total": "1"}}
    every = [
        good,
        {**good, "id": "e2", "data": {"total": 1}},
        {**good, "id": "e3", "occurred_at": "yesterday"},
        {**good, "id": "e4", "occurred_at": "2026-11-20T12:11:00Z"},
        {**good, "id": "e5", "type": "Order"},
        {**good, "id": "e6", "extra": 1},
        {"id": "e7"},
        {**good, "id": "e8", "type": "sync.failed"},
        7,
    ]
    found = read_events({"events": every}, AT, of.check_event)
    assert [e.id for e in found.events] == ["e1"]
    assert found.events[0].at == datetime(2026, 11, 20, 11, tzinfo=UTC)
    assert [(r["index"], r.get("id")) for r in found.rejected] == [
        (1, "e2"), (2, "e3"), (3, "e4"), (4, "e5"), (5, "e6"), (6, "e7"), (7, "e8"), (8, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("new", "old", "is_it"),
    [(("9", None), ("10", None), True), (("10", None), ("9", None), False), (("a", None), ("b", None), False),
     (("a", 1), ("b", 2), True), (("", 2), ("", 1), False), (("", None), ("5", 1), False), (("7", 1), ("7", 2), False)],
)  # fmt: skip
def test_versions_are_numbers_where_both_are_and_times_else(new: Any, old: Any, is_it: bool) -> None:
    def moment(day: int | None) -> datetime | None:
        return datetime(2026, 1, day, tzinfo=UTC) if day else None

    one = Pushed("k", b"{}", new[0], moment(new[1]))
    assert is_older(one, old[0], moment(old[1])) is is_it


async def _probed(auth: Mapping[str, Any], *keys: KeyFacts) -> Any:
    async with Bench() as bench:
        connector = made(bench, auth=auth)

        async def known() -> Sequence[KeyFacts]:
            return keys

        object.__setattr__(connector.room, "keys", known)
        return await connector.probe()


@pytest.mark.asyncio
async def test_the_probe_says_that_a_key_is_missing_or_due() -> None:
    auth = {"type": "generated_api_key", "rotation": {"max_age": "90d"}}
    nobody = await _probed(auth)
    assert "key create" in nobody.warnings[0]
    young = KeyFacts("k7Qm2XaB", "active", START - timedelta(days=10))
    found = await _probed(auth, young)
    assert (found.identity, found.warnings) == (nobody.identity, ())
    assert found.credential_expires_at == START + timedelta(days=80)
    old = KeyFacts("k7Qm2XaB", "active", START - timedelta(days=91))
    assert "older than" in (await _probed(auth, old)).warnings[0]
    both = await _probed(auth, KeyFacts("Zp4Lw8Td", "active", START), old)
    assert len(both.warnings) == 1
    assert "key regenerate" in both.warnings[0]
    assert "--instead-of k7Qm2XaB" in both.warnings[0]
    assert both.credential_expires_at == START - timedelta(days=1)


@pytest.mark.asyncio
async def test_the_probe_demands_a_secret_where_signatures_are() -> None:
    with pytest.raises(UnauthorizedError):
        await _probed({"type": "generated_api_key", "signature": "required"})
