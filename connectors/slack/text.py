"""Message texts as Slack wants them. In: rendered fields. Out: `text` and `blocks` of a call.

Templates are rendered before a connector sees them, so author's markup and record's values cannot be told apart. What
comes in is therefore taken as text: `<!channel>` in an incident's title wakes nobody. Only `&`, `<` and `>` are special
to Slack; `*`, `_`, backticks and line breaks keep working.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.slack.settings import Content
from reconciler.model.event import Message

_ALL = ("here", "channel", "everyone")


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def content(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`text` and `blocks` of a call."""
    is_markup = bool(fields.get("markup"))
    text, blocks = fields.get("text") or "", list(fields.get("blocks") or ())
    called = " ".join(mention(name) for name in fields.get("mentions") or ())
    sent: dict[str, Any] = {"text": " ".join(filter(None, (called, text if is_markup else escaped(text))))}
    return {**sent, "blocks": blocks if is_markup else _quiet(blocks)} if blocks else sent


def named(_: Any, message: Message) -> dict[str, Any]:
    """What says where and which: it goes as it is."""
    return {k: v for k, v in message.fields.items() if k not in Content.model_fields and k != "email" and v is not None}


def body(connector: Any, message: Message) -> dict[str, Any]:
    """A call that says something."""
    return {**named(connector, message), **content(message.fields)}


def marked(connector: Any, message: Message) -> dict[str, Any]:
    """A call whose message can be found again."""
    payload = {"event_id": message.event_id, "delivery_id": message.delivery_id}
    metadata = {"event_type": "reconciler_event", "event_payload": payload}
    return {**body(connector, message), "metadata": metadata}


def mention(name: str) -> str:
    if name in _ALL:
        return f"<!{name}>"
    return f"<!subteam^{name}>" if name.startswith("S") else f"<@{name}>"


def _quiet(node: Any) -> Any:
    """Blocks with the texts of their mrkdwn objects escaped; plain_text knows no markup."""
    if isinstance(node, Mapping):
        is_mrkdwn = node.get("type") == "mrkdwn"
        return {
            k: escaped(v) if is_mrkdwn and k == "text" and isinstance(v, str) else _quiet(v) for k, v in node.items()
        }
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_quiet(part) for part in node]
    return node
