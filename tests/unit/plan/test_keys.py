"""What a plan says of keys with which others push: to be made, or due to be replaced. It is no change."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from reconciler.model.plan import Plan
from reconciler.model.state import ActiveKey, DesiredState, KeysSeen, ObservedState
from reconciler.plan.compare import base_as_observed, compare
from reconciler.plan.keys import with_dues
from reconciler.plan.render import exit_code, markdown, plan_form, text
from tests.desk import desired, state

NOW = datetime(2026, 3, 2, 10, tzinfo=UTC)
KEY = {"type": "generated_api_key", "rotation": {"max_age": "90d", "grace": "24h"}}
NOTHING = ObservedState("", {})


def _wish(**more: Any) -> DesiredState:
    auth = {**KEY, **more.pop("auth", {})}
    return state(desired("desk", {"auth": auth, **more}))


def _plan(wish: DesiredState, *ages: timedelta, is_new: bool = False) -> Plan:
    (ref,) = wish.integrations
    active = {ref: tuple(ActiveKey(f"key{n}", NOW - age) for n, age in enumerate(ages))} if ages else {}
    plan = compare(wish, NOTHING if is_new else base_as_observed(wish))
    return with_dues(plan, wish, KeysSeen(NOW, active))


def _codes(plan: Plan) -> list[str]:
    return [due.code for due in plan.dues]


def test_a_new_integration_wants_a_key_wherever_it_is_planned() -> None:
    wish = _wish()
    between = with_dues(compare(wish, NOTHING), wish, None)
    for plan in (between, _plan(wish, is_new=True)):
        assert "to do: it-ops/desk: create api key\n  reconciler key create it-ops/desk\n" in text(plan)
        assert "> **To do** it-ops/desk: create api key." in markdown(plan)
        assert exit_code(plan) == 2
    assert plan_form(between)["dues"][0]["code"] == "create-key"


def test_nothing_is_said_of_keys_that_nobody_looked_at() -> None:
    wish = _wish()
    assert with_dues(compare(wish, base_as_observed(wish)), wish, None).dues == ()


@pytest.mark.parametrize(
    ("ages", "wanted"),
    [
        ((), ["create-key"]),
        ((timedelta(days=89),), []),
        ((timedelta(days=90),), ["rotate-key"]),
        ((timedelta(days=200), timedelta(days=1)), ["rotate-key"]),
    ],
)
def test_a_key_grows_old(ages: tuple[timedelta, ...], wanted: list[str]) -> None:
    plan = _plan(_wish(), *ages)
    assert (_codes(plan), exit_code(plan), plan.is_empty) == (wanted, 0, True)
    if wanted == ["rotate-key"]:
        said = "key older than max_age: rotation due (key key0, max_age 90d)"
        assert f"to do: it-ops/desk: {said}\n  reconciler key regenerate it-ops/desk --instead-of key0\n" in text(plan)


def test_whoever_needs_no_key_is_asked_for_none() -> None:
    assert _codes(_plan(_wish(enabled=False))) == []
    assert _codes(_plan(_wish(auth={"pinned_hashes": ["a" * 64]}))) == []
    assert _codes(_plan(_wish(auth={"type": "basic"}))) == []
    assert _codes(_plan(_wish(auth={"rotation": {}}), timedelta(days=9000))) == []
