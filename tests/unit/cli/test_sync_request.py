"""What `reconciler sync` accepts, against connectors that are really installed."""

from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

import pytest

from reconciler.cli.store_access import CommandError
from reconciler.cli.sync_request import declared_entities, sync_params

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
SERVICENOW = {"type": "servicenow", "config": {"instance_url": "https://x.example.org", "tables": ["alm_asset"]}}


def _params(type_name: str = "servicenow", tree: dict[str, Any] | None = None, **typed: Any) -> dict[str, Any]:
    args = {"scope": None, "entities": None, "since": None, "allow_deletes": False, "accept_schema": False} | typed
    return sync_params(Namespace(**args), type_name, SERVICENOW if tree is None else tree, NOW)


def test_nothing_typed_is_an_incremental_sync_as_the_manifest_says() -> None:
    assert _params() == {"scope": "incremental", "allow_deletes": False, "accept_schema": False}


def test_everything_typed() -> None:
    typed = _params(scope="delta", entities=["incidents,changes", "incidents"], since="2h", allow_deletes=True)
    assert typed == {
        "scope": "delta",
        "allow_deletes": True,
        "accept_schema": False,
        "entities": ["incidents", "changes"],
        "since": "2030-01-31T10:00:00.000000Z",
    }


def test_entities_that_settings_add_are_known() -> None:
    assert _params(entities=["alm_asset"])["entities"] == ["alm_asset"]
    with pytest.raises(CommandError, match="has no entity alm_asset"):
        _params(tree={"config": {"instance_url": "https://x.example.org"}}, entities=["alm_asset"])


def test_delta_is_judged_by_what_would_be_read() -> None:
    tree = {"config": {}, "sync": {"entities": ["messages"]}}
    with pytest.raises(CommandError, match="slack has no change feed for messages; use --scope incremental"):
        _params("slack", tree, scope="delta")


def test_keys_are_judged_by_what_was_named() -> None:
    assert _params(scope="keys", allow_deletes=True) == {"scope": "keys", "allow_deletes": True, "accept_schema": False}
    assert _params(scope="keys", entities=["users"])["entities"] == ["users"]
    with pytest.raises(
        CommandError, match=r"slack lists no keys alone of users, channels; see .* reconciler connectors slack"
    ):
        _params("slack", {"config": {}}, scope="keys")
    with pytest.raises(CommandError, match="--since: a listing of keys lists all"):
        _params(scope="keys", since="2h")


def test_a_connector_that_reads_nothing() -> None:
    with pytest.raises(CommandError, match="email reads nothing"):
        _params("email", {"config": {"host": "mail.example.org", "sender": "a@example.org"}})


def test_unknown_words_come_with_what_was_meant() -> None:
    with pytest.raises(CommandError, match=r"--scope ful: there is no such scope, did you mean full\?"):
        _params(scope="ful")
    with pytest.raises(CommandError, match="there are: delta, full, incremental, keys"):
        _params(scope="xyz")
    with pytest.raises(CommandError, match=r"no entity incident, did you mean incidents\?"):
        _params(entities=["incident"])


def test_a_connector_that_is_not_installed() -> None:
    with pytest.raises(CommandError, match="no connector for teapot is installed here"):
        declared_entities("teapot", {})
