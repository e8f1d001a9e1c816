"""Ciphertext and references in a manifest become `Unresolved`, so that everything else is checked without a key.

In: the tree of `spec` as parsed. Out: a copy in which each `ENC[...]` and each `{from_sops|from_env|from_file: ...}` under
`auth` and `config` is an `Unresolved`, and the problems of malformed references. Also the hash of such a tree. Called by
`manifests`; `resolve` later puts clear values in their place. Nothing is decrypted or read here.
"""

import hashlib
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean, dotted
from reconciler.desired.yaml_source import CIPHERTEXT
from reconciler.model.finding import Code
from reconciler.model.secret import Unresolved

REFERENCES = frozenset({"from_sops", "from_env", "from_file"})
MAY_HOLD_SECRETS = ("auth", "config")
_OPENING = CIPHERTEXT.partition("[")[0] + "["
_BYTES = r"(?:[A-Za-z0-9+/]{4})"
_WHOLE = re.compile(  # a nonce of 32 bytes, a tag of 16
    rf"ENC\[AES256_GCM,data:{_BYTES}*[A-Za-z0-9+/]{{2}}[A-Za-z0-9+/=]{{2}},iv:{_BYTES}{{10}}[A-Za-z0-9+/]{{3}}=,"
    rf"tag:{_BYTES}{{5}}[A-Za-z0-9+/]{{2}}==,type:[a-z]+\]"
)
Reference = Literal["from_sops", "from_env", "from_file"]
BlobOf = Callable[[str], str | None]


@dataclass(slots=True)
class Marked:
    """`reads` are the files of the source that references name: a change of one changes the digests."""

    tree: Any = None
    problems: list[Problem] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    holds_ciphertext: bool = False


def is_encrypted(value: object) -> bool:
    return isinstance(value, str) and value.startswith(CIPHERTEXT)


def mark_secrets(
    spec: Mapping[str, Any], manifest_path: str, blob_of: BlobOf, *, may_hold_ciphertext: bool = True
) -> Marked:
    """`spec` with `Unresolved` leaves. `blob_of` gives the blob id of a file in this revision."""
    marker = _Marker(manifest_path, blob_of, may_hold_ciphertext)
    tree = {}
    for key, value in spec.items():
        path: Path = ("spec", key)
        tree[key] = marker.marked(value, path) if key in MAY_HOLD_SECRETS else marker.refused(value, path)
        if isinstance(tree[key], Unresolved):
            marker.wrong(
                path, f"spec.{key} must be a mapping, not one value", "encrypt or refer to the values below it"
            )
    marker.found.tree = tree
    return marker.found


@dataclass(slots=True)
class _Marker:
    manifest_path: str
    blob_of: BlobOf
    may_hold_ciphertext: bool
    found: Marked = field(default_factory=Marked)

    def marked(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            if len(value) == 1 and (kind := next(iter(value))) in REFERENCES:
                return self.reference(cast("Reference", kind), value[kind], path)
            return {key: self.marked(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.marked(item, (*path, index)) for index, item in enumerate(value)]
        if not (isinstance(value, str) and value.startswith(_OPENING)):
            return value
        self.found.holds_ciphertext |= is_encrypted(value)
        if _WHOLE.fullmatch(value) is None:
            remedy = "copy the whole value once more, or take the file back from Git as it was"
            self.wrong(
                path, f"{dotted(path)} is only a part of an encrypted value: it was cut", remedy, Code.SOPS_MALFORMED
            )
        return Unresolved("encrypted", _digest(value))

    def refused(self, value: Any, path: Path) -> Any:
        if not self.may_hold_ciphertext:
            return value
        for where in encrypted_paths(value, path):
            self.found.problems.append(
                Problem(
                    where,
                    Code.ENCRYPTED_ENVELOPE,
                    f"{dotted(where)} is encrypted; only auth and config may be, the rest must be readable without a key",
                    "set encrypted_regex: ^(auth|config)$ in .sops.yaml and encrypt the file again",
                )
            )
        return value

    def reference(self, kind: Reference, value: Any, path: Path) -> Any:
        if kind == "from_sops":
            return self.from_sops(value, path)
        if not isinstance(value, str) or not value:
            example = "{from_env: NAME}" if kind == "from_env" else "{from_file: name}"
            self.wrong(path, f"{dotted(path)}: {kind} takes one name", f"write {example}")
            return Unresolved(kind, "")
        return Unresolved(
            kind,
            _digest(f"{kind}:{value}"),
            key=value if kind == "from_env" else "",
            file=value if kind == "from_file" else "",
        )

    def from_sops(self, value: Any, path: Path) -> Unresolved:
        fields = value if isinstance(value, dict) else {}
        file, key = fields.get("file"), fields.get("key")
        for extra in fields.keys() - {"file", "key"}:
            remedy = did_you_mean(extra, ("file", "key"))
            self.wrong((*path, "from_sops", extra), f"unknown field {extra} in from_sops", remedy, Code.UNKNOWN_FIELD)
        if not (isinstance(file, str) and file and isinstance(key, str) and key):
            self.wrong(
                path,
                f"{dotted(path)}: from_sops needs file and key",
                "write {from_sops: {file: secrets.yaml, key: a.b}}",
            )
            return Unresolved("from_sops", "")
        target = secret_path(self.manifest_path, file)
        blob = self.blob_of(target) if target else None
        if target is None:
            self.wrong(
                (*path, "from_sops", "file"),
                f"{file} lies outside the source",
                "name a file beside the manifests",
                Code.NOT_PERMITTED,
            )
        elif blob is None:
            self.wrong(
                (*path, "from_sops", "file"),
                f"there is no file {target} in this revision",
                "the path is relative to the manifest",
                Code.SECRET_MISSING,
            )
        self.found.reads += [target] if target else []
        return Unresolved("from_sops", _digest(f"from_sops:{blob}:{key}"), file=target or "", key=key)

    def wrong(self, path: Path, message: str, remedy: str, code: Code = Code.INVALID_VALUE) -> None:
        self.found.problems.append(Problem(path, code, message, remedy))


def secret_path(manifest_path: str, file: str) -> str | None:
    """Where a `from_sops` file lies in the source, None if outside it."""
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(manifest_path), file))
    outside = posixpath.isabs(file) or joined.startswith("..") or "\\" in file or "\0" in file
    return None if outside else joined


def encrypted_paths(value: Any, path: Path) -> Iterator[Path]:
    """Where ciphertext stands in a tree."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from encrypted_paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from encrypted_paths(item, (*path, index))
    elif is_encrypted(value):
        yield path


def unresolved_paths(value: Any, path: Path = ()) -> Iterator[tuple[Path, Unresolved]]:
    """Where `Unresolved` stands in a tree."""
    if isinstance(value, Unresolved):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from unresolved_paths(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from unresolved_paths(item, (*path, index))


_CANONICAL = msgspec.json.Encoder(order="sorted")


def replaced(node: Any, change: Callable[[Unresolved], Any]) -> Any:
    """The tree with something else in place of every `Unresolved`; branches without one are not copied."""
    if isinstance(node, Unresolved):
        return change(node)
    if isinstance(node, Mapping):
        items = {key: replaced(item, change) for key, item in node.items()}
        return items if any(items[key] is not item for key, item in node.items()) else node
    if isinstance(node, list):
        listed = [replaced(item, change) for item in node]
        return listed if any(new is not old for new, old in zip(listed, node, strict=True)) else node
    return node


def source_hash(tree: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of a tree; a secret counts as the digest of what is written in Git."""
    # Only these may hold secrets; msgspec would write an `Unresolved` as the dataclass it is, and never ask.
    plain = {key: replaced(value, _plain) if key in MAY_HOLD_SECRETS else value for key, value in tree.items()}
    return hashlib.sha256(_CANONICAL.encode(plain)).hexdigest()


def _plain(secret: Unresolved) -> dict[str, str]:
    return {"$secret": secret.digest}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def ciphertext_digest(value: object) -> str:
    """The digest that `mark_secrets` gives to this ciphertext; empty for anything else."""
    return _digest(value) if isinstance(value, str) and is_encrypted(value) else ""
