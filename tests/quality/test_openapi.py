"""The OpenAPI document that is committed is the one that is served, and it is one."""

import json
import re
from pathlib import Path

from openapi_spec_validator import validate

from reconciler.serve.api import make_routes

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_document_is_the_one_that_is_served() -> None:
    stale = "docs/openapi.json is stale; write it anew: reconciler schema --api > docs/openapi.json"
    assert json.loads(COMMITTED.read_text(encoding="utf-8")) == json.loads(json.dumps(make_routes().openapi())), stale


def test_the_document_is_valid() -> None:
    validate(json.loads(COMMITTED.read_text(encoding="utf-8")))


def test_every_reference_leads_somewhere() -> None:
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    asked = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert asked - set(document["components"]["schemas"]) == set()
