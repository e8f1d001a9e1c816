"""`reconciler connectors` tells what the code declares, all of it."""

import json
from datetime import timedelta

import pytest
from pydantic import Field

from reconciler.cli.main import main
from reconciler.desired.connector_facts import connector_facts, model_fields
from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, Channel, Connector, Deletes, Entity, Limit, Probe, Repeat, Settings
from reconciler.sdk.registry import known_types, load

MINUTE = timedelta(minutes=1)


class Inner(Settings):
    """How it is signed."""

    secret: Secret
    names: tuple[str, ...] = ()


class Sample(Settings):
    url: str = Field(description="Where | it is.")
    port: int = 443
    inner: Inner | None = None


class KeyAuth(AuthSettings):
    """A key."""

    key: Secret


class Tea(Connector[Sample, KeyAuth]):
    type = "tea"
    title = "Teapot"
    Config = Sample
    auth_types = (KeyAuth,)
    entities = (
        Entity(name="pots", cursor="at", rights=("pot:read",)),
        Entity(name="cups", has_delta=True, deletes=Deletes.FEED, by_default=False),
    )
    channels = (Channel(name="pour", fields=Inner, text_field="names", repeat=Repeat.SAFE, rights=("pot:pour",)),)
    limits = (
        Limit(requests=10, window=MINUTE, scope="user", path="/pour"),
        Limit(requests=90, window=MINUTE, points={"GET": 1, "*": 5}),
        Limit(requests=8, window=MINUTE, points={"POST": 1, "PUT": 1, "*": 0}, source="tea.example"),
        Limit(requests=1, window=timedelta(seconds=1), points={"GET": 0}, is_serial=True),
    )

    async def probe(self) -> Probe:
        return Probe("tea")


def test_fields_with_secrets_defaults_and_nesting() -> None:
    found = {f.name: f for f in model_fields(Sample)}
    assert list(found) == ["url", "port", "inner", "inner.secret", "inner.names"]
    assert (found["url"].is_required, found["url"].description) == (True, "Where | it is.")
    assert (found["port"].default, found["port"].type) == (443, "integer")
    assert (found["inner"].type, found["inner"].description) == ("mapping", "How it is signed.")
    assert (found["inner.secret"].is_secret, found["inner.secret"].type) == (True, "secret")
    assert (found["inner.names"].type, found["inner.names"].is_secret) == ("list of text", False)


def test_facts_of_a_connector() -> None:
    facts = connector_facts(Tea)
    assert [(e.name, e.is_incremental, e.has_delta, e.by_default) for e in facts.entities] == [
        ("pots", True, False, True),
        ("cups", False, True, False),
    ]
    assert facts.channels[0].repeat == "sent again after a crash; the remote drops a repeat"
    assert facts.limits == (
        "10 requests in 1m per user for /pour",
        "90 points in 1m per account, GET 1, others 5",
        "8 requests in 1m per account, POST, PUT only (tea.example)",
        "1 request in 1s per account, all but GET, one after another",
    )
    assert facts.auth[0].description == "A key."
    assert "reads a change feed (scope delta)" in facts.capabilities
    assert "lists keys alone to find deletions (scope keys)" not in facts.capabilities
    (people, *_) = connector_facts(load("hr_ldap")).entities
    assert people.deletes == "by listing keys alone (scope keys), or a complete full run"
    assert "registers webhooks at the remote" not in facts.capabilities


@pytest.mark.parametrize("type_name", known_types())
@pytest.mark.parametrize("output", ["text", "markdown", "json"])
def test_every_connector_is_told_in_full(type_name: str, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors", type_name, "--output", output]) == 0
    said = capsys.readouterr().out
    connector = load(type_name)
    for name in (*(e.name for e in connector.entities), *(c.name for c in connector.channels)):
        assert name in said
    for model in (connector.Config, *connector.auth_types):
        assert all(name in said for name in model.model_fields if name != "type")


def test_list_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == list(known_types())
    assert main(["connectors", "--output", "json"]) == 0
    assert [c["type"] for c in json.loads(capsys.readouterr().out)["connectors"]] == list(known_types())


def test_markdown_tables_keep_their_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from reconciler.cli.connectors import as_markdown

    (row,) = [line for line in as_markdown([connector_facts(Tea)], True).splitlines() if line.startswith("| `url`")]
    assert row == r"| `url` | text | required | Where \| it is. |"


def test_unknown_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connectors", "slakc"]) == 1
    assert capsys.readouterr().err == "reconciler: there is no connector slakc, did you mean slack?\n"
