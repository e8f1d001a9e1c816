"""The client is made from the committed OpenAPI document, and what it sends and expects is what the document says."""

import asyncio
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reconciler.client.ask import Ask
from reconciler.client.awaited.calls import AsyncCalls
from reconciler.client.blocking.calls import Calls
from tools import client as making

ROOT = Path(__file__).parents[2]
DOCUMENT: Mapping[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))
STREAM = "text/event-stream"
JSON = "application/json"


def test_the_client_is_made_from_the_document() -> None:
    made = making.made(DOCUMENT)
    there = {
        f"{folder}/{path.name}": path.read_text("utf-8")
        for folder in ("blocking", "awaited")
        for path in (ROOT / "reconciler" / "client" / folder).glob("*.py")
        if path.stem not in {"__init__", "wire"}
    }
    assert there == made, "the client is stale; write it anew: make client, or python -m tools.client"


@dataclass
class Recorder:
    """Stands where the wire is, and keeps what would be sent."""

    asked: list[tuple[Ask[Any], bool]] = field(default_factory=list)

    def do(self, ask: Ask[Any]) -> Any:
        self.asked.append((ask, False))
        return Nothing()

    def listen(self, ask: Ask[Any], kinds: Any) -> Any:
        self.asked.append((ask, True))
        return None


class Nothing:
    """May be awaited, and need not be."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def _calls(calls: type[Any]) -> Iterator[tuple[str, Ask[Any], bool, Mapping[str, Any]]]:
    """Every method that asks, called with a value for each of its parameters."""
    recorder = Recorder()
    groups = calls(recorder)
    for group in vars(groups).values():
        for name, method in inspect.getmembers(group, inspect.ismethod):
            if name.startswith(("_", "all_")) or name == "all":
                continue
            given = {word: f"given-{word}" for word in inspect.signature(method).parameters}
            answer = method(**given)
            if inspect.iscoroutine(answer):
                asyncio.run(answer)
            ask, is_stream = recorder.asked[-1]
            yield name, ask, is_stream, given


def _key(ask: Ask[Any], given: Mapping[str, Any]) -> tuple[str, str]:
    """Method and path, with the parameters of the document in it."""
    path = ask.path
    for word in given:
        path = path.replace(f"given-{word}", f"{{{word}}}")
    return ask.method, path


@pytest.fixture(scope="module", params=[Calls, AsyncCalls])
def methods(request: pytest.FixtureRequest) -> dict[tuple[str, str, bool], Ask[Any]]:
    found: dict[tuple[str, str, bool], Ask[Any]] = {}
    for _, ask, is_stream, given in _calls(request.param):
        key = (*_key(ask, given), is_stream)
        assert key not in found, f"two methods for {key}"
        found[key] = ask
    return found


def _operations() -> Iterator[tuple[tuple[str, str, bool], Mapping[str, Any]]]:
    """Once, and once more for its stream where it has both."""
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            contents = [one.get("content", {}) for status, one in operation["responses"].items() if status < "3"]
            if any(JSON in one for one in contents) or not any(STREAM in one for one in contents):
                yield (method.upper(), path, False), operation
            if any(STREAM in one for one in contents):
                yield (method.upper(), path, True), operation


def test_each_operation_has_one_method(methods: Mapping[tuple[str, str, bool], Ask[Any]]) -> None:
    assert set(methods) == {key for key, _ in _operations()}


def test_every_parameter_is_sent(methods: Mapping[tuple[str, str, bool], Ask[Any]]) -> None:
    for key, operation in _operations():
        ask = methods[key]
        wanted = {(one["in"], one["name"].lower()) for one in operation.get("parameters", []) if one["in"] != "path"}
        sent = {("query", name) for name in ask.query} | {("header", name) for name in ask.headers}
        assert sent == wanted, key
        assert all(value.startswith("given-") for value in [*ask.query.values(), *ask.headers.values()]), key
        assert (ask.body is not None) == ("requestBody" in operation), key
        assert set(re.findall(r"{(\w+)}", key[1])) == {
            one["name"] for one in operation.get("parameters", []) if one["in"] == "path"
        }


def test_answers_are_read_in_their_shapes(methods: Mapping[tuple[str, str, bool], Ask[Any]]) -> None:
    for key, operation in _operations():
        wanted = {}
        for status, one in operation["responses"].items():
            content = one.get("content", {})
            is_end = status == "204" and any(STREAM in r.get("content", {}) for r in operation["responses"].values())
            if status < "3" and STREAM not in content and not is_end:
                reference = content.get(JSON, {}).get("schema", {}).get("$ref", "")
                wanted[int(status)] = reference.rpartition("/")[2].rpartition("__")[2] or None
        found = {status: shape and shape.__name__ for status, shape in methods[key].answers.items()}
        assert found == ({} if key[2] else wanted), key


def test_what_has_a_key_always_sends_one() -> None:
    recorder = Recorder()
    calls = Calls(recorder)  # type: ignore[arg-type]
    for _ in range(2):
        calls.integrations.enable("sn")
    first, second = [ask.headers["idempotency-key"] for ask, _ in recorder.asked]
    assert "" not in {first, second}
    assert first != second
    assert all(ask.may_repeat for ask, _ in recorder.asked)
