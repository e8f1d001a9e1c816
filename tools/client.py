"""Makes the methods of `reconciler.client` from docs/openapi.json: `make client`, or `python -m tools.client`.

In: the document, and the names of the classes in `reconciler/api`. Out: one module per group of calls, for each of both clients,
and `calls.py` that puts them together. Methods are written out, not made when the program runs: an editor completes and
explains them, and a type checker knows them. The transport is written by hand.
"""

import ast
import json
import keyword
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "openapi.json"
CLIENT = ROOT / "reconciler" / "client"
JSON, STREAM = "application/json", "text/event-stream"
KEY = "idempotency-key"
# Groups are tags, methods operation ids without the word that the group says already. Here is what reads better otherwise.
GROUPS = {"manifests": "integrations", "keys": "integrations", "catalogue": "connectors"}
NAMES = {
    "start_sync": ("integrations", "sync"),
    "get_plan": ("plan", "pending"),
    "make_plan": ("plan", "of"),
    "search_available": ("connectors", "search"),
    "list_synchronizations": ("synchronizations", "list"),
    "put_synchronization": ("synchronizations", "put"),
    "remove_synchronization": ("synchronizations", "remove"),
}
STREAMS = {
    "start_sync": ("SyncEvent", "OF_SYNC"),
    "stream_sync": ("SyncEvent", "OF_SYNC"),
    "stream_changes": ("ChangeEvent", "OF_CHANGES"),
}
_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}


@dataclass(frozen=True)
class Parameter:
    name: str
    place: str
    kind: str
    is_required: bool

    @property
    def word(self) -> str:
        return _word(self.name)

    @property
    def declared(self) -> str:
        return f"{self.word}: {self.kind}" if self.is_required else f"{self.word}: {self.kind} | None = None"


@dataclass(frozen=True)
class Shape:
    """`local`: what it is called where it is imported; several modules may have one of that name."""

    module: str
    name: str
    local: str

    @property
    def imported(self) -> str:
        return self.name if self.name == self.local else f"{self.name} as {self.local}"


@dataclass(frozen=True)
class Operation:
    """One operation of the document. `classes`: of all shapes that are classes, by their names in the document."""

    method: str
    path: str
    said: Mapping[str, Any]
    document: Mapping[str, Any]
    classes: Mapping[str, "Shape"]

    @property
    def id(self) -> str:
        return str(self.said["operationId"])

    @cached_property
    def place(self) -> tuple[str, str]:
        """Group and method."""
        if self.id in NAMES:
            return NAMES[self.id]
        group = GROUPS.get(self.said["tags"][0], self.said["tags"][0])
        own = {group, group.removesuffix("s"), f"{group[:-3]}y"}
        words = [word for word in self.id.split("_") if word not in own]
        return group, "_".join(words) or self.id

    @cached_property
    def parameters(self) -> list[Parameter]:
        every = [
            Parameter(
                one["name"], one["in"], self._kind(one["schema"]), bool(one.get("required")) or one["in"] == "path"
            )
            for one in self.said.get("parameters", [])
        ]
        order = re.findall(r"{(\w+)}", self.path)
        return sorted(every, key=lambda p: order.index(p.name) if p.place == "path" else len(order))

    def _kind(self, schema: Mapping[str, Any]) -> str:
        several = [one for one in schema.get("anyOf", []) if one.get("type") != "null"]
        if several:
            return _either([self._kind(one) for one in several])
        if "$ref" in schema:
            return self._kind(self.document["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        if "enum" in schema:
            return f"Literal[{', '.join(json.dumps(one) for one in schema['enum'])}]"
        if "const" in schema:
            return f"Literal[{json.dumps(schema['const'])}]"
        if schema.get("type") == "array":
            return f"Sequence[{self._kind(schema['items'])}]"
        if schema.get("format") == "date-time":
            return "datetime | str"
        return _SCALARS.get(schema.get("type", "string"), "str")

    @property
    def _content(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.said.get("requestBody", {}).get("content", {})
        return found

    @cached_property
    def body(self) -> str | None:
        """Its declaration among the arguments."""
        if not self._content:
            return None
        schema = self._content.get(JSON, {}).get("schema", {})
        name = next(filter(None, map(_named, [schema, *schema.get("anyOf", [])])), None)
        if name is None:
            return "body: bytes"
        own = self.classes[name].local if name in self.classes else "BaseModel"
        kind = f"{own} | Mapping[str, Any]"
        is_optional = any(one.get("type") == "null" for one in schema.get("anyOf", []))
        return f"body: {kind} | None = None" if is_optional else f"body: {kind}"

    @cached_property
    def answers(self) -> dict[int, str | None]:
        """Status -> shape, of the good ones that are no streams."""
        found: dict[int, str | None] = {}
        for status, answer in self.said["responses"].items():
            content = answer.get("content", {})
            if status.startswith("2") and STREAM not in content and not (self.is_stream and status == "204"):
                found[int(status)] = self._local(_named(content.get(JSON, {}).get("schema", {})))
        return found

    def _local(self, name: str | None) -> str | None:
        return self.classes[name].local if name else None

    @property
    def is_stream(self) -> bool:
        return any(STREAM in answer.get("content", {}) for answer in self.said["responses"].values())

    @property
    def items(self) -> str | None:
        """The kind of what is listed, where it comes in pages."""
        shown = self.said["responses"].get("200", {}).get("content", {}).get(JSON, {}).get("schema", {})
        schema = self.document["components"]["schemas"].get(_named(shown) or "", {}).get("properties", {})
        has_cursor = any(one.name == "cursor" and one.place == "query" for one in self.parameters)
        return self._local(_named(schema["data"]["items"])) if has_cursor and "next_cursor" in schema else None


def _either(kinds: list[str]) -> str:
    """Literals become one; what is there twice is there once."""
    named = [kind.removeprefix("Literal[").removesuffix("]") for kind in kinds if kind.startswith("Literal[")]
    others = [kind for kind in kinds if not kind.startswith("Literal[")]
    return " | ".join(dict.fromkeys([*([f"Literal[{', '.join(named)}]"] if named else []), *others]))


def _named(schema: Mapping[str, Any]) -> str | None:
    name = schema.get("$ref", "").rpartition("/")[2] or (schema.get("title") if "properties" in schema else None)
    return str(name) if name else None


@dataclass(frozen=True)
class Flavour:
    folder: str
    prefix: str
    define: str
    wait: str
    generator: str
    loop: str


BLOCKING = Flavour("blocking", "", "def", "", "Generator[{}, None, None]", "yield from")
AWAITED = Flavour("awaited", "Async", "async def", "await ", "AsyncGenerator[{}, None]", "")


def operations(document: Mapping[str, Any]) -> list[Operation]:
    classes = _classes()
    return [
        Operation(method.upper(), path, said, document, classes)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
    ]


def _classes() -> dict[str, Shape]:
    """Those that are made when the program runs are no types to a checker, and are not found here."""
    found = [
        (f"reconciler.api.{path.stem}", node.name)
        for path in sorted((ROOT / "reconciler" / "api").glob("*.py"))
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    often = Counter(name for _, name in found)
    shapes = {}
    for place, name in found:
        is_one = often[name] == 1
        local = name if is_one else f"{place.rpartition('.')[2].title().replace('_', '')}{name}"
        shapes[name if is_one else f"{place.replace('.', '__')}__{name}"] = Shape(place, name, local)
    return shapes


def method_lines(operation: Operation, flavour: Flavour) -> Iterator[str]:
    name = operation.place[1]
    if operation.answers:
        named = dict.fromkeys(shape or "None" for shape in operation.answers.values())
        shapes = " | ".join(sorted(named, key="None".__eq__))
        yield from _head(operation, flavour.define, name, shapes)
        yield f"        return {flavour.wait}self._wire.do({_ask(operation, shapes)})"
        yield ""
    if operation.is_stream:
        if operation.id not in STREAMS:
            raise SystemExit(
                f"{operation.id} streams: say in STREAMS of tools/client.py what, and in client/streams.py how"
            )
        kind, kinds = STREAMS[operation.id]
        called = f"{name}_events" if operation.answers else name
        yield from _head(operation, "def", called, flavour.generator.format(kind), is_stream=True)
        yield f"        return self._wire.listen({_ask(operation, kind, is_stream=True)}, {kinds})"
        yield ""
    if operation.items:
        yield from _pages(operation, flavour)


def _head(
    operation: Operation, define: str, name: str, gives: str, *, is_stream: bool = False, without: str = ""
) -> Iterator[str]:
    places = [p.declared for p in operation.parameters if p.place == "path"]
    named = [p.declared for p in operation.parameters if p.place != "path" and p.name != without]
    arguments = ["self", *places, *([operation.body] if operation.body else []), *(["*", *named] if named else [])]
    yield f"    {define} {name}({', '.join(arguments)}) -> {gives}:"
    told = operation.said.get("description", "").split("\n\n")[0].replace("\n", " ")
    if is_stream:
        told = "What it tells, as it happens. Where the connection is cut it is taken up again."
    if without:
        told = "Every one, page after page."
    summary = operation.said["summary"].rstrip(".")
    yield f'        """{_wrapped(f"{summary}. {told}".strip())}"""'


def _wrapped(text: str) -> str:
    lines, line = [], ""
    for word in text.replace("\\", "\\\\").split():
        if len(line) + len(word) > 105:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    return "\n        ".join(lines) + ("\n        " if len(lines) > 1 else "")


def _ask(operation: Operation, kind: str, *, is_stream: bool = False) -> str:
    path = re.sub(r"{(\w+)}", lambda m: f"{{segment({_word(m[1])})}}", operation.path)
    prefix = "f" if "{" in path else ""
    parts = [f'"{operation.method}"', f'{prefix}"{path}"']
    if not is_stream:
        parts.append("{" + ", ".join(f"{status}: {shape}" for status, shape in operation.answers.items()) + "}")
    query = [f'"{p.name}": {p.word}' for p in operation.parameters if p.place == "query"]
    if query:
        parts.append(f"query={{{', '.join(query)}}}")
    headers = [
        f'"{p.name.lower()}": {p.word}' + (" or new_key()" if p.name == KEY else "")
        for p in operation.parameters
        if p.place == "header"
    ]
    if headers:
        parts.append(f"headers={{{', '.join(headers)}}}")
    if operation.body:
        parts.append("body=body")
    return f"Ask[{kind}]({', '.join(parts)})"


def _word(name: str) -> str:
    """As an argument."""
    word = re.sub(r"\W", "_", name).lower()
    return f"{word}_" if keyword.iskeyword(word) else word


def _pages(operation: Operation, flavour: Flavour) -> Iterator[str]:
    name = operation.place[1]
    every = f"all{name.removeprefix('list')}" if name.startswith("list") else f"all_{name}"
    yield from _head(operation, flavour.define, every, flavour.generator.format(operation.items), without="cursor")
    arguments = [p.word for p in operation.parameters if p.place == "path"]
    arguments += [f"{p.word}={p.word}" for p in operation.parameters if p.place != "path" and p.name != "cursor"]
    call = f"{flavour.wait}self.{name}({', '.join([*arguments, 'cursor=cursor'])})"
    yield "        cursor: str | None = None"
    yield "        while True:"
    yield f"            page = {call}"
    if flavour.loop:
        yield "            yield from page.data"
    else:
        yield "            for one in page.data:"
        yield "                yield one"
    yield "            if (cursor := page.next_cursor) is None:"
    yield "                return"
    yield ""


def module(group: str, its: list[Operation], flavour: Flavour) -> str:
    title = _title(group, flavour)
    body = "\n".join(line for operation in its for line in method_lines(operation, flavour))
    classes = its[0].classes
    used = [(one.module, one.imported) for one in classes.values() if re.search(rf"\b{one.local}\b", body)]
    used += [
        ("reconciler.client.ask", name) for name in ("Ask", "new_key", "segment") if re.search(rf"\b{name}\b", body)
    ]
    used += [("reconciler.client.streams", name) for name in ("OF_SYNC", "OF_CHANGES") if name in body]
    used += [("reconciler.api.stream_events", name) for name in ("SyncEvent", "ChangeEvent") if f"[{name}" in body]
    used += [("typing", name) for name in ("Any", "Literal") if re.search(rf"\b{name}\b", body)]
    containers = ("Mapping", "Sequence", "Generator", "AsyncGenerator")
    used += [("collections.abc", name) for name in containers if re.search(rf"\b{name}\b", body)]
    used += [("datetime", "datetime")] if "datetime" in body else []
    used += [("pydantic", "BaseModel")] if "BaseModel" in body else []
    used += [(f"reconciler.client.{flavour.folder}.wire", "Group")]
    imports = "\n".join(f"from {place} import {name}" for place, name in used)
    about = f'"""Made by tools/client.py from docs/openapi.json: the calls of `{group}`."""'
    return f"{about}\n\n{imports}\n\n\nclass {title}(Group):\n{body}\n"


def _title(group: str, flavour: Flavour) -> str:
    return f"{flavour.prefix}{group.title().replace('_', '')}Calls"


def calls(groups: Mapping[str, list[Operation]], flavour: Flavour) -> str:
    lines = [
        f'"""Made by tools/client.py from docs/openapi.json: all groups of calls of the {flavour.folder} client."""',
        "",
    ]
    place = f"reconciler.client.{flavour.folder}"
    names = {group: _title(group, flavour) for group in sorted(groups)}
    lines += [f"from {place}.{group} import {name}" for group, name in names.items()]
    lines += [f"from {place}.wire import Wire", "", "", f"class {flavour.prefix}Calls:"]
    lines += ["    def __init__(self, wire: Wire) -> None:"]
    lines += [f"        self.{group} = {name}(wire)" for group, name in names.items()]
    return "\n".join(lines) + "\n"


def made(document: Mapping[str, Any]) -> dict[str, str]:
    """Path below the client's folder -> text, as the formatter leaves it."""
    groups: dict[str, list[Operation]] = {}
    for operation in operations(document):
        groups.setdefault(operation.place[0], []).append(operation)
    texts = {}
    for flavour in (BLOCKING, AWAITED):
        texts[f"{flavour.folder}/calls.py"] = calls(groups, flavour)
        for group, its in groups.items():
            texts[f"{flavour.folder}/{group}.py"] = module(group, its, flavour)
    return {name: _formatted(text) for name, text in texts.items()}


def _formatted(text: str) -> str:
    for words in (["check", "--quiet", "--select", "I,F401", "--fix", "-"], ["format", "-"]):
        name = "--stdin-filename=reconciler/client/made.py"
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, name],
            cwd=ROOT,
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = done.stdout
    return text


def main() -> None:
    texts = made(json.loads(DOCUMENT.read_text("utf-8")))
    for folder in ("blocking", "awaited"):
        for old in (CLIENT / folder).glob("*.py"):
            if old.stem not in {"__init__", "wire"} and f"{folder}/{old.name}" not in texts:
                old.unlink()
    for name, text in texts.items():
        (CLIENT / name).write_text(text, "utf-8")
    sys.stdout.write(f"{len(texts)} modules written to {CLIENT}\n")


if __name__ == "__main__":
    main()
