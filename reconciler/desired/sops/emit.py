"""`sops` blocks and clear scalars as text, in the spelling other SOPS programs write.

In: recipients with the wrapped data key, the MAC, the rules; or a clear value for a YAML file. Out: text to put into a
file. Called by `encrypt.py` and `clear_text.py`, and by `document.py` for what the sops program reads.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from reconciler.desired.sops.formats import ENV_PREFIX
from reconciler.desired.sops.metadata import AgeRecipient
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.scalars import is_ambiguous, resolve

# The release of SOPS whose files these are like; readers use it only to recognise files older than 2.0.
FORMAT_VERSION = "3.9.0"
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@+-]*")
_INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)
_OLD_TRUTH = frozenset({"y", "n", "yes", "no", "on", "off"})
_ESCAPED = re.compile("[\x7f-\x84\x86-\x9f\u2028\u2029\ufeff\ufffe\uffff\x85]")
_UNPRINTABLE = re.compile("[^\n\t\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def timestamp(at: datetime) -> str:
    return at.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def block_fields(age: Sequence[AgeRecipient], at: str, mac: str, rules: Rules) -> dict[str, Any]:
    """The block in order of its fields."""
    return {
        "age": [{"recipient": one.recipient, "enc": one.enc} for one in age],
        "lastmodified": at,
        "mac": mac,
        rules.kind: rules.text,
        **({"mac_only_encrypted": True} if rules.mac_only_encrypted else {}),
        "version": FORMAT_VERSION,
    }


def yaml_block(fields: dict[str, Any]) -> str:
    lines = ["sops:", "    age:"]
    for one in fields["age"]:
        lines += [f"        - recipient: {one['recipient']}", "          enc: |"]
        lines += [f"            {line}" for line in one["enc"].splitlines()]
    for name, value in fields.items():
        if name != "age":
            lines.append(f"    {name}: {_yaml_field(name, value)}")
    return "\n".join(lines) + "\n"


def json_text(tree: Any, like: str) -> bytes:
    """JSON indented like the file `like`, or by tabs, as SOPS does."""
    found = _INDENT.search(like)
    return (json.dumps(tree, indent=found[1] if found else "\t", ensure_ascii=False) + "\n").encode()


def json_for_yaml(tree: Any) -> bytes:
    """JSON on one line that readers of YAML take as well, with every number as it is."""
    return _quoted(tree).encode()


def env_block(fields: dict[str, Any]) -> list[str]:
    flat = {name: _flat(value) for name, value in fields.items() if name != "age"}
    for place, one in enumerate(fields["age"]):
        flat |= {f"age__list_{place}__map_{name}": _flat(value) for name, value in one.items()}
    return [f"{ENV_PREFIX}{name}={flat[name]}" for name in sorted(flat)]


def yaml_scalar(value: Any, indent: int, *, flow: bool, literal: bool) -> str:
    """A clear value as YAML text, to stand where `indent` is the column of lines that belong to it."""
    if isinstance(value, str):
        return _yaml_text(value, indent, literal=literal and not flow)
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return json.dumps(value)


def _yaml_text(value: str, indent: int, *, literal: bool) -> str:
    if (
        _PLAIN.fullmatch(value)
        and value.lower() not in _OLD_TRUTH
        and resolve(value) == value
        and not is_ambiguous(value)
    ):
        return value
    if literal and _fits_literal(value):
        body = "\n".join(" " * indent + line if line else "" for line in value.removesuffix("\n").split("\n"))
        return ("|\n" if value.endswith("\n") else "|-\n") + body
    return _quoted(value)


def _fits_literal(value: str) -> bool:
    return "\n" in value and value[0] not in " \t\n" and not value.endswith("\n\n") and not _UNPRINTABLE.search(value)


def _quoted(value: Any) -> str:
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _yaml_field(name: str, value: Any) -> str:
    if value is True:
        return "true"
    return str(value) if name in ("mac", "version") else _quoted(str(value))


def _flat(value: Any) -> str:
    return "true" if value is True else str(value).replace("\n", "\\n")
