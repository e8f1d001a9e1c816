"""Records and events as they are read: the shape and the limits, and no word of what was in them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.sdk.inbound import EVENT_BYTES
from reconciler.sdk.pushed import (
    MOST_EVENTS,
    NotUnderstoodError,
    Pushed,
    read_events,
    read_record,
    read_version,
    strict,
)

CANARY = "canary-5e1f"
AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVENT = {"id": "e", "type": "order.paid", "occurred_at": "2026-11-20T12:00:00Z", "data": {}}


def fine(_: str, __: Mapping[str, Any]) -> str:
    return ""


def test_a_record_of_a_batch_and_one_of_its_own() -> None:
    given = {"id": "1", "version": "17", "updated_at": "2026-11-20T13:00:00+01:00", "data": {"b": 1, "a": None}}
    assert read_record(given, "orders", fine) == Pushed("1", b'{"b":1,"a":null}', "17", AT)
    assert read_record({"data": {}}, "orders", fine, key="a/b ü") == Pushed("a/b ü", b"{}")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"id": "1"}, "data: is missing"),
        ({"data": {}}, "id: is missing"),
        ({"id": 1, "data": {}}, "id: expected a text"),
        ({"id": "", "data": {}}, "id: expected a text"),
        ({"id": f"{CANARY}\n", "data": {}}, "id: expected a text"),
        ({"id": CANARY * 50, "data": {}}, "id: expected a text"),
        ({"id": "1", "data": [CANARY]}, "data: expected an object"),
        ({"id": "1", "data": {}, CANARY: 1}, "only data, id, updated_at, version are known"),
        ({"id": "1", "data": {}, "version": 17}, "version: expected a text"),
        ({"id": "1", "data": {}, "version": f"{CANARY}\0"}, "version: expected a text"),
        ({"id": "1", "data": {}, "updated_at": CANARY}, "updated_at: not RFC 3339"),
        ({"id": "1", "data": {}, "updated_at": "2026-11-20T12:00:00"}, "updated_at: not RFC 3339"),
        ({"id": "1", "data": {}, "updated_at": "2026-13-20T12:00:00Z"}, "updated_at: no such time"),
        ([CANARY], "expected an object"),
        (CANARY, "expected an object"),
    ],
)
def test_what_is_no_record_is_told_without_its_values(wrong: Any, says: str) -> None:
    with pytest.raises(NotUnderstoodError, match=says) as caught:
        read_record(wrong, "orders", fine)
    assert (caught.value.code, CANARY in caught.value.detail) == ("schema", False)


def test_the_id_in_the_path_is_the_only_one() -> None:
    with pytest.raises(NotUnderstoodError, match="only data, updated_at, version are known"):
        read_record({"id": "2", "data": {}}, "orders", fine, key="1")


@pytest.mark.parametrize("version", [None, 1, "x" * 256, "a\nb"])
def test_versions_are_short_texts(version: Any) -> None:
    with pytest.raises(NotUnderstoodError):
        read_version(version)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"id": "x" * 129}, "id"),
        ({"type": "order"}, "type"),
        ({"type": f"{CANARY}.x"}, "type"),
        ({"type": "integration.error"}, "first words of events of the daemon itself"),
        ({"subject": CANARY * 30}, "subject"),
        ({"subject": None}, "subject"),
        ({"occurred_at": f"{CANARY}"}, "occurred_at"),
        ({"occurred_at": "2026-11-20T12:10:01Z"}, "ten minutes in the future"),
        ({"data": CANARY}, "data"),
        ({"data": {"x": CANARY * (EVENT_BYTES // 8)}}, "bytes"),
    ],
)
def test_what_is_no_event_is_listed_without_its_values(changed: Mapping[str, Any], says: str) -> None:
    found = read_events({"events": [EVENT, {**EVENT, **changed}]}, AT, fine)
    assert ([e.id for e in found.events], list(found.places)) == (["e"], [0])
    (rejected,) = found.rejected
    assert says in rejected["detail"]
    assert rejected["index"] == 1
    assert CANARY not in str(rejected)


@pytest.mark.parametrize(
    "body", [{"events": []}, {"events": [EVENT] * (MOST_EVENTS + 1)}, {"events": {}}, [EVENT], None, "x"]
)
def test_what_is_neither_an_event_nor_a_list_of_them(body: Any) -> None:
    with pytest.raises(NotUnderstoodError):
        read_events(body, AT, fine)


def test_as_many_as_are_allowed_and_ten_minutes_ahead() -> None:
    ahead = {**EVENT, "occurred_at": "2026-11-20T12:10:00Z"}
    assert len(read_events({"events": [ahead] * MOST_EVENTS}, AT, fine).events) == MOST_EVENTS


@pytest.mark.parametrize("body", [b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":{"b":1,"b":2}}', b'["\\udc00"]'])
def test_json_of_doubtful_meaning_is_refused(body: bytes) -> None:
    with pytest.raises(NotUnderstoodError):
        strict(body)
