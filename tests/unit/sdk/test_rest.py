"""REST connectors by declaration, against a remote in memory that keeps its records and pages for real."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random
from typing import Any, ClassVar, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest

from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.event import Message
from reconciler.model.record import Page, Position, ReadRequest, Scope
from reconciler.model.secret import Secret
from reconciler.sdk.answer import HttpAnswer
from reconciler.sdk.auth import Authenticator, Grant, Granted, bearer
from reconciler.sdk.contract import Answer, Entity, NoAuth, Probe, Room, Settings
from reconciler.sdk.errors import AmbiguousError, ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.paging import LinkHeader, NextToken, Offset, PageNumber, Pager, SinglePage
from reconciler.sdk.rest import Partition, RestChannel, RestConnector, RestEntity, epoch, skew_of
from tests.unit.sdk.test_auth import Vault
from tests.unit.sdk.virtual_clock import START, VirtualClock

BASE = "https://api.example/v2"
Respond = Callable[[str, dict[str, str]], tuple[int, bytes, dict[str, str]]]


@dataclass
class Remote:
    """An `Http`: `respond` gets path and query; statuses of 401 and 403 are raised as the real client would."""

    respond: Respond
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    async def send(self, method: str, url: str, *, params: Mapping[str, Any] | None = None, **more: Any) -> HttpAnswer:
        split = urlsplit(url)
        query = {**dict(parse_qsl(split.query)), **{k: str(v) for k, v in (params or {}).items()}}
        self.asked.append((method, url, {"query": query, **more}))
        status, body, headers = self.respond(split.path, query)
        if status in (401, 403):
            raise (UnauthorizedError if status == 401 else ForbiddenError)(f"{split.path} was answered {status}")
        return HttpAnswer(status, headers, body, url)


def as_json(value: Any, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    return 200, msgspec.json.encode(value), {k.replace("_", "-"): v for k, v in headers.items()}


class Post(Settings):
    channel: str = ""


class Shop(RestConnector[Settings, NoAuth]):
    type = "shop"
    title = "Shop"
    Config = Settings
    auth_types = (NoAuth,)
    listings: ClassVar[Sequence[Partition]] = (Partition(),)

    def base_url(self) -> str:
        return BASE

    def authenticator(self) -> Authenticator:
        return bearer(Secret("t"))

    async def probe(self) -> Probe:
        return Probe("me")

    async def partitions(self, entity: RestEntity) -> Sequence[Partition]:
        return self.listings


@dataclass(frozen=True)
class Desk:
    http: Remote
    clock: VirtualClock = field(default_factory=VirtualClock)
    tokens: Vault = field(default_factory=Vault)
    random: Random = field(default_factory=lambda: Random(7))


def shop(respond: Respond, kind: type[Shop] = Shop) -> tuple[Shop, Remote]:
    remote = Remote(respond)
    return kind(Settings(), NoAuth(), cast("Room", Desk(remote))), remote


def entity(pager: Pager | None = None, **more: Any) -> RestEntity:
    return RestEntity(**{"name": "items", "path": "/items", "records": "items", "pager": pager or SinglePage(), **more})


def request(scope: Scope = Scope.INCREMENTAL, **more: Any) -> ReadRequest:
    return ReadRequest(scope=scope, started_at=rfc3339(START), **more)


async def pages(connector: Shop, what: Entity, asked: ReadRequest | None = None) -> list[Page]:
    return [page async for page in connector.read(what, asked or request())]


def keys(found: Sequence[Page]) -> list[str]:
    return [key for page in found for key in page.keys]


async def test_short_and_empty_pages_in_the_middle_lose_nothing() -> None:
    listing = {"": ("a", ["1", "2"]), "a": ("b", []), "b": ("c", ["3"]), "c": ("", ["4", "5"])}

    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        following, ids = listing[query.get("cursor", "")]
        return as_json({"items": [{"id": i} for i in ids], "next": following})

    connector, remote = shop(respond)
    found = await pages(connector, entity(NextToken("next"), page_size=2))
    assert keys(found) == ["1", "2", "3", "4", "5"]
    assert [len(p.keys) for p in found] == [2, 0, 1, 2]
    assert found[-1].position is None
    assert all(p.position for p in found[:-1])
    assert [a[2]["query"]["limit"] for a in remote.asked] == ["2"] * 4


@pytest.mark.parametrize("pager", [PageNumber(), Offset()])
async def test_counted_pages_end_on_an_empty_page_only(pager: Pager) -> None:
    listing = [["1", "2"], ["3"], ["4", "5"]]

    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        starts = [0, 2, 3, 5]
        at = int(query["page"]) - 1 if "page" in query else starts.index(int(query["offset"]))
        return as_json({"items": [{"id": i} for i in listing[at]] if at < 3 else []}, x_total_count="5")

    found = await pages(shop(respond)[0], entity(pager))
    assert keys(found) == ["1", "2", "3", "4", "5"]
    assert found[0].total == 5


async def test_a_run_resumes_where_its_last_page_was_stored() -> None:
    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        number = int(query.get("cursor", "0"))
        return as_json({"items": [{"id": f"{path}{number}"}], "next": str(number + 1) if number < 3 else None})

    class Two(Shop):
        listings = (Partition("a", {"p": "a"}), Partition("b", {"p": "b"}))

    what = entity(NextToken("next"), path="/{p}/items")
    whole = await pages(shop(respond, Two)[0], what)
    assert len(whole) == 8
    for i, page in enumerate(whole[:-1]):
        stored = msgspec.json.decode(msgspec.json.encode(page.position))
        rest = await pages(shop(respond, Two)[0], what, request(resume=stored))
        assert keys(rest) == keys(whole[i + 1 :])
    assert {p.partition for p in whole} == {"a", "b"}


async def test_one_forbidden_listing_is_told_and_the_others_are_read() -> None:
    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (403, b"", {}) if "/b/" in path else as_json({"items": [{"id": path}]})

    class Three(Shop):
        listings = tuple(Partition(n, {"p": n}) for n in "abc")

    connector, _ = shop(respond, Three)
    seen: list[Page] = []

    async def read() -> None:
        async for page in connector.read(entity(path="/{p}/items"), request()):
            seen.append(page)  # noqa: PERF401 - what came before the error is looked at

    with pytest.raises(ForbiddenError, match="/b/items was answered 403"):
        await read()
    assert keys(seen) == ["/v2/a/items", "/v2/c/items"]


def test_a_kept_reject_is_cut_anew_as_if_it_were_an_answer() -> None:
    """Under today's declaration: another key field, a flag for deletion, a record that is not wanted any more."""

    class Prefixed(Shop):
        def cut(self, entity: RestEntity, answer: Answer, at: Position | None, partition: Partition) -> Any:
            page, following = super().cut(entity, answer, at, partition)
            return replace(page, keys=tuple(f"{partition.name}:{k}" for k in page.keys)), following

    connector, remote = shop(lambda path, query: as_json({}), Prefixed)
    what = entity(
        key="new.id", records="data.items", pager=NextToken("next"), also=("gone",), is_deleted=lambda get: get("gone")
    )
    taken = connector.retake(what, b'{"new": {"id": 7}, "gone": false}', "", "east")
    assert (taken.keys, taken.payloads, taken.partition) == (
        ("east:7",),
        (b'{"new": {"id": 7}, "gone": false}',),
        "east",
    )
    assert connector.retake(what, b'{"new": {"id": 7}, "gone": true}', "", "").deleted == ("7",)
    (left,) = connector.retake(what, b'{"new": {}}', "", "").rejects
    assert left.violations == ("new.id: expected a string or an integer, received null",)
    assert connector.retake(what, b"{}", "known", "east").keys == ("known",)
    assert not remote.asked


async def test_records_without_a_key_are_rejected_and_the_rest_is_taken() -> None:
    body = b'{"items": [{"id": 1}, {"x": 1}, {"id": null}, {"id": ""}, {"id": {"v": 1}}, {"id": true}, {"id": "2"}, {"id": 0}]}'
    found = await pages(shop(lambda path, query: (200, body, {}))[0], entity())
    assert keys(found) == ["1", "2", "0"]
    assert [r.payload for r in found[0].rejects] == [
        b'{"x": 1}',
        b'{"id": null}',
        b'{"id": ""}',
        b'{"id": {"v": 1}}',
        b'{"id": true}',
    ]
    assert {r.received_type for r in found[0].rejects} == {"null", "object", "boolean", "empty string"}
    assert all("expected a string or an integer" in r.violations[0] for r in found[0].rejects)
    assert len(found[0].payloads) == 3


async def test_repeated_keys_are_handed_on_as_they_came() -> None:
    body = b'{"items": [{"id": "1", "v": 1}, {"id": "1", "v": 2}]}'
    found = await pages(shop(lambda path, query: (200, body, {}))[0], entity())
    assert keys(found) == ["1", "1"]
    assert found[0].payloads == (b'{"id": "1", "v": 1}', b'{"id": "1", "v": 2}')


async def test_entities_of_two_connectors_with_one_name_are_not_mixed_up() -> None:
    one, two = entity(records="items"), entity(records="data.list", also=("x",))
    assert one != two
    assert keys(await pages(shop(lambda path, query: as_json({"items": [{"id": 1}]}))[0], one)) == ["1"]
    assert keys(await pages(shop(lambda path, query: as_json({"data": {"list": [{"id": 2}]}}))[0], two)) == ["2"]


async def test_huge_and_unicode_keys() -> None:
    body = '{"items": [{"id": 123456789012345678901234567890}, {"id": "schlüssel-日本"}]}'.encode()
    found = await pages(shop(lambda path, query: (200, body, {}))[0], entity())
    assert keys(found) == ["123456789012345678901234567890", "schlüssel-日本"]


@pytest.mark.parametrize(
    "body", [b"{}", b'{"items": null}', b"[]", b"<html>", b"", b'{"items": [{"id": 1}', b'{"items": [1]}']
)
async def test_an_answer_of_another_shape_is_an_error_and_never_the_end(body: bytes) -> None:
    with pytest.raises(TransientError, match="not the listing"):
        await pages(shop(lambda path, query: (200, body, {}))[0], entity())


def changed(minute: int) -> str:
    return (START + timedelta(minutes=minute)).isoformat()


async def test_the_watermark_is_the_newest_cursor_and_null_cursors_do_not_count() -> None:
    items = [
        {"id": 1, "at": changed(3)},
        {"id": 2, "at": None},
        {"id": 3},
        {"id": 4, "at": changed(9)},
        {"id": 5, "at": changed(1)},
    ]
    found = await pages(shop(lambda path, query: as_json({"items": items}))[0], entity(cursor="at"))
    assert found[0].watermark == rfc3339(START + timedelta(minutes=9))
    assert len(found[0].keys) == 5
    none = await pages(shop(lambda path, query: as_json({"items": [{"id": 1}]}))[0], entity(cursor="at"))
    assert none[0].watermark is None


async def test_a_nested_cursor_in_epoch_seconds() -> None:
    items = [{"id": 1, "meta": {"at": START.timestamp()}}, {"id": 2, "meta": None}]
    found = await pages(shop(lambda path, query: as_json({"items": items}))[0], entity(cursor="meta.at", at=epoch))
    assert found[0].watermark == rfc3339(START)


@pytest.mark.parametrize("values", [["yesterday"], ["2026-05-04T12:00:00"], [1, "x"], [{"a": 1}]])
async def test_a_cursor_that_is_no_time_is_an_error(values: list[Any]) -> None:
    items = [{"id": i, "at": v} for i, v in enumerate(values)]
    with pytest.raises(TransientError, match="at is not a time"):
        await pages(shop(lambda path, query: as_json({"items": items}))[0], entity(cursor="at"))


async def test_a_cursor_below_the_newest_that_is_no_time_is_an_error_where_it_is_looked_at() -> None:
    items = [{"id": 1, "at": changed(1)}, {"id": 2, "at": "0 o'clock"}]
    what = entity(cursor="at", newest_first=True)
    connector, _ = shop(lambda path, query: as_json({"items": items}))
    with pytest.raises(TransientError, match="at is not a time"):
        await pages(connector, what, request(since={"": rfc3339(START)}))


@pytest.mark.parametrize("value", [1e20, -1e300, "soon", [1]])
async def test_seconds_that_no_calendar_has_are_an_error(value: Any) -> None:
    items = [{"id": 1, "at": value}]
    with pytest.raises(TransientError, match="at is not a time"):
        await pages(shop(lambda path, query: as_json({"items": items}))[0], entity(cursor="at", at=epoch))


async def test_since_is_closed_widened_and_left_out_of_full_reads() -> None:
    what = entity(cursor="at", since=lambda at: {"changed_since": at.isoformat()}, params={"all": "1"})
    stored = {"": rfc3339(START)}
    for scope, expected in ((Scope.INCREMENTAL, (START - timedelta(minutes=5)).isoformat()), (Scope.FULL, None)):
        connector, remote = shop(lambda path, query: as_json({"items": []}))
        await pages(connector, what, request(scope, since=stored))
        assert remote.asked[0][2]["query"].get("changed_since") == expected
        assert remote.asked[0][2]["query"]["all"] == "1"


async def test_what_is_not_kept_and_what_is_deleted() -> None:
    items = [{"id": 1}, {"id": 2, "pull": {}}, {"id": 3, "state": {"gone": True}}, {"state": {"gone": True}}]
    what = entity(
        also=("pull", "state.gone"),
        keep=lambda get: get("pull") is None,
        is_deleted=lambda get: get("state.gone") is True,
    )
    found = await pages(shop(lambda path, query: as_json({"items": items}))[0], what)
    assert (found[0].keys, found[0].deleted, len(found[0].payloads), len(found[0].rejects)) == (("1",), ("3",), 1, 1)


async def test_links_are_followed_within_the_host_with_their_own_query() -> None:
    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        page = int(query.get("page", "1"))
        return as_json(
            {"items": [{"id": page}]}, **({"link": f'<{BASE}/items?page={page + 1}>; rel="next"'} if page < 3 else {})
        )

    connector, remote = shop(respond)
    assert keys(await pages(connector, entity(LinkHeader(), params={"all": 1}))) == ["1", "2", "3"]
    assert [a[1] for a in remote.asked] == [f"{BASE}/items", f"{BASE}/items?page=2", f"{BASE}/items?page=3"]
    assert remote.asked[1][2]["query"] == {"page": "2"}


@pytest.mark.parametrize(
    "link", ["https://evil.example/items", "http://api.example/items", "//evil.example/x", "https://api.example:444/"]
)
async def test_a_listing_that_goes_on_elsewhere_gets_no_credential(link: str) -> None:
    connector, remote = shop(lambda path, query: as_json({"items": []}, link=f'<{link}>; rel="next"'))
    with pytest.raises(RejectedError, match="another host"):
        await pages(connector, entity(LinkHeader()))
    with pytest.raises(RejectedError, match="another host"):
        _ = [e async for e in connector.elements("/x", LinkHeader(), records="items")]
    assert len(remote.asked) == 2


@pytest.mark.parametrize("pager", [LinkHeader(), Offset(), PageNumber()])
async def test_a_keyset_reads_past_pages_of_one_single_instant(pager: Pager) -> None:
    table = [(i, START + timedelta(minutes=m)) for i, m in enumerate((0, 0, 1, 1, 1, 1, 1, 2, 3))]

    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        since = from_rfc3339(query.get("since", changed(-9)))
        start = int(query.get("offset", (int(query.get("page", "1")) - 1) * 2))
        matching = [(i, at) for i, at in table if at >= since]
        found = [{"id": i, "at": at.isoformat()} for i, at in matching[start : start + 2]]
        more = (
            {"link": f'<{BASE}/items?since={rfc3339(since)}&offset={start + 2}>; rel="next"'}
            if start + 2 < len(matching)
            else {}
        )
        return as_json({"items": found}, **more)

    def ask(at: datetime) -> dict[str, str]:
        return {"since": rfc3339(at)}

    what = entity(pager, cursor="at", since=ask, keyset=True, ordered=True)
    found = await pages(shop(respond)[0], what, request(since={"": rfc3339(START)}))
    assert sorted(set(map(int, keys(found)))) == list(range(9))
    for i, page in enumerate(found[:-1]):
        stored = msgspec.json.decode(msgspec.json.encode(page.position))
        rest = await pages(shop(respond)[0], what, request(since={"": rfc3339(START)}, resume=stored))
        assert keys(rest) == keys(found[i + 1 :])


def channel(path: str) -> RestChannel:
    return RestChannel(
        name="post", fields=Post, path=path, body=lambda self, message: dict(message.fields), receipt="id", link="self"
    )


def message(**fields: Any) -> Message:
    return Message("delivery-1", "event-1", "item.created", fields)


async def test_a_message_is_one_request_and_the_receipt_is_the_remotes() -> None:
    connector, remote = shop(lambda path, query: as_json({"id": 7, "self": "https://api.example/7"}))
    receipt = await connector.deliver(channel("/rooms/{room}/messages"), message(room="a b", text="ü"))
    assert (receipt.remote_id, receipt.url) == ("7", "https://api.example/7")
    method, url, more = remote.asked[0]
    assert (method, url, more["lane"]) == ("POST", f"{BASE}/rooms/a%20b/messages", "deliver")
    assert more["json"] == {"room": "a b", "text": "ü"}


async def test_a_field_with_a_slash_is_a_path_and_nothing_else_escapes() -> None:
    connector, remote = shop(lambda path, query: as_json({"id": 7}))
    await connector.deliver(channel("/repos/{repo}/issues"), message(repo="owner/na?me#x"))
    assert remote.asked[0][1] == f"{BASE}/repos/owner/na%3Fme%23x/issues"
    for evil in ("../../admin", "..", "a/../../b", "."):
        with pytest.raises(RejectedError, match="may not hold"):
            await connector.deliver(channel("/repos/{repo}/issues"), message(repo=evil))
    with pytest.raises(RejectedError, match="no field repo"):
        await connector.deliver(channel("/repos/{repo}/issues"), message(room="x"))
    assert len(remote.asked) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [(b'{"ok": true}', "names no id"), (b'{"id": ', "broken"), (b"", "empty"), (b"[" * 99_999, "broken")],
    ids=["none", "half", "empty", "deep"],
)
async def test_an_answer_without_a_receipt_leaves_open_whether_the_message_arrived(body: bytes, said: str) -> None:
    connector, _ = shop(lambda path, query: (201, body, {}))
    with pytest.raises(AmbiguousError, match=said):
        await connector.deliver(channel("/x"), message())


async def test_a_refused_token_is_renewed_once() -> None:
    good = {"Bearer token-2"}

    class Renewing(Shop):
        def authenticator(self) -> Authenticator:
            async def fetch(room: Room) -> Grant:
                fetched.append(1)
                return Grant(Secret(f"token-{len(fetched)}"), None)

            return Granted("main", fetch)

    fetched: list[int] = []
    connector, remote = shop(lambda path, query: (200, b"{}", {}), Renewing)

    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        return (200 if remote.asked[-1][2]["headers"]["Authorization"] in good else 401), b"{}", {}

    remote.respond = respond
    assert (await connector.send("GET", "/x")).status == 200
    good.clear()
    with pytest.raises(UnauthorizedError):
        await connector.send("GET", "/x")
    assert len(remote.asked) == 4
    assert len(fetched) == 3


async def test_elements_of_any_listing() -> None:
    def respond(path: str, query: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        at = query.get("cursor", "0")
        return as_json({"data": {"hooks": [{"id": at}]}, "page": {"next": {"0": "1", "1": "2"}.get(at)}})

    connector, remote = shop(respond)
    stream = connector.elements("/hooks", NextToken("page.next"), params={"all": 1}, records="data.hooks", lane="probe")
    assert [e["id"] async for e in stream] == ["0", "1", "2"]
    assert {a[2]["lane"] for a in remote.asked} == {"probe"}


def test_skew() -> None:
    answer = HttpAnswer(200, {"date": "Mon, 04 May 2026 12:00:30 GMT"}, b"", BASE)
    assert skew_of(answer, START) == timedelta(seconds=30)
    assert skew_of(HttpAnswer(200, {"date": "now"}, b"", BASE), START) is None
    assert skew_of(HttpAnswer(200, {}, b"", BASE), START) is None
