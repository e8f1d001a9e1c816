"""`reconciler events --server`: the same over the API. Payloads are shown to tokens that may read them.

The JSON is the API's own; of integrations it has the name and the id.
"""

import argparse
import json
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from reconciler.cli.deliveries import NOT_SHOWN
from reconciler.cli.events import detail_text, event_of, said, show_list
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.server_deliveries import with_event
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.client import Client

PAGE = 100


def run(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        if args.action is None:
            show_list(_listed(client, args), args.output)
        elif args.action == "show":
            shown = client.events.get(args.id).model_dump(mode="json")
            print(json.dumps(shown, indent=2, ensure_ascii=False) if args.output == "json" else _text(shown))
        else:
            answer = _ordered(client, args)
            print(json.dumps(answer) if args.output == "json" else said(args.action, _as_here(args.action, answer)))
    return 0


def _listed(client: "Client", args: argparse.Namespace) -> list[dict[str, Any]]:
    about = [as_ref(args.integration)] if args.integration else None
    every = client.events.all(integration=about, type=args.type, status=args.status, limit=min(args.limit, PAGE))
    return [one.model_dump(mode="json") for one in islice(every, args.limit)]


def _text(shown: dict[str, Any]) -> str:
    attempts = [with_event(one, shown) for one in shown["attempts"]]
    return detail_text(shown | {"attempts": attempts}, NOT_SHOWN if shown["has_payload"] else "not kept")


def _ordered(client: "Client", args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "publish":
        return client.events.publish(_event(args)).model_dump(mode="json")
    if args.action == "replay":
        return client.events.replay(_replay(args)).model_dump(mode="json")
    if args.action == "retry":
        return client.events.retry(args.id).model_dump(mode="json")
    return client.events.cancel(args.id).model_dump(mode="json")


def _event(args: argparse.Namespace) -> dict[str, Any]:
    """Whose it is says the token, unless this is said here."""
    typed = event_of(args) | {"workspace": args.workspace}
    if args.about:
        typed["integration"] = as_ref(args.about)
    return {name: value for name, value in typed.items() if value not in (None, "")}


def _replay(args: argparse.Namespace) -> dict[str, Any]:
    now = datetime.now(UTC)
    times = {"since": args.since, "until": args.until}
    asked = {name: instant(text, f"--{name}", now).isoformat() for name, text in times.items() if text}
    lists = {"types": args.types, "synchronizations": args.synchronization}
    return {"integration": as_ref(args.name), **asked, **{name: given for name, given in lists.items() if given}}


def _as_here(action: str, answer: dict[str, Any]) -> dict[str, Any]:
    """As a daemon answers a command over its store."""
    if action == "publish":
        return {"events": answer["data"]}
    return answer | {"replay": answer["id"]} if action == "replay" else answer
