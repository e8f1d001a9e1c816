"""New values and a new MAC for a file that SOPS encrypted, under the data key it has.

In: the documents that bear one `sops` block, and a keyring. Out: their text with new values sealed and the MAC right again.
Called by `sealing`. The MAC of the file as it was is checked first, so that nobody's tampering is signed here; what comes out
is opened once more before it leaves. Not done: data keys that only the sops program opens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.desired.sops import emit
from reconciler.desired.sops.cipher import ValueCipher
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import BLOCK
from reconciler.desired.sops.keys import Keyring, unwrap
from reconciler.desired.sops.metadata import Metadata, parse_metadata
from reconciler.desired.sops.tree import open_trees, opened_and_digest, revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.desired.writing.operations import Act, Path, Step, after, same
from reconciler.desired.writing.retouch import retouched, trees_of
from reconciler.model.finding import Code


@dataclass(frozen=True, slots=True)
class Group:
    """Documents of a file that SOPS takes as one: those with the same block. `places` are their indexes."""

    places: tuple[int, ...]
    metadata: Metadata

    @classmethod
    def of(cls, trees: Sequence[Any], index: int) -> "Group":
        block = trees[index][BLOCK]
        alike = (place for place, tree in enumerate(trees) if isinstance(tree, Mapping) and tree.get(BLOCK) == block)
        return cls(tuple(alike), parse_metadata(block))

    def opened(self, text: str, keyring: Keyring) -> "OpenGroup":
        """With its data key. Raises SopsError where that is not at hand, and where the file is not as it was encrypted."""
        metadata = self.metadata
        if metadata.shares or not metadata.age:
            message = "the data key of the file can only be opened by the sops program, which cannot seal single values"
            raise SopsError(
                Code.SOPS_KEY_MISSING, message, "edit the file with sops in a commit, or add an age recipient"
            )
        cipher = ValueCipher(unwrap(metadata, keyring))
        documents = _bodies(text, self.places)
        trees = open_trees(documents, metadata.rules, cipher, metadata.mac, metadata.last_modified)
        clear = dict(zip(self.places, revealed(trees), strict=True))
        return OpenGroup(self, cipher, dict(zip(self.places, documents, strict=True)), clear)


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """`before` and `clear` are the documents by their index, encrypted and decrypted."""

    group: Group
    cipher: ValueCipher = field(repr=False)
    before: Mapping[int, Any] = field(repr=False)
    clear: Mapping[int, Any] = field(repr=False)

    def sealed(self, index: int, wanted: Mapping[str, Any], paths: Sequence[Path]) -> Any:
        """`wanted` with ciphertext at `paths`; where the value is what it was, the old one."""
        tree: Any = dict(wanted)
        for path in paths:
            value = _at(wanted, path)
            is_old = same(_at(self.clear[index], path), value)
            aad = "".join(f"{part}:" for part in path if isinstance(part, str))
            text = _at(self.before[index], path) if is_old else self.cipher.seal(value, aad)
            tree = after(tree, Step(Act.SET, path, text))
        return tree

    def without(self, index: int) -> tuple[int, ...]:
        """Where the others stand once that document is gone."""
        return tuple(place - (place > index) for place in self.group.places if place != index)

    def signed(self, text: str, places: Sequence[int], at: datetime) -> str:
        """The text with the MAC of what it says now in every block of the group."""
        rules, stamp = self.group.metadata.rules, emit.timestamp(at)
        _, digest = opened_and_digest(_bodies(text, places), rules, self.cipher)
        mac = self.cipher.seal(digest.hexdigest(), stamp)
        for place in places:
            tree = trees_of(text)[place]
            text = retouched(text, place, {**tree, BLOCK: {**tree[BLOCK], "lastmodified": stamp, "mac": mac}})
        metadata = parse_metadata(trees_of(text)[places[0]][BLOCK])
        open_trees(_bodies(text, places), metadata.rules, self.cipher, metadata.mac, metadata.last_modified)
        return text


def _bodies(text: str, places: Sequence[int]) -> list[dict[str, Any]]:
    """As SOPS programs read them: their MAC covers what they read."""
    documents = read_documents(text)
    return [{key: value for key, value in documents[place].items() if key != BLOCK} for place in places]


def _at(node: Any, path: Path) -> Any:
    for part in path:
        if isinstance(node, Mapping):
            node = node.get(part)
        else:
            node = node[int(part)] if isinstance(node, list) and int(part) < len(node) else None
    return node
