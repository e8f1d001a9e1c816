"""Files written by sops itself, with their data keys: each gives the tree that it was made from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired.sops.document import decrypt_with_key
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import read
from reconciler.desired.sops.metadata import parse_metadata
from reconciler.desired.sops.tree import revealed
from reconciler.model.finding import Code


@pytest.fixture(scope="module")
def entries(shared: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((shared / "fixtures/sops/index.json").read_text())
    assert {entry["format"] for entry in entries} == {"yaml", "json", "env", "ini", "binary"}
    return [{**entry, "content": (shared / "fixtures/sops" / entry["file"]).read_bytes()} for entry in entries]


def same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and set(wanted) == {"sha256"}:
        return bool(hashlib.sha256(found.encode()).hexdigest() == wanted["sha256"])
    if isinstance(wanted, dict):
        return list(wanted) == list(found) and all(same(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(same, wanted, found))
    return bool(wanted == found)


def test_every_file_gives_its_listed_tree(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        key = bytes.fromhex(entry["data_key_hex"])
        if entry["mac"] == "absent":
            with pytest.raises(SopsError) as caught:
                decrypt_with_key(entry["content"], entry["format"], key)
            assert caught.value.code is Code.SOPS_MAC_MISSING
        else:
            tree = decrypt_with_key(entry["content"], entry["format"], key).tree
            assert same(entry["plaintext"], revealed(tree)), entry["file"]


def test_every_block_names_its_recipients_and_rules(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        block = read(entry["content"], entry["format"]).block
        if entry["mac"] == "absent":
            continue
        metadata = parse_metadata(block)
        assert {metadata.rules.kind: metadata.rules.text} == entry["rules"], entry["file"]
        ages = [f"age:{one.recipient}" for one in metadata.age]
        assert ages == [name for name in entry["recipients"] if name.startswith("age:")]
        assert ("pgp" in metadata.other_sources) is any(name.startswith("pgp:") for name in entry["recipients"])


def test_another_key_and_crlf(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        if entry["mac"] == "absent":
            continue
        with pytest.raises(SopsError):
            decrypt_with_key(entry["content"], entry["format"], bytes(32))
        if entry["file"] != "getsops-format-2.enc.ini":
            crlf = b"\xef\xbb\xbf" + entry["content"].replace(b"\n", b"\r\n")
            decrypt_with_key(crlf, entry["format"], bytes.fromhex(entry["data_key_hex"]))
