"""What GitHub is sent for a message, and how it is recognised later: a hidden comment in texts, a payload in deployments.

A deployment's status has room for neither; it is recognised by its content.
"""

from collections.abc import Callable, Mapping
from typing import Any

from connectors.github.settings import CreateDeployment, DeploymentStatus
from reconciler.model.event import Message
from reconciler.sdk.contract import Settings
from reconciler.sdk.paging import dig

Body = Callable[[Any, Message], dict[str, Any]]


def marker(message: Message) -> str:
    """What is hidden in texts of ours."""
    return f"<!-- reconciler:{message.delivery_id} -->"


def said(model: type[Settings], message: Message) -> dict[str, Any]:
    """The fields of a body: without what stands in the path, and without what was not said."""
    fields = model.model_validate(message.fields).model_dump(mode="json", exclude_none=True)
    return {k: v for k, v in fields.items() if k not in ("repository", "number", "deployment_id")}


def plain(model: type[Settings]) -> Body:
    """The fields as they are."""
    return lambda _, message: said(model, message)


def marked(model: type[Settings]) -> Body:
    """The fields, with the marker behind the text."""

    def body(_: Any, message: Message) -> dict[str, Any]:
        fields = said(model, message)
        return {**fields, "body": f"{fields.get('body', '')}\n\n{marker(message)}"}

    return body


def deployment(_: Any, message: Message) -> dict[str, Any]:
    return {**said(CreateDeployment, message), "payload": {"reconciler": message.delivery_id}}


def is_ours(channel: str, message: Message, found: Mapping[str, Any]) -> bool:
    """Whether `found` came from an earlier attempt of this message."""
    if channel == "create_deployment":
        return bool(dig(found, "payload.reconciler") == message.delivery_id)
    if channel == "deployment_status":
        return all(found.get(name) == value for name, value in said(DeploymentStatus, message).items())
    return marker(message) in (found.get("body") or "")
