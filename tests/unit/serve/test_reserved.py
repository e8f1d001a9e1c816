"""What the settings reserve, as a pure function over two manifests."""

from typing import Any

import pytest

from reconciler.model.access import Caller, Operation, Permission
from reconciler.model.secret import Unresolved
from reconciler.serve.problem import ProblemError
from reconciler.serve.reserved import refuse_change, refuse_operation, reserved, reserved_operation

BEFORE: dict[str, Any] = {
    "metadata": {"name": "a", "labels": {"team/x": "desk"}},
    "spec": {
        "network": {"proxy": "http://a"},
        "deletion_policy": "orphan",
        "config": {"n": 1, "list": [{"url": "a"}, {"url": "b"}]},
        "auth": {"secret": Unresolved("encrypted", "a" * 64)},
    },
}


def with_spec(**changes: Any) -> dict[str, Any]:
    spec = {**BEFORE["spec"], **changes}
    return {**BEFORE, "spec": {name: value for name, value in spec.items() if value is not ...}}


@pytest.mark.parametrize(
    ("pattern", "after", "touched"),
    [
        ("/spec/network/**", with_spec(network={"proxy": "http://b"}), ["/spec/network/proxy"]),
        ("/spec/network/**", with_spec(network=...), ["/spec/network/proxy"]),
        ("/spec/network/**", with_spec(network={}), ["/spec/network", "/spec/network/proxy"]),
        ("/spec/network", with_spec(network={"proxy": "http://a", "ca_file": "x"}), ["/spec/network/ca_file"]),
        ("/spec/network/ca_*", with_spec(network={"proxy": "http://b"}), []),
        ("/spec/network/*", with_spec(network=None), ["/spec/network/proxy"]),
        ("/spec/deletion_policy", with_spec(deletion_policy=...), ["/spec/deletion_policy"]),
        ("/spec/deletion_policy", with_spec(enabled=False), []),
        ("/spec/config/n", with_spec(config={**BEFORE["spec"]["config"], "n": True}), ["/spec/config/n"]),
        ("/spec/**/url", with_spec(config={"n": 1, "list": [{"url": "a"}]}), ["/spec/config/list/1/url"]),
        ("/spec/auth", with_spec(auth={"secret": Unresolved("encrypted", "b" * 64)}), ["/spec/auth/secret"]),
        ("/spec/auth", with_spec(auth={"secret": Unresolved("encrypted", "a" * 64)}), []),
        ("/metadata/labels/team~1x", {**BEFORE, "metadata": {"name": "a"}}, ["/metadata/labels/team~1x"]),
        ("/**", BEFORE, []),
        ("purge", with_spec(deletion_policy="purge"), []),
    ],
)
def test_what_is_touched(pattern: str, after: dict[str, Any], touched: list[str]) -> None:
    assert list(reserved([pattern], BEFORE, after)) == touched


def test_a_new_manifest_touches_what_it_says() -> None:
    found = reserved(["/spec/network/**", "/spec/deletion_policy"], {}, BEFORE)
    assert found == ("/spec/deletion_policy", "/spec/network/proxy")


def test_only_admin_may() -> None:
    editor = Caller("ci", "it", frozenset({Permission.INTEGRATION_EDIT}))
    admin = Caller("ada", "it", frozenset({Permission.ADMIN}))
    patterns = ["/spec/network/**", "purge"]
    after = with_spec(network={"proxy": "http://b"})
    with pytest.raises(ProblemError, match="reserved for admin: /spec/network/proxy") as raised:
        refuse_change(patterns, editor, BEFORE, after)
    assert (raised.value.status, raised.value.code) == (403, "reserved")
    assert raised.value.more["errors"][0]["pointer"] == "/spec/network/proxy"
    refuse_change(patterns, admin, BEFORE, after)
    refuse_change(patterns, editor, BEFORE, with_spec(enabled=False))
    with pytest.raises(ProblemError, match="reserve purge"):
        refuse_operation(patterns, editor, Operation.PURGE)
    refuse_operation(patterns, admin, Operation.PURGE)
    refuse_operation(patterns, editor, Operation.ROLLBACK)
    assert [reserved_operation(patterns, one) for one in (Operation.PURGE, Operation.EDIT)] == [True, False]


def test_who_may_edit_gives_nobody_a_grant() -> None:
    """Whatever the settings say: a permission of the workspace never gives data."""
    editor = Caller("ci", "it", frozenset(Permission) - {Permission.ADMIN})
    admin = Caller("ada", "it", frozenset({Permission.ADMIN}))
    granted = with_spec(access=[{"client": "bot", "allow": ["read"]}])
    wider = with_spec(access=[{"client": "bot", "allow": ["read", "send"]}])
    other = with_spec(access=[{"client": "ci", "allow": ["read"]}])
    for before, after, told in (
        ({}, granted, "bot may now read"),
        (BEFORE, granted, "bot may now read"),
        (granted, wider, "bot may now send"),
        (granted, other, "ci may now read"),
    ):
        with pytest.raises(ProblemError) as caught:
            refuse_change((), editor, before, after)
        assert (caught.value.status, caught.value.code) == (403, "reserved")
        assert told in caught.value.detail
        assert [one["pointer"] for one in caught.value.more["errors"]] == ["/spec/access"]
        refuse_change((), admin, before, after)
    for before, after in ((granted, granted), (wider, granted), (granted, BEFORE)):
        refuse_change((), editor, before, after)
