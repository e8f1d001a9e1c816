"""Spec trees as text: how a tree with unresolved secrets is stored, hashed and flattened for comparison."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler.model.secret import Unresolved

SECRET_KEY = "$secret"


def encode_tree(tree: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted, compact, an unresolved secret as `{"$secret": digest}`."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_encode)


def _encode(value: Any) -> Any:
    if isinstance(value, Unresolved):
        return {SECRET_KEY: value.digest}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not a tree value: {type(value).__name__}")


def decode_tree(text: str) -> dict[str, Any]:
    """The inverse of `encode_tree`; where a secret came from is not kept, only that it changed or not."""
    return dict(json.loads(text, object_hook=_decode))


def _decode(value: dict[str, Any]) -> Any:
    return Unresolved("encrypted", value[SECRET_KEY]) if value.keys() == {SECRET_KEY} else value


def tree_hash(tree: Mapping[str, Any]) -> str:
    """Hex SHA-256 of the canonical JSON: the source hash of a spec."""
    return hashlib.sha256(encode_tree(tree).encode()).hexdigest()


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every leaf. Members of a list of named objects go by name, so a reorder is no change."""
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    elif _is_named(tree):
        for value in tree:
            yield from leaves(value, f"{path}[{value['name']}]")
    else:
        yield path, tree


def _is_named(tree: Any) -> bool:
    return isinstance(tree, list | tuple) and bool(tree) and all(isinstance(v, Mapping) and "name" in v for v in tree)


def json_pointer(path: Iterable[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
