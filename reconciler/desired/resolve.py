"""Clear values in place of `Unresolved`: the last station before a connector is made, and the only one that needs keys.

In: a `DesiredIntegration`, the snapshot it came from, keys, environment and what the workspace may read. Out: a
`Resolution`: the `ResolvedSpec`, or findings and nothing half-resolved. Called by the control room in a worker thread (the
sops program may take seconds). What a secret is worth never enters a message: findings name paths and places.

After resolving, `auth` and `config` are checked again, now with the real values. `effective_hash` is keyed, so it can be
stored and compared without saying anything about the values.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.desired.connector_checks import (
    AnyConnector,
    Registry,
    auth_problems,
    canonical_auth,
    select_auth,
    settings_problems,
)
from reconciler.desired.envelope import Identity, identity
from reconciler.desired.outside import Mark, Outside, outside_of
from reconciler.desired.policy import TenantPolicy, WorkspaceRule, host_problems, is_plain_name
from reconciler.desired.positions import Path, Positions, find_positions
from reconciler.desired.problem import Problem, dotted
from reconciler.desired.snapshot import ReadError, Snapshot
from reconciler.desired.source_error import SourceError
from reconciler.desired.unresolved import ciphertext_digest, unresolved_paths
from reconciler.desired.wording import secret_fields, takes_text
from reconciler.desired.yaml_source import read_yaml, scalar
from reconciler.model.finding import Code, Finding
from reconciler.model.secret import Secret, Unresolved
from reconciler.model.state import DesiredIntegration

if TYPE_CHECKING:
    from reconciler.desired.sops.cache import DecryptionCache
    from reconciler.desired.sops.keys import Keyring

LONGEST_SECRET = 256 * 1024


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """`auth` and `config` as the connector's models take them, with `Secret` leaves. `fingerprints` are by dotted path."""

    config: dict[str, Any] = field(repr=False)
    auth: dict[str, Any] = field(repr=False)
    fingerprints: Mapping[str, str]
    effective_hash: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """Exactly one of the two is there."""

    spec: ResolvedSpec | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolver:
    """Keys and permissions of one daemon. `hash_key` keys fingerprints and hashes. Not for two threads at a time."""

    keyring: "Keyring"
    env: Mapping[str, str] = field(repr=False)
    policy: TenantPolicy
    hash_key: bytes = field(repr=False)
    registry: Registry
    cache: "DecryptionCache[Any]"

    def resolve(self, desired: DesiredIntegration, snapshot: Snapshot) -> Resolution:
        """The spec with clear values. `snapshot` must hold the manifest as it was when `desired` was made."""
        work = _Work(self, desired, snapshot)
        tree = work.cleared()
        if not work.problems:
            work.check(tree)
        if work.problems:
            return Resolution(findings=work.findings())
        return Resolution(work.resolved(tree))

    def outside(self, desired: DesiredIntegration) -> Outside | None:
        """What of it has to be looked at outside of Git, if anything."""
        return outside_of(desired.tree, self.policy.rule_of(desired.ref.workspace) or WorkspaceRule(hosts=()))

    def mark(self, outside: Outside) -> Mark | None:
        """As it is there now."""
        return outside.mark(self.env, self.hash_key)


class _MissingError(Exception):
    def __init__(self, code: Code, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


@dataclass(slots=True)
class _Work:
    """The resolving of one integration."""

    resolver: Resolver
    desired: DesiredIntegration
    snapshot: Snapshot
    problems: list[Problem] = field(default_factory=list)
    secrets: dict[Path, Secret] = field(default_factory=dict)
    tried: dict[str, Any] = field(default_factory=dict)

    def cleared(self) -> dict[str, Any]:
        """The tree with clear values; problems where one cannot be had."""
        tree: Any = dict(self.desired.tree)
        for path, leaf in list(unresolved_paths(self.desired.tree)):
            try:
                value = self._value(path, leaf)
            except _MissingError as error:
                message = f"{dotted(('spec', *path))}: {error.message}"
                self.problems.append(Problem(("spec", *path), error.code, message, error.remedy))
            else:
                tree = _placed(tree, path, value)
                if isinstance(value, Secret):
                    self.secrets[path] = value
        return dict(tree)

    def check(self, tree: dict[str, Any]) -> None:
        connector = self._connector()
        auth = _revealed_type(tree.get("auth", {}))
        tree["auth"] = self._typed(auth, select_auth(connector, auth), ("auth",))
        tree["config"] = self._typed(tree.get("config", {}), connector.Config, ("config",))
        self.problems += auth_problems(connector, tree["auth"])
        self.problems += settings_problems(connector.Config, tree["config"], ("spec", "config"), may_show=False)
        self.problems += host_problems(self.resolver.policy, self.desired.ref.workspace, tree, may_show=False)

    def resolved(self, tree: dict[str, Any]) -> ResolvedSpec:
        key = self.resolver.hash_key
        prints = {dotted(path): secret.fingerprint(key) for path, secret in self.secrets.items()}
        digest = hmac.new(key, _CANONICAL.encode(tree), hashlib.sha256).hexdigest()
        auth = canonical_auth(self._connector(), tree["auth"])
        return ResolvedSpec(tree["config"], auth, prints, digest)

    def findings(self) -> tuple[Finding, ...]:
        origin = self.desired.origin
        document, positions = self._positions()
        whose = self.desired.ref.workspace
        found = {problem.finding(origin.file, document, positions, whose) for problem in self.problems}
        return tuple(sorted(found))

    def _positions(self) -> tuple[int, Positions]:
        try:
            content = self.snapshot.read(self.desired.origin.file)
        except (ReadError, SourceError):
            return 0, Positions(values={(0, ()): (self.desired.origin.line, 1)})
        return _document_of(read_yaml(content).documents, self.desired), find_positions(content)

    def _connector(self) -> AnyConnector:
        return self.resolver.registry.load(self.desired.manifest.spec.type)

    def _typed(self, node: Any, model: Any, path: Path) -> Any:
        """`Secret` stays where the connector's model has a secret; elsewhere, such as a wholly encrypted block, it is plain."""
        wanted = secret_fields(model) if model is not None else ()
        fetched = {at for at, _ in unresolved_paths(self.desired.tree)}

        def typed(leaf: Any, at: Path) -> Any:
            if (*path, *at) not in fetched or not isinstance(leaf, Secret | str | int | float) or leaf == "":
                return leaf
            if any(_fits(at, pattern) for pattern in wanted):
                return leaf if isinstance(leaf, Secret) else Secret(_spelled(leaf))
            value = leaf.reveal() if isinstance(leaf, Secret) else leaf
            return value if takes_text(model, at) else _read(_spelled(value))

        return _map_leaves(node, (), typed)

    def _value(self, path: Path, leaf: Unresolved) -> Any:
        rule = self.resolver.policy.rule_of(self.desired.ref.workspace) or WorkspaceRule(hosts=())
        if leaf.kind == "encrypted":
            return self._decrypted(path, leaf)
        if leaf.kind == "from_sops":
            return self._from_sops(leaf)
        if leaf.kind == "from_env":
            return _from_env(leaf.key, rule, self.resolver.env)
        return _from_file(leaf.file, rule)

    def _decrypted(self, path: Path, leaf: Unresolved) -> Any:
        written, clear = self._once("the manifest", self._opened)
        if ciphertext_digest(_at(written, ("spec", *path))) != leaf.digest:
            remedy = "correct the manifest; its last good revision stays in force as far as it is known"
            raise _MissingError(Code.SOURCE_UNAVAILABLE, "the file no longer holds this value", remedy)
        return _at(clear, ("spec", *path))

    def _once(self, what: str, work: Callable[[], Any]) -> Any:
        """One try, however many values stand there: opening may mean to wait for a key service that does not answer."""
        if what not in self.tried:
            try:
                self.tried[what] = work()
            except _MissingError as error:
                self.tried[what] = error
        found = self.tried[what]
        if isinstance(found, _MissingError):
            raise _MissingError(found.code, found.message, found.remedy)
        return found

    def _opened(self) -> tuple[Any, Any]:
        """The manifest's document as written and in clear. All documents are opened: they may share one MAC."""
        from reconciler.desired.sops.document import decrypt_documents
        from reconciler.desired.sops.formats import decoded
        from reconciler.desired.sops.yaml_events import read_documents

        file = self.desired.origin.file
        content = self._read(file, Code.SOURCE_UNAVAILABLE)

        def trees() -> list[Any]:
            return [tree for tree in read_documents(decoded(content)) if isinstance(tree, dict)]

        keyring = self.resolver.keyring
        written = self._sops(trees)
        clear = self._sops(
            lambda: self.resolver.cache.get(
                self.snapshot.files[file].blob_id, "manifest", keyring, lambda: decrypt_documents(written, keyring)
            )
        )
        ref = self.desired.ref
        mine = [place for place, tree in enumerate(written) if identity(tree) == Identity(ref.name, ref.workspace)]
        if not mine:
            raise _MissingError(Code.SOURCE_UNAVAILABLE, "the file no longer holds this manifest")
        return written[mine[0]], clear[mine[0]]

    def _from_sops(self, leaf: Unresolved) -> Any:
        opened = self._once(f"the file {leaf.file}", lambda: self._opened_file(leaf.file))
        value = _at(opened, tuple(leaf.key.split(".")))
        if value is None or isinstance(value, dict | list):
            message = f"{leaf.file} has no value at the key {leaf.key}"
            raise _MissingError(Code.SECRET_MISSING, message, "key is the dotted path of one value in the file")
        return value

    def _opened_file(self, file: str) -> Any:
        from reconciler.desired.sops.document import decrypt
        from reconciler.desired.sops.formats import format_of

        keyring = self.resolver.keyring
        content = self._read(file, Code.SECRET_MISSING)
        blob, kind = self.snapshot.files[file].blob_id, format_of(PurePath(file))
        return self._sops(
            lambda: self.resolver.cache.get(blob, kind, keyring, lambda: decrypt(content, kind, keyring).tree)
        )

    def _sops(self, work: Callable[[], Any]) -> Any:
        from reconciler.desired.sops.errors import SopsError

        try:
            return work()
        except SopsError as error:
            raise _MissingError(error.code, error.message, error.remedy) from None

    def _read(self, file: str, code: Code) -> bytes:
        try:
            return self.snapshot.read(file)
        except (ReadError, SourceError) as error:
            raise _MissingError(code, f"{file} cannot be read: {error}") from None


def _from_env(name: str, rule: WorkspaceRule, env: Mapping[str, str]) -> Secret:
    if not rule.env_prefix or not name.startswith(rule.env_prefix):
        raise _MissingError(Code.NOT_PERMITTED, f"the environment variable {name} may not be read by this workspace")
    value = env.get(name, "")
    if not value:
        raise _MissingError(Code.SECRET_MISSING, f"the environment variable {name} is not set", "set it for the daemon")
    return Secret(value)


def _from_file(name: str, rule: WorkspaceRule) -> Secret:
    folder = rule.secret_folder
    if folder is None or not is_plain_name(name):
        raise _MissingError(Code.NOT_PERMITTED, f"the file {name} may not be read by this workspace")
    try:
        path = (folder / name).resolve(strict=True)
        if not path.is_relative_to(folder.resolve(strict=True)):
            raise _MissingError(Code.NOT_PERMITTED, f"{name} leads out of the permitted folder")
        return _file_secret(path, name)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a circle of links"
        raise _MissingError(
            Code.SECRET_MISSING, f"the file {name} cannot be read: {reason}", f"put it in {folder}"
        ) from None


def _file_secret(path: FilePath, name: str) -> Secret:
    with path.open("rb") as opened:
        content = opened.read(LONGEST_SECRET + 1)
    try:
        text = content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(content) > LONGEST_SECRET:
        raise _MissingError(Code.SECRET_MISSING, f"the file {name} is empty, too large or not text")
    return Secret(text)


def _document_of(documents: Any, desired: DesiredIntegration) -> int:
    wanted = Identity(desired.ref.name, desired.ref.workspace)
    return next((one.index for one in documents if identity(one.tree) == wanted), 0)


def _spelled(value: str | float) -> str:
    """As SOPS encrypts it: JSON's 12345 comes back as a float, and is no 12345.0."""
    if isinstance(value, str):
        return value
    from reconciler.desired.sops.cipher import plain_bytes

    return plain_bytes(value).decode()


def _read(text: str) -> Any:
    """Variables and files hold text: what stands for a number or a truth is read as a manifest is."""
    try:
        return scalar(text)
    except ValueError:
        return text


def _revealed_type(auth: Any) -> dict[str, Any]:
    kind = auth.get("type")
    return {**auth, "type": kind.reveal()} if isinstance(kind, Secret) else dict(auth)


def _fits(path: Path, pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(part in (step, "*") for step, part in zip(path, pattern, strict=True))


def _map_leaves(node: Any, path: Path, change: Callable[[Any, Path], Any]) -> Any:
    if isinstance(node, Mapping):
        return {key: _map_leaves(item, (*path, key), change) for key, item in node.items()}
    if isinstance(node, list | tuple):
        return [_map_leaves(item, (*path, index), change) for index, item in enumerate(node)]
    return change(node, path)


def _placed(node: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    if isinstance(node, Mapping):
        return {**node, path[0]: _placed(node[str(path[0])], path[1:], value)}
    return [_placed(item, path[1:], value) if index == path[0] else item for index, item in enumerate(node)]


def _at(node: Any, path: Path) -> Any:
    for step in path:
        if isinstance(node, Mapping):
            node = node.get(step)
        elif isinstance(node, list) and str(step).isdigit() and int(step) < len(node):
            node = node[int(step)]
        else:
            return None
    return node


def _clear(value: Any) -> Any:
    if isinstance(value, Secret):
        return {"$secret": value.reveal()}
    raise TypeError(type(value).__name__)


_CANONICAL = msgspec.json.Encoder(order="sorted", enc_hook=_clear)
