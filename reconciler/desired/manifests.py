"""One document of one file becomes a `DesiredIntegration` or a `Workspace`, or findings, or nothing where it is not ours.

In: a parsed document, the defaults of the workspaces, the tenants' policy, the registry of connectors. Out: an `Outcome`.
Called by `validate` for every document that changed. All that can be said about a document is said at once: the model's
errors, the connector's, and what neither knows (schedules, templates, directions). References to other manifests are
`crosscheck`'s; nothing is decrypted and nothing is looked up outside the revision.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.desired.access_checks import access_problems
from reconciler.desired.connector_checks import (
    AnyConnector,
    Registry,
    auth_problems,
    canonical_auth,
    checked_settings,
    direction_problems,
    entities_under,
    entity_problems,
    wanted_entities,
)
from reconciler.desired.crosscheck import Links, make_links
from reconciler.desired.envelope import encrypted_envelope, identity
from reconciler.desired.policy import TenantPolicy, place_problems, source_problems, spec_problems
from reconciler.desired.problem import Problem, did_you_mean, shown
from reconciler.desired.producers import LIFECYCLE_SUBJECTS, is_lifecycle
from reconciler.desired.schedule_checks import schedule_problems
from reconciler.desired.synchronization_checks import announced_problems, synchronization_problems
from reconciler.desired.unresolved import BlobOf, mark_secrets, source_hash
from reconciler.desired.wording import model_problems, partial_model
from reconciler.desired.yaml_source import YamlDocument
from reconciler.model.event import singular
from reconciler.model.finding import Code, Severity
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration, Spec, Sync, Synchronization, Workspace
from reconciler.model.state import DesiredIntegration, Origin
from reconciler.sdk.announced import Announced, announced
from reconciler.sdk.contract import Entity
from reconciler.sdk.registry import UnknownTypeError

Defaults = Mapping[str, Mapping[str, Any]]
DEFAULTED = ("sync", "drift", "objectives")


@dataclass(frozen=True, slots=True)
class Setting:
    """What one document is judged by, apart from its own text. `policy` None: not known here, nothing is refused."""

    source: str
    revision: str
    registry: Registry
    policy: TenantPolicy | None
    defaults: Defaults
    blob_of: BlobOf
    workspaces: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a document. `ref` is known as soon as the name can be read, however wrong the rest may be.

    For a workspace `ref` is None and `workspace_name` says which. `reads` are files that its references name. `subjects`
    are what events of its records are about, None where only the daemon will know.
    """

    index: int
    line: int
    ref: Ref | None = None
    workspace_name: str = ""
    integration: DesiredIntegration | None = None
    workspace: Workspace | None = None
    problems: tuple[Problem, ...] = ()
    reads: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    links: Links | None = None
    subjects: tuple[str, ...] | None = None

    @property
    def is_broken(self) -> bool:
        return self.integration is None and self.workspace is None

    @property
    def tenant(self) -> str:
        """The workspace that it is of, or is; empty where that cannot be read."""
        return self.ref.workspace if self.ref is not None else self.workspace_name

    @property
    def is_attributed(self) -> bool:
        return self.ref is not None or bool(self.workspace_name)


def check_workspace(document: YamlDocument, file: str, setting: Setting) -> Outcome:
    """A `kind: Workspace` document."""
    tree = document.tree
    model, problems = model_problems(Workspace, {key: value for key, value in tree.items() if key != "sops"}, ())
    name = identity(tree).name
    problems += encrypted_envelope(tree) if document.may_hold_ciphertext else ()
    if name:
        problems += _place_problems(setting, name, file)
    if isinstance(model, Workspace):
        defaults = model.spec.defaults
        problems += schedule_problems(defaults.sync, ("spec", "defaults", "sync")) if defaults.sync else ()
    else:
        model = None
    is_good = not document.problems and not any(problem.severity is Severity.ERROR for problem in problems)
    return Outcome(
        index=document.index,
        line=document.line,
        workspace_name=name,
        workspace=model if is_good else None,
        problems=tuple(problems),
        defaults=_written_defaults(tree),
    )


def _written_defaults(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = tree.get("spec")
    defaults = spec.get("defaults") if isinstance(spec, dict) else None
    return (
        {key: defaults[key] for key in DEFAULTED if isinstance(defaults.get(key), dict)}
        if isinstance(defaults, dict)
        else {}
    )


def check_integration(document: YamlDocument, file: str, setting: Setting) -> Outcome:
    """A `kind: Integration` document."""
    tree = document.tree
    name, workspace = identity(tree)
    ref = Ref(workspace, name) if name and workspace else None
    check = _Check(document, file, workspace or "default", setting)
    check.run()
    manifest = check.manifest
    is_good = manifest is not None and not document.problems and not check.is_wrong
    integration = None
    if is_good and manifest is not None:
        origin = Origin(setting.source, file, document.line, setting.revision)
        ref = Ref(manifest.metadata.workspace, manifest.metadata.name)
        integration = DesiredIntegration(ref, manifest, check.spec, source_hash(check.spec), origin)
    return Outcome(
        index=document.index,
        line=document.line,
        ref=ref,
        integration=integration,
        problems=tuple(check.problems),
        reads=tuple(check.reads),
        links=links_of(ref, integration.manifest.spec, check.announced) if ref and integration else None,
        subjects=subjects_of(check.entities, check.tells, integration.manifest.spec) if integration else None,
    )


def links_of(ref: Ref, spec: Spec, listed: Sequence[Announced] = ()) -> Links | None:
    """Which other integrations a manifest names, and whose events it awaits; None where it does neither."""
    depends_on = tuple(Ref(ref.workspace, name) for name in spec.depends_on)
    sources = tuple(
        (index, tuple(Ref(ref.workspace, name) for name in one.from_))
        for index, one in enumerate(spec.synchronizations)
        if one.from_
    )
    written = (
        (("spec", "synchronizations", index, "event_type"), one) for index, one in enumerate(spec.synchronizations)
    )
    awaits = tuple(
        (path, one.event_type)
        for path, one in (*written, *((one.path, one.wanted) for one in listed))
        if one.enabled and not is_lifecycle(one.event_type) and one.event_type.split(".")[0] not in LIFECYCLE_SUBJECTS
    )
    return make_links(depends_on, sources, awaits)


def subjects_of(
    entities: tuple[Entity, ...] | None, tells: tuple[str, ...] | None, spec: Spec
) -> tuple[str, ...] | None:
    """What its events are about: the entities that are read, in the singular, and what the remote itself `tells` of."""
    if tells is None or (entities is None and spec.sync_direction != "outbound"):
        return None
    if entities is None or spec.sync_direction == "outbound":
        return tells
    return (*(singular(one.name) for one in wanted_entities(entities, spec.sync)), *tells)


@dataclass(slots=True)
class _Check:
    """The checks of one integration, in an order in which later ones may lean on earlier ones."""

    document: YamlDocument
    file: str
    workspace: str
    setting: Setting
    problems: list[Problem] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    spec: dict[str, Any] = field(default_factory=dict)
    manifest: Integration | None = None
    entities: tuple[Entity, ...] | None = None
    tells: tuple[str, ...] | None = ()
    announced: tuple[Announced, ...] = ()

    @property
    def is_wrong(self) -> bool:
        return any(problem.severity is Severity.ERROR for problem in self.problems)

    def run(self) -> None:
        tree = self.document.tree
        if self.document.may_hold_ciphertext:
            self.problems += encrypted_envelope(tree)
        written = tree.get("spec")
        if isinstance(written, dict):
            self._mark(written)
        self._model(tree)
        self.problems += _place_problems(self.setting, self.workspace, self.file)
        if self.setting.policy is not None:
            self._ask_policy(self.setting.policy)
        connector = self._connector()
        if connector is not None:
            self._ask(connector, written if isinstance(written, dict) else {})
        sync = self.manifest.spec.sync if self.manifest else partial_model(Sync, self.spec.get("sync"))
        if sync is not None:
            self.problems += schedule_problems(sync)
        self.problems += access_problems(self.spec.get("access"))

    def _ask_policy(self, policy: TenantPolicy) -> None:
        """What is said of a place that may not be named goes: whether another tenant has such a file is not told."""
        refused = [*spec_problems(policy, self.workspace, self.spec)]
        places = {problem.path for problem in refused}
        self.problems = [problem for problem in self.problems if problem.path not in places] + refused

    def _mark(self, written: dict[str, Any]) -> None:
        may_hold = self.document.may_hold_ciphertext
        marked = mark_secrets(written, self.file, self.setting.blob_of, may_hold_ciphertext=may_hold)
        self.problems += marked.problems
        self.reads += marked.reads
        self.spec = merged(self.setting.defaults.get(self.workspace, {}), marked.tree)
        if marked.holds_ciphertext and "sops" not in self.document.tree:
            message = "there are encrypted values but no sops block, so nobody can decrypt them"
            remedy = "restore the block, or encrypt the whole file: reconciler secrets encrypt FILE"
            self.problems.append(Problem(("spec",), Code.SOPS_MALFORMED, message, remedy))

    def _model(self, document: Mapping[str, Any]) -> None:
        tree = {key: value for key, value in document.items() if key != "sops"}
        if isinstance(document.get("spec"), dict):
            tree["spec"] = self.spec
        model, problems = model_problems(Integration, tree, ())
        told = {problem.path for problem in self.problems}
        self.problems += [problem for problem in problems if problem.path not in told]
        self.manifest = model if isinstance(model, Integration) else None

    def _connector(self) -> AnyConnector | None:
        kind = self.spec.get("type")
        is_told = any(problem.path == ("spec", "type") for problem in self.problems)
        if not isinstance(kind, str) or is_told:
            return None
        try:
            return self.setting.registry.load(kind)
        except UnknownTypeError:
            remedy = did_you_mean(kind, self.setting.registry.known_types(), "installed")
            message = f"there is no connector of type {shown(kind)}"
        except ImportError as error:
            message, remedy = f"the connector {kind} cannot be loaded: {error.name or error}", "install what it needs"
        self.problems.append(Problem(("spec", "type"), Code.UNKNOWN_TYPE, message, remedy))
        return None

    def _ask(self, connector: AnyConnector, written: Mapping[str, Any]) -> None:
        auth, config = self.spec.get("auth", {}), self.spec.get("config", {})
        if isinstance(auth, dict):
            self.problems += auth_problems(connector, auth)
        entities: tuple[Entity, ...] | None = connector.entities
        if isinstance(config, dict):
            settings, problems = checked_settings(connector.Config, config, ("spec", "config"))
            self.problems += problems
            entities = entities_under(connector, settings)
            self.announced = announced(connector, config)
        if self.manifest is None:
            self._ask_parts(connector, entities)
            return
        spec, self.entities, self.tells = self.manifest.spec, entities, connector.tells
        if entities is not None:
            self.problems += entity_problems(connector.type, entities, spec.sync)
        self.problems += direction_problems(connector, entities, spec, written)
        if spec.synchronizations:
            self.problems += synchronization_problems(connector, dict(enumerate(spec.synchronizations)))
        self.problems += announced_problems(connector, spec.config, _names(dict(enumerate(spec.synchronizations))))
        own = canonical_auth(connector, spec.auth)
        if own != spec.auth:
            self.manifest = self.manifest.model_copy(update={"spec": spec.model_copy(update={"auth": own})})

    def _ask_parts(self, connector: AnyConnector, entities: tuple[Entity, ...] | None) -> None:
        """Something is wrong with the whole: the parts that can be read are checked all the same."""
        sync = partial_model(Sync, self.spec.get("sync"))
        if sync is not None and entities is not None:
            self.problems += entity_problems(connector.type, entities, sync)
        listed = self.spec.get("synchronizations")
        parts = {
            index: part
            for index, item in enumerate(listed if isinstance(listed, list) else ())
            if (part := partial_model(Synchronization, item)) is not None
        }
        self.problems += synchronization_problems(connector, parts)
        config = self.spec.get("config")
        self.problems += announced_problems(connector, config if isinstance(config, dict) else {}, _names(parts))


def _names(wanted: Mapping[int, Synchronization]) -> list[tuple[int, str]]:
    return [(index, one.name) for index, one in wanted.items()]


def _place_problems(setting: Setting, workspace: str, file: str) -> Iterator[Problem]:
    if setting.workspaces != ("*",):
        yield from source_problems(setting.source, setting.workspaces, workspace)
    if setting.policy is not None:
        yield from place_problems(setting.policy, workspace, file)


def merged(defaults: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` above the defaults of its workspace; what excludes a default (every, schedule) drops it."""
    result = dict(own)
    for key, given in defaults.items():
        mine = own.get(key, {})
        if isinstance(mine, dict):
            result[key] = _deep(given, mine)
    return result


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    is_timed = "every" in above or "schedule" in above
    result = {name: value for name, value in below.items() if not (is_timed and name in ("every", "schedule"))}
    for key, value in above.items():
        under = result.get(key)
        result[key] = _deep(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result
