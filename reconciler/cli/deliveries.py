"""`reconciler deliveries`: list them; show, retry or cancel one.

Reads the daemon's store; retry and cancel are orders, so a daemon must be there. With --server the API is asked. What was sent
is shown as it was rendered: fields of a message hold no secret of the integration.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.store.database import Tx
    from reconciler.store.deliveries import Delivery

NOT_SHOWN = "not for this token; spec.access gives the right to read"
STATUSES = ("pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "reconciler deliveries [options]\n       reconciler deliveries show|retry|cancel ID [options]"
    statuses = f"only these: {', '.join(STATUSES)}; give it again for more than one"
    parser.add_argument("--status", action="append", choices=STATUSES, metavar="STATUS", help=statuses)
    parser.add_argument("--integration", metavar="NAME", help="only deliveries to this integration")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most the newest so many (default: 50)")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler deliveries --status dead --status unknown",
        "reconciler deliveries --integration slack --limit 10",
        "reconciler deliveries show dlv_7xKpQ2mR4wVb",
        "reconciler deliveries retry dlv_7xKpQ2mR4wVb",
    )
    commands = parser.add_subparsers(
        dest="action", metavar="COMMAND", prog="reconciler deliveries", help="without one, they are listed"
    )
    for name, what in (
        ("show", "attempts, fields and receipt of one"),
        ("retry", "send it again, as a new delivery linked to it"),
        ("cancel", "take back one that is not sent yet, or stuck beyond its deadline"),
    ):
        one = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        one.add_argument("id", metavar="ID", help="such as dlv_7xKpQ2mR4wVb")
        # without a default of their own, so that what stands before the word counts as well
        add_output(one, default=argparse.SUPPRESS)
        add_state_dir(one, default=argparse.SUPPRESS)
        add_server(one, ELSEWHERE, default=argparse.SUPPRESS)


@guarded
def run(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    if asks_server(args):
        from reconciler.cli import server_deliveries

        return server_deliveries.run(args)
    if args.action == "show":
        return _show(args)
    if args.action is None:
        return _list(args)
    answer = order(args, f"{args.action}-delivery", None, {"delivery": args.id})
    told = {k: v for k, v in answer.items() if k != "ok"}
    print(json.dumps(told) if args.output == "json" else said(args.action, told))
    return 0


def said(action: str, answer: Mapping[str, Any]) -> str:
    """What became of a retry or cancel, for a person."""
    if answer.get("retry_of"):
        return f"{answer['delivery']} sends {answer['retry_of']} again"
    return f"{answer['delivery']} {'is tried again now' if action == 'retry' else 'cancelled'}"


def _list(args: argparse.Namespace) -> int:
    from reconciler.store import integrations

    with reading(args) as tx:
        found = _found(tx, args)
        names = {row.id: str(row.ref) for row in integrations.every(tx, with_removed=True)}
    if args.output == "json":
        json.dump({"deliveries": [as_json(d, names) for d in found]}, sys.stdout, indent=2)
        print()
    else:
        print(table(found, names, datetime.now(UTC)))
    return 0


def _found(tx: "Tx", args: argparse.Namespace) -> "list[Delivery]":
    from reconciler.store import deliveries

    target = find_integration(tx, args.integration, with_removed=True).id if args.integration else None
    parts = [
        deliveries.listing(tx, status=status, integration_id=target, limit=args.limit)
        for status in sorted(set(args.status or (None,)), key=str)
    ]
    return sorted((d for part in parts for d in part), key=lambda d: -d.id)[: args.limit]


_HEAD = ("ID", "MADE", "EVENT", "FROM", "TO", "SYNCHRONIZATION", "CHANNEL", "STATUS", "TRIES", "REASON")


def table(found: "list[Delivery]", names: dict[int, str], now: datetime) -> str:
    """Newest first."""
    rows = [
        (
            d.public_id,
            ago(d.created_at, now),
            d.event_type,
            names.get(d.source_id, "-") if d.source_id is not None else "-",
            names.get(d.integration_id, "-"),
            d.synchronization,
            d.channel,
            str(d.status),
            str(d.attempts),
            one_line(": ".join(part for part in (d.reason, d.error) if part)),
        )
        for d in found
    ]
    return aligned(_HEAD, rows)


def as_json(d: "Delivery", names: dict[int, str]) -> dict[str, Any]:
    """The stable JSON form of one delivery in a list."""
    return {
        "id": d.public_id,
        "status": d.status,
        "integration": names.get(d.integration_id),
        "synchronization": d.synchronization,
        "channel": d.channel,
        "event": {
            "id": d.event_id,
            "type": d.event_type,
            "at": d.event_at,
            "from": names.get(d.source_id) if d.source_id is not None else None,
            "entity": d.entity or None,
            "key": d.key or None,
        },
        "attempts": d.attempts,
        "reason": d.reason or None,
        "error": d.error or None,
        "created_at": d.created_at,
        "first_attempt_at": d.first_attempt_at,
        "next_at": d.next_at,
        "finished_at": d.finished_at,
    }


def _show(args: argparse.Namespace) -> int:
    from reconciler.store import integrations

    with reading(args) as tx:
        names = {row.id: str(row.ref) for row in integrations.every(tx, with_removed=True)}
        shown = delivery_detail(tx, args.id, names)
    if args.output == "json":
        json.dump(shown, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print(detail_text(shown))
    return 0


def delivery_detail(tx: "Tx", public_id: str, names: dict[int, str]) -> dict[str, Any]:
    """Everything known of one, with its attempts; raises CommandError."""
    from reconciler.serve.event_forms import attempt_form
    from reconciler.store import deliveries

    delivery = deliveries.find(tx, public_id)
    if delivery is None:
        raise CommandError(f"no delivery {public_id}; list them: reconciler deliveries")
    first = deliveries.get(tx, delivery.retry_of) if delivery.retry_of is not None else None
    tries = deliveries.attempts(tx, delivery.id)
    return as_json(delivery, names) | {
        "fields": dict(delivery.fields),
        "receipt": dict(delivery.receipt),
        "progress": dict(delivery.progress),
        "tries": [attempt_form(one, with_content=True) for one in tries],
        "retry_of": first.public_id if first else None,
        "retried_as": [d.public_id for d in deliveries.resent(tx, delivery.id)],
    }


def detail_text(shown: dict[str, Any]) -> str:
    """Everything about one delivery, for a person."""
    event = shown["event"]
    by = f" by synchronization {shown['synchronization']}" if shown["synchronization"] else ""
    of = f" of {event['at']}" if event["at"] else ""
    lines = [
        f"{shown['id']}  {shown['status']}",
        f"to {shown['integration']}{by}, channel {shown['channel']}",
        f"event {event['type']} {event['id']}{of}" + (f" from {event['from']}" if event["from"] else ""),
    ]
    if event["key"]:
        lines.append(f"record {event['entity']} {event['key']}")
    if shown["error"]:
        lines.append(f"{shown['reason']}: {shown['error']}")
    if shown["next_at"]:
        lines.append(f"next try {shown['next_at']}")
    if shown["retry_of"]:
        lines.append(f"sends {shown['retry_of']} again")
    if shown["retried_as"]:
        lines.append(f"sent again as {', '.join(shown['retried_as'])}")
    lines += _section("fields", shown["fields"]) + _section("receipt", shown["receipt"])
    lines += ["", "attempts:"] if shown["tries"] else []
    return "\n".join(lines + [_try_text(one) for one in shown["tries"]])


def _section(title: str, values: dict[str, Any] | None) -> list[str]:
    """None: a server does not show it to this token."""
    if values is None:
        return ["", f"{title}: {NOT_SHOWN}"]
    said = {
        name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items() if v not in ("", [], {}, None)
    }
    return ["", f"{title}:", *(f"  {name}: {text}" for name, text in said.items())] if said else []


def _try_text(one: dict[str, Any]) -> str:
    took = f" after {one['seconds']:.2f} s" if one["seconds"] is not None else ""
    why = ": ".join(part for part in (one["reason"], one["message"]) if part)
    said = f"  {one['number']}. {one['at'][:19]}Z {one['outcome']}{took}{f'  {why}' if why else ''}"
    return "\n".join([said, *_exchange_lines(one["exchange"])])


def _exchange_lines(exchange: dict[str, Any] | None) -> list[str]:
    """What was asked last, and what was answered."""
    if exchange is None:
        return []
    answer = exchange["status"] if exchange["status"] is not None else "no answer"
    lines = [f"     {exchange['method']} {exchange['url']}: {answer}"]
    lines += [f"     > {one_line(exchange['request'])}"] if exchange["request"] else []
    return lines + ([f"     < {one_line(exchange['response'])}"] if exchange["response"] else [])
