"""Whole SOPS documents, decrypted: the door of this package for the daemon.

`decrypt` takes the bytes of a `from_sops` file; `decrypt_tree` and `decrypt_documents` take manifests that were already
parsed, with their `sops` key in the tree. All three raise `SopsError` (a finding code, a message without values, a remedy)
or give back complete trees: nothing half-decrypted leaves here.

What becomes of values: encrypted text is a `Secret`; encrypted integers, floats and booleans are plain values of their
type; what stood in clear stays as it is, empty text and nulls too. So a wholly encrypted `auth` block comes back with
`type: Secret(...)`: a caller whose schema has plain text there calls `reveal()` (or `tree.revealed` for a whole branch).

A tree that was parsed elsewhere must come from the YAML 1.2 core schema. Unquoted clear values that Go reads differently
(0777, 1_000, 2024-01-01) then fail the MAC of a file that another program wrote; `encrypt` refuses to write such files.
Not done: caching (`cache.py`), files (`secrets` command), thread switching: the sops program may take seconds, call these
in a worker thread.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.desired.sops.cipher import ValueCipher
from reconciler.desired.sops.emit import json_for_yaml
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import BLOCK, Format, Source, read
from reconciler.desired.sops.keys import Keyring, unwrap
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.desired.sops.metadata import Metadata, parse_metadata
from reconciler.desired.sops.program import run_program
from reconciler.desired.sops.tree import MacDigest, check_mac, open_trees
from reconciler.model.finding import Code
from reconciler.model.secret import Secret

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decrypted:
    """A decrypted file. `binary` files hold their content under the key `data`, `ini` files one mapping a section."""

    tree: Tree = field(repr=False)
    recipients: tuple[str, ...]
    last_modified: str


@dataclass(frozen=True, slots=True)
class Opened:
    """An encrypted file with its clear trees. `data_key` is None where the sops program did the work."""

    source: Source
    metadata: Metadata
    trees: tuple[Tree, ...] = field(repr=False)
    data_key: bytes | None = field(repr=False)


def decrypt(content: bytes, fmt: Format, keyring: Keyring) -> Decrypted:
    """Decrypt a file of one document."""
    return _decrypted(open_file(content, fmt, keyring))


def decrypt_with_key(content: bytes, fmt: Format, data_key: bytes) -> Decrypted:
    """The same with a data key that somebody else opened."""
    source, metadata = _encrypted(content, fmt)
    trees = _open(source.documents, metadata, data_key)
    return _decrypted(Opened(source, metadata, tuple(trees), data_key))


def open_file(content: bytes, fmt: Format, keyring: Keyring) -> Opened:
    """Decrypt a file of one or, in YAML, more documents."""
    source, metadata = _encrypted(content, fmt)
    data_key = _opened_key(metadata, keyring)
    if data_key is None:
        tree = _single(source)
        # YAML goes as it is, because rules may speak of its comments.
        given = content if fmt == "yaml" else _as_yaml(tree, source.block)
        return Opened(source, metadata, (_by_program(tree, given, metadata, keyring),), None)
    trees = _open(source.documents, metadata, data_key)
    return Opened(source, metadata, tuple(map(_integral, trees) if fmt == "json" else trees), data_key)


def open_binary(content: bytes, keyring: Keyring) -> bytes:
    """The content of a binary file, which need not be text."""
    source, metadata = _encrypted(content, "binary")
    data_key = _opened_key(metadata, keyring)
    if data_key is None:
        return run_program(_as_yaml(source.documents[0], source.block), metadata, keyring, "binary")
    cipher = ValueCipher(data_key)
    sealed = source.documents[0].get("data", "")
    if not isinstance(sealed, str) or len(source.documents[0]) != 1:
        raise SopsError(Code.SOPS_MALFORMED, "a binary file holds one encrypted text under data, and nothing else")
    raw = cipher.open_raw(sealed, "data:")[1] if sealed else b""
    digest = MacDigest(metadata.rules)
    digest.add(raw, encrypted=True)
    check_mac(digest, cipher, metadata.mac, metadata.last_modified)
    return raw


def decrypt_tree(tree: Mapping[str, Any], keyring: Keyring) -> Tree:
    """Decrypt one parsed document that holds its own `sops` block; gives it back without the block."""
    return decrypt_documents([tree], keyring)[0]


def decrypt_documents(trees: Sequence[Mapping[str, Any]], keyring: Keyring) -> list[Tree]:
    """Decrypt the documents of one YAML file. Those with the same block share one MAC, as SOPS writes them; documents
    without a block are clear and come back as they are, unless they hold ciphertext."""
    results: dict[int, Tree] = {}
    for places in _by_block(trees):
        group = [{key: value for key, value in trees[place].items() if key != BLOCK} for place in places]
        opened = _open_group(group, trees[places[0]].get(BLOCK), keyring)
        results.update(zip(places, opened, strict=True))
    return [results[place] for place in range(len(trees))]


def holds_ciphertext(tree: Any) -> bool:
    """Whether any value of a parsed tree is encrypted."""
    if isinstance(tree, Mapping):
        return any(holds_ciphertext(value) for value in tree.values())
    return any(map(holds_ciphertext, tree)) if isinstance(tree, list) else looks_encrypted(tree)


def _encrypted(content: bytes, fmt: Format) -> tuple[Source, Metadata]:
    source = read(content, fmt)
    if source.block is None:
        raise _no_block()
    return source, parse_metadata(source.block)


def _single(source: Source) -> Tree:
    if len(source.documents) > 1:
        message = f"the file holds {len(source.documents)} documents where one is expected"
        raise SopsError(Code.SOPS_MALFORMED, message, "put each into a file of its own")
    return source.documents[0]


def _no_block() -> SopsError:
    remedy = "encrypt the file: reconciler secrets encrypt -i FILE"
    return SopsError(Code.SOPS_MALFORMED, "there is no sops block", remedy)


def _open(documents: Sequence[Mapping[str, Any]], metadata: Metadata, data_key: bytes) -> list[Tree]:
    return open_trees(documents, metadata.rules, ValueCipher(data_key), metadata.mac, metadata.last_modified)


def _decrypted(opened: Opened) -> Decrypted:
    _single(opened.source)
    metadata = opened.metadata
    return Decrypted(opened.trees[0], tuple(one.recipient for one in metadata.age), metadata.last_modified)


def _by_block(trees: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    groups: list[list[int]] = []
    for place, tree in enumerate(trees):
        same = next((group for group in groups if trees[group[0]].get(BLOCK) == tree.get(BLOCK)), None)
        if same is None:
            groups.append([place])
        else:
            same.append(place)
    return groups


def _open_group(group: list[Tree], block: Any, keyring: Keyring) -> list[Tree]:
    if block is None:
        if any(map(holds_ciphertext, group)):
            raise _no_block()
        return group
    metadata = parse_metadata(block)
    data_key = _opened_key(metadata, keyring)
    if data_key is not None:
        return _open(group, metadata, data_key)
    if len(group) > 1:
        message = "several documents under one sops block need an age recipient"
        raise SopsError(Code.SOPS_KEY_MISSING, message, "put each document into a file of its own")
    if metadata.rules.kind == "comment_regex":
        message = "a manifest that is encrypted by its comments needs an age recipient"
        raise SopsError(Code.SOPS_KEY_MISSING, message, "name the fields in encrypted_regex and encrypt it again")
    return [_by_program(group[0], _as_yaml(group[0], block), metadata, keyring)]


def _opened_key(metadata: Metadata, keyring: Keyring) -> bytes | None:
    """None where the sops program has to decrypt. Without the program the message of a file with age recipients names them."""
    if metadata.shares:
        return None
    try:
        return unwrap(metadata, keyring)
    except SopsError as missing:
        is_last = not metadata.other_sources or (keyring.program is None and metadata.age)
        if is_last or missing.code is not Code.SOPS_KEY_MISSING:
            raise
    return None


def _by_program(tree: Tree, given: bytes, metadata: Metadata, keyring: Keyring) -> Tree:
    """`given` is the file that holds the tree, as YAML."""
    try:
        clear = json.loads(run_program(given, metadata, keyring))
    except ValueError:
        clear = None
    if not isinstance(clear, dict):
        raise SopsError(Code.SOPS_MALFORMED, "the sops program did not answer with JSON", "update the sops program")
    opened: Tree = _marked(tree, clear)
    return opened


def _as_yaml(tree: Tree, block: Any) -> bytes:
    return json_for_yaml({**tree, BLOCK: block})


def _integral(tree: Any) -> Any:
    """SOPS keeps the numbers of JSON as floats; whole ones are written as people wrote them."""
    if isinstance(tree, dict):
        return {key: _integral(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_integral(item) for item in tree]
    return int(tree) if isinstance(tree, float) and tree.is_integer() and abs(tree) <= 2**53 else tree


def _marked(encrypted: Any, clear: Any) -> Any:
    """The program's clear tree with `Secret` wherever the file had ciphertext."""
    if isinstance(encrypted, Mapping) and isinstance(clear, Mapping) and encrypted.keys() == clear.keys():
        return {key: _marked(value, clear[key]) for key, value in encrypted.items()}
    if isinstance(encrypted, list) and isinstance(clear, list) and len(encrypted) == len(clear):
        return [_marked(*pair) for pair in zip(encrypted, clear, strict=True)]
    if isinstance(encrypted, dict | list) or isinstance(clear, dict | list):
        raise SopsError(Code.SOPS_MALFORMED, "the sops program answered with a tree of another shape")
    return Secret(clear) if looks_encrypted(encrypted) and isinstance(clear, str) and clear else clear
