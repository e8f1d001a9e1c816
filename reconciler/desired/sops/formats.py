"""The formats of SOPS files: yaml, json, env, ini and binary, all read into the same shape.

In: the bytes of an encrypted file. Out: `Source`, its documents without their `sops` block, and the block. CRLF line ends
and a byte order mark are accepted. A second `sops` block, like any other repeated key, is refused. Not done: writing
(`emit.py`), and YAML as manifests have it, with positions (another room reads those and calls `document.decrypt_tree`).
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.finding import Code

Format = Literal["yaml", "json", "env", "binary", "ini"]
BLOCK = "sops"
ENV_PREFIX = "sops_"
_BY_SUFFIX: dict[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".env": "env", ".ini": "ini"}
_STEP = re.compile(r"__(map|list)_")
_LARGEST_EXACT = 2**53
_MOST_LIST_ITEMS = 1000


@dataclass(frozen=True, slots=True)
class Source:
    """The documents (one, but for YAML) without their `sops` keys, and the block that they all bear; None if not encrypted."""

    documents: tuple[dict[str, Any], ...]
    block: Any


def format_of(path: PurePath) -> Format:
    """By the file's name, as SOPS does it: what is not known by its suffix is binary."""
    return "env" if path.name == ".env" else _BY_SUFFIX.get(path.suffix.lower(), "binary")


def read(content: bytes, fmt: Format) -> Source:
    """Read a file. Raises `SopsError` with the place and the reason."""
    if fmt not in get_args(Format):
        raise ValueError(f"unknown format {fmt!r}")
    text = decoded(content)
    if fmt == "yaml":
        return _yaml(text)
    tree = {"env": _env, "ini": read_ini}.get(fmt, read_json)(text)
    block = tree.pop(BLOCK, None)
    return Source((tree,), block if fmt in ("json", "binary") or block is None else _unflattened(block))


def decoded(content: bytes) -> str:
    """UTF-8 text without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise SopsError(Code.FILE_BINARY, "the file is not UTF-8 text", "encrypt it as binary, or convert it to UTF-8")


def read_json(text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text, object_pairs_hook=_unique, parse_int=_number, parse_constant=_constant)
        json.dumps(tree, ensure_ascii=False).encode()
    except json.JSONDecodeError as cause:
        problem = f"line {cause.lineno}: {cause.msg}"
    except (UnicodeEncodeError, RecursionError):
        problem = "the file holds half a surrogate pair, or nests too deeply"
    else:
        if isinstance(tree, dict):
            return tree
        problem = "the top is not an object"
    raise SopsError(Code.SOPS_MALFORMED, problem)


def env_lines(text: str) -> list[tuple[str, str]]:
    """Key and value of each line; a comment has the key `#`. Line ends inside values are written as \\n."""
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [_env_line(line, number) for number, line in enumerate(lines, 1) if line]


def _yaml(text: str) -> Source:
    documents = read_documents(text)
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise SopsError(Code.SOPS_MALFORMED, "the top of the file is not a mapping")
    blocks = [document.get(BLOCK) for document in documents]
    if any(block != blocks[0] for block in blocks):
        message = "the documents of the file bear different sops blocks"
        raise SopsError(Code.SOPS_MALFORMED, message, "put each into a file of its own")
    return Source(tuple(_without_block(document) for document in documents), blocks[0])


def _without_block(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != BLOCK}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise SopsError(Code.YAML_DUPLICATE_KEY, f"the key {twice!r} stands twice")
    return tree


def _number(text: str) -> int | float:
    """SOPS reads every JSON number as a 64-bit float; what that holds exactly stays an integer here."""
    if len(text) > 400:
        raise SopsError(Code.SOPS_MALFORMED, "a number is too long", "put it in quotes")
    number = int(text)
    return number if abs(number) <= _LARGEST_EXACT and text != "-0" else float(text)


def _constant(_: str) -> Any:
    raise SopsError(Code.SOPS_MALFORMED, "NaN and Infinity are not JSON", "put them in quotes")


def _env(text: str) -> dict[str, Any]:
    values: dict[str, str] = {}
    block: dict[str, str] = {}
    for key, value in env_lines(text):
        into = block if key.startswith(ENV_PREFIX) else values
        if key == "#":
            continue
        if key in into:
            raise SopsError(Code.YAML_DUPLICATE_KEY, f"the key {key!r} stands twice")
        into[key] = value
    flat = {key.removeprefix(ENV_PREFIX): value for key, value in block.items()}
    return {**values, BLOCK: flat} if flat else values


def _env_line(line: str, number: int) -> tuple[str, str]:
    if line.startswith("#"):
        return "#", line[1:]
    key, equals, value = line.partition("=")
    if not equals:
        raise SopsError(Code.SOPS_MALFORMED, f"line {number}: neither KEY=value nor a # comment")
    return key, value.replace("\\n", "\n")


def read_ini(text: str) -> dict[str, Any]:
    """Sections of keys; values may run over lines between triple quotes."""
    tree: dict[str, Any] = {}
    section = tree.setdefault("DEFAULT", {})
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            name = stripped[1:-1].strip()
            if name in tree and name != "DEFAULT":
                raise SopsError(Code.YAML_DUPLICATE_KEY, f"line {number}: the section [{name}] stands twice")
            section = tree.setdefault(name, {})
        elif stripped and stripped[0] not in "#;":
            key, value = _ini_pair(stripped, number)
            while value.startswith('"""') and (len(value) < 6 or not value.endswith('"""')):
                value += "\n" + next(lines, (0, '"""'))[1]
            if key in section:
                raise SopsError(Code.YAML_DUPLICATE_KEY, f"line {number}: the key {key!r} stands twice")
            section[key] = value[3:-3] if value.startswith('"""') else value
    return tree if tree["DEFAULT"] else {name: keys for name, keys in tree.items() if name != "DEFAULT"}


def _ini_pair(line: str, number: int) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not equals:
        raise SopsError(Code.SOPS_MALFORMED, f"line {number}: neither key = value nor a [section]")
    return key.strip(), value.strip()


def _unflattened(flat: Mapping[str, str]) -> dict[str, Any]:
    """`age__list_0__map_enc` and its like back into lists and mappings."""
    block: dict[str, Any] = {}
    for key in sorted(flat, key=lambda name: [(len(part), part) for part in name.split("__")]):
        head, *steps = _STEP.split(key)
        node: Any = block
        place: Any = head
        for kind, name in zip(steps[::2], steps[1::2], strict=True):
            node = _child(node, place, [] if kind == "list" else {})
            place = _index(name) if kind == "list" else name
        _child(node, place, flat[key].replace("\\n", "\n"))
    return {key: _typed(key, value) for key, value in block.items()}


def _typed(key: str, value: Any) -> Any:
    """Flat fields are text; these two are none in the other formats."""
    if key == "shamir_threshold" and isinstance(value, str) and re.fullmatch("[0-9]{1,3}", value):
        return int(value)
    return value == "true" if key == "mac_only_encrypted" else value


def _child(node: Any, place: Any, fresh: Any) -> Any:
    """The value at `place`, put there if there is none."""
    if isinstance(node, list) and isinstance(place, int) and place == len(node):
        node.append(fresh)
    elif isinstance(node, dict) and isinstance(place, str):
        node.setdefault(place, fresh)
    elif not (isinstance(node, list) and isinstance(place, int) and place < len(node)):
        raise SopsError(Code.SOPS_MALFORMED, "the flat sops keys do not form lists and mappings")
    return node[place]


def _index(name: str) -> int:
    if not name.isdecimal() or len(name) > 4 or int(name) > _MOST_LIST_ITEMS:
        raise SopsError(Code.SOPS_MALFORMED, "a flat sops key has a wrong list position")
    return int(name)
