"""What a spec reads outside of Git, the environment and files, and whether that is still as it was.

In: the tree of a spec, its workspace's rule, the environment. Out: a `Mark` per spec, taken before its values are read: while
a second one is the same, nothing needs to be read again. A mark holds no value. Called by `resolve` and the book.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.desired.policy import WorkspaceRule
from reconciler.desired.unresolved import unresolved_paths
from reconciler.model.secret import Secret, Unresolved
from reconciler.model.state import Tree

_RACY_NS = 2_000_000_000
_OUTSIDE = frozenset({"from_env", "from_file"})
Mark = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Outside:
    """The places of one spec; none where all of it stands in Git."""

    leaves: tuple[Unresolved, ...]
    rule: WorkspaceRule

    def mark(self, env: Mapping[str, str], key: bytes) -> Mark | None:
        """None where a second change could leave the same stamps: then it has to be read again."""
        marks: list[object] = []
        for leaf in self.leaves:
            found = _of_variable(env.get(leaf.key, ""), key) if leaf.kind == "from_env" else self._of_file(leaf.file)
            if found is None:
                return None
            marks.append(found)
        return tuple(marks)

    def _of_file(self, name: str) -> object:
        if self.rule.secret_folder is None:
            return ""
        return _of_file(self.rule.secret_folder / name)


def outside_of(tree: Tree, rule: WorkspaceRule) -> Outside | None:
    leaves = tuple(leaf for _, leaf in unresolved_paths(tree) if leaf.kind in _OUTSIDE)
    return Outside(leaves, rule) if leaves else None


def _of_variable(value: str, key: bytes) -> object:
    return Secret(value).digest(key)


def _of_file(path: Path) -> object:
    """A link counts as what it leads to: mounted secrets are renewed by turning one. What is not there has no stamp to trust."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    touched_ns = max(found.st_mtime_ns, found.st_ctime_ns)
    if time.time_ns() - touched_ns < _RACY_NS:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
