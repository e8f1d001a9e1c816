"""The real sops program, as a person runs it, and a PGP key in a home of its own for it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.desired.sops.formats import Format
from tests.conftest import find_program


@dataclass(frozen=True)
class Sops:
    """`env` is the whole environment of the program, and what a daemon beside it would have."""

    env: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def on_path(cls, home: Path, **more: str) -> "Sops":
        folder = str(Path(find_program("sops") or "sops is missing").parent)
        path = os.pathsep.join((folder, os.environ.get("PATH", "")))
        return cls({"PATH": path, "HOME": str(home), **more})

    def with_env(self, **more: str) -> "Sops":
        return Sops({**self.env, **more})

    def encrypt(self, content: bytes, fmt: Format, *words: str) -> bytes:
        return self.run("--encrypt", *words, *_types(fmt), "/dev/stdin", content=content)

    def decrypt(self, content: bytes, fmt: Format, output: Format | None = None) -> bytes:
        return self.run("--decrypt", *_types(fmt, output or fmt), "/dev/stdin", content=content)

    def run(self, *words: str, content: bytes = b"") -> bytes:
        """Its stdout; the test fails with its stderr."""
        done = subprocess.run(("sops", *words), input=content, env=self.env, cwd="/", capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


def _types(fmt: Format, output: Format | None = None) -> tuple[str, ...]:
    given, wanted = ({"env": "dotenv"}.get(one, one) for one in (fmt, output or fmt))
    return "--input-type", given, "--output-type", wanted


@dataclass(frozen=True)
class Pgp:
    """`home` is short, because sockets are in it."""

    home: Path
    fingerprint: str


@contextmanager
def pgp_key(passphrase: str = "") -> Iterator[Pgp]:
    """A new key; at the end its agent is stopped and everything removed."""
    with tempfile.TemporaryDirectory(prefix="gpg-") as folder:
        # A passphrase need not be hard to guess here; measuring how hard it may be takes seconds.
        (Path(folder) / "gpg-agent.conf").write_text("s2k-count 65536\n")
        gpg = ("gpg", "--homedir", folder, "--batch", "--quiet")
        made = ("--pinentry-mode", "loopback", "--passphrase", passphrase, "--quick-gen-key", "t <t@example.org>")
        try:
            subprocess.run((*gpg, *made, "future-default", "default", "never"), check=True, capture_output=True)
            listed = subprocess.run((*gpg, "--list-keys", "--with-colons"), check=True, capture_output=True, text=True)
            lines = (line.split(":") for line in listed.stdout.splitlines())
            yield Pgp(Path(folder), next(fields[9] for fields in lines if fields[0] == "fpr"))
        finally:
            subprocess.run(("gpgconf", "--homedir", folder, "--kill", "all"), check=False, capture_output=True)
