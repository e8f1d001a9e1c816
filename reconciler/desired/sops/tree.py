"""The tree rules of SOPS: what each value is authenticated with, and the MAC over the whole file.

In: plain ordered trees (mappings, lists, scalars) without their `sops` key, the file's rules and its data key. Out: the
same trees decrypted, once the MAC agrees. A value's associated data is the keys of its path, each followed by ":";
positions in lists are no part of it. The MAC is SHA-512 over every scalar in order of the file (clear ones too, unless
`mac_only_encrypted`); nulls, empty containers and comments are not in it.

Encrypted text becomes `Secret`; encrypted numbers and booleans become plain values, because schemas need their types and
nobody keeps a credential in them. Empty text is never encrypted. Comments do not exist here: they are no part of the MAC.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.desired.sops.cipher import Scalar, ValueCipher, plain_bytes
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.rules import Rules
from reconciler.model.finding import Code
from reconciler.model.secret import Secret

DEEPEST = 64
# SHA-256 of "sops": keeps a MAC over encrypted values only from ever passing as one over all values.
_MAC_ONLY_ENCRYPTED = hashlib.sha256(b"sops").digest()
_MISMATCH_REMEDY = (
    "restore the file from Git or encrypt it again; unquoted clear values such as 2024-01-01, 0777 or 1_000 are read "
    "differently by other SOPS programs, so quote them"
)
Step = Callable[[Any, str, bool], Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A scalar on its way through the walk: `aad` is its path, `matched` whether a key on it matched the rules."""

    value: Any
    aad: str
    matched: bool


class MacDigest:
    """The running MAC of one file."""

    def __init__(self, rules: Rules) -> None:
        self._hash = hashlib.sha512(_MAC_ONLY_ENCRYPTED if rules.mac_only_encrypted else b"")
        self._all = not rules.mac_only_encrypted

    def add(self, value: Scalar | bytes, *, encrypted: bool) -> None:
        if encrypted or self._all:
            self._hash.update(plain_bytes(value))

    def hexdigest(self) -> str:
        return self._hash.hexdigest().upper()


def open_trees(
    trees: Sequence[Mapping[str, Any]], rules: Rules, cipher: ValueCipher, mac: str, last_modified: str
) -> list[dict[str, Any]]:
    """Decrypt all documents of one file. Raises `SopsError` unless every value and the MAC agree."""
    opened, digest = opened_and_digest(trees, rules, cipher)
    check_mac(digest, cipher, mac, last_modified)
    return opened


def opened_and_digest(
    trees: Sequence[Mapping[str, Any]], rules: Rules, cipher: ValueCipher
) -> tuple[list[dict[str, Any]], MacDigest]:
    """The decrypted documents with the MAC that they should bear: for whoever writes a new one."""
    digest = MacDigest(rules)

    def step(value: Any, aad: str, matched: bool) -> Any:
        return _open_leaf(value, aad, rules.encrypts(matched=matched, value=value), cipher, digest)

    return [mapped(tree, rules, step) for tree in trees], digest


def check_mac(digest: MacDigest, cipher: ValueCipher, mac: str, last_modified: str) -> None:
    expected = open_mac(cipher, mac, last_modified)
    if not hmac.compare_digest(expected.encode(), digest.hexdigest().encode()):
        raise SopsError(
            Code.SOPS_MAC_MISMATCH,
            "the MAC does not match: a value was changed, added, removed or moved after the file was encrypted",
            _MISMATCH_REMEDY,
        )


def open_mac(cipher: ValueCipher, mac: str, last_modified: str) -> str:
    """The MAC in clear. It is authenticated with `lastmodified`, so a changed time of change is found here."""
    try:
        return str(cipher.open(mac, last_modified))
    except SopsError as cause:
        if cause.code is Code.SOPS_MALFORMED:
            raise SopsError(cause.code, "sops.mac is malformed", "encrypt the file again") from None
        message = "sops.mac fails authentication: sops.mac or sops.lastmodified was changed"
        raise SopsError(cause.code, message, _MISMATCH_REMEDY) from None


def mapped(tree: Mapping[str, Any], rules: Rules, step: Step) -> dict[str, Any]:
    """A copy of the tree with `step(value, aad, matched)` in place of every scalar, in order of the file."""
    matches = rules.matcher()

    def branch(node: Mapping[str, Any], aad: str, matched: bool, depth: int) -> dict[str, Any]:
        if depth > DEEPEST:
            raise SopsError(Code.YAML_LIMIT, f"the document nests deeper than {DEEPEST} levels")
        copied = {}
        for key, value in node.items():
            if not isinstance(key, str):
                raise SopsError(Code.SOPS_MALFORMED, f"the key {key!r} is not text", "put it in quotes")
            copied[key] = descend(value, f"{aad}{key}:", matched or matches(key), depth)
        return copied

    def descend(value: Any, aad: str, matched: bool, depth: int) -> Any:
        if isinstance(value, Mapping):
            return branch(value, aad, matched, depth + 1)
        if isinstance(value, list | tuple):
            if depth > DEEPEST:
                raise SopsError(Code.YAML_LIMIT, f"the document nests deeper than {DEEPEST} levels")
            return [descend(item, aad, matched, depth + 1) for item in value]
        return step(value, aad, matched)

    return branch(tree, "", False, 1)


def leaves(tree: Mapping[str, Any], rules: Rules) -> Iterator[Leaf]:
    """Every scalar in order of the file, nulls too."""
    found: list[Leaf] = []
    mapped(tree, rules, lambda value, aad, matched: found.append(Leaf(value, aad, matched)))
    return iter(found)


def revealed(tree: Any) -> Any:
    """A copy with every `Secret` in clear. Only for where the clear text is what a person asked for, or must be typed."""
    if isinstance(tree, Secret):
        return tree.reveal()
    if isinstance(tree, Mapping):
        return {key: revealed(value) for key, value in tree.items()}
    return [revealed(item) for item in tree] if isinstance(tree, list) else tree


def _open_leaf(value: Any, aad: str, encrypted: bool, cipher: ValueCipher, digest: MacDigest) -> Any:
    if value is None:
        return None
    if not encrypted:
        _refuse_stray(value, aad)
        digest.add(value, encrypted=False)
        return value
    if value == "":
        return ""
    if not looks_encrypted(value):
        raise SopsError(
            Code.SOPS_CLEAR_VALUE,
            f"the value at {_place(aad)} stands in clear where the file's rules ask for encryption",
            "encrypt the file again: reconciler secrets decrypt -i, then encrypt -i; and replace the value if it was real",
        )
    plain = cipher.open(value, aad)
    digest.add(plain, encrypted=True)
    return Secret(plain) if isinstance(plain, str) and plain else plain


def _refuse_stray(value: Any, aad: str) -> None:
    if looks_encrypted(value):
        raise SopsError(
            Code.SOPS_MALFORMED,
            f"the value at {_place(aad)} is encrypted where the file's rules leave values in clear",
            "values cannot be copied between files or keys: write the clear value and encrypt the file",
        )


def _place(aad: str) -> str:
    return aad.removesuffix(":").replace(":", ".")
