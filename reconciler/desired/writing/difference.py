"""What a change does to files, as a unified difference that a caller may see.

In: contents before and after. Out: text, ready for `git apply` unless something in it is masked: a secret that stood in clear
in the file before is never repeated. Called by `writing`.
"""

import difflib
import re
from collections.abc import Iterable

from reconciler.desired.connector_checks import Registry
from reconciler.desired.envelope import identity
from reconciler.desired.overlay import Contents
from reconciler.desired.writing.operations import value_at
from reconciler.desired.writing.standing import clear_secrets
from reconciler.desired.yaml_source import read_yaml
from reconciler.model.secret import MASK

_AROUND = 3
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


def difference(before: Contents, after: Contents, registry: Registry, workspaces: frozenset[str]) -> str:
    """Of all files, by name. Lines around a change are left out where other workspaces have documents in the same file."""
    return "".join(_of_file(path, before.get(path), after[path], registry, workspaces) for path in sorted(after))


def _of_file(
    path: str, before: bytes | None, after: bytes | None, registry: Registry, workspaces: frozenset[str]
) -> str:
    trees = [document.tree for one in (before, after) if one for document in read_yaml(one).documents]
    others = {identity(tree).workspace for tree in trees if isinstance(tree, dict)} - workspaces - {""}
    lines = difflib.unified_diff(
        _lines(before), _lines(after), _name("a", path, before), _name("b", path, after), n=0 if others else _AROUND
    )
    head = f"diff --git a/{path} b/{path}\n"
    head += "new file mode 100644\n" if before is None else "deleted file mode 100644\n" if after is None else ""
    text = head + "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    secrets = {
        str(value_at(tree, where))
        for tree in trees
        if isinstance(tree, dict)
        for where in clear_secrets(tree, registry)
    }
    return _masked(text, secrets)


def _lines(content: bytes | None) -> list[str]:
    return _LINE.findall((content or b"").decode("utf-8", "replace"))


def _name(side: str, path: str, content: bytes | None) -> str:
    return f"{side}/{path}" if content is not None else "/dev/null"


def _masked(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        for line in secret.splitlines():
            text = text.replace(line, MASK) if line.strip() else text
    return text
