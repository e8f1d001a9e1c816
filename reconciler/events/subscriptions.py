"""Who wants which events: the `synchronizations` of all manifests, and the types that a `config` lists, compiled once per change
of desired state.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from reconciler.model.clock import rfc3339
from reconciler.model.condition import Reason
from reconciler.model.event import Event
from reconciler.model.ids import Ref
from reconciler.model.manifest import Integration, Synchronization
from reconciler.sdk.announced import synchronizations
from reconciler.sdk.contract import Channel, Connector
from reconciler.sdk.template import Condition, FieldMap, TemplateError, compile_condition, compile_map


class RenderError(Exception):
    """The message cannot be made from this event: the delivery is dead from the start, and shown."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Subscription:
    """One synchronization of one integration, ready to be asked about events."""

    target_id: int
    target: Ref
    name: str
    event_type: str
    sources: frozenset[str] | None
    condition: Condition | None
    fields: FieldMap
    channel: str
    model: type[BaseModel]

    def wants_type(self, workspace: str, source: str, event_type: str) -> bool:
        """Same workspace, a matching type, a permitted source; by default an integration does not hear itself.

        `source` is empty for what was published about no integration: that is heard where no source is named.
        """
        if workspace != self.target.workspace or not fnmatchcase(event_type, self.event_type):
            return False
        return source != self.target.name if self.sources is None else source in self.sources

    def wants(self, context: Mapping[str, Any]) -> bool:
        """`when`; a condition that fails to evaluate is a RenderError, not a silent no."""
        if self.condition is None:
            return True
        try:
            return self.condition.matches(context)
        except TemplateError as error:
            raise RenderError(Reason.TEMPLATE_FAILED, f"when: {error}") from None

    def render(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The channel's fields as JSON values, checked against its model. What a template made is text, also of a number."""
        try:
            values = self.fields.render(context)
            checked = self.model.model_validate(values, strict=False)
        except TemplateError as error:
            raise RenderError(Reason.TEMPLATE_FAILED, str(error)) from None
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise RenderError(Reason.REJECTED, f"the rendered message does not fit {self.channel}: {wrong}") from None
        return json.loads(checked.model_dump_json(exclude_none=True))  # type: ignore[no-any-return]


class Subscriptions(Protocol):
    """What the router asks. None: desired state is not known yet, so nothing may be routed."""

    def every(self) -> Sequence[Subscription] | None: ...


def compile_subscriptions(
    integration_id: int, manifest: Integration, connector: type[Connector[Any, Any]]
) -> tuple[Subscription, ...]:
    """The enabled synchronizations of one valid manifest. Outbound only: an inbound integration takes none."""
    if manifest.spec.sync_direction == "inbound" or not manifest.spec.enabled:
        return ()
    ref = Ref(manifest.metadata.workspace, manifest.metadata.name)
    made = []
    for wanted in synchronizations(connector, manifest.spec):
        channel = connector.channel(wanted.action)
        if wanted.enabled and channel is not None:
            made.append(_compile(integration_id, ref, wanted, channel))
    return tuple(made)


def _compile(integration_id: int, ref: Ref, wanted: Synchronization, channel: Channel) -> Subscription:
    fields = dict(wanted.map)
    if wanted.template is not None:
        fields[channel.text_field] = wanted.template
    return Subscription(
        target_id=integration_id,
        target=ref,
        name=wanted.name,
        event_type=wanted.event_type,
        sources=frozenset(wanted.from_) if wanted.from_ is not None else None,
        condition=compile_condition(wanted.when) if wanted.when else None,
        fields=compile_map({**channel.defaults, **(fields or channel.plain)}, channel.html_fields),
        channel=channel.name,
        model=channel.fields,
    )


def context_of(event: Event) -> dict[str, Any]:
    """What templates and `when` may look at."""
    return {
        "record": event.record,
        "previous": event.previous,
        "changed": list(event.changed),
        "event": {
            "id": event.id,
            "type": event.type,
            "at": event.at.isoformat(),
            "occurred_at": rfc3339(event.occurred_at or event.at),
            "entity": event.entity,
            "key": event.key,
            "detail": event.detail,
            "source": event.source,
            "subject": event.subject,
            "about": event.about,
            "data": event.said,
        },
        "integration": {"name": event.integration, "workspace": event.workspace},
    }
