"""A system of one's own, without a connector: it pushes records and events to us, and may be told of ours.

In: what is pushed under `/ingest/v1/{workspace}.{name}/` with a generated key, or to `/v1/inbound/{workspace}/{name}` signed as
Standard Webhooks has it. Out: events of ours, those that `config.outbound.events` lists and those of synchronizations, posted to
`config.outbound.url` with the same signature; never to a private address, unless the daemon's settings allow it. Nothing is
pulled: a sync takes what was pushed. Values are data; nothing in them is ever evaluated. Not done here: keys, limits and
receipts, which are the daemon's.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import Field

from connectors.custom.outbound import DEADLINE, RETRIES, judged
from connectors.custom.settings import Config, GeneratedKey, Outbound
from connectors.custom.signing import check, key_of, signature
from reconciler.model.clock import rfc3339
from reconciler.model.event import Message, Receipt
from reconciler.sdk.contract import Answer, Channel, Connector, Deletes, Entity, KeyFacts, Probe, Repeat, Settings
from reconciler.sdk.errors import RejectedError, UnauthorizedError
from reconciler.sdk.inbound import Inbound, Intake
from reconciler.sdk.pushed import NotUnderstoodError, read_events, strict

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


ANY = tuple(range(300, 600))


class Outgoing(Settings):
    """What `map` may set of an event that goes out."""

    subject: str = Field("", max_length=255)
    text: str = Field("", description="What `template` fills; `data.text` of the event.")
    data: dict[str, Any] = Field(
        {}, description="The event's data; the record, or what is told, where there is neither template nor map."
    )
    occurred_at: str = Field("", description="RFC 3339; default when the event happened.")


class Custom(Connector[Config, GeneratedKey]):
    type = "custom"
    title = "Custom"
    docs_url = "https://www.standardwebhooks.com"
    Config = Config
    auth_types = (GeneratedKey,)
    channels = (
        Channel(
            name="webhook",
            fields=Outgoing,
            text_field="text",
            repeat=Repeat.SAFE,
            deadline=DEADLINE,
            retries=RETRIES,
            defaults={"occurred_at": "{{ event.occurred_at }}"},
            plain={"subject": "{{ event.about | slice: 0, 255 }}", "data": "{{ event.data }}"},
            events_at="outbound.events",
        ),
    )
    tells = None
    max_inbound = 5 * 1024 * 1024

    @classmethod
    def entities_of(cls, config: Settings) -> tuple[Entity, ...]:
        return tuple(_entity(name) for name in config.schemas.entities) if isinstance(config, Config) else ()

    @property
    def intake(self) -> Intake:
        config = self.config
        return Intake(
            requests_per_minute=config.requests_per_minute,
            burst=config.burst,
            max_delete_ratio=config.max_delete_ratio,
            signature=self.auth.signature,
            grace=self.auth.rotation.grace,
            max_age=self.auth.rotation.max_age,
        )

    @property
    def pinned_hashes(self) -> Sequence[str]:
        return self.auth.pinned_hashes

    def pushed_entity(self, name: str) -> Entity:
        return _entity(name)

    def check_record(self, entity: str, data: Mapping[str, Any]) -> str:
        return self._checked("entities", entity, data)

    def check_event(self, event_type: str, data: Mapping[str, Any]) -> str:
        return self._checked("events", event_type, data)

    def _checked(self, kind: str, name: str, data: Mapping[str, Any]) -> str:
        """Where it is wrong and which rule says so; never a value."""
        rule = self._rules.get((kind, name))
        if rule is None:
            return f"{kind} of this name are not taken" if self.config.unknown == "reject" else ""
        try:
            error = next(iter(rule.iter_errors(data)), None)
        except Exception:  # noqa: BLE001 - a rule that goes in circles, or data too deep for it
            return "data: the rule of config.schemas cannot be applied to it"
        if error is None:
            return ""
        where = ".".join(["data", *(str(step)[:60] for step in error.absolute_path)])
        must = f"must be {error.validator_value}" if error.validator == "type" else f"does not fit {error.validator}"
        return f"{where[:200]}: {must}"

    @cached_property
    def _rules(self) -> "Mapping[tuple[str, str], Validator]":
        """Made when the first is asked for."""
        from jsonschema import Draft202012Validator
        from referencing import Registry

        schemas = self.config.schemas
        return {
            (kind, name): Draft202012Validator(schema, registry=Registry())
            for kind, named in (("entities", schemas.entities), ("events", schemas.events))
            for name, schema in named.items()
        }

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        if self.auth.signing_secret is None:
            raise UnauthorizedError("auth.signing_secret is not set: nothing that is sent here can be verified")
        check(self.auth.signing_secret, headers, body, self.room.clock.now())

    def receive(self, headers: Mapping[str, str], body: bytes) -> Inbound:
        """Events, one or several. All of them count or none: there is no receipt to tell of some."""
        name = {key.lower(): value for key, value in headers.items()}["webhook-id"]
        try:
            told = read_events(strict(body), self.room.clock.now(), self.check_event)
        except NotUnderstoodError as error:
            raise RejectedError(error.detail) from None
        if told.rejected:
            first = told.rejected[0]
            raise RejectedError(f"event {first['index']}: {first['detail']}")
        return Inbound(delivery_id=name, events=told.events)

    async def probe(self) -> Probe:
        """Whose key opens, and whether our events would reach their place. The age of the key is what expires."""
        if self.auth.signing_secret is not None:
            key_of(self.auth.signing_secret)
        elif self.auth.signature == "required":
            raise UnauthorizedError("auth.signature is required, but auth.signing_secret is not set")
        if self.config.outbound is not None:
            key_of(self.config.outbound.secret)
            await self._look_at(self.config.outbound)
        active = [key for key in await self.room.keys() if key.state == "active"]
        return Probe(
            "whoever has its key",
            credential_expires_at=min((due for key in active if (due := self._due(key))), default=None),
            warnings=tuple(self._warnings(active)),
        )

    async def _look_at(self, to: Outbound) -> None:
        """Any answer says that it is there: it may take POST only. Not asked any more once it is gone."""
        if await self.room.may_deliver():
            await self.room.http.send("HEAD", to.url, expect=ANY, lane="probe", public_only=True)

    def _due(self, key: KeyFacts) -> datetime | None:
        max_age = self.auth.rotation.max_age
        return key.created_at + max_age if max_age is not None else None

    def _warnings(self, active: Sequence[KeyFacts]) -> Iterator[str]:
        if not active and not self.auth.pinned_hashes:
            yield f"nobody can push yet: reconciler key create {self.room.marker}"
        for key in active:
            due = self._due(key)
            if due is not None and due <= self.room.clock.now():
                remedy = f"reconciler key regenerate {self.room.marker} --instead-of {key.key_id}"
                yield f"key {key.key_id} is older than rotation.max_age: {remedy}"

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        to = self.config.outbound
        if to is None:
            raise RejectedError("config.outbound is not set: there is nowhere to send events to")
        answer = await self._post(to, message.delivery_id, msgspec.json.encode(self._event(message)))
        return Receipt(message.delivery_id, detail={"status": answer.status})

    async def _post(self, to: Outbound, name: str, body: bytes) -> Answer:
        """Once: when it is tried again, the schedule says."""
        now = self.room.clock.now()
        stamp = str(int(now.timestamp()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": name,
            "webhook-timestamp": stamp,
            "webhook-signature": signature(to.secret, name, stamp, body),
        }
        return await self.room.http.send(
            "POST",
            to.url,
            headers=headers,
            content=body,
            classify=lambda answer: judged(answer, now),
            lane="deliver",
            public_only=True,
        )

    def _event(self, message: Message) -> dict[str, Any]:
        fields = message.fields
        text = {"text": fields["text"]} if fields.get("text") else {}
        at = message.event_at or message.first_attempt_at or self.room.clock.now()
        return {
            "id": message.event_id,
            "type": message.event_type,
            "occurred_at": fields.get("occurred_at") or rfc3339(at),
            **({"subject": fields["subject"]} if fields.get("subject") else {}),
            "data": {**fields.get("data", {}), **text},
        }


def _entity(name: str) -> Entity:
    """Its records have the key they were pushed under; whoever pushes says what is deleted."""
    return Entity(name=name, key="id", deletes=Deletes.FEED)
