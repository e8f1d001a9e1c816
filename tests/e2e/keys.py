"""An age identity of a test, and SOPS files made with the command that users have."""

from collections.abc import Mapping
from pathlib import Path

import pyrage

from reconciler.cli.main import main
from tests.e2e.stage import ENV


class Keys:
    """`env` is the daemon's environment with the identity in it."""

    def __init__(self) -> None:
        self.identity = pyrage.x25519.Identity.generate()

    @property
    def env(self) -> Mapping[str, str]:
        return {**ENV, "SOPS_AGE_KEY": str(self.identity)}

    def encrypt(self, *files: Path, only: str = "^(token|password|hook)$") -> None:
        """In place, for this identity: the values under keys that match."""
        words = ("secrets", "encrypt", "-i", "--age", str(self.identity.to_public()), "--encrypted-regex", only)
        assert main([*words, *map(str, files)]) == 0
