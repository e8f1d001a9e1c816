"""`reconciler deliveries --server`: the same over the API. What was sent is shown to tokens that may read its source.

The JSON is the API's own. Where an event came from is not in the list, but known of one.
"""

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.deliveries import detail_text, said
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.client import Client

PAGE = 100
_HEAD = ("ID", "MADE", "EVENT", "TO", "SYNCHRONIZATION", "CHANNEL", "STATUS", "TRIES", "REASON")


def run(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        if args.action is None:
            _list(client, args)
        elif args.action == "show":
            shown = client.deliveries.get(args.id).model_dump(mode="json")
            is_json = args.output == "json"
            print(json.dumps(shown, indent=2, ensure_ascii=False) if is_json else _text(client, shown))
        else:
            done = client.deliveries.retry(args.id) if args.action == "retry" else client.deliveries.cancel(args.id)
            answer = done.model_dump(mode="json")
            print(json.dumps(answer) if args.output == "json" else said(args.action, answer))
    return 0


def _list(client: "Client", args: argparse.Namespace) -> None:
    to = [as_ref(args.integration)] if args.integration else None
    every = client.deliveries.all(integration=to, status=args.status, limit=min(args.limit, PAGE))
    found = [one.model_dump(mode="json") for one in islice(every, args.limit)]
    if args.output == "json":
        print(json.dumps({"deliveries": found}, indent=2))
    else:
        print(aligned(_HEAD, [_row(one, datetime.now(UTC)) for one in found]))


def _row(one: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        one["id"],
        ago(one["created_at"], now),
        one["event_type"],
        one["integration"],
        one["synchronization"] or "-",
        one["channel"],
        one["status"],
        str(one["attempts"]),
        one_line(": ".join(part for part in (one["reason"], one["error"]) if part)),
    )


def _text(client: "Client", shown: dict[str, Any]) -> str:
    from reconciler.client import NotFoundError

    try:
        event = client.events.get(shown["event_id"]).model_dump(mode="json")
    except NotFoundError:  # no longer kept
        event = {}
    return detail_text(with_event(shown, event))


def with_event(shown: dict[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """As the command over the store knows it."""
    source = f"{event['workspace']}/{event['integration']}" if event.get("integration") else None
    of = {"id": shown["event_id"], "type": shown["event_type"], "at": event.get("at"), "from": source}
    return shown | {"event": of | {"entity": None, "key": None}}
