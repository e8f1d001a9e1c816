"""A repository of N manifests as teams have them: 100 folders, one integration a file, packed, with a few commits.

Commits: `all` (N manifests), `one` (one schedule changed), `none` (only a text file changed).
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_MANIFEST = """\
apiVersion: reconciler.dev/v1
kind: Integration
metadata:
  name: servicenow-{number:05d}
  workspace: {workspace}
  labels: {{team: service-desk}}
spec:
  type: servicenow
  display_name: ServiceNow {number}
  auth:
    type: basic
    username: recon
    password: {password}
  config:
    instance_url: "{url}"
  sync:
    schedule: "0 3 * * *"
    entities: [incidents, changes]
    fields:
      mask: [caller_email]
  objectives:
    freshness: 30m
  deletion_policy: disconnect
"""
WORKSPACE = "it-ops"
FROM_ENV = "{from_env: BENCH_PASSWORD}"


@dataclass(frozen=True, slots=True)
class Repository:
    """Where it lies, and its commits."""

    folder: Path
    all: str
    one: str
    none: str


def manifest(number: int, password: str = FROM_ENV, url: str = "") -> str:
    address = url or f"https://company-{number}.service-now.com"
    return _MANIFEST.format(number=number, workspace=WORKSPACE, password=password, url=address)


def write_manifests(folder: Path, count: int, password: str = FROM_ENV, url: str = "") -> None:
    for number in range(count):
        team = folder / f"team-{number % 100:02d}"
        team.mkdir(parents=True, exist_ok=True)
        (team / f"servicenow-{number:05d}.yaml").write_text(manifest(number, password, url))


def make_repository(folder: Path, count: int, password: str = FROM_ENV, url: str = "") -> Repository:
    """The working tree is left as in `none`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    write_manifests(folder, count, password, url)
    first = commit(folder)
    git(folder, "repack", "-adq")
    changed = folder / "team-00" / "servicenow-00000.yaml"
    changed.write_text(changed.read_text().replace("0 3 * * *", "30 4 * * *"))
    second = commit(folder)
    (folder / "notes.txt").write_text("nothing that matters\n")
    return Repository(folder, first, second, commit(folder))


def commit(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *words: str) -> str:
    """Git as somebody without settings of their own, and without work in the background."""
    options = ("-c", "user.name=Bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
    done = subprocess.run(
        ("git", *options, "-c", "init.defaultBranch=main", *words),
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
