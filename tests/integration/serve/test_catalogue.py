"""The catalogue over HTTP: what can be integrated, by whom, and how it is found."""

import asyncio
import sys
import threading
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from reconciler.api.catalogue import AvailableList, Connector, ConnectorList, FoundList
from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.model.access import Permission
from reconciler.sdk import registry
from reconciler.serve.catalogue import Catalogue
from reconciler.serve.ports import Ports
from tests.integration.serve.installation import Installation, Wish, want


async def test_every_connector_is_told_in_full(installation: Installation) -> None:
    async with installation.client() as client:
        body = (await client.get("/v1/connectors", params={"limit": 100})).json()
        ConnectorList.model_validate(body, strict=False)
        assert [one["type"] for one in body["data"]] == list(registry.known_types())
        for one in body["data"]:
            alone = (await client.get(f"/v1/connectors/{one['type']}")).json()
            assert alone == one
            Connector.model_validate(alone, strict=False)
            Draft202012Validator.check_schema(one["settings_schema"])
            for channel in one["channels"]:
                Draft202012Validator.check_schema(channel["fields_schema"])
        nothing = await client.get("/v1/connectors/nothing")
        assert (nothing.status_code, nothing.json()["code"]) == (404, "connector-not-found")
        servicenow = (await client.get("/v1/connectors/servicenow")).json()
    assert {"read", "incremental", "keys", "deliver"} <= set(servicenow["capabilities"])
    assert {"incident.created", "incident.deleted", "sync.failed"} <= set(servicenow["events"])
    (incidents,) = [e for e in servicenow["entities"] if e["name"] == "incidents"]
    assert incidents["events"] == ["incident.created", "incident.updated", "incident.deleted"]
    assert "instance_url" in servicenow["settings_schema"]["properties"]["config"]["properties"]


async def test_pages_and_words(installation: Installation) -> None:
    async with installation.client() as client:
        seen, cursor = [], None
        while True:
            params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            body = (await client.get("/v1/connectors", params=params)).json()
            seen += [one["type"] for one in body["data"]]
            cursor = body["next_cursor"]
            if not body["has_more"]:
                break
        assert seen == list(registry.known_types())
        found = (await client.get("/v1/connectors", params={"q": "POST_message"})).json()["data"]
        assert [one["type"] for one in found] == ["slack"]


async def test_what_a_workspace_may_use(installation: Installation) -> None:
    policy = TenantPolicy(
        (WorkspaceRule(("it",), types=("servicenow", "sl*")), WorkspaceRule(("hr",), types=("hr_ldap",)))
    )
    installation.ports = Ports(policy=policy)
    await installation.change(
        lambda tx: want(tx, Wish("a", "slack", "it"), Wish("b", "slack", "it"), Wish("c", "slack", "hr"))
    )
    tokens = {name: await installation.issue(f"of-{name}", name, Permission.INTEGRATION_VIEW) for name in ("it", "hr")}
    permitted: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for name, token in {**tokens, "all": installation.token}.items():
        async with installation.client(token=token) as client:
            body = (await client.get("/v1/integrations/available")).json()
        AvailableList.model_validate(body, strict=False)
        permitted[name] = {one["type"] for one in body["data"] if one["is_permitted"]}
        counts[name] = {one["type"]: one["integrations"] for one in body["data"]}["slack"]
    assert permitted == {"it": {"servicenow", "slack"}, "hr": {"hr_ldap"}, "all": {"servicenow", "slack", "hr_ldap"}}
    assert counts == {"it": 2, "hr": 1, "all": 3}


async def test_a_search_says_where_it_found_it(installation: Installation) -> None:
    async with installation.client() as client:
        body = (await client.get("/v1/integrations/search", params={"q": "incidents"})).json()
        FoundList.model_validate(body, strict=False)
        (servicenow,) = body["data"]
        assert servicenow["type"] == "servicenow"
        assert {"kind": "entity", "text": "incidents"} in servicenow["matches"]
        both = (await client.get("/v1/integrations/search", params={"q": "slack post"})).json()["data"]
        assert [one["type"] for one in both] == ["slack"]
        assert (await client.get("/v1/integrations/search", params={"q": "slack incidents"})).json()["data"] == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/integrations/search", "invalid-parameter"),
        ("/v1/integrations/search?q=", "invalid-parameter"),
        ("/v1/integrations/available?limit=0", "invalid-parameter"),
        ("/v1/connectors?cursor=%00", "invalid-parameter"),
        ("/v1/connectors?cursor=e30", "invalid-cursor"),
        ("/v1/connectors?titel=x", "unknown-parameter"),
        ("/v1/connectors/slack?x=1", "unknown-parameter"),
    ],
)
async def test_bad_parameters(installation: Installation, path: str, code: str) -> None:
    async with installation.client() as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


class Counted:
    """The registry, with one connector that cannot be loaded."""

    def __init__(self) -> None:
        self.loaded = 0
        self.threads: set[str] = set()

    def known_types(self) -> tuple[str, ...]:
        return (*registry.known_types(), "torn")

    def load(self, type_name: str, /) -> AnyConnector:
        self.loaded += 1
        self.threads.add(threading.current_thread().name)
        if type_name == "torn":
            raise ImportError("no such library")
        return registry.load(type_name)


async def test_loaded_once_and_a_broken_one_hides_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    counted = Counted()
    catalogue = Catalogue(counted)
    found = await asyncio.gather(*(catalogue.offers() for _ in range(20)))
    assert [one.type for one in found[0]] == list(registry.known_types())
    assert counted.loaded == len(counted.known_types())
    assert threading.current_thread().name not in counted.threads
    assert "no such library" in capsys.readouterr().out
    assert "connectors.slack" in sys.modules
