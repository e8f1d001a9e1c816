"""The JSON Schemas say what the models say, accept what `validate` accepts, and lie in `schemas/` as generated."""

import json
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest

from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.schemas import Schema, all_schemas, rendered
from reconciler.desired.yaml_source import read_yaml
from reconciler.sdk import registry
from tests.unit.desired.manifest_kit import TinyRegistry, check, desk

FOLDER = Path(__file__).parents[3] / "schemas"
CIPHER = f"'ENC[AES256_GCM,data:q83v,iv:{'q83v' * 10}q80=,tag:{'q83v' * 5}qw==,type:str]'"


@pytest.fixture(scope="module")
def generated() -> dict[str, Schema]:
    return all_schemas(registry)


@pytest.fixture(scope="module")
def tiny() -> Any:
    return jsonschema.Draft202012Validator(all_schemas(TinyRegistry())["integration.schema.json"])


def test_the_files_in_schemas_are_fresh(generated: dict[str, Schema]) -> None:
    present = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.json")}
    remedy = "run: reconciler schema --write schemas"
    assert present.keys() == generated.keys(), remedy
    stale = [name for name, schema in generated.items() if present[name] != rendered(schema)]
    assert not stale, remedy


def test_every_schema_is_one(generated: dict[str, Schema]) -> None:
    for schema in generated.values():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert "x-secret" not in json.dumps(schema)


RIGHT = [
    desk(),
    desk(auth=f"{{type: key, key: {CIPHER}}}", config=f"{{url: {CIPHER}, retries: {CIPHER}}}") + "sops: {}\n",
    desk(auth="{type: basic_auth, username: u, password: {from_sops: {file: s.yaml, key: a}}}"),
    desk(auth="{type: key, key: {from_file: x}, backup_key: {from_env: Y}}"),
    desk(type="bell", auth="", config=""),
    desk(
        sync="{every: 1h30m, entities: [tickets]}", drift="{mode: off}", objectives="{freshness: 30m}", depends_on="[b]"
    ),
    desk(
        synchronizations="[{name: s, event_type: ticket.created, from: [b], action: post, template: x, map: {channel: c}}]"
    ),
]
WRONG = [
    desk(auth="{type: key, key: in-clear}"),
    desk(auth="{type: kee, key: {from_env: X}}"),
    desk(auth="{type: key}"),
    desk(auth=""),
    desk(type="dsk"),
    desk(config="{url: 'https://x', retries: 11}"),
    desk(config="{url: 'https://x', typo: 1}"),
    desk(typo="1"),
    desk(sync="{every: soon}"),
    desk("Bad_Name"),
    desk(auth="{type: key, key: {from_env: X, from_file: y}}"),
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_validate_accepts_the_schema_accepts(tiny: Any, text: str) -> None:
    assert [str(error) for error in tiny.iter_errors(read_yaml(text.encode()).documents[0].tree)] == []
    known = {"b.yaml": desk("b"), "s.yaml": "a: 1\n"}
    assert not check({"a.yaml": text} | known).state.findings


@pytest.mark.parametrize("text", WRONG)
def test_what_the_schema_refuses_validate_refuses(tiny: Any, text: str) -> None:
    assert list(tiny.iter_errors(read_yaml(text.encode()).documents[0].tree))
    assert check({"a.yaml": text}).state.findings


def test_a_model_may_bring_its_own_schema() -> None:
    from tests.unit.desired.manifest_kit import Desk, DeskConfig

    class Own(DeskConfig):
        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return {"type": "object", "required": ["anything"]}

    class Third(Desk):
        type = "third"
        Config = Own

    class Registry(TinyRegistry):
        connectors: ClassVar[dict[str, AnyConnector]] = {"third": Third}

    schema = all_schemas(Registry())["connectors/third.schema.json"]
    assert schema["properties"]["config"]["required"] == ["anything"]
