"""Identities: the name an operator uses and the opaque ids the product gives out."""

import re
import secrets
from collections.abc import Collection

import msgspec

DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Ref(msgspec.Struct, frozen=True, order=True, gc=False):
    """Identity of an integration: workspace and name. Moving the file never matters.

    A struct, because it is the key of every table of ten thousand: it hashes four times as fast as a dataclass.
    """

    workspace: str
    name: str

    def __str__(self) -> str:
        return f"{self.workspace}/{self.name}"

    @classmethod
    def parse(cls, text: str, workspace: str = "default") -> "Ref":
        """`name`, `workspace/name` or `workspace.name`; raises ValueError for anything else."""
        first, separator, second = text.replace("/", ".", 1).partition(".")
        found = cls(first, second) if separator else cls(workspace, first)
        if not (DNS_LABEL.fullmatch(found.workspace) and DNS_LABEL.fullmatch(found.name)):
            raise ValueError(f"not an integration name: {text}")
        return found


def meant(text: str, known: "Collection[Ref]") -> list[Ref]:
    """Those a person may mean: `workspace/name` is one of them or none, a bare name that of every workspace that has it.

    Raises ValueError for what cannot be a name.
    """
    wanted = Ref.parse(text)
    if "/" in text or "." in text:
        return [wanted] if wanted in known else []
    return [ref for ref in known if ref.name == wanted.name]


def new_id(prefix: str) -> str:
    """An unguessable public id such as `run_7xKpQ2mR4wVb`: 12 characters of a 56-letter alphabet."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
