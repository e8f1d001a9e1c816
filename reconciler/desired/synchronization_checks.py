"""Synchronizations, and lists of event types in `config`: what is delivered to an integration, and the texts it is made of.

In: the validated manifest and the connector's class. Out: problems. Called by `manifests`. Whether the integrations named
in `from` exist is known only when all files were read: that is `crosscheck`'s.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from reconciler.desired.connector_checks import AnyConnector
from reconciler.desired.positions import Path
from reconciler.desired.problem import Problem, did_you_mean, dotted
from reconciler.desired.producers import LIFECYCLE_SUBJECTS, is_lifecycle
from reconciler.desired.wording import field_names, model_problems
from reconciler.model.event import Lifecycle
from reconciler.model.finding import Code, Severity
from reconciler.model.manifest import Synchronization
from reconciler.model.secret import Unresolved
from reconciler.sdk.announced import announced, unknown_places
from reconciler.sdk.contract import Channel
from reconciler.sdk.template import (
    NAMES,
    Condition,
    Template,
    TemplateError,
    compile_condition,
    compile_template,
    is_template,
)

_CHANGES = ("created", "updated", "deleted", "*")
_NEAR = 0.75
_BASE: Path = ("spec", "synchronizations")
_RENDERED = Unresolved("encrypted", "")


def synchronization_problems(connector: AnyConnector, wanted: Mapping[int, Synchronization]) -> Iterator[Problem]:
    """`wanted` by place in the list: some may be missing, being too wrong to read."""
    seen: set[str] = set()
    for index, one in wanted.items():
        path = (*_BASE, index)
        if one.name in seen:
            message = f"two synchronizations are named {one.name}"
            yield Problem((*path, "name"), Code.DUPLICATE_NAME, message, "give each a name of its own")
        seen.add(one.name)
        yield from _event_problems(one.event_type, (*path, "event_type"))
        yield from _channel_problems(connector, one, path)
        if one.when is not None:
            yield from _text_problems(one.when, (*path, "when"), compile_condition)


def announced_problems(
    connector: AnyConnector, config: Mapping[str, Any], names: Sequence[tuple[int, str]]
) -> Iterator[Problem]:
    """Of event types that `config` lists; `names` are those of the synchronizations, by place, which share their name space."""
    found = announced(connector, config)
    taken = {one.wanted.name: one.path for one in found}
    for index, name in names:
        if name in taken:
            message = f"{name} is the name of what {dotted(taken[name][:-1])} sends"
            yield Problem(
                (*_BASE, index, "name"), Code.DUPLICATE_NAME, message, "give the synchronization another name"
            )
    for one in found:
        yield from _event_problems(one.wanted.event_type, one.path)
    for place in unknown_places(connector, config):
        message = f"{dotted(place)} must stand here as it is: what is delivered is decided before secrets are read"
        yield Problem(place, Code.INVALID_VALUE, message, "write the event type in clear")


def _event_problems(event_type: str, path: Path) -> Iterator[Problem]:
    subject, *rest = event_type.split(".")
    if is_lifecycle(event_type) or (len(rest) == 1 and rest[0] in _CHANGES):
        return
    if subject in LIFECYCLE_SUBJECTS:
        remedy = did_you_mean(event_type, Lifecycle, "there are")
        message = f"there is no event {event_type}: nothing would ever be delivered"
        yield Problem(path, Code.UNKNOWN_EVENT, message, remedy, severity=Severity.WARNING)
        return
    if len(rest) != 1 or not get_close_matches(rest[0], _CHANGES[:3], 1, _NEAR):
        return  # of a remote's own, or published over the API: who tells it is known when all files were read
    remedy = f"{subject}.created, {subject}.updated, {subject}.deleted or {subject}.*"
    yield Problem(path, Code.INVALID_VALUE, f"there is no event {event_type}", remedy)


def _channel_problems(connector: AnyConnector, one: Synchronization, path: Path) -> Iterator[Problem]:
    channel = connector.channel(one.action)
    if channel is not None:
        yield from _field_problems(channel, one, path)
        return
    names = [known.name for known in connector.channels]
    message = f"{connector.type} has no action {one.action}" if names else f"{connector.type} takes no deliveries"
    yield Problem((*path, "action"), Code.UNKNOWN_ACTION, message, did_you_mean(one.action, names, "it has"))


def _field_problems(channel: Channel, one: Synchronization, path: Path) -> Iterator[Problem]:
    if one.template is not None:
        yield from _text_problems(one.template, (*path, "template"), compile_template)
        yield from _template_place_problems(channel, one, path)
    for where, text in _texts(one.map, (*path, "map")):
        yield from _text_problems(text, where, compile_template)
    given = {key: _constant(value) for key, value in one.map.items()}
    if one.template is not None and channel.text_field:
        given.setdefault(channel.text_field, _RENDERED)
    _, problems = model_problems(channel.fields, given, (*path, "map"))
    yield from (_for_channel(problem, channel, path) for problem in problems)


def _template_place_problems(channel: Channel, one: Synchronization, path: Path) -> Iterator[Problem]:
    if not channel.text_field:
        remedy = f"use map with: {', '.join(field_names(channel.fields))}"
        yield Problem(
            (*path, "template"), Code.INVALID_VALUE, f"{channel.name} has no text for a template", remedy, at_key=True
        )
    elif channel.text_field in one.map:
        message = f"template and map.{channel.text_field} fill the same field"
        yield Problem((*path, "template"), Code.INVALID_VALUE, message, "keep one of them", at_key=True)


def _for_channel(problem: Problem, channel: Channel, path: Path) -> Problem:
    if problem.code is not Code.MISSING_FIELD:
        return problem
    name = problem.path[-1]
    ways = f"template or map.{name}" if name == channel.text_field else f"map.{name}"
    message = f"{dotted(path)}: {channel.name} needs {name}"
    return Problem(problem.path if "map" in problem.path[:-1] else path, Code.MISSING_FIELD, message, f"set {ways}")


def _constant(value: Any) -> Any:
    """The value as far as it is known now: a template's result is not."""
    if isinstance(value, Mapping):
        return {key: _constant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_constant(item) for item in value]
    return _RENDERED if is_template(value) else value


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
    elif isinstance(value, str) and is_template(value):
        yield path, value


def _text_problems(text: str, path: Path, compiled: Callable[[str], Template | Condition]) -> Iterator[Problem]:
    try:
        unknown = compiled(text).unknown_names()
    except TemplateError as error:
        where = f" (line {error.line}, character {error.column} of the text)" if len(text) > 20 else ""
        yield Problem(path, Code.INVALID_TEMPLATE, f"{dotted(path)}: {error.message}{where}", "the language is Liquid")
        return
    for name in unknown:
        message = f"{dotted(path)} uses {name}, which does not exist"
        yield Problem(path, Code.INVALID_TEMPLATE, message, did_you_mean(name, NAMES, "there are"))
