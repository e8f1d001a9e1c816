"""What only the connector can say about a manifest: its `auth`, its `config`, its entities.

In: the connector's class and the marked tree of `spec`. Out: problems, and `auth` with the connector's own spelling of its
type. Called by `manifests`; `resolve` runs the same checks again with real values. No connector is made here, so nothing
can reach a network.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol, get_args

from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean, dotted, shown
from reconciler.desired.wording import field_names, model_problems, secret_fields
from reconciler.model.finding import Code
from reconciler.model.manifest import Spec, Sync
from reconciler.model.secret import Unresolved
from reconciler.sdk.announced import announced
from reconciler.sdk.contract import AuthSettings, Connector, Deletes, Entity, Settings

AnyConnector = type[Connector[Any, Any]]
_PLACEHOLDER = Unresolved("encrypted", "")


class Registry(Protocol):
    """Which connectors there are; the module `reconciler.sdk.registry` is one."""

    def known_types(self) -> tuple[str, ...]: ...

    def load(self, type_name: str, /) -> AnyConnector: ...


@lru_cache(maxsize=256)
def auth_spellings(connector: AnyConnector) -> dict[str, type[AuthSettings]]:
    """Every spelling of every auth type, the connector's own first."""
    own = {spelled: model for model in connector.auth_types for spelled in own_spellings(model)}
    others = {alias: model for model in connector.auth_types for alias in model.aliases}
    return own | {alias: model for alias, model in others.items() if alias not in own}


@lru_cache(maxsize=256)
def own_spellings(model: type[AuthSettings]) -> tuple[str, ...]:
    declared = model.model_fields.get("type")
    return get_args(declared.annotation) if declared else ()


def select_auth(connector: AnyConnector, auth: Mapping[str, Any]) -> type[AuthSettings] | None:
    """The model for this `auth` block: by its type; where none is given, the one that has none, or the only one."""
    if "type" in auth:
        spelled = auth["type"]
        return auth_spellings(connector).get(spelled) if isinstance(spelled, str) else None
    untyped = [model for model in connector.auth_types if "type" not in model.model_fields]
    if (
        not untyped
        and len(connector.auth_types) == 1
        and not connector.auth_types[0].model_fields["type"].is_required()
    ):
        return connector.auth_types[0]
    return untyped[0] if untyped else None


def canonical_auth(connector: AnyConnector, auth: Mapping[str, Any]) -> dict[str, Any]:
    """`auth` with the connector's own spelling of its type, ready for its model."""
    model = select_auth(connector, auth)
    own = own_spellings(model) if model else ()
    return {**auth, "type": own[0]} if own and auth.get("type") not in own else dict(auth)


def auth_problems(connector: AnyConnector, auth: Mapping[str, Any]) -> list[Problem]:
    base: Path = ("spec", "auth")
    model = select_auth(connector, auth)
    if model is not None:
        return settings_problems(model, canonical_auth(connector, auth), base, may_show=False)
    spellings = auth_spellings(connector)
    known = [spelled for kind in connector.auth_types for spelled in own_spellings(kind)]
    if "type" not in auth:
        message = f"spec.auth.type is missing: {connector.type} must be told how to sign in"
        return [Problem((*base, "type"), Code.MISSING_FIELD, message, f"one of: {', '.join(known)}")]
    if isinstance(auth["type"], Unresolved):
        return _any_auth_problems(connector, auth, base)
    message = f"spec.auth.type: {connector.type} has no such way to sign in"
    wrong = Problem((*base, "type"), Code.INVALID_VALUE, message, did_you_mean(auth["type"], spellings, "it has"))
    clear = {path: value for kind in connector.auth_types for path, value in _clear_secrets(kind, auth)}
    return [wrong, *(_secret_problem((*base, *path), value) for path, value in clear.items())]


def _any_auth_problems(connector: AnyConnector, auth: Mapping[str, Any], base: Path) -> list[Problem]:
    """The type is encrypted: only what is wrong for every type is certainly wrong."""
    fields = {name for model in connector.auth_types for name in field_names(model)}
    unknown = [name for name in auth if name not in fields]
    return [
        Problem(
            (*base, name),
            Code.UNKNOWN_FIELD,
            f"unknown field spec.auth.{name}",
            did_you_mean(name, fields),
            at_key=True,
        )
        for name in unknown
    ]


def settings_problems(
    model: type[Settings], tree: Mapping[str, Any], base: Path, *, may_show: bool = True
) -> list[Problem]:
    """Against a model of the connector; a secret in clear is told as such, whatever else is wrong."""
    return checked_settings(model, tree, base, may_show=may_show)[1]


def checked_settings(
    model: type[Settings], tree: Mapping[str, Any], base: Path, *, may_show: bool = True
) -> tuple[Settings | None, list[Problem]]:
    """The same, with the model where all of it is known and right."""
    secrets = list(_clear_secrets(model, tree))
    covered = _with_placeholders(tree, [path for path, _ in secrets])
    checked, problems = model_problems(model, covered, base, may_show=may_show)
    told = [_secret_problem((*base, *path), value) for path, value in secrets]
    return checked if isinstance(checked, Settings) else None, told + problems


def entities_under(connector: AnyConnector, config: Settings | None) -> tuple[Entity, ...] | None:
    """The entities that this configuration makes; None where they depend on settings that are not known yet."""
    if config is not None:
        return connector.entities_of(config)
    is_own = connector.entities_of.__func__ is not Connector.entities_of.__func__  # type: ignore[attr-defined]
    return None if is_own else connector.entities


def _secret_problem(path: Path, value: object) -> Problem:
    if isinstance(value, str) and value:
        remedy = "reconciler secrets encrypt FILE, or refer to it with from_sops, from_env or from_file; then replace the secret"
        return Problem(path, Code.SECRET_IN_CLEAR, f"{dotted(path)} is a secret and stands here in clear", remedy)
    remedy = "an encrypted text, or {from_sops: ...}, {from_env: ...}, {from_file: ...}; numbers go in quotes"
    return Problem(path, Code.INVALID_VALUE, f"{dotted(path)} must be a secret text", remedy)


def _clear_secrets(model: type[Settings], tree: Any) -> Iterator[tuple[Path, Any]]:
    for pattern in secret_fields(model):
        for path, value in matching(tree, pattern, ()):
            if isinstance(value, str | int | float):
                yield path, value


def matching(node: Any, pattern: tuple[str, ...], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values of a tree at a path in which `*` is any key or index."""
    if not pattern:
        yield path, node
    elif pattern[0] == "*" and isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from matching(item, pattern[1:], (*path, index))
    elif isinstance(node, Mapping):
        for key in node if pattern[0] == "*" else (pattern[0],):
            if key in node:
                yield from matching(node[key], pattern[1:], (*path, key))


def _with_placeholders(tree: Any, paths: list[Path]) -> Any:
    for path in paths:
        tree = _replaced(tree, path)
    return tree


def _replaced(node: Any, path: Path) -> Any:
    if not path:
        return _PLACEHOLDER
    if isinstance(node, Mapping):
        return {**node, path[0]: _replaced(node[path[0]], path[1:])}
    return [_replaced(item, path[1:]) if index == path[0] else item for index, item in enumerate(node)]


def entity_problems(type_name: str, entities: tuple[Entity, ...], sync: Sync) -> Iterator[Problem]:
    """Entities must exist, and those that are synced by change feed must have one."""
    base: Path = ("spec", "sync", "entities")
    names = [entity.name for entity in entities]
    for index, name in enumerate(sync.entities or ()):
        if name not in names:
            message = f"{type_name} has no entity {shown(name)}"
            yield Problem((*base, index), Code.UNKNOWN_ENTITY, message, did_you_mean(name, names, "it has"))
        elif name in (sync.entities or ())[:index]:
            yield Problem((*base, index), Code.INVALID_VALUE, f"the entity {name} is named twice", "keep one of them")
    without = [entity.name for entity in wanted_entities(entities, sync) if not entity.has_delta]
    if sync.scope == "delta" and without:
        message = f"scope delta: {type_name} has no change feed for {', '.join(without)}"
        yield Problem(("spec", "sync", "scope"), Code.INVALID_VALUE, message, "use incremental, or name other entities")


def wanted_entities(entities: tuple[Entity, ...], sync: Sync) -> tuple[Entity, ...]:
    """The entities that a sync reads: those named, else the connector's own choice."""
    if sync.entities is None:
        return tuple(entity for entity in entities if entity.by_default)
    return tuple(entity for entity in entities if entity.name in sync.entities)


def direction_problems(
    connector: AnyConnector, entities: tuple[Entity, ...] | None, spec: Spec, written: Mapping[str, Any]
) -> Iterator[Problem]:
    """`written` is `spec` as it stands in the file: what a workspace's defaults add is no contradiction."""
    path: Path = ("spec", "sync_direction")
    direction = spec.sync_direction
    if direction == "inbound" and spec.synchronizations:
        message = "sync_direction is inbound, but synchronizations deliver events to this integration"
        yield Problem(path, Code.INVALID_VALUE, message, "use bidirectional, or remove the synchronizations")
    for one in announced(connector, spec.config)[:1] if direction == "inbound" else ():
        message = f"sync_direction is inbound, but {dotted(one.path[:-1])} delivers events to this integration"
        yield Problem(path, Code.INVALID_VALUE, message, f"use bidirectional, or remove {dotted(one.path[:-1])}")
    if direction == "inbound" and entities == ():
        yield Problem(
            path, Code.INVALID_VALUE, f"{connector.type} reads nothing, so it cannot be inbound", "use outbound"
        )
    if direction == "outbound" and not connector.channels:
        yield Problem(
            path, Code.INVALID_VALUE, f"{connector.type} delivers nothing, so it cannot be outbound", "use inbound"
        )
    own = written.get("sync")
    if direction != "outbound":
        yield from _listing_problems(connector.type, entities, spec.sync, own)
    reading = [
        key for key in ("entities", "schedule", "every", "deletions") if isinstance(own, Mapping) and own.get(key)
    ]
    if direction == "outbound" and reading:
        message = f"sync_direction is outbound, so spec.sync.{reading[0]} has no effect"
        yield Problem(
            ("spec", "sync", reading[0]), Code.INVALID_VALUE, message, "remove it, or use bidirectional", at_key=True
        )


def _listing_problems(type_name: str, entities: tuple[Entity, ...] | None, sync: Sync, own: Any) -> Iterator[Problem]:
    """A schedule of listings for what cannot be listed."""
    asked = own.get("deletions") if isinstance(own, Mapping) else None
    is_asked = isinstance(asked, Mapping) and sync.deletions.enabled and ("every" in asked or "schedule" in asked)
    if not is_asked or entities is None or any(e.deletes is Deletes.KEYS for e in wanted_entities(entities, sync)):
        return
    message = f"{type_name} lists no keys alone of what is read here, so spec.sync.deletions has no effect"
    remedy = "remove it; see what finds deletions: reconciler connectors " + type_name
    yield Problem(("spec", "sync", "deletions"), Code.INVALID_VALUE, message, remedy, at_key=True)
