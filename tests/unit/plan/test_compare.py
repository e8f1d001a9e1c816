"""The plan as a pure function: every action, what is no change, secrets with and without keys, order and guard."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.finding import Code, Finding, Severity
from reconciler.model.ids import Ref
from reconciler.model.plan import Action, Block, Due, DueCode, Plan, PlannedAction, Risk
from reconciler.model.secret import Unresolved
from reconciler.model.state import DesiredIntegration, DesiredState, ObservedIntegration, ObservedState
from reconciler.model.tree import decode_tree, encode_tree
from reconciler.plan.compare import Resolved, base_as_observed, compare
from reconciler.plan.guard import prune_digest, prune_limit
from reconciler.plan.order import order
from reconciler.plan.render import COMMENT_LIMIT, exit_code, render
from tests.desk import WORKSPACE, desired, state

GOLDEN = Path(__file__).parent / "golden"


def _observed(*wishes: DesiredIntegration, **more: Any) -> ObservedState:
    """What a store gives back: trees decoded from text, so that nothing of where a secret came from is known."""
    found = {
        w.ref: ObservedIntegration(
            ref=w.ref,
            type=w.manifest.spec.type,
            tree=decode_tree(encode_tree(w.tree)),
            source_hash=w.source_hash,
            **more,
        )
        for w in wishes
    }
    return ObservedState("r0", found)


def _only(plan: Plan) -> PlannedAction:
    (action,) = plan.actions
    return action


def _between(before: Mapping[str, Any], after: Mapping[str, Any], **more: Any) -> Plan:
    return compare(state(desired("desk", after)), _observed(desired("desk", before), **more))


@pytest.mark.parametrize(
    ("before", "after", "action", "paths"),
    [
        ({}, {"display_name": "x"}, Action.UPDATE, ["display_name"]),
        ({}, {"config": {"a": 1}}, Action.RECONNECT, ["config.a"]),
        ({}, {"auth": {"user": "x"}}, Action.RECONNECT, ["auth.user"]),
        ({"config": {"a": 1}}, {"config": {"a": True}}, Action.RECONNECT, ["config.a"]),
        ({}, {"type": "other"}, Action.RECONNECT, ["type"]),
        ({}, {"access": [{"client": "bot", "allow": ["read"]}]}, Action.UPDATE, ["access"]),
        ({}, {"enabled": False}, Action.DISCONNECT, []),
        ({}, {"suspend": True, "display_name": "x"}, Action.UPDATE, ["suspend"]),
        ({"sync": {"every": "15m"}}, {"sync": {"every": "20m"}}, Action.UPDATE, ["sync.every"]),
    ],
)
def test_each_change_has_its_action(
    before: dict[str, Any], after: dict[str, Any], action: Action, paths: list[str]
) -> None:
    found = _only(_between(before, after))
    assert (found.action, [c.path for c in found.changes]) == (action, paths)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"enabled": True}),
        ({}, {"sync": {"timeout": "6h", "scope": "incremental", "fields": {}}, "depends_on": [], "access": []}),
        (
            {"access": [{"client": "a", "allow": ["read", "send"]}, {"client": "b", "allow": ["sync"]}]},
            {"access": [{"client": "b", "allow": ["sync"]}, {"client": "a", "allow": ["send", "read"]}]},
        ),
        ({"sync": {"timeout": "6h"}}, {"sync": {"timeout": "360m"}}),
        ({"sync": {"every": "900s"}}, {"sync": {"every": "15m"}}),
        ({"objectives": {"freshness": "1h"}}, {"objectives": {"freshness": "60m"}}),
        ({}, {"drift": {"mode": "correct"}, "deletion_policy": "disconnect", "display_name": None}),
        (
            {"synchronizations": [{"name": "a", "event_type": "x.y", "action": "safe"}]},
            {"synchronizations": [{"name": "a", "event_type": "x.y", "action": "safe", "enabled": True, "map": {}}]},
        ),
        (
            {"synchronizations": [{"name": n, "event_type": "x.y", "action": "safe"} for n in "ab"]},
            {"synchronizations": [{"name": n, "event_type": "x.y", "action": "safe"} for n in "ba"]},
        ),
    ],
)
def test_what_means_the_same_is_no_change(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert _between(before, after).is_empty
    assert _between(after, before).is_empty


def test_new_removed_purged_orphaned_and_disabled() -> None:
    assert _only(compare(state(desired("desk")), ObservedState("", {}))).action is Action.CONNECT
    for policy, action in (("disconnect", Action.DISCONNECT), ("purge", Action.PURGE), ("orphan", Action.DISCONNECT)):
        found = _only(compare(state(), _observed(desired("desk"), deletion_policy=policy)))
        assert (found.action, found.risk) == (action, Risk.HIGH)
    off = desired("desk", {"enabled": False})
    assert compare(state(off), _observed(off, is_connected=False)).is_empty
    assert compare(state(off), ObservedState("", {})).is_empty
    assert compare(state(), _observed(off, is_connected=False)).is_empty
    found = _only(compare(state(desired("desk")), _observed(off, is_connected=False)))
    assert (found.action, found.reason) == (Action.CONNECT, "enabled")
    assert [(c.path, c.before, c.after) for c in found.changes] == [("enabled", "false", None)]
    again = _only(compare(state(desired("desk")), _observed(desired("desk"), is_connected=False)))
    assert (again.action, again.reason, again.changes) == (Action.CONNECT, "not connected", ())


def test_held_names_stay() -> None:
    wish = desired("desk")
    assert compare(state(held=frozenset({wish.ref})), _observed(wish)).is_empty


def test_drift_is_planned_only_where_it_will_be_corrected() -> None:
    drifted = {"drifted": ("webhook",)}
    assert _only(compare(state(desired("desk")), _observed(desired("desk"), **drifted))).reason == "drift: webhook"
    seen = desired("desk", {"drift": {"mode": "detect"}})
    assert compare(state(seen), _observed(seen, **drifted)).is_empty


def _secret(digest: str, kind: Any = "encrypted") -> dict[str, Any]:
    return {"auth": {"type": "basic", "password": Unresolved(kind, digest, "s.yaml", "NAME")}}


def test_secrets_without_keys_are_told_by_their_ciphertext() -> None:
    assert _between(_secret("d1"), _secret("d1")).is_empty
    (change,) = _only(_between(_secret("d1"), _secret("d2"))).changes
    assert (change.path, change.after, change.is_secret) == ("auth.password", "(encrypted value changed)", True)


@pytest.mark.parametrize("kind", ["encrypted", "from_env", "from_sops", "from_file"])
def test_an_unchanged_secret_is_no_change_beside_another(kind: str) -> None:
    found = _only(_between(_secret("d1", kind), _secret("d1", kind) | {"display_name": "x"}))
    assert (found.action, [c.path for c in found.changes]) == (Action.UPDATE, ["display_name"])


def _resolved(before: str, after: str, old: str, new: str, is_reencrypted: bool = True) -> Plan:
    wish = desired("desk", _secret("d2" if is_reencrypted else "d1"))
    observed = _observed(desired("desk", _secret("d1")), effective_hash=before, fingerprints={"auth.password": old})
    return compare(state(wish), observed, resolved={wish.ref: Resolved(after, {"auth.password": new})})


def test_secrets_with_keys_show_fingerprints() -> None:
    (change,) = _only(_resolved("e1", "e2", "aaaa", "bbbb")).changes
    assert (change.before, change.after) == ("(secret, fp aaaa)", "(secret, fp bbbb)")
    same = _only(_resolved("e1", "e1", "aaaa", "aaaa"))
    assert (same.action, same.changes[0].after) == (Action.UPDATE, "(encrypted again, same value)")


def test_a_secret_that_changed_outside_of_git_is_a_change_even_when_its_fingerprint_is_not() -> None:
    assert _resolved("e1", "e1", "aaaa", "aaaa", is_reencrypted=False).is_empty
    assert _only(_resolved("e1", "e2", "aaaa", "bbbb", is_reencrypted=False)).changes[0].path == "auth.password"
    assert _only(_resolved("e1", "e2", "aaaa", "aaaa", is_reencrypted=False)).changes[0].is_secret


def test_no_plan_shows_a_secret() -> None:
    plan = compare(state(desired("desk", _secret("digest-of-it"))), ObservedState("", {}))
    for output in ("text", "json", "markdown"):
        assert "digest-of-it" not in render(plan, output)


_SPECS = st.fixed_dictionaries(
    {},
    optional={
        "enabled": st.booleans(),
        "suspend": st.booleans(),
        "display_name": st.sampled_from(["a", "b"]),
        "config": st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3)),
        "auth": st.dictionaries(
            st.sampled_from(["u", "p"]), st.builds(Unresolved, st.just("encrypted"), st.sampled_from("12"))
        ),
        "sync": st.fixed_dictionaries({}, optional={"every": st.sampled_from(["1m", "60s", "2m"])}),
        "depends_on": st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=2),
        "deletion_policy": st.sampled_from(["disconnect", "purge", "orphan"]),
    },
)
_STATES = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), _SPECS).map(
    lambda specs: state(*(desired(n, s) for n, s in specs.items()))
)


@given(_STATES)
def test_a_revision_compared_with_itself_is_empty(head: DesiredState) -> None:
    plan = compare(head, base_as_observed(head))
    assert (plan.actions, plan.unchanged, plan.blocks) == ((), len(head.integrations), ())


@given(_STATES, _STATES)
def test_what_was_applied_needs_nothing_more(base: DesiredState, head: DesiredState) -> None:
    first = compare(head, base_as_observed(base))
    assert {a.ref for a in first.actions} <= base.integrations.keys() | head.integrations.keys()
    assert compare(head, base_as_observed(head)).is_empty
    assert compare(head, base_as_observed(base)).digest == first.digest


def _action(name: str, action: Action, *needs: str) -> PlannedAction:
    return PlannedAction(Ref(WORKSPACE, name), "desk", action, "", depends_on=tuple(Ref(WORKSPACE, n) for n in needs))


def test_needs_come_first_removals_last_and_dependents_before_their_needs() -> None:
    connect, gone = Action.CONNECT, Action.DISCONNECT
    actions = [
        _action("a", connect, "c"), _action("b", connect), _action("c", connect, "b"), _action("z", gone),
        _action("x", gone, "z"), _action("y", Action.PURGE, "x"),
    ]  # fmt: skip
    assert [a.ref.name for a in order(actions)] == ["b", "c", "a", "y", "x", "z"]


def test_a_cycle_does_not_stop_a_plan() -> None:
    assert {a.ref.name for a in order([_action("a", Action.CONNECT, "b"), _action("b", Action.CONNECT, "a")])} == {
        "a",
        "b",
    }


def test_removed_dependents_go_before_their_needs() -> None:
    found = compare(state(desired("other")), _observed(desired("a", {"depends_on": ["b"]}), desired("b")))
    assert [a.ref.name for a in found.actions if a.action is Action.DISCONNECT] == ["a", "b"]


@pytest.mark.parametrize(("total", "limit"), [(1, 1), (4, 1), (5, 1), (10, 2), (50, 10), (1000, 10)])
def test_the_prune_limit(total: int, limit: int) -> None:
    assert prune_limit(total) == limit
    wishes = [desired(f"n{n}") for n in range(total)]
    for gone in (limit, limit + 1):
        if gone < total:
            plan = compare(state(*wishes[gone:]), _observed(*wishes))
            assert ([b.code for b in plan.blocks] == ["prune-limit"]) is (gone > limit)


def test_an_empty_set_and_an_incomplete_checkout_are_blocked() -> None:
    two = _observed(desired("a"), desired("b"))
    assert [b.code for b in compare(state(), two).blocks] == ["empty"]
    incomplete = compare(
        state(is_complete=False), two, approved=frozenset({prune_digest("r1", list(two.integrations))})
    )
    assert [b.code for b in incomplete.blocks] == ["incomplete"]
    assert compare(state(), _observed(desired("a"))).blocks == ()


def test_an_approval_is_for_this_revision_and_these_names() -> None:
    observed = _observed(*(desired(n) for n in "abc"))
    kept, gone = state(desired("a")), [Ref(WORKSPACE, "b"), Ref(WORKSPACE, "c")]
    assert compare(kept, observed, approved=frozenset({prune_digest("r1", gone)})).blocks == ()
    for wrong in (prune_digest("r2", gone), prune_digest("r1", gone[:1])):
        assert compare(kept, observed, approved=frozenset({wrong})).blocks


def _example() -> Plan:
    before = _observed(desired("desk", _secret("d1") | {"config": {"url": "https://a"}}), desired("old"), desired("x"))
    head = state(
        desired("desk", _secret("d2") | {"config": {"url": "https://b"}}), desired("new", {"display_name": "N"}),
        findings=(Finding("a.yaml", 3, 5, Code.INVALID_VALUE, "odd", "mend it", Severity.WARNING),), revision="head1234567890",
    )  # fmt: skip
    due = Due(Ref(WORKSPACE, "new"), DueCode.CREATE_KEY, "create api key", "reconciler key create it-ops/new")
    return replace(compare(head, before), dues=(due,))


@pytest.mark.parametrize(("output", "suffix"), [("text", "txt"), ("json", "json"), ("markdown", "md")])
def test_renderings_are_as_they_were(output: Any, suffix: str) -> None:
    assert render(_example(), output) == (GOLDEN / f"plan.{suffix}").read_text()


def test_json_says_its_format_and_digest() -> None:
    shown = json.loads(render(_example(), "json"))
    assert (shown["format_version"], shown["digest"], shown["exit_code"]) == (1, _example().digest, 3)


def test_markdown_fits_into_a_comment() -> None:
    many = state(*(desired(f"n{n}", {"config": {f"k{i}": "x" * 60 for i in range(20)}}) for n in range(300)))
    shown = render(compare(many, ObservedState("", {})), "markdown")
    assert len(shown) <= COMMENT_LIMIT
    assert "did not fit" in shown
    assert shown.count("<details>") == shown.count("</details>")


def test_a_finding_cannot_break_out_of_its_code_span() -> None:
    quoting = Finding("a.yaml", 3, 5, Code.INVALID_VALUE, "there is no `x``y`")
    shown = render(compare(state(findings=(quoting,)), ObservedState("", {})), "markdown")
    assert "> **error** ``` a.yaml:3:5: invalid-value: there is no `x``y` ```\n" in shown


def test_exit_codes_and_their_precedence() -> None:
    error = Finding("a", 0, 0, Code.YAML_SYNTAX, "x")
    warning = Finding("a", 0, 0, Code.YAML_SYNTAX, "x", severity=Severity.WARNING)
    action, block = _action("a", Action.CONNECT), Block("empty", "m", "r")
    for findings, blocks, actions, code in (
        ((error,), (block,), (action,), 1), ((warning,), (block,), (action,), 3), ((), (block,), (), 3),
        ((warning,), (), (action,), 2), ((), (), (), 0),
    ):  # fmt: skip
        assert exit_code(Plan("a", "b", actions, findings, blocks)) == code


READ = {"access": [{"client": "bot", "allow": ["read"]}]}
MORE = {"access": [{"client": "bot", "allow": ["read", "send"]}, {"client": "ci", "allow": ["sync"]}]}


@pytest.mark.parametrize(
    ("before", "after", "risk", "reason"),
    [
        (READ, MORE, Risk.HIGH, "access changed: bot may now send; ci may now sync"),
        (MORE, READ, Risk.LOW, "access changed"),
        (READ, {}, Risk.LOW, "access changed"),
        ({**READ, "config": {"a": 1}}, {**MORE, "config": {"a": 2}}, Risk.HIGH, "access, config changed: bot may now"),
    ],
)
def test_a_right_that_is_given_is_a_risk_and_one_that_is_taken_is_none(
    before: dict[str, Any], after: dict[str, Any], risk: Risk, reason: str
) -> None:
    found = _only(_between(before, after))
    assert (found.risk, found.reason.startswith(reason)) == (risk, True)


def test_a_right_given_while_not_connected_is_a_risk_too() -> None:
    found = _only(_between({}, READ, is_connected=False))
    assert (found.action, found.risk, found.reason) == (Action.CONNECT, Risk.HIGH, "not connected: bot may now read")
