"""What an operator says about writing to one source, checked before anything is started.

In: the daemon's settings. Out: a frozen `WriteRules`, or ValueError with the remedy. Nothing here touches disk or network.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from reconciler.desired.source_settings import SourceSettings
from reconciler.desired.writing.signing import Signing
from reconciler.desired.writing.terms import Author

DEFAULT_PATH = "{workspace}/{name}.yaml"
_PLACE = re.compile(r"\{[^}]*\}")


class Mode(StrEnum):
    OFF = "off"
    COMMIT = "commit"
    PULL_REQUEST = "pull-request"


@dataclass(frozen=True, slots=True)
class WriteRules:
    """`path` is where new manifests go, below the source's folder."""

    mode: Mode = Mode.OFF
    path: str = DEFAULT_PATH
    committer: Author = field(default=Author("reconciler", "reconciler@localhost"))
    signing: Signing | None = None
    has_forge: bool = False

    def __post_init__(self) -> None:
        check_path(self.path)
        if self.mode is Mode.PULL_REQUEST and not self.has_forge:
            raise ValueError("write_back: mode pull-request needs forge: {kind, repository, token_env}")

    def check(self, source: SourceSettings) -> None:
        """Raises ValueError where the source cannot be written to in this mode."""
        where = f"source {source.name}: write_back.mode {self.mode}"
        if self.mode is Mode.OFF:
            return
        if source.is_as_is:
            raise ValueError(f"{where}: files are read as they lie there; set ref, or name a bare repository")
        if source.is_commit:
            raise ValueError(f"{where}: the source is pinned to a commit; set ref to a branch")


def check_path(template: str) -> None:
    """Raises ValueError for what is no path of a manifest of its own for each name."""
    where = f"write_back.path {template!r}"
    places = set(_PLACE.findall(template))
    if not places <= {"{workspace}", "{name}"} or "{name}" not in places:
        raise ValueError(f"{where}: it holds {{name}}, may hold {{workspace}}, and nothing else in braces")
    plain = _PLACE.sub("x", template)
    parts = plain.split("/")
    is_wrong = any(part in ("", ".", "..") or part.startswith(".") for part in parts) or not plain.isprintable()
    if is_wrong or "\\" in plain or PurePosixPath(plain).is_absolute() or not plain.endswith((".yaml", ".yml")):
        raise ValueError(f"{where}: a relative path to a .yaml file, without hidden folders and ..")
