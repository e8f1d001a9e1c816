"""What `reconciler sync` asks for, checked against the connector before anything is ordered.

In: what was typed, and the spec as it stands in Git. Out: the parameters of an order. Raises CommandError with the names
that would have been right. No network, no store: the same rules hold for the daemon, but its refusal would come late.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.names import meant
from reconciler.cli.store_access import CommandError
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.sdk.contract import Entity

SCOPES = ("full", "incremental", "delta", "keys")


def sync_params(args: argparse.Namespace, type_name: str, tree: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """`tree` is the spec as in Git; `args` has `scope`, `entities`, `since`, `allow_deletes`, `accept_schema`."""
    scope = _scope(args.scope)
    names = _split(args.entities)
    chosen = _chosen(type_name, declared_entities(type_name, tree), names, tree)
    if scope == "delta":
        _check_delta(type_name, chosen)
    if scope == "keys":
        _check_keys(type_name, chosen, bool(names))
    return asked_for(args, now)


def asked_for(args: argparse.Namespace, now: datetime) -> dict[str, Any]:
    """The same as the body of a request to the API, where the server knows the connector and checks the rest."""
    from reconciler.model.clock import rfc3339

    scope, names = _scope(args.scope), _split(args.entities)
    since = _since(args.since, scope, now)
    asked: dict[str, Any] = {"scope": scope, "allow_deletes": args.allow_deletes, "accept_schema": args.accept_schema}
    return asked | ({"entities": names} if names else {}) | ({"since": rfc3339(since)} if since else {})


def declared_entities(type_name: str, tree: Mapping[str, Any]) -> "tuple[Entity, ...] | None":
    """The entities that this configuration makes; None where that depends on values that only the daemon knows."""
    from reconciler.desired.connector_checks import checked_settings, entities_under
    from reconciler.sdk.registry import UnknownTypeError, load

    try:
        connector = load(type_name)
    except UnknownTypeError:
        raise CommandError(f"no connector for {type_name} is installed here; see: reconciler connectors") from None
    config, _ = checked_settings(connector.Config, tree.get("config") or {}, ("spec", "config"))
    return entities_under(connector, config)


def _scope(text: str | None) -> str:
    if text is None or text in SCOPES:
        return text or "incremental"
    raise CommandError(f"--scope {text}: there is no such scope{meant(text, SCOPES)}")


def _split(given: Sequence[str] | None) -> list[str]:
    """`a,b c` and `a b c` are the same; a name counts once."""
    return list(dict.fromkeys(part for text in given or () for part in text.split(",") if part))


def _chosen(
    type_name: str, declared: "tuple[Entity, ...] | None", names: Sequence[str], tree: Mapping[str, Any]
) -> "tuple[Entity, ...]":
    if declared is None:
        return ()
    known = [entity.name for entity in declared]
    if not known:
        raise CommandError(f"{type_name} reads nothing, so there is nothing to sync")
    for name in names:
        if name not in known:
            raise CommandError(f"--entities: {type_name} has no entity {name}{meant(name, known)}")
    wanted = names or (tree.get("sync") or {}).get("entities")
    return tuple(e for e in declared if (e.name in wanted if wanted else e.by_default))


def _check_delta(type_name: str, chosen: "Iterable[Entity]") -> None:
    without = [entity.name for entity in chosen if not entity.has_delta]
    if without:
        remedy = "use --scope incremental or full, or name other entities"
        raise CommandError(f"--scope delta: {type_name} has no change feed for {', '.join(without)}; {remedy}")


def _check_keys(type_name: str, chosen: "Sequence[Entity]", is_named: bool) -> None:
    """What was named has to be able to; of what a sync usually reads, the rest is left out."""
    from reconciler.sdk.contract import Deletes

    without = [entity.name for entity in chosen if entity.deletes is not Deletes.KEYS]
    if without and (is_named or len(without) == len(chosen)):
        remedy = f"see how their deletions become known: reconciler connectors {type_name}"
        raise CommandError(f"--scope keys: {type_name} lists no keys alone of {', '.join(without)}; {remedy}")


def _since(text: str | None, scope: str, now: datetime) -> datetime | None:
    if text is None:
        return None
    if scope in ("full", "keys"):
        what = "a full run reads everything" if scope == "full" else "a listing of keys lists all"
        raise CommandError(f"--since: {what}; leave out --since, or use --scope incremental")
    at = instant(text, "--since", now)
    if at > now:
        raise CommandError(f"--since {text}: this is in the future")
    return at
