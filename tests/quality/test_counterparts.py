"""A connector is whole: simulator, example manifest, schema, contract test."""

from pathlib import Path

import pytest

from reconciler.app.offline import Offline
from reconciler.model.finding import Severity

ROOT = Path(__file__).parents[2]
CONNECTORS = sorted(
    path.stem for path in (ROOT / "connectors").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
)
CONNECTORS.remove("__init__")


def test_the_connectors_are_seen() -> None:
    assert {"servicenow", "slack", "github", "email", "hr_ldap"} <= set(CONNECTORS)


@pytest.mark.parametrize("name", CONNECTORS)
@pytest.mark.parametrize(
    "place",
    [
        "simulators/{}.py",
        "examples/manifests/{}.yaml",
        "tests/contract/test_{}.py",
        "schemas/connectors/{}.schema.json",
    ],
)
def test_every_connector_has_its_counterpart(name: str, place: str) -> None:
    assert (ROOT / place.format(name)).is_file()


def test_the_example_manifests_are_valid() -> None:
    found = Offline(ROOT / "examples" / "manifests").read(None).state.findings
    errors = [str(f) for f in found if f.severity is Severity.ERROR]
    assert errors == []
