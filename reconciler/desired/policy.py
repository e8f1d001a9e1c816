"""What a workspace may not decide for itself, as the daemon's settings say it.

In: a frozen `TenantPolicy` from the settings, and one manifest. Out: problems. Called by `manifests`; `resolve` asks the
same rule for the environment prefix and the secret folder. Hosts are checked here as far as a manifest names them; the
connection itself is guarded again where it is made, because names resolve and remotes redirect.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path as FilePath
from typing import Any
from urllib.parse import urlsplit

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, dotted
from reconciler.desired.unresolved import unresolved_paths
from reconciler.model.finding import Code
from reconciler.model.secret import Secret, Unresolved

_HOST_FIELDS = frozenset({"host", "hostname", "server"})
_URLS = ("http://", "https://", "ldap://", "ldaps://")
_REMEDY = "ask whoever runs the daemon; its settings decide this"


@dataclass(frozen=True, slots=True)
class WorkspaceRule:
    """What workspaces whose name matches `workspaces` may do. In `paths`, `*` stays in one folder and `**` does not.

    Without `env_prefix` no environment variable may be read, without `secret_folder` no file.
    """

    workspaces: tuple[str, ...] = ("*",)
    paths: tuple[str, ...] = ("**",)
    types: tuple[str, ...] = ("*",)
    hosts: tuple[str, ...] = ("*",)
    env_prefix: str = ""
    secret_folder: FilePath | None = None


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """The first rule that names a workspace counts; a workspace that none names may do nothing."""

    rules: tuple[WorkspaceRule, ...] = (WorkspaceRule(),)

    def rule_of(self, workspace: str) -> WorkspaceRule | None:
        return next((rule for rule in self.rules if _matches(workspace, rule.workspaces)), None)

    def permits_type(self, workspace: str | None, kind: str) -> bool:
        """Whether manifests of that workspace, or with None those of any, may be of that type."""
        rule = self.rule_of(workspace) if workspace is not None else None
        rules = self.rules if workspace is None else (rule,) if rule else ()
        return any(_matches(kind, one.types) for one in rules)


def source_problems(source: str, permitted: tuple[str, ...], workspace: str) -> Iterator[Problem]:
    """Whether this source may speak for this workspace at all."""
    if not _matches(workspace, permitted):
        message = f"the source {source} may not speak for the workspace {workspace}"
        yield Problem(("metadata", "workspace"), Code.NOT_PERMITTED, message, _REMEDY)


def place_problems(policy: TenantPolicy, workspace: str, file: str) -> Iterator[Problem]:
    """Whether this file may speak for this workspace."""
    rule = policy.rule_of(workspace)
    path: Path = ("metadata", "workspace")
    if rule is None:
        yield Problem(path, Code.NOT_PERMITTED, f"the workspace {workspace} is not permitted here", _REMEDY)
    elif not _lies_in(file, rule.paths):
        message = f"files at {file} may not speak for the workspace {workspace}"
        yield Problem(path, Code.NOT_PERMITTED, message, f"move the file to {' or '.join(rule.paths)}")


def spec_problems(policy: TenantPolicy, workspace: str, spec: Mapping[str, Any]) -> Iterator[Problem]:
    """Types, hosts and places of secrets that a manifest names."""
    rule = policy.rule_of(workspace)
    if rule is None:
        return
    kind = spec.get("type")
    if isinstance(kind, str) and not _matches(kind, rule.types):
        message = f"the workspace {workspace} may not use connectors of type {kind}"
        yield Problem(("spec", "type"), Code.NOT_PERMITTED, message, _REMEDY)
    yield from host_problems(policy, workspace, spec)
    for path, leaf in unresolved_paths(spec, ("spec",)):
        yield from _secret_problems(rule, workspace, path, leaf)
        yield from _foreign_file(rule, workspace, path, leaf)


def host_problems(
    policy: TenantPolicy, workspace: str, spec: Mapping[str, Any], *, may_show: bool = True
) -> Iterator[Problem]:
    """Hosts the workspace may not connect to; asked again with the clear values, which a manifest may have hidden."""
    rule = policy.rule_of(workspace)
    if rule is None or rule.hosts == ("*",):
        return
    for part in ("config", "auth", "network"):
        for path, host in _hosts(spec.get(part), ("spec", part)):
            if not _matches(host, rule.hosts):
                named = host if may_show else "the host that it names"
                message = f"{dotted(path)}: the workspace {workspace} may not connect to {named}"
                yield Problem(path, Code.NOT_PERMITTED, message, _REMEDY)


def _hosts(node: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield from _hosts(item, (*path, key))
    elif isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _hosts(item, (*path, index))
    elif isinstance(node, Secret):
        if node.reveal().lower().startswith(_URLS):  # a password may hold anything
            yield from _hosts(node.reveal(), path)
    elif isinstance(node, str) and (host := _host(node, path[-1])):
        yield path, host


def _host(text: str, key: str | int) -> str:
    try:
        if "://" in text:
            return (urlsplit(text).hostname or "").lower()
        return (urlsplit(f"//{text}").hostname or "").lower() if key in _HOST_FIELDS else ""
    except ValueError:
        return ""


def _secret_problems(rule: WorkspaceRule, workspace: str, path: Path, leaf: Unresolved) -> Iterator[Problem]:
    if leaf.kind == "from_env" and not (rule.env_prefix and leaf.key.startswith(rule.env_prefix)):
        remedy = f"names that start with {rule.env_prefix}" if rule.env_prefix else _REMEDY
        message = f"{dotted(path)}: the workspace {workspace} may not read the environment variable {leaf.key}"
        yield Problem(path, Code.NOT_PERMITTED, message, remedy)
    if leaf.kind == "from_file" and rule.secret_folder is None:
        message = f"{dotted(path)}: the workspace {workspace} may not read files of the daemon's machine"
        yield Problem(path, Code.NOT_PERMITTED, message, _REMEDY)
    if leaf.kind == "from_file" and not is_plain_name(leaf.file):
        message = f"{dotted(path)}: from_file names a file in the permitted folder, without leaving it"
        yield Problem(path, Code.NOT_PERMITTED, message, "a relative name without ..")


def _foreign_file(rule: WorkspaceRule, workspace: str, path: Path, leaf: Unresolved) -> Iterator[Problem]:
    """Who may not speak from a place may not read the secrets that lie there either."""
    if leaf.kind == "from_sops" and leaf.file and not _lies_in(leaf.file, rule.paths):
        message = f"{dotted(path)}: the workspace {workspace} may not read {leaf.file}"
        yield Problem(
            (*path, "from_sops", "file"), Code.NOT_PERMITTED, message, f"name a file in {' or '.join(rule.paths)}"
        )


def _lies_in(file: str, globs: tuple[str, ...]) -> bool:
    return any(path_pattern(glob).fullmatch(file) for glob in globs)


def is_plain_name(name: str) -> bool:
    """A relative path that stays where it begins."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and "\\" not in name and not any(part in ("", ".", "..") for part in parts)


def _matches(text: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, glob) for glob in globs)


@lru_cache(maxsize=1024)
def path_pattern(glob: str) -> re.Pattern[str]:
    """`**` matches any number of folders, `*` and `?` stay within one name."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    spelled = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(spelled.get(part, re.escape(part)) for part in parts), re.DOTALL)
