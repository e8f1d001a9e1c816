"""What the tests of writing to Git stand on: a served repository of manifests, and writers that are like daemons of their own."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from reconciler.desired.sops.keys import Keyring
from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.validate import Inputs, Validated
from reconciler.desired.writing.forge import Forge
from reconciler.desired.writing.rules import Mode, WriteRules
from reconciler.desired.writing.terms import Author, Change, Edit
from reconciler.desired.writing.writing import Means, Writing
from reconciler.model.clock import Clock
from reconciler.sdk.testing.room import VirtualClock
from tests.integration.git_remote import Repo
from tests.unit.desired.manifest_kit import TinyRegistry, desk


def run(*words: str | Path, home: Path | None = None, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    """A program to its end; `home` is GnuPG's."""
    environment = {**os.environ, **({"GNUPGHOME": str(home)} if home else {})}
    return subprocess.run([*map(str, words)], env=environment, check=True, capture_output=True, **more)


def ssh_key(path: Path, allowed: Path) -> Path:
    """A new key, and a file that says it is the committer's."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    allowed.write_text(f"reconciler@localhost {Path(f'{path}.pub').read_text()}")
    return path


ADA = Author("Ada L", "ada@example.test")


@dataclass
class Served:
    """A bare repository at `bare`, and a person's own clone of it."""

    repo: Repo
    bare: Path
    folder: Path
    made: list[Writing] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, files: Mapping[str, str] | None = None) -> "Served":
        repo = Repo.make(folder / "work")
        repo.commit("first", files={"x.yaml": desk(), **(files or {})})
        bare = repo.bare(folder / "served" / "r.git")
        repo.git("--git-dir", str(bare), "config", "http.receivepack", "true")
        return cls(repo, bare, folder)

    def git(self, *words: str) -> str:
        return self.repo.git("--git-dir", str(self.bare), *words)

    def head(self, branch: str = "main") -> str:
        return self.git("rev-parse", branch)

    def show(self, path: str, branch: str = "main") -> str:
        return run("git", "--git-dir", self.bare, "show", f"{branch}:{path}").stdout.decode()

    def files(self, branch: str = "main") -> list[str]:
        return self.git("ls-tree", "-r", "--name-only", branch).splitlines()

    def commits(self, branch: str = "main") -> int:
        return int(self.git("rev-list", "--count", branch))

    def push(self, message: str, files: Mapping[str, str | None]) -> str:
        """Somebody else's commit."""
        self.repo.git("pull", "--quiet", "--ff-only", "origin", "main")
        commit = self.repo.commit(message, files)
        self.repo.git("push", "--quiet", "origin", "HEAD:main")
        return commit

    def hook(self, name: str, script: str) -> None:
        path = self.bare / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def writing(
        self,
        mode: Mode = Mode.COMMIT,
        forge: Forge | None = None,
        rules: Mapping[str, Any] | None = None,
        known: Validated | None = None,
        clock: Clock | None = None,
        keyring: Keyring | None = None,
        number: int | None = None,
        **source: Any,
    ) -> Writing:
        """A writer with a cache of its own, or with that of writer `number`."""
        number = len(self.made) if number is None else number
        settings = SourceSettings(**{"name": "main", "url": str(self.bare), "ref": "main", **source})
        means = Means(
            source=settings,
            rules=WriteRules(mode, has_forge=True, **(rules or {})),
            inputs=Inputs(source="main", registry=TinyRegistry()),
            cache=self.folder / f"cache{number}",
            keyring=lambda: keyring or Keyring(),
            known=lambda: known,
            clock=clock or VirtualClock(),
            random=Random(number),
            forge=forge,
        )
        self.made.append(Writing(means))
        return self.made[-1]


def change(*edits: Edit, marker: str = "m1", at: datetime | None = None, request: str = "req_1") -> Change:
    at = at or VirtualClock().now()
    return Change(edits=edits, author=ADA, subject="Change things", marker=marker, marked_at=at, request=request)
