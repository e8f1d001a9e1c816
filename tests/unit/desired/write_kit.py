"""A desk for edits of files in memory, with a key of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyrage

from reconciler.desired.sops.keys import Keyring, parse_identities
from reconciler.desired.validate import Inputs, validate
from reconciler.desired.writing.edits import Desk, Edited
from reconciler.desired.writing.sealing import Sealer
from reconciler.desired.writing.terms import Edit, WriteError
from reconciler.model.ids import Ref
from tests.unit.desired.manifest_kit import TinyRegistry, snapshot

AT = datetime(2026, 4, 1, 12, 0, tzinfo=UTC)
A = Ref("default", "a")


def spec(**more: Any) -> dict[str, Any]:
    """A right spec of the small connector, its secret referred to."""
    plain = {
        "type": "desk",
        "auth": {"type": "key", "key": {"from_env": "DESK_KEY"}},
        "config": {"url": "https://d.test"},
    }
    return {**plain, **more}


@dataclass
class Bench:
    """Files in memory, and what the daemon has."""

    files: Mapping[str, str]
    identity: Any = field(default_factory=pyrage.x25519.Identity.generate)
    folder: str = ""
    template: str = "{workspace}/{name}.yaml"
    inputs: dict[str, Any] = field(default_factory=dict)
    has_key: bool = True

    @property
    def recipient(self) -> str:
        return str(self.identity.to_public())

    @property
    def keyring(self) -> Keyring:
        identities = parse_identities(str(self.identity), "test") if self.has_key else []
        return Keyring(tuple(identities))

    def edited(self, *edits: Edit) -> Edited:
        base = snapshot(self.files)
        inputs = Inputs(source="test", registry=TinyRegistry(), **self.inputs)
        sealer = Sealer(inputs.registry, lambda: self.keyring, base.contents.get, AT)
        return Desk(inputs, sealer, self.folder, self.template).edited(validate(base, inputs), edits)

    def after(self, *edits: Edit) -> dict[str, str | None]:
        return {path: one.decode() if one is not None else None for path, one in self.edited(*edits).contents.items()}

    def only(self, *edits: Edit) -> str:
        """The one file that the edits change."""
        (text,) = self.after(*edits).values()
        assert text is not None
        return text

    def refused(self, *edits: Edit) -> WriteError:
        try:
            self.edited(*edits)
        except WriteError as error:
            return error
        raise AssertionError("was not refused")


def pointers(error: WriteError) -> Sequence[str]:
    return [one.pointer for one in error.pointed]
