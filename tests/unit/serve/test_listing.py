"""Filters, pages and references over a snapshot in memory."""

from functools import partial

import pytest

from reconciler.model.access import Caller
from reconciler.model.condition import Status
from reconciler.serve import listing
from reconciler.serve.forms import SpecFacts
from reconciler.serve.listing import Filters, Query, parse_query
from reconciler.serve.paging import encode
from reconciler.serve.problem import ProblemError
from reconciler.serve.snapshot import Entry, Snapshot
from tests.integration.serve.installation import START

EVERYTHING = Caller("everything", None, frozenset())
page = partial(listing.page, caller=EVERYTHING)
resolve = partial(listing.resolve, caller=EVERYTHING)


def entry(name: str, type_name: str = "jira", workspace: str = "default", **labels: str) -> Entry:
    return Entry(
        id=0,
        public_id=f"int_{workspace}{name}",
        workspace=workspace,
        name=name,
        type=type_name,
        status=Status.ERROR if name.startswith("bad") else Status.CONNECTED,
        labels=labels,
        search=f"{name} {type_name}",
        facts=SpecFacts(None, "inbound"),
        desired_hash="",
        turns_at=None,
        json=b"{}",
        lines=(),
    )


def snapshot(*entries: Entry) -> Snapshot:
    ordered = tuple(sorted(entries, key=lambda e: e.key))
    return Snapshot(START, 1, ordered, [e.key for e in ordered])


def names(found: Snapshot, query: str) -> list[str]:
    parameters = [(k, v) for k, _, v in (part.partition("=") for part in query.split("&") if part)]
    return [e.name for e in page(found, parse_query(parameters)).entries]


BOARD = snapshot(
    entry("a", team="desk", tier="1"),
    entry("b", "slack"),
    entry("bad-c", team="net"),
    entry("d", "slack", "ops", team="desk"),
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["a", "b", "bad-c", "d"]),
        ("status=error", ["bad-c"]),
        ("status=error,connected", ["a", "b", "bad-c", "d"]),
        ("type=slack", ["b", "d"]),
        ("type=slack&type=jira&workspace=ops", ["d"]),
        ("label=team=desk", ["a", "d"]),
        ("label=team=desk&label=tier", ["a"]),
        ("label=team", ["a", "bad-c", "d"]),
        ("q=SLA", ["b", "d"]),
        ("q=nothing", []),
        ("limit=2", ["a", "b"]),
    ],
)
def test_filters(query: str, expected: list[str]) -> None:
    assert names(BOARD, query) == expected


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("stauts=error", "unknown-parameter"),
        ("status=eror", "invalid-parameter"),
        ("limit=0", "invalid-parameter"),
        ("limit=101", "invalid-parameter"),
        ("limit=2.5", "invalid-parameter"),
        ("limit=²", "invalid-parameter"),
        ("limit=99999999999999999999", "invalid-parameter"),
        ("limit=1&limit=2", "invalid-parameter"),
        ("cursor=x", "invalid-cursor"),
        ("cursor=W10", "invalid-cursor"),
        ("cursor=ä", "invalid-cursor"),
    ],
)
def test_what_cannot_be_understood_is_refused(query: str, code: str) -> None:
    with pytest.raises(ProblemError) as caught:
        names(BOARD, query)
    assert caught.value.code == code


def test_an_exact_last_page_has_no_next() -> None:
    first = page(BOARD, Query(Filters(), 2))
    assert first.next_cursor is not None
    second = page(BOARD, Query(Filters(), 2, ("default", "b")))
    assert [e.name for e in second.entries] == ["bad-c", "d"]
    assert second.next_cursor is None


def test_a_cursor_goes_on_where_it_was_while_rows_come_and_go() -> None:
    before = snapshot(*(entry(f"n{i:02}") for i in range(0, 20, 2)))
    first = page(before, parse_query([("limit", "5")]))
    assert [e.name for e in first.entries] == ["n00", "n02", "n04", "n06", "n08"]
    after = snapshot(*(entry(f"n{i:02}") for i in (1, 3, 8, 9, 10, 12, 14, 16, 18)))  # n08 is the cursor's own row
    second = page(after, parse_query([("limit", "5"), ("cursor", str(first.next_cursor))]))
    assert [e.name for e in second.entries] == ["n09", "n10", "n12", "n14", "n16"]
    without = snapshot(*(entry(f"n{i:02}") for i in (0, 10, 12)))
    assert [e.name for e in page(without, parse_query([("cursor", str(first.next_cursor))])).entries] == ["n10", "n12"]


def test_a_cursor_works_with_filters() -> None:
    board = snapshot(*(entry(f"n{i:02}", "slack" if i % 3 else "jira") for i in range(30)))
    seen, cursor = [], None
    while True:
        parameters = [("type", "jira"), ("limit", "3"), *([("cursor", cursor)] if cursor else [])]
        found = page(board, parse_query(parameters))
        seen += [e.name for e in found.entries]
        cursor = found.next_cursor
        if cursor is None:
            break
    assert seen == [f"n{i:02}" for i in range(0, 30, 3)]


def test_encoded_cursors_are_safe_in_urls() -> None:
    assert encode(("w?>~", "ÿÿ>?")).isascii()
    assert not set(encode(("w?>~", "ÿÿ>?"))) & set("+/=&?#")


def test_references() -> None:
    board = snapshot(
        entry("slack", "jira"),
        entry("one", "slack"),
        entry("two", "github"),
        entry("one", "github", "ops"),
        entry("three", "teams"),
    )
    assert [e.key for e in resolve(board, "slack")] == [("default", "slack")]  # a name wins over a type
    assert [e.key for e in resolve(board, "teams")] == [("default", "three")]
    assert [e.key for e in resolve(board, "one")] == [("default", "one"), ("ops", "one")]
    assert [e.key for e in resolve(board, "ops.one")] == [e.key for e in resolve(board, "ops/one")] == [("ops", "one")]
    assert [e.key for e in resolve(board, "int_opsone")] == [("ops", "one")]
    assert len(resolve(board, "github")) == 2
    assert resolve(board, "nothing") == []
    assert resolve(board, "ops.nothing") == resolve(board, "ops/two") == resolve(board, "Not/a_name") == []


@pytest.mark.parametrize(
    ("workspace", "seen"), [("default", ["a", "b", "bad-c"]), ("ops", ["d"]), ("op", []), ("zz", [])]
)
def test_a_caller_sees_one_workspace(workspace: str, seen: list[str]) -> None:
    caller = Caller("own", workspace, frozenset())
    assert [e.name for e in listing.page(BOARD, Query(Filters()), caller).entries] == seen
    slack = Query(Filters(types=frozenset({"slack"})))
    assert [e.name for e in listing.page(BOARD, slack, caller).entries] == [n for n in seen if n in "bd"]
    assert [e.name for e in listing.page(BOARD, Query(Filters(), 20, ("a", "")), caller).entries] == seen
    assert [e.name for n in "abd" for e in listing.resolve(BOARD, n, caller)] == [n for n in seen if n in "abd"]
