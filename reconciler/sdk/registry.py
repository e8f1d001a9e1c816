"""From `spec.type` to the connector's class: `connectors.<type>` first, then entry points of third parties.

Only the connector that a manifest names is imported. Called by validation, the control loop and the command line.
"""

import pkgutil
from functools import cache
from importlib import import_module, metadata
from typing import Any

from reconciler.sdk.contract import Connector

GROUP = "reconciler.connectors"


class UnknownTypeError(LookupError):
    """No connector of this type is installed."""


@cache
def _third_party() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=GROUP)}


@cache
def known_types() -> tuple[str, ...]:
    """Every installed type, sorted, without importing any of them."""
    package = import_module("connectors")
    own = {m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")}
    return tuple(sorted(own | _third_party().keys()))


@cache
def load(type_name: str) -> type[Connector[Any, Any]]:
    """The connector's class; raises UnknownTypeError."""
    if type_name not in known_types():
        raise UnknownTypeError(type_name)
    point = _third_party().get(type_name)
    module = point.load() if point else import_module(f"connectors.{type_name}")
    if isinstance(module, type) and issubclass(module, Connector):
        return module
    found = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Connector)]
    for candidate in found:
        if candidate.__module__ == module.__name__ and getattr(candidate, "type", "") == type_name:
            return candidate
    raise UnknownTypeError(f"{type_name}: module has no connector class with type = {type_name!r}")
