"""The whole API as its document has it, fuzzed with schemathesis over a daemon that writes to Git.

No answer is a server's error, none differs from the document, none has a secret in it; nor does the daemon's log. It takes in
every call that the document names. Longer, or with other draws: RECONCILER_FUZZ_SECONDS=1800 RECONCILER_FUZZ_SEED=7 pytest ...
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.access import Permission
from reconciler.serve.api import make_routes
from tests.conftest import find_program
from tests.e2e.surface import SPARE, Surface, surfaced
from tests.e2e.test_canary import spellings

SECONDS = int(os.environ.get("RECONCILER_FUZZ_SECONDS", "70"))
SEED = os.environ.get("RECONCILER_FUZZ_SEED", "")
HOOKS = Path(__file__).with_name("fuzz_hooks.py")
REFS = ["sn", "chat", "gh", *(f"it-ops.spare-{n}" for n in range(SPARE)), "servicenow", "nobody"]
API = {"rate": {"requests": 0}, "trusted_proxies": ["127.0.0.1"]}
CONFIG = """
suppress-health-check = ["all"]  # they are about the speed of drawing
continue-on-failure = true
request-timeout = 45  # a change may be asked to wait for 30
workers = 1  # with more, CPython 3.11 fails now and then when several threads compile (gh-106905)
warnings = false  # that most drawn references name nothing is no finding
hooks = "{hooks}"
[output.sanitization]
enabled = false  # the answers are searched for secrets as they are
[generation]
deterministic = {deterministic}
database = "none"
allow-x00 = false  # JSON may have NUL, we do not: see test_hostile
[auth.openapi.token]
bearer = "${{FUZZ_TOKEN}}"
[dictionaries.refs]
values = {refs}
[parameters."path.ref"]
dictionary = "refs"
probability = 0.8

[checks]
enabled = true  # every one there is, save what is said below
[checks.positive_data_acceptance]
# What the document cannot say is refused as well: a manifest that its connector does not take (422), a condition that does not
# hold (412), a request that does not fit what is (409). What remains: 400, 405, 413, 415, and 5xx but for 503.
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "429", "503"]
"""
STREAMED = """
[[operations]]
include-operation-id = "{name}"
request-timeout = 1.5  # of a stream that never ends this much is read
"""
WORD = """
[[operations]]
include-operation-id = "{name}"
checks.allow_header_conformance.enabled = false  # what it does not take itself goes to the integration of that name
"""
KEYED = """
[[operations]]
include-operation-id = "{name}"
checks.missing_required_header.enabled = false  # it wants 401, which is also 429 where guesses of a key are counted
"""
EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string"}, "event": {"type": "string"}},
}


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surface]:
    with surfaced(tmp_path_factory.mktemp("fuzz"), api=API) as made:
        yield made


def operations(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def streams(operation: Mapping[str, Any]) -> bool:
    return any("text/event-stream" in answer.get("content", {}) for answer in operation["responses"].values())


def keyed(document: Mapping[str, Any]) -> Iterator[str]:
    """Operations that take the key of one integration, not a token of ours."""
    for path, methods in document["paths"].items():
        if not path.startswith("/v1/"):
            yield from (one["operationId"] for one in methods.values())


def words(document: Mapping[str, Any]) -> Iterator[str]:
    """Operations at addresses that fit another path of the document, too."""
    for path, methods in document["paths"].items():
        others = (re.sub("{[^}]*}", "[^/]+", other) for other in document["paths"] if other != path)
        if any(re.fullmatch(other, path) for other in others):
            yield from (one["operationId"] for one in methods.values())


def as_checked(document: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 can only call a stream a text; what is held against its schema here are its events."""
    for operation in operations(document):
        for answer in operation["responses"].values():
            if "text/event-stream" in answer.get("content", {}):
                answer["content"]["text/event-stream"] = {"schema": EVENT}
    return document


def fuzz(surface: Surface, token: str, seconds: int) -> list[dict[str, Any]]:
    """Fails with what was found, and how to have it again. The exchanges as a HAR has them."""
    folder = surface.root / f"fuzz-{token}"
    folder.mkdir()
    document = as_checked(make_routes().openapi())
    (folder / "openapi.json").write_text(json.dumps(document))
    special = [STREAMED.format(name=one["operationId"]) for one in operations(document) if streams(one)]
    special += [KEYED.format(name=name) for name in keyed(document)]
    special += [WORD.format(name=name) for name in words(document)]
    config = CONFIG.format(hooks=HOOKS, refs=json.dumps(REFS), deterministic=json.dumps(not SEED))
    (folder / "schemathesis.toml").write_text(config + "".join(special))
    program = find_program("schemathesis")
    assert program is not None
    line = [program, "--config-file", "schemathesis.toml", "run", "openapi.json", "--url", surface.url, "--no-color"]
    line += ["--max-time", str(seconds), "--report", "har", "--report-har-path", "exchanges.har"]
    line += ["--seed", SEED] if SEED else []
    done = subprocess.run(
        line,
        cwd=folder,
        env={**os.environ, "FUZZ_TOKEN": surface.tokens[token]},
        capture_output=True,
        text=True,
        timeout=seconds + 240,
        check=False,
    )
    assert surface.process is not None
    assert surface.process.poll() is None, surface.log[-20_000:]
    # What is shown has the command for each failure; the seed is said in it, too. The token in it is gone with the daemon.
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{line}"
    exchanges: list[dict[str, Any]] = json.loads((folder / "exchanges.har").read_text())["log"]["entries"]
    return exchanges


def leaks(surface: Surface, exchanges: list[dict[str, Any]]) -> list[str]:
    """Where a secret of ours is in an answer or in the log, in any spelling."""
    sought = [(name, one) for name, secret in surface.secrets.items() for one in spellings(secret)]
    places = [
        (f"{e['request']['method']} {e['request']['url']}", json.dumps(e["response"]).encode()) for e in exchanges
    ]
    places.append(("the daemon's log", surface.log.encode()))
    return [f"{name} in {where}" for where, content in places for name, one in sought if one in content]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_nobody_breaks_what_only_looks(surface: Surface) -> None:
    """A caller who may view changes nothing, whatever it sends."""
    surface.token("viewer", "it-ops", Permission.INTEGRATION_VIEW)
    before = surface.commits()
    exchanges = fuzz(surface, "viewer", max(15, SECONDS // 4))
    assert surface.commits() == before
    assert leaks(surface, exchanges) == []
    answered = {(e["request"]["method"], e["response"]["status"]) for e in exchanges}
    assert {("GET", 200), ("POST", 403)} <= answered
    assert {method for method, status in answered if 200 <= status < 300} <= {"GET", "HEAD", "POST"}


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_the_whole_document(surface: Surface) -> None:
    before = surface.commits()
    exchanges = fuzz(surface, "admin", SECONDS)
    assert surface.commits() > before, "it was to change something, too"
    assert leaks(surface, exchanges) == []
    asked = {e["request"]["method"] for e in exchanges if 200 <= e["response"]["status"] < 300}
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= asked
    assert "request failed" not in surface.log
    assert "Traceback" not in surface.log
