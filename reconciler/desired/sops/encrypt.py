"""Clear files to SOPS files: what the `secrets` command does, without touching a disk.

In: the bytes of a file, its format, and a `Sealing` (recipients, rules, the time, randomness). Out: the bytes of the SOPS
file. YAML keeps its comments, order and layout; comments where values are encrypted are encrypted too, as SOPS does,
because they say what the values are. Every file that leaves here has been read back and compared. `rotate` is decrypting
and encrypting again: a new data key, today's recipients.
Not done: writing ini, key sources other than age, rules by comment; those raise `SopsError` and are for sops itself.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.desired.sops import emit
from reconciler.desired.sops.cipher import KEY_BYTES, Entropy, ValueCipher
from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import BLOCK, ENV_PREFIX, Format, decoded, env_lines, read, read_json
from reconciler.desired.sops.keys import Keyring, wrap
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.metadata import AgeRecipient, parse_metadata
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.tree import Leaf, MacDigest, leaves, mapped, open_trees, revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.desired.sops.yaml_text import Comment, Edit, Layout, Spot, comments, edited, layout
from reconciler.model.finding import Code


@dataclass(frozen=True, slots=True)
class Sealing:
    """How a file is encrypted. `random` gives the data key and the nonces."""

    recipients: tuple[str, ...]
    rules: Rules
    at: datetime
    random: Entropy = os.urandom


def encrypt(content: bytes, fmt: Format, sealing: Sealing) -> bytes:
    """Encrypt a clear file. Raises `SopsError` for one that is encrypted already, and where nothing would be encrypted."""
    if not sealing.recipients:
        remedy = "give --age RECIPIENT, or a creation rule with age recipients in .sops.yaml"
        raise SopsError(Code.SOPS_KEY_MISSING, "nobody to encrypt to: no age recipient is named", remedy)
    writer = _Writer(sealing, fmt)
    written = {"yaml": writer.yaml, "json": writer.json, "binary": writer.binary, "env": writer.env}.get(
        fmt, _unwritable
    )
    return written(content)


def rotate(content: bytes, fmt: Format, keyring: Keyring, recipients: Sequence[str], sealing: Sealing) -> bytes:
    """The same file under a new data key, with its own rules. Without `recipients` its present ones are kept."""
    block = read(content, fmt).block
    if block is None:
        raise SopsError(Code.SOPS_MALFORMED, "there is no sops block", "encrypt the file first")
    metadata = parse_metadata(block)
    if not recipients and (metadata.other_sources or metadata.shares or metadata.unknown_sources):
        message = "the file has recipients other than age, which would be lost"
        raise SopsError(
            Code.SOPS_PROGRAM_MISSING, message, "run sops rotate -i FILE, or name age recipients in .sops.yaml"
        )
    if metadata.rules.kind == "comment_regex":
        raise SopsError(Code.SOPS_MALFORMED, "rules by comment cannot be written", "run sops rotate -i FILE")
    named = tuple(recipients) or tuple(one.recipient for one in metadata.age)
    clear = clear_text(content, fmt, keyring)
    return encrypt(clear, fmt, Sealing(named, metadata.rules, sealing.at, sealing.random))


class _Writer:
    """One file being encrypted: its data key, cipher and running MAC."""

    def __init__(self, sealing: Sealing, fmt: Format) -> None:
        data_key = sealing.random(KEY_BYTES)
        self._sealing = sealing
        self._rules = sealing.rules
        self._number_kind = "float" if fmt == "json" else None
        self._cipher = ValueCipher(data_key)
        self._digest = MacDigest(sealing.rules)
        self._sealed_count = 0
        self._age = [AgeRecipient(recipient, wrap(data_key, recipient)) for recipient in sealing.recipients]

    def yaml(self, content: bytes) -> bytes:
        text = decoded(content)
        documents = read_documents(text)
        for document in documents or [None]:
            _check_clear(document)
        spots = layout(text)
        if spots.notes:
            raise _already()
        flat = [leaf for document in documents for leaf in leaves(document, self._rules)]
        edits = [edit for spot, leaf in zip(spots.values, flat, strict=True) for edit in self._edit(spot, leaf)]
        edits += self._comment_edits(comments(text, spots.spots))
        edits += self._blocks(text, spots)
        return self._verified(edited(text, edits).encode(), "yaml", documents)

    def json(self, content: bytes) -> bytes:
        text = decoded(content)
        tree = read_json(text)
        _check_clear(tree)
        sealed = mapped(tree, self._rules, lambda value, aad, matched: self._replaced(Leaf(value, aad, matched)))
        return self._verified(self._json_file(sealed, text), "json", [tree])

    def binary(self, content: bytes) -> bytes:
        if looks_encrypted(_binary_value(content)):
            raise _already()
        self._digest.add(content, encrypted=True)
        self._sealed_count = 1
        sealed = self._cipher.seal(content, "data:", self._sealing.random, "str") if content else ""
        return self._json_file({"data": sealed}, "")

    def env(self, content: bytes) -> bytes:
        lines = env_lines(decoded(content))
        if any(key.startswith(ENV_PREFIX) for key, _ in lines):
            raise _already()
        written = [self._env_line(key, value) for key, value in lines]
        text = "\n".join((*written, *emit.env_block(self._fields()))) + "\n"
        return self._verified(text.encode(), "env", [{key: value for key, value in lines if key != "#"}])

    def _edit(self, spot: Spot, leaf: Leaf) -> list[Edit]:
        if spot.ambiguous:
            message = f"line {spot.line}: YAML 1.2 and SOPS programs read this unquoted value differently"
            raise SopsError(Code.INVALID_VALUE, message, "put it in quotes")
        value = self._replaced(leaf)
        if value is leaf.value:
            return []
        return [Edit(spot.start, spot.end, f'"{value}"' if spot.flow else str(value))]

    def _replaced(self, leaf: Leaf) -> Any:
        """The ciphertext for a leaf, or its own value where that stays in clear."""
        if leaf.value is None:
            return None
        if looks_encrypted(leaf.value):
            raise _already()
        encrypted = self._rules.encrypts(matched=leaf.matched, value=leaf.value)
        self._digest.add(leaf.value, encrypted=encrypted)
        if not encrypted or leaf.value == "":
            return leaf.value
        self._sealed_count += 1
        is_number = isinstance(leaf.value, int | float) and not isinstance(leaf.value, bool)
        kind = self._number_kind if is_number else None
        return self._cipher.seal(leaf.value, leaf.aad, self._sealing.random, kind)

    def _comment_edits(self, found: Sequence[Comment]) -> list[Edit]:
        matches = self._rules.matcher()
        edits = []
        for one in found:
            matched = any(matches(key) for key in one.parents)
            if one.text.strip() and self._rules.encrypts(matched=matched, value=""):
                sealed = self._sealed_comment(one.text, one.parents)
                edits.append(Edit(one.start + 1, one.start + 1 + len(one.text), sealed))
        return edits

    def _sealed_comment(self, text: str, parents: Sequence[str]) -> str:
        return self._cipher.seal(text, ":".join(parents) + ":", self._sealing.random, "comment")

    def _env_line(self, key: str, value: str) -> str:
        if key == "#":
            seals = value.strip() and self._rules.encrypts(matched=False, value="")
            return f"#{self._sealed_comment(value, ()) if seals else value}"
        sealed = self._replaced(Leaf(value, f"{key}:", self._rules.matcher()(key)))
        return f"{key}={sealed}".replace("\n", "\\n")

    def _blocks(self, text: str, spots: Layout) -> list[Edit]:
        newline = "\r\n" if "\r\n" in text else "\n"
        block = emit.yaml_block(self._fields()).replace("\n", newline)
        return [Edit(end, end, ("" if text[:end].endswith("\n") else newline) + block) for end in spots.ends]

    def _fields(self) -> dict[str, Any]:
        if not self._sealed_count:
            message = f"nothing would be encrypted: no value matches {self._rules.kind} {self._rules.text}"
            raise SopsError(
                Code.SOPS_CLEAR_VALUE, message, "give the rule of this file in .sops.yaml another encrypted_regex"
            )
        at = emit.timestamp(self._sealing.at)
        mac = self._cipher.seal(self._digest.hexdigest(), at, self._sealing.random)
        return emit.block_fields(self._age, at, mac, self._rules)

    def _json_file(self, tree: Mapping[str, Any], like: str) -> bytes:
        return emit.json_text({**tree, BLOCK: self._fields()}, like)

    def _verified(self, written: bytes, fmt: Format, expected: Sequence[Any]) -> bytes:
        """Read the result back: a slip in placing text must never reach a file."""
        source = read(written, fmt)
        metadata = parse_metadata(source.block)
        trees = open_trees(source.documents, metadata.rules, self._cipher, metadata.mac, metadata.last_modified)
        found, wanted = revealed(trees), list(expected)
        if found != wanted and repr(found) != repr(wanted):
            message = "the file cannot be encrypted without changing its layout: reading it back gave other values"
            raise SopsError(Code.SOPS_MALFORMED, message, "write it in plain key: value lines")
        return written


def _unwritable(_: bytes) -> bytes:
    message = "ini files are read, not written"
    raise SopsError(Code.SOPS_MALFORMED, message, "use yaml, json or env, or run sops itself")


def _check_clear(document: Any) -> None:
    if not isinstance(document, Mapping):
        raise SopsError(Code.SOPS_MALFORMED, "the top of the file is not a mapping")
    if BLOCK in document:
        raise _already()


def _already() -> SopsError:
    remedy = "use reconciler secrets rotate -i FILE, or decrypt it, edit it and encrypt it again"
    return SopsError(Code.SOPS_MALFORMED, "the file is encrypted already, or holds a value that is", remedy)


def _binary_value(content: bytes) -> Any:
    try:
        tree = json.loads(content)
    except ValueError:
        return None
    return tree.get("data") if isinstance(tree, dict) and BLOCK in tree else None
