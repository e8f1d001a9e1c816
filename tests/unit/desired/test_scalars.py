"""YAML 1.2 scalars in manifests: what is not of the wanted type is a finding that says what to write, as the schemas do."""

from collections.abc import Iterator
from typing import Any, ClassVar, get_args

import jsonschema
import pytest
from pydantic import BaseModel, Field, ValidationError

from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.validate import Inputs, validate
from reconciler.model.manifest import Integration, Workspace
from reconciler.model.secret import SECRET_MARK
from reconciler.sdk import registry
from reconciler.sdk.contract import Settings
from tests.unit.desired.manifest_kit import Desk, DeskConfig, TinyRegistry, check, desk, lines, only_finding, snapshot

SEND = "[{name: s, event_type: a.created, action: close, map: {url: 'https://x', retries: %s}}]"
WORKSPACE = "apiVersion: reconciler.dev/v1\nkind: Workspace\nmetadata: {name: default}\nspec: {%s}\n"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"enabled": "yes"}, ("spec.enabled must be true or false, not 'yes' (write true; yes, no, on and off are text in "
                              "YAML 1.2)")),
        ({"enabled": "OFF"}, ("spec.enabled must be true or false, not 'OFF' (write false; yes, no, on and off are text in "
                              "YAML 1.2)")),
        ({"enabled": "'true'"}, "spec.enabled must be true or false, not 'true' (write true, without quotes)"),
        ({"suspend": "1"}, "spec.suspend must be true or false, not 1 (write true)"),
        ({"sync": "{page_size: '5'}"}, "spec.sync.page_size must be a whole number, not '5' (write 5, without quotes)"),
        ({"sync": "{page_size: 1_000}"}, ("spec.sync.page_size must be a whole number, not '1_000' (write 1000; '1_000' is "
                                          "text in YAML 1.2)")),
        ({"sync": "{page_size: 50.0}"}, "spec.sync.page_size must be a whole number, not 50.0 (write 50)"),
        ({"sync": "{page_size: true}"}, "spec.sync.page_size must be a whole number, not true"),
        ({"display_name": "0123"}, "spec.display_name must be text, not the number 123 (put it in quotes)"),
        ({"display_name": "false"}, "spec.display_name must be text, not false (put it in quotes)"),
        ({"depends_on": "[7]"}, "spec.depends_on[0] must be text, not the number 7 (put it in quotes)"),
        ({"sync": "{page_size: 1e300}"}, "spec.sync.page_size must be a whole number, not 1e+300"),
        ({"depends_on": "'true'"}, "spec.depends_on must be a list, not 'true'"),
        ({"depends_on": "b, c"}, "spec.depends_on must be a list, not 'b, c' (write [b, c])"),
        ({"config": "{url: 'https://x', retries: '3'}"}, ("spec.config.retries must be a whole number, not '3' (write 3, "
                                                          "without quotes)")),
        ({"synchronizations": SEND % "'3'"}, ("spec.synchronizations[0].map.retries must be a whole number, not '3' (write 3, "
                                              "without quotes)")),
        ({"synchronizations": SEND % "true"}, "spec.synchronizations[0].map.retries must be a whole number, not true"),
        ({"sync": "{scope: 1}"}, ("spec.sync.scope must be 'incremental', 'delta' or 'full', not 1 (permitted: delta, full, "
                                  "incremental)")),
        ({"auth": "{from_env: DESK}"}, "spec.auth must be a mapping, not one value (encrypt or refer to the values below it)"),
        ({"auth": "{type: key, key: }"}, "spec.auth.key must be a secret text, but nothing stands here"),
    ],
)  # fmt: skip
def test_a_wrong_scalar_is_told_with_what_to_write(fields: dict[str, str], said: str) -> None:
    assert only_finding(desk(**fields)).partition(": invalid-value: ")[2] == said


@pytest.mark.parametrize("value", ["true", "12345", "0123", "1.10"])
def test_no_value_of_auth_is_shown(value: str) -> None:
    auth = f"{{type: basic, username: {value}, password: {{from_env: DESK_KEY}}}}"
    kind = "true or false" if value == "true" else "a number"
    said = f"m.yaml:6:33: invalid-value: spec.auth.username must be text, not {kind} (put it in quotes)"
    assert only_finding(desk(auth=auth)) == said


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("display_name: 5", "spec.display_name must be text, not the number 5 (put it in quotes)"),
        ("defaults: {sync: {page_size: '5'}}", "spec.defaults.sync.page_size must be a whole number, not '5' (write 5, "),
        ("tokens: [{name: on, sha256: 12}]", "spec.tokens[0].sha256 must be text, not the number 12 (put it in quotes)"),
        ("retention: {logs: 90}", "spec.retention.logs is not accepted: a duration is a number and a unit"),
    ],
)  # fmt: skip
def test_a_workspace_is_read_as_strictly(spec: str, said: str) -> None:
    assert said in only_finding(WORKSPACE % spec)


def test_what_yaml_1_2_calls_text_is_text() -> None:
    config = "{url: 'https://x', retries: 0x3, webhook: {signing_secret: {from_env: X}, path: on}}"
    assert not lines(check({"m.yaml": desk("on", workspace="no", config=config, display_name="2024-01-01")}))


class Choosy(Settings):
    """One field of each kind of scalar that settings may have."""

    truth: bool = False
    perhaps: bool | None = None
    whole: int = 0
    number: float = 0.5
    text: str = ""
    either: str | int = ""
    numbers: tuple[float, ...] = ()
    named: dict[str, bool] = Field(default_factory=dict)


class Third(Desk):
    type = "third"
    Config = Choosy  # type: ignore[assignment]


class ThirdRegistry(TinyRegistry):
    connectors: ClassVar[dict[str, AnyConnector]] = {"third": Third}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{number: '1.5'}", "spec.config.number must be a number, not '1.5' (write 1.5, without quotes)"),
        ("{numbers: [1, true]}", "spec.config.numbers[1] must be a number, not true"),
        ("{either: true}", "spec.config.either must be text or a whole number, not true (put it in quotes)"),
        ("{named: {a: no}}", "spec.config.named.a must be true or false, not 'no' (write false; yes, no, on and off "),
    ],
)  # fmt: skip
def test_settings_of_any_connector_are_read_as_strictly(config: str, said: str) -> None:
    shot = snapshot({"m.yaml": desk(type="third", config=config)})
    (finding,) = validate(shot, Inputs(source="test", registry=ThirdRegistry())).state.findings
    assert said in str(finding)


# Schemas and models must agree on every scalar.

VALUES: tuple[Any, ...] = (
    "text", "5", "true", "yes", "", 0, 1, 5, 1.5, True, False, None,
    [], ["a"], ["1"], [1], [1.5], [True], [None], {}, {"a": "b"}, {"a": 1}, {"a": True},
)  # fmt: skip


def models() -> Iterator[type[BaseModel]]:
    """Every model that `schemas/` is made from."""
    roots: list[type[BaseModel]] = [Integration, Workspace, Choosy, DeskConfig]
    for name in registry.known_types():
        connector = registry.load(name)
        roots += [connector.Config, *connector.auth_types]
    seen: dict[type[BaseModel], None] = {}
    while roots:
        model = roots.pop()
        if model not in seen:
            seen[model] = None
            roots += [part for field in model.model_fields.values() for part in _models_in(field.annotation)]
    yield from seen


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


@pytest.mark.parametrize("model", list(models()), ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_models_and_schemas_agree_on_every_scalar(model: type[BaseModel]) -> None:
    schema = model.model_json_schema(by_alias=True)
    for name, part in schema.get("properties", {}).items():
        if SECRET_MARK in str(part):
            continue
        accepts = jsonschema.Draft202012Validator({**part, "$defs": schema.get("$defs", {})}).is_valid
        for value in VALUES:
            wrong = _wrong(model, name, value)
            if "value_error" not in wrong:  # what a validator of the model knows, no schema says
                assert accepts(value) == (not wrong), f"{name}: {value!r}"


def _wrong(model: type[BaseModel], name: str, value: Any) -> set[str]:
    try:
        model.model_validate({name: value})
    except ValidationError as error:
        return {one["type"] for one in error.errors() if one["loc"][:1] == (name,)}
    return set()


def test_only_the_schema_takes_a_number_without_fraction_for_a_whole_one() -> None:
    """JSON has one kind of number, YAML two."""
    assert jsonschema.Draft202012Validator({"type": "integer"}).is_valid(5.0)
    assert "write 5" in only_finding(desk(config="{url: 'https://x', retries: 5.0}"))
