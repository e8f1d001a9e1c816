"""The demo's Git repository: `examples/quickstart` with addresses and credentials filled in and encrypted.

In: values for the placeholders. Out: commits in `.demo/repo`. Encryption is the product's own command, with an age key made
for this one run, so that what is encrypted here can never be stale. Called by `story`.
"""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from simulators.demo import DemoError

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
_SECRETS = ("_PASSWORD}", "_TOKEN}")


@dataclass(frozen=True)
class Repository:
    """A work tree that may be edited by hand; `run` is the product's command line."""

    folder: Path
    run: Callable[..., str]

    def build(self, values: Mapping[str, str], *, has_directory: bool) -> None:
        """Copy, fill in, encrypt, commit."""
        shutil.copytree(QUICKSTART, self.folder)
        if not has_directory:
            (self.folder / "it-ops" / "directory.yaml").unlink()
        files = [path for path in sorted(self.folder.rglob("*.yaml")) if path.is_file()]
        secret = [path for path in files if any(mark in path.read_text() for mark in _SECRETS)]
        for path in files:
            path.write_text(_filled(path, values))
        self.run("secrets", "encrypt", "--in-place", *map(str, secret))
        self.git("init", "--quiet", "--initial-branch=main")
        # Local settings, so that commits work on a machine where Git was never set up and where it signs by default. The last
        # one lets the API's commits into the work tree that people edit, as long as nothing in it is uncommitted.
        settings = {
            "user.name": "demo",
            "user.email": "demo@example.org",
            "commit.gpgsign": "false",
            "receive.denyCurrentBranch": "updateInstead",
        }
        for name, value in settings.items():
            self.git("config", name, value)
        self.commit("Connect IT operations and engineering")

    def replace(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        if old not in text:
            raise DemoError(f"{path} does not hold {old!r}")
        path.write_text(text.replace(old, new))

    def commit(self, message: str) -> str:
        """The new revision."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    @property
    def manifests(self) -> list[Path]:
        """Relative to the folder."""
        found = self.folder.glob("*/*.yaml")
        return sorted(path.relative_to(self.folder) for path in found)

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(self.folder), *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoError(f"git {words[0]} failed: {done.stderr.strip()}")
        return done.stdout


def _filled(path: Path, values: Mapping[str, str]) -> str:
    text = Template(path.read_text()).safe_substitute(values)
    if "${" in text:
        raise DemoError(f"{path} still holds a placeholder: {text[text.index('${') :].split()[0]}")
    return text
