"""The `sops` block of a file as typed, frozen values.

In: the block as plain mappings, from any format. Out: `Metadata`, or a `SopsError` that names the field to mend. A file
with one key group gives each recipient the whole data key, whatever `shamir_threshold` says; only two groups and more
mean shares. Not done: opening keys (`keys.py`) and writing the block (`emit.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.rules import COMMENT_KINDS, KINDS, Rules
from reconciler.model.finding import Code

AGE = "age"
# The kinds of key that the sops program opens, each with the fields that say which key it is; an address comes first.
_NAMES = {
    "pgp": ("fp",),
    "kms": ("arn",),
    "gcp_kms": ("resource_id",),
    "azure_kv": ("vault_url", "name"),
    "hc_vault": ("vault_address", "engine_path", "key_name"),
    "hckms": ("key_id",),
}
PROGRAM_SOURCES = tuple(_NAMES)
_PLAIN_FIELDS = frozenset({"shamir_threshold", "key_groups", "lastmodified", "mac", "version", "mac_only_encrypted"})
_KNOWN = frozenset({AGE, *PROGRAM_SOURCES, *KINDS, *COMMENT_KINDS, *_PLAIN_FIELDS})
_MOST_RECIPIENTS = 200


@dataclass(frozen=True, slots=True)
class AgeRecipient:
    """`recipient` is `age1...` or an SSH public key; `enc` the data key encrypted to it, armoured."""

    recipient: str
    enc: str


@dataclass(frozen=True, slots=True)
class OtherRecipient:
    """A key that only the sops program opens. `name` says which, its address first where it has one."""

    source: str
    name: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.source} {'/'.join(self.name)}"


@dataclass(frozen=True, slots=True)
class Metadata:
    """`other_sources` names the kinds of key that only the sops program opens; `shares` counts real key groups."""

    age: tuple[AgeRecipient, ...]
    others: tuple[OtherRecipient, ...]
    other_sources: tuple[str, ...]
    unknown_sources: tuple[str, ...]
    shares: int
    mac: str
    last_modified: str
    rules: Rules
    version: str


def parse_metadata(block: Any) -> Metadata:
    """Read a `sops` block. Raises `SopsError` for a missing MAC and for anything malformed."""
    if not isinstance(block, Mapping):
        raise _malformed("sops is not a mapping")
    groups = _groups(block)
    age = tuple(recipient for group in groups for recipient in _age(group.get(AGE)))
    if len(age) > _MOST_RECIPIENTS:
        raise _malformed(f"sops.age names more than {_MOST_RECIPIENTS} recipients")
    return Metadata(
        age=age,
        others=tuple(recipient for group in groups for recipient in _others(group)),
        other_sources=tuple(name for name in PROGRAM_SOURCES if any(group.get(name) for group in groups)),
        unknown_sources=_unknown(block, groups),
        shares=len(groups) if len(groups) > 1 else 0,
        mac=_mac(block),
        last_modified=_last_modified(block),
        rules=_rules(block),
        version=str(block.get("version", "")),
    )


def _groups(block: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if any(block.get(name) for name in (AGE, *PROGRAM_SOURCES)):
        return [block]
    groups = block.get("key_groups") or []
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise _malformed("sops.key_groups is not a list of mappings")
    return groups


def _age(entries: Any) -> list[AgeRecipient]:
    if not isinstance(entries, list | None):
        raise _malformed("sops.age is not a list")
    return [_recipient(entry, place) for place, entry in enumerate(entries or ())]


def _recipient(entry: Any, place: int) -> AgeRecipient:
    fields = entry if isinstance(entry, Mapping) else {}
    for name in ("recipient", "enc"):
        if not isinstance(fields.get(name), str) or not fields[name]:
            raise _malformed(f"sops.age[{place}].{name} is missing")
    return AgeRecipient(fields["recipient"], fields["enc"])


def _unknown(block: Mapping[str, Any], groups: list[Mapping[str, Any]]) -> tuple[str, ...]:
    names = {str(name) for part in (block, *groups) for name, value in part.items() if value and name not in _KNOWN}
    return tuple(sorted(names))


def _others(group: Mapping[str, Any]) -> Iterator[OtherRecipient]:
    for source, fields in _NAMES.items():
        entries = group.get(source) or []
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            raise _malformed(f"sops.{source} is not a list of mappings")
        for entry in entries:
            yield OtherRecipient(source, tuple(str(entry.get(name, "")) for name in fields))


def _mac(block: Mapping[str, Any]) -> str:
    mac = block.get("mac")
    if not mac:
        raise SopsError(
            Code.SOPS_MAC_MISSING,
            "sops.mac is missing: nothing says that the file is as it was encrypted",
            "restore the file from Git or encrypt it again",
        )
    if not isinstance(mac, str):
        raise _malformed("sops.mac is not text")
    return mac


def _last_modified(block: Mapping[str, Any]) -> str:
    """The time as SOPS spells it when it authenticates the MAC."""
    written = block.get("lastmodified")
    try:
        at = datetime.fromisoformat(written) if isinstance(written, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise _malformed("sops.lastmodified is not a time such as 2026-01-31T12:00:00Z")
    text = at.replace(microsecond=0).isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def _rules(block: Mapping[str, Any]) -> Rules:
    given = [(kind, block[kind]) for kind in (*KINDS, *COMMENT_KINDS) if block.get(kind)]
    if any(not isinstance(text, str) for _, text in given):
        raise _malformed(f"sops.{given[0][0]} is not text")
    if len(given) > 1:
        raise _malformed("sops has more than one of " + ", ".join(kind for kind, _ in given))
    mac_only = block.get("mac_only_encrypted") is True
    if not given:
        return Rules(mac_only_encrypted=mac_only)
    kind, text = given[0]
    return Rules(next((known for known in KINDS if known == kind), "comment_regex"), text, mac_only)


def _malformed(reason: str) -> SopsError:
    return SopsError(Code.SOPS_MALFORMED, reason, "restore the sops block from Git or encrypt the file again")
