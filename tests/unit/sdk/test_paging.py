"""Pagers and the cutting of records out of answers, without a server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.sdk.paging import (
    Cut,
    LinkHeader,
    NextToken,
    Offset,
    PageNumber,
    Pager,
    Position,
    SinglePage,
    dig,
    head_getter,
    next_link,
    total_of,
)


@dataclass(frozen=True)
class Said:
    """An answer of which pagers look at the headers and the URL."""

    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    body: bytes = b"[]"
    url: str = "https://api.example/v2/items?page=1"

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def walk(
    pager: Pager, counts: list[int], metas: list[dict[str, Any]] | None = None
) -> list[tuple[str | None, dict[str, Any]]]:
    """The requests that a pager makes when the pages have these many records."""
    at: Position | None = None
    asked = []
    for i, count in enumerate(counts):
        asked.append(pager.request(at, 50))
        at = pager.after(at, Said(), metas[i] if metas else {}, count)
        if at is None:
            break
        assert msgspec.json.decode(msgspec.json.encode(at)) == at
    return asked


def test_a_single_page_ends_at_once() -> None:
    assert walk(SinglePage(), [3, 3]) == [(None, {})]


def test_page_numbers_end_on_an_empty_page_not_on_a_short_one() -> None:
    asked = walk(PageNumber(), [50, 2, 50, 0, 50])
    assert [p["page"] for _, p in asked] == [1, 2, 3, 4]
    assert asked[0] == (None, {"page": 1, "per_page": 50})
    assert walk(PageNumber("p", "n", first=0), [1, 0])[1] == (None, {"p": 1, "n": 50})


def test_offsets_move_by_what_came() -> None:
    asked = walk(Offset(), [50, 20, 50, 0])
    assert [p["offset"] for _, p in asked] == [0, 50, 70, 120]
    assert asked[0] == (None, {"offset": 0, "limit": 50})


@pytest.mark.parametrize("last", [None, "", {}, {"next": ""}, {"next": None}])
def test_a_token_goes_on_over_empty_pages_and_ends_without_one(last: Any) -> None:
    metas = [{"meta": {"next": "t1"}}, {"meta": {"next": "t2"}}, {"meta": last}]
    pager = NextToken("meta.next")
    asked = walk(pager, [50, 0, 3, 9], metas)
    assert [p.get("cursor") for _, p in asked] == [None, "t1", "t2"]
    assert pager.envelope == ("meta.next",)


def test_links_are_followed_as_they_are() -> None:
    pager = LinkHeader()
    assert pager.request(None, 30) == (None, {"per_page": 30})
    at = pager.after(None, Said({"link": '<https://api.example/items?page=2>; rel="next"'}), {}, 0)
    assert at == {"url": "https://api.example/items?page=2"}
    assert pager.request(at, 30) == ("https://api.example/items?page=2", {})
    assert pager.after(at, Said(), {}, 30) is None


@pytest.mark.parametrize(
    ("link", "url"),
    [
        ("/v2/items?page=2", "https://api.example/v2/items?page=2"),
        ("?page=2", "https://api.example/v2/items?page=2"),
        ("items?page=2", "https://api.example/v2/items?page=2"),
    ],
)
def test_a_relative_link_is_relative_to_the_answer(link: str, url: str) -> None:
    assert LinkHeader().after(None, Said({"link": f'<{link}>; rel="next"'}), {}, 1) == {"url": url}


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('<a>; rel="prev", <b>; rel="next"', "b"),
        ('<b>; rel="next", <c>; rel="last"', "b"),
        ("<b>; rel=next", "b"),
        ('<b>; REL="NEXT"', "b"),
        ('<b>; rel="last next"', "b"),
        ('<b>; title="one, two; three"; rel="next"', "b"),
        ('<a>; title="x <y>, z"; rel="prev", <b>; results="true"; rel="next"', "b"),
        ('<a?x=1,2;3>; rel="next"', "a?x=1,2;3"),
        ('<b>;rel="next"', "b"),
        ('<b>; rel = "next"', "b"),
        ('<b>; rel="nextish"', None),
        ('<b>; title="rel=next"', None),
        ('<b>; rel="prev"; title="next"', None),
        ("<b>", None),
        ("", None),
    ],
)
def test_link_headers(header: str, target: str | None) -> None:
    assert next_link(header) == target


def test_totals() -> None:
    assert total_of({"x-total-count": "120"}) == 120
    assert total_of({"x-total": "7"}) == 7
    assert total_of({"x-total-count": "many"}) is None
    assert total_of({}) is None


def test_dig() -> None:
    assert dig({"a": {"b": [1]}}, "a.b") == [1]
    assert dig({"a": None}, "a.b") is None
    assert dig({"a": [1]}, "a.b") is None
    assert dig([1], "") == [1]


def cut(
    records: str, body: str | bytes, *envelope: str, heads: tuple[str, ...] = ("id",)
) -> tuple[list[bytes], list[Any], dict[str, Any]]:
    payloads, read, meta = Cut(records, envelope, heads)(body.encode() if isinstance(body, str) else body)
    getters = [head_getter(heads, name) for name in heads]
    return payloads, [tuple(get(head) for get in getters) for head in read], meta


def test_a_bare_list() -> None:
    payloads, heads, meta = cut("", '[ {"id": 1, "x": [ 1 ]} , {"x": 2} ]')
    assert payloads == [b'{"id": 1, "x": [ 1 ]}', b'{"x": 2}']
    assert (heads, meta) == ([(1,), (None,)], {})


def test_records_at_a_nested_path_with_fields_beside_every_step() -> None:
    body = '{"ok": true, "data": {"issues": {"nodes": [{"id": "a"}], "pageInfo": {"endCursor": "c1"}}, "took": 3}}'
    payloads, heads, meta = cut(
        "data.issues.nodes", body, "ok", "data.took", "data.issues.pageInfo.endCursor", "data.absent"
    )
    assert (payloads, heads) == ([b'{"id": "a"}'], [("a",)])
    assert dig(meta, "ok") is True
    assert dig(meta, "data.took") == 3
    assert dig(meta, "data.issues.pageInfo.endCursor") == "c1"
    assert dig(meta, "data.absent") is None


def test_a_token_beside_nested_records_is_found() -> None:
    pager = NextToken("data.page.next")
    _, _, meta = cut("data.items", '{"data": {"page": {"next": "t"}, "items": []}}', *pager.envelope)
    assert pager.after(None, Said(), meta, 0) == {"token": "t"}


@pytest.mark.parametrize("envelope", ["data", "data.items", "data.items.x"])
def test_an_envelope_that_is_not_beside_the_records_is_a_mistake(envelope: str) -> None:
    with pytest.raises(ValueError, match="not beside the records"):
        Cut("data.items", (envelope,), ("id",))


def test_an_envelope_of_a_bare_list_is_a_mistake() -> None:
    # It would read as "no next page" for ever.
    with pytest.raises(ValueError, match="top of the answer"):
        Cut("", NextToken("next").envelope, ("id",))


@pytest.mark.parametrize("odd", ["null", "[]", '"x"', "7"])
def test_an_odd_envelope_is_not_an_error(odd: str) -> None:
    _, _, meta = cut("items", f'{{"items": [], "meta": {odd}}}', "meta.next")
    assert dig(meta, "meta.next") is None


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"result": null}',
        '{"result": {}}',
        '{"result": [1]}',
        '{"result": [null]}',
        '{"result": [{"id": 1}',
        '{"error": "x"}',
        "[]",
        "null",
        "",
        "<html>",
        b'{"result": [{"id": "\xff\xfe"}]}',
        b'{"result": [{"id": ' + b"[" * 100_000,
    ],
    ids=lambda body: body[:24],
)
def test_what_is_not_the_listing_raises(body: str | bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        cut("result", body)


def test_nested_heads_missing_steps_and_nulls() -> None:
    body = '[{"f": {"at": "t", "by": {"n": 1}}}, {"f": null}, {}, {"f": "text"}, {"f": {"at": null}}]'
    _, heads, _ = cut("", body, heads=("f.at", "f.by.n", "g"))
    assert heads == [("t", 1, None), (None, None, None), (None, None, None), (None, None, None), (None, None, None)]


def test_huge_numbers_and_unicode_come_through_unchanged() -> None:
    record = '{"id": 123456789012345678901234567890, "näme": "日本\\u00e9\\ud83d\\ude00", "f": 1e400}'
    payloads, heads, _ = cut("", f"[{record}]", heads=("id", "näme"))
    assert payloads == [record.encode()]
    assert heads[0][1] == "日本é😀"
    assert int(heads[0][0]) == 123456789012345678901234567890


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=4))
)
def test_payloads_are_the_records(records: list[dict[str, Any]]) -> None:
    body = msgspec.json.encode({"items": records, "next": "t"})
    payloads, heads, meta = cut("items", body, "next")
    assert [msgspec.json.decode(p) for p in payloads] == [msgspec.json.decode(msgspec.json.encode(r)) for r in records]
    assert len(heads) == len(records)
    assert meta["next"] == "t"
