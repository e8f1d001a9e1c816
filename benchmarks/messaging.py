"""A connector whose only channel posts to the receiver, which drops repeats. Installed for a daemon as third parties' are."""

from typing import ClassVar

from reconciler.model.event import Message, Receipt
from reconciler.sdk.contract import (
    AuthClasses,
    Channel,
    Connector,
    NoAuth,
    Probe,
    Repeat,
    Settings,
    SettingsClass,
)


class _Config(Settings):
    url: str


class _Note(Settings):
    text: str


class Messaging(Connector[_Config, NoAuth]):
    type = "bench_messaging"
    title = "Messages of a benchmark"
    Config: ClassVar[SettingsClass] = _Config
    auth_types: ClassVar[AuthClasses] = (NoAuth,)
    channels: ClassVar[tuple[Channel, ...]] = (
        Channel(name="post", fields=_Note, text_field="text", repeat=Repeat.SAFE),
    )

    async def probe(self) -> Probe:
        return Probe("benchmark")

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        body = {"id": message.delivery_id, "text": message.fields["text"]}
        await self.room.http.send("POST", f"{self.config.url}/in", json=body, lane="deliver")
        return Receipt(message.delivery_id)
