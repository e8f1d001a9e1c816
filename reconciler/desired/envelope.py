"""Which documents are ours, and what their envelope says: apiVersion, kind, metadata.

In: a parsed document. Out: its kind, or why it is none of ours although it looks like one. A folder of manifests may hold
other YAML too: documents of other API groups, SOPS files without a kind, and files without apiVersion and kind are left
alone. A document that was clearly meant for us is never left alone silently: a typing error must not look like a removal.
"""

import difflib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from reconciler.desired.problem import Problem, did_you_mean, dotted, shown
from reconciler.desired.unresolved import encrypted_paths, is_encrypted
from reconciler.model.finding import Code
from reconciler.model.ids import DNS_LABEL
from reconciler.model.manifest import API_VERSION

_GROUP = "reconciler.dev/"
_REMEDY = "encrypt auth and config only: encrypted_regex: ^(auth|config)$ in .sops.yaml"


class Kind(StrEnum):
    INTEGRATION = "Integration"
    WORKSPACE = "Workspace"
    FOREIGN = "foreign"
    BROKEN = "broken"


class Identity(NamedTuple):
    """Empty where it cannot be read."""

    name: str
    workspace: str


def kind_of(tree: Any) -> tuple[Kind, tuple[Problem, ...]]:
    """What a document is; with problems only where it is broken."""
    if isinstance(tree, list):
        if any(isinstance(item, dict) and _is_ours(item) for item in tree):
            return _broken(
                (), Code.UNKNOWN_KIND, "a list of manifests", "write each as a document of its own, with --- between"
            )
        return Kind.FOREIGN, ()
    if not isinstance(tree, dict):
        return Kind.FOREIGN, ()
    if is_encrypted(tree.get("apiVersion")) or is_encrypted(tree.get("kind")):
        return Kind.BROKEN, tuple(encrypted_envelope(tree))
    return _kind_of_mapping(tree)


def _kind_of_mapping(tree: dict[str, Any]) -> tuple[Kind, tuple[Problem, ...]]:
    api, kind = tree.get("apiVersion"), tree.get("kind")
    if not _is_ours(tree):
        return Kind.FOREIGN, ()
    if api is None:
        return _broken(("apiVersion",), Code.MISSING_FIELD, "apiVersion is missing", f"apiVersion: {API_VERSION}")
    if api != API_VERSION:
        message = f"there is no apiVersion {shown(api)}"
        return _broken(("apiVersion",), Code.UNKNOWN_KIND, message, f"did you mean {API_VERSION}?")
    if kind is None:
        return _broken(("kind",), Code.MISSING_FIELD, "kind is missing", "kind: Integration or kind: Workspace")
    if kind not in (Kind.INTEGRATION, Kind.WORKSPACE):
        remedy = did_you_mean(kind, (Kind.INTEGRATION, Kind.WORKSPACE))
        return _broken(("kind",), Code.UNKNOWN_KIND, f"there is no kind {shown(kind)}", remedy)
    return Kind(kind), ()


def _broken(path: tuple[str, ...], code: Code, message: str, remedy: str) -> tuple[Kind, tuple[Problem, ...]]:
    return Kind.BROKEN, (Problem(path, code, message, remedy),)


def _is_ours(tree: Mapping[str, Any]) -> bool:
    api, kind = tree.get("apiVersion"), tree.get("kind")
    if isinstance(api, str):
        return api.startswith(_GROUP) or bool(difflib.get_close_matches(api, [API_VERSION], cutoff=0.8))
    if api is not None:
        return False
    spec = tree.get("spec")
    looks_alike = isinstance(spec, dict) and "type" in spec and isinstance(tree.get("metadata"), dict)
    return kind in (Kind.INTEGRATION, Kind.WORKSPACE) or (kind is None and looks_alike)


def identity(tree: Any) -> Identity:
    """Name and workspace, as far as they can be read."""
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    if not isinstance(metadata, dict):
        return Identity("", "")
    name, workspace = metadata.get("name"), metadata.get("workspace", "default")
    return Identity(_label(name), _label(workspace))


def _label(value: object) -> str:
    return value if isinstance(value, str) and DNS_LABEL.fullmatch(value) else ""


def encrypted_envelope(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """What must be readable without a key, and is not. `spec.type` is found with the rest of `spec`."""
    for part in ("apiVersion", "kind", "metadata"):
        for path in encrypted_paths(tree.get(part), (part,)):
            message = f"{dotted(path)} is encrypted; without it nobody can tell what this document is"
            yield Problem(path, Code.ENCRYPTED_ENVELOPE, message, _REMEDY)
