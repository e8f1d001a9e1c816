"""The catalogue of connectors: loaded once, in a thread, because thirty modules would hold the loop for too long.

In: the registry. Out: finished entries, by type. A connector that cannot be loaded is left out and told of in the log: the
others are there all the same. What a workspace may use is not known here.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import structlog

from reconciler.desired.connector_checks import AnyConnector, Registry
from reconciler.desired.connector_facts import CAPABILITIES, ConnectorFacts, connector_facts, events_about
from reconciler.desired.schemas import channel_schema, connector_schema
from reconciler.model.event import Lifecycle
from reconciler.sdk.contract import Channel, Entity, Limit
from reconciler.serve.forms import to_json


@dataclass(frozen=True)
class Offer:
    """One connector in finished form. `words` are what a search looks at: kind and text."""

    type: str
    whole: msgspec.Raw
    short: Mapping[str, Any]
    words: Sequence[tuple[str, str]]

    @cached_property
    def folded(self) -> Sequence[str]:
        return [text.casefold() for _, text in self.words]

    def fits(self, query: str) -> bool:
        return all(any(word in text for text in self.folded) for word in query.casefold().split())

    def matches(self, query: str) -> list[dict[str, str]] | None:
        """Where the words of the query stand; None unless each of them does somewhere."""
        if not self.fits(query):
            return None
        wanted = query.casefold().split()
        pairs = zip(self.words, self.folded, strict=True)
        return [{"kind": kind, "text": text} for (kind, text), folded in pairs if any(w in folded for w in wanted)]


class Catalogue:
    """`offers` from any task; loaded at the first call, and for as long as the process runs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loading = asyncio.Lock()
        self._offers: Sequence[Offer] | None = None

    async def offers(self) -> Sequence[Offer]:
        """By type."""
        async with self._loading:
            if self._offers is None:
                pool = ThreadPoolExecutor(1, thread_name_prefix="catalogue")
                try:
                    self._offers = await asyncio.get_running_loop().run_in_executor(pool, self._load)
                finally:
                    pool.shutdown(wait=False)
            return self._offers

    def _load(self) -> Sequence[Offer]:
        return [offer for name in self._registry.known_types() if (offer := self._offer(name)) is not None]

    def _offer(self, name: str) -> Offer | None:
        try:
            return make_offer(self._registry.load(name))
        except Exception as error:  # noqa: BLE001 - somebody else's code, and its fault must not hide the others
            logger = structlog.get_logger("api")
            logger.warning("a connector cannot be loaded", type=name, error=f"{type(error).__name__}: {error}")
            return None


def make_offer(connector: AnyConnector) -> Offer:
    facts = connector_facts(connector)
    return Offer(facts.type, msgspec.Raw(to_json(_whole(connector, facts))), _short(facts), tuple(_words(facts)))


def _short(facts: ConnectorFacts) -> Mapping[str, Any]:
    return {
        "type": facts.type,
        "title": facts.title,
        "version": facts.version,
        "docs_url": facts.docs_url or None,
        "capabilities": facts.can,
        "auth_methods": [auth.types[0] for auth in facts.auth if auth.types],
        "entities": [entity.name for entity in facts.entities],
        "channels": [channel.name for channel in facts.channels],
    }


def _whole(connector: AnyConnector, facts: ConnectorFacts) -> Mapping[str, Any]:
    return {
        **_short(facts),
        "auth_methods": [{"types": auth.types, "description": auth.description} for auth in facts.auth],
        "settings_schema": connector_schema(connector),
        "entities": [_entity(entity) for entity in connector.entities],
        "events": facts.events,
        "channels": [_channel(channel) for channel in connector.channels],
        "limits": [_limit(*pair) for pair in zip(connector.limits, facts.limits, strict=True)],
    }


def _entity(entity: Entity) -> Mapping[str, Any]:
    return {
        "name": entity.name,
        "title": entity.title,
        "key": entity.key,
        "cursor": entity.cursor,
        "has_delta": entity.has_delta,
        "by_default": entity.by_default,
        "deletions": entity.deletes,
        "rights": entity.rights,
        "events": list(events_about(entity.name)),
    }


def _channel(channel: Channel) -> Mapping[str, Any]:
    return {
        "name": channel.name,
        "title": channel.title,
        "text_field": channel.text_field or None,
        "repeat": channel.repeat,
        "rights": channel.rights,
        "fields_schema": channel_schema(channel),
    }


def _limit(limit: Limit, text: str) -> Mapping[str, Any]:
    return {
        "requests": limit.requests,
        "window_seconds": limit.window.total_seconds(),
        "scope": limit.scope,
        "path": limit.path,
        "points": dict(limit.points),
        "is_serial": limit.is_serial,
        "source": limit.source or None,
        "text": text,
    }


def _words(facts: ConnectorFacts) -> Iterator[tuple[str, str]]:
    """Lifecycle events are no reason to find anything: every connector has them."""
    yield "type", facts.type
    yield "title", facts.title
    for name in facts.can:
        yield "capability", f"{name}: {CAPABILITIES[name]}"
    yield from (("entity", entity.name) for entity in facts.entities)
    yield from (("event", event) for event in facts.events if event not in set(Lifecycle))
    yield from (("channel", channel.name) for channel in facts.channels)
