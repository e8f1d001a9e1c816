"""What of a manifest may be encrypted.

In: parsed documents and the rules a file is about to be encrypted with. Out: nothing, or a `SopsError`. `apiVersion`,
`kind`, `metadata` and `spec.type` stay in clear: without them nobody can tell whose file it is or plan it without keys. So
do references (`from_sops`, `from_env`, `from_file`): they are not secret and are checked before any key is used.

`MANIFEST_RULES` is what `encrypt` uses for a manifest when neither `.sops.yaml` nor the command line names a rule: the
fields that hold credentials by their name, so that a review still sees client ids, addresses and schedules.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.tree import leaves
from reconciler.model.finding import Code

_KINDS = frozenset({"Integration", "Workspace"})
_REFERENCES = frozenset({"from_sops", "from_env", "from_file"})
_SECRET_KEYS = "api|app|access|auth|integration|private|routing|secret|service|shared|signing"
MANIFEST_REGEX = f"^(.*_)?(password|passphrase|secret|token|webhook_url|({_SECRET_KEYS})_key)$"
MANIFEST_RULES = Rules("encrypted_regex", MANIFEST_REGEX)


def is_manifest(document: Mapping[str, Any]) -> bool:
    return "apiVersion" in document and document.get("kind") in _KINDS


def check_manifests(documents: Iterable[Mapping[str, Any]], rules: Rules) -> None:
    """Raise for the first value of a manifest's envelope, or of a reference, that the rules would encrypt."""
    for document in filter(is_manifest, documents):
        for leaf in leaves(document, rules):
            if leaf.value not in (None, "") and rules.encrypts(matched=leaf.matched, value=leaf.value):
                _check(leaf.aad.removesuffix(":").split(":"))


def _check(path: list[str]) -> None:
    if path[0] in ("apiVersion", "kind", "metadata") or path == ["spec", "type"]:
        raise SopsError(
            Code.ENCRYPTED_ENVELOPE,
            f"the rules would encrypt {'.'.join(path)}: apiVersion, kind, metadata and spec.type stay in clear",
            f"give the rule of this file in .sops.yaml encrypted_regex: '{MANIFEST_REGEX}', or ^auth$",
        )
    reference = next((step for step in path if step in _REFERENCES), None)
    if reference:
        raise SopsError(
            Code.INVALID_REFERENCE,
            f"the rules would encrypt the reference at {'.'.join(path)}: {reference} is no secret and is read without keys",
            "name only the fields that hold values in encrypted_regex, or write the value instead of the reference",
        )
