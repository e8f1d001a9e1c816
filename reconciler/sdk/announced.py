"""Event types that a manifest lists in `config`, each the same as a synchronization that says nothing of its own.

In: a connector's class and a spec, which may hold values that are not known yet. Out: synchronizations. Called by all who ask
what is delivered to an integration: validation, routing, reconciling. All of one channel have one name, so an event that fits
several of them is told once. What is wrong with a list is for validation to say; here it is left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model.manifest import EVENT_TYPES, Spec, Synchronization
from reconciler.model.secret import Unresolved
from reconciler.sdk.contract import Channel, Connector

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Announced:
    """`path` is where the type stands in the manifest."""

    path: Path
    wanted: Synchronization


def announced(connector: type[Connector[Any, Any]], config: Mapping[str, Any]) -> tuple[Announced, ...]:
    return tuple(
        Announced(path, Synchronization(name=channel.events_at.split(".")[0], event_type=text, action=channel.name))
        for channel, path, text in _listed(connector, config)
        if isinstance(text, str) and re.fullmatch(EVENT_TYPES, text)
    )


def unknown_places(connector: type[Connector[Any, Any]], config: Mapping[str, Any]) -> tuple[Path, ...]:
    """Where a type, or the list, is a reference or encrypted."""
    return tuple(path for _, path, text in _listed(connector, config) if isinstance(text, Unresolved))


def synchronizations(connector: type[Connector[Any, Any]], spec: Spec) -> tuple[Synchronization, ...]:
    """Those that the manifest writes out, and those that its `config` stands for."""
    return (*spec.synchronizations, *(one.wanted for one in announced(connector, spec.config)))


def _listed(connector: type[Connector[Any, Any]], config: Mapping[str, Any]) -> Iterator[tuple[Channel, Path, Any]]:
    for channel in connector.channels:
        steps = channel.events_at.split(".") if channel.events_at else []
        found: Any = config if steps else ()
        for step in steps:
            found = found.get(step, ()) if isinstance(found, Mapping) else found
        path: Path = ("spec", "config", *steps)
        if isinstance(found, list | tuple):
            yield from ((channel, (*path, index), text) for index, text in enumerate(found))
        else:
            yield channel, path, found
