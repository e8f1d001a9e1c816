"""Where a manifest stands in a checked revision, and what it says there.

In: `Validated` and a name. Out: `Standing`: file, document, tree, and a tag that changes exactly when what it says changes.
Called by `edits`, and by whoever shows a manifest or asks for a change under the condition that it is still the same.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.desired.connector_checks import AnyConnector, Registry, auth_spellings, matching
from reconciler.desired.positions import Path
from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.validate import Validated
from reconciler.desired.wording import secret_fields
from reconciler.desired.writing.operations import canonical
from reconciler.desired.writing.terms import WriteError, WriteFault
from reconciler.desired.yaml_source import read_yaml
from reconciler.model.ids import Ref
from reconciler.model.secret import MASK
from reconciler.sdk.registry import UnknownTypeError


@dataclass(frozen=True, slots=True)
class Standing:
    """`tree` is the document as it is written, its `sops` block included; never show it as it is."""

    ref: Ref
    file: str
    index: int
    tree: dict[str, Any] = field(repr=False)

    @property
    def tag(self) -> str:
        """Of what it says: another document of the file, a comment or a new MAC do not count."""
        said = {key: value for key, value in self.tree.items() if key != BLOCK}
        return hashlib.sha256(canonical(said).encode()).hexdigest()[:32]


def find_standing(validated: Validated, ref: Ref) -> Standing | None:
    """None where no document has the name. Raises WriteError where more than one has, or where that cannot be told."""
    claims = [claim for claim in validated.index.claims.get(ref, ()) if not claim.is_soft]
    if len(claims) > 1:
        places = ", ".join(f"{claim.file}:{claim.line}" for claim in claims)
        message = f"{ref} is defined more than once: {places}"
        raise WriteError(WriteFault.AMBIGUOUS, message, "keep one of them, by a commit")
    if not claims:
        if ref in validated.holding([ref]).held:
            message = f"a file that cannot be read may hold {ref}"
            raise WriteError(
                WriteFault.AMBIGUOUS, message, "mend the file, by a commit", findings=_unreadable(validated)
            )
        return None
    claim = claims[0]
    documents = read_yaml(validated.snapshot.read(claim.file)).documents
    return Standing(ref, claim.file, claim.document, documents[claim.document].tree)


def shown_manifest(standing: Standing, registry: Registry) -> dict[str, Any]:
    """The manifest as a caller may see it: without its `sops` block, and the mask in place of every secret."""
    tree = {key: value for key, value in standing.tree.items() if key != BLOCK}
    secrets = set(clear_secrets(tree, registry))
    return {key: _masked(value, (key,), secrets) for key, value in tree.items()}


def clear_secrets(tree: Mapping[str, Any], registry: Registry) -> Iterator[Path]:
    """Where the connector's settings have a secret and the tree has a value in clear: text or a number."""
    for pattern in sorted(_patterns(tree, registry)):
        for path, value in matching(tree, pattern):
            if isinstance(value, str | int | float) and not isinstance(value, bool) and not looks_encrypted(value):
                yield path


def secret_names(tree: Mapping[str, Any], registry: Registry) -> frozenset[str]:
    """The names of all fields that may hold a secret in this manifest, also of those that it does not have yet."""
    named = ([part for part in pattern if part != "*"] for pattern in _patterns(tree, registry))
    return frozenset(parts[-1] for parts in named)


def _patterns(tree: Mapping[str, Any], registry: Registry) -> set[tuple[str, ...]]:
    spec = tree.get("spec")
    connector = _connector(spec, registry) if isinstance(spec, dict) else None
    if connector is None or not isinstance(spec, dict):
        return set()
    auth = spec.get("auth")
    kind = auth.get("type") if isinstance(auth, dict) else None
    chosen = auth_spellings(connector).get(kind) if isinstance(kind, str) else None
    patterns = {("spec", "config", *path) for path in secret_fields(connector.Config)}
    for model in [chosen] if chosen else connector.auth_types:
        patterns |= {("spec", "auth", *path) for path in secret_fields(model)}
    return patterns


def _connector(spec: Mapping[str, Any], registry: Registry) -> AnyConnector | None:
    kind = spec.get("type")
    try:
        return registry.load(kind) if isinstance(kind, str) else None
    except (UnknownTypeError, ImportError):
        return None


def _masked(node: Any, path: Path, secrets: set[Path]) -> Any:
    if isinstance(node, dict):
        return {key: _masked(value, (*path, key), secrets) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(value, (*path, index), secrets) for index, value in enumerate(node)]
    return MASK if looks_encrypted(node) or path in secrets else node


def _unreadable(validated: Validated) -> list[Any]:
    return [finding for finding in validated.state.findings if finding.file in validated.partial]
