"""`reconciler events`: list them; show, publish, retry, cancel one; tell an integration once more what happened.

Reads the daemon's store; what changes something is an order, so a daemon must be there. Payloads are shown:
who runs this may read the store. With --server the API is asked for all of it.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.store.database import Tx

STATUSES = ("pending", "sending", "delivered", "failed", "dead", "unknown", "cancelled", "none")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "reconciler events [options]\n       reconciler events show|retry|cancel ID [options]\n"
        "       reconciler events publish TYPE [options]\n       reconciler events replay NAME --since TIME [options]"
    )
    parser.add_argument("--integration", metavar="NAME", help="only events about this integration")
    parser.add_argument("--type", action="append", metavar="TYPE", help="only of this type, * for anything; repeatable")
    said = f"only these: {', '.join(STATUSES)}; repeatable"
    parser.add_argument("--status", action="append", choices=STATUSES, metavar="STATUS", help=said)
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most the newest so many (default: 50)")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(
        parser,
        "reconciler events --type 'order.*' --status dead",
        "reconciler events show evt_7xKpQ2mR4wVb",
        "reconciler events publish order.created --payload '{\"number\": 17}' --id order-17",
        "reconciler events replay slack --since 2026-03-01T00:00:00Z",
    )
    commands = parser.add_subparsers(
        dest="action", metavar="COMMAND", prog="reconciler events", help="without one, they are listed"
    )
    for name, what in (
        ("show", "payload, deliveries and attempts of one"),
        ("retry", "send again what failed, is dead or unknown"),
        ("cancel", "take back what has not arrived"),
    ):
        one = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        one.add_argument("id", metavar="ID", help="such as evt_7xKpQ2mR4wVb")
        _add_shared(one)
    for name, what, configure_one in (
        ("publish", "publish an event of your own", _configure_publish),
        ("replay", "tell an integration once more what happened since a time", _configure_replay),
    ):
        configure_one(commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}."))


def _add_shared(parser: argparse.ArgumentParser) -> None:
    """Without a default of their own, so that what stands before the word counts as well."""
    add_output(parser, default=argparse.SUPPRESS)
    add_state_dir(parser, default=argparse.SUPPRESS)
    add_server(parser, ELSEWHERE, default=argparse.SUPPRESS)


def _configure_publish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", metavar="TYPE", help="such as order.created")
    parser.add_argument("--payload", default="{}", metavar="JSON", help="an object; - reads it from standard input")
    parser.add_argument("--id", dest="own_id", metavar="ID", help="your own id: under it the event is kept once")
    parser.add_argument("--subject", metavar="TEXT", help="what it is about, in your words")
    parser.add_argument("--about", metavar="NAME", help="the integration that it is about")
    parser.add_argument("--workspace", metavar="NAME", help="whose event it is (default: default)")
    _add_shared(parser)


def _configure_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the integration that is told")
    parser.add_argument("--since", required=True, metavar="TIME", help="such as 2026-03-01T00:00:00Z")
    parser.add_argument("--until", metavar="TIME", help="default: until now")
    parser.add_argument("--type", dest="types", action="append", metavar="TYPE", help="only of this type; repeatable")
    parser.add_argument(
        "--synchronization", action="append", metavar="NAME", help="only by this one of the target; repeatable"
    )
    _add_shared(parser)


@guarded
def run(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    if asks_server(args):
        from reconciler.cli import server_events

        return server_events.run(args)
    if args.action is None:
        return _list(args)
    if args.action == "show":
        return _show(args)
    answer = _ordered(args)
    if args.output == "json":
        print(json.dumps({k: v for k, v in answer.items() if k != "ok"}))
    else:
        print(said(args.action, answer))
    return 0


def _ordered(args: argparse.Namespace) -> dict[str, Any]:
    if args.action == "publish":
        return order(
            args, "publish-events", None, {"workspace": args.workspace or "default", "events": [event_of(args)]}
        )
    if args.action == "replay":
        with reading(args) as tx:
            target = find_integration(tx, args.name).id
        wanted = {"since": args.since, "until": args.until, "types": args.types}
        return order(args, "replay-events", target, wanted | {"synchronizations": args.synchronization})
    return order(args, f"{args.action}-event", None, {"event": args.id})


def event_of(args: argparse.Namespace) -> dict[str, Any]:
    """As it was typed; raises CommandError."""
    try:
        payload = json.loads(sys.stdin.read() if args.payload == "-" else args.payload)
    except ValueError as error:
        raise CommandError(f"--payload: expected a JSON object: {error}") from None
    if not isinstance(payload, dict):
        raise CommandError("--payload: expected a JSON object, such as '{\"number\": 17}'")
    return {
        "type": args.type,
        "data": payload,
        "id": args.own_id,
        "subject": args.subject or "",
        "integration": args.about,
    }


def said(action: str, answer: dict[str, Any]) -> str:
    """What became of it, for a person."""
    if action == "publish":
        (one,) = answer["events"]
        return f"{one['id']} published" if one["is_new"] else f"{one['id']} was published before under this id"
    if action == "replay":
        return f"{answer['replay']} tells {answer['integration']} once more; its deliveries: reconciler deliveries"
    if action == "retry":
        lines = [f"{one['delivery']} sends {one['retry_of']} again" for one in answer["deliveries"]]
        return "\n".join([*lines, *answer["skipped"]])
    return f"cancelled: {', '.join(answer['deliveries'])}"


def _list(args: argparse.Namespace) -> int:
    with reading(args) as tx:
        found = _found(tx, args)
    show_list(found, args.output)
    return 0


def show_list(found: list[dict[str, Any]], output: str) -> None:
    """Newest first, in the stable form."""
    if output == "json":
        json.dump({"events": found}, sys.stdout, indent=2)
        print()
    else:
        print(table(found, datetime.now(UTC)))


def _found(tx: "Tx", args: argparse.Namespace) -> list[dict[str, Any]]:
    """Pages until there are enough: one may be short though there are more."""
    from reconciler.serve.event_forms import event_form
    from reconciler.store import event_list, integrations
    from reconciler.store.events import Sieve

    about = (find_integration(tx, args.integration, with_removed=True).id,) if args.integration else ()
    found: list[dict[str, Any]] = []
    before = None
    while len(found) < args.limit:
        page = event_list.page(
            tx, Sieve(integrations=about), args.type or (), args.status or (), before, args.limit - len(found)
        )
        names = integrations.names_of(tx, {e.integration_id for e, _ in page.found if e.integration_id is not None})
        found += [event_form(event, standing, names) for event, standing in page.found]
        before = page.after
        if before is None:
            break
    return found


_HEAD = ("ID", "AT", "TYPE", "SOURCE", "WORKSPACE", "ABOUT", "STATUS", "DELIVERIES")


def table(found: list[dict[str, Any]], now: datetime) -> str:
    """Newest first."""
    rows = [
        (
            one["id"],
            ago(one["at"], now),
            one["type"],
            one["source"],
            one["workspace"],
            one["integration"] or one["subject"] or "-",
            one["status"],
            str(one["deliveries"]),
        )
        for one in found
    ]
    return aligned(_HEAD, rows)


def _show(args: argparse.Namespace) -> int:
    with reading(args) as tx:
        shown = _detail(tx, args.id)
    if args.output == "json":
        json.dump(shown, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print(detail_text(shown))
    return 0


def detail_text(shown: dict[str, Any], no_payload: str = "not kept") -> str:
    """Everything about one event, for a person."""
    from reconciler.cli import deliveries

    about = f" about {shown['integration']}" if shown["integration"] else ""
    payload = json.dumps(shown["payload"], ensure_ascii=False, indent=2) if shown["payload"] else no_payload
    head = f"{shown['id']}  {shown['status']}\n{shown['type']} of {shown['at']}, {shown['source']}{about}"
    return "\n\n".join([head, f"payload: {payload}", *map(deliveries.detail_text, shown["attempts"])])


def _detail(tx: "Tx", public_id: str) -> dict[str, Any]:
    from reconciler.cli.deliveries import delivery_detail
    from reconciler.serve.event_forms import event_form
    from reconciler.store import delivery_list, event_list, integrations

    event = event_list.find(tx, public_id)
    if event is None:
        raise CommandError(f"no event {public_id}; list them: reconciler events")
    standing = delivery_list.standing(tx, [public_id]).get(public_id, [])
    known = {row.id: str(row.ref) for row in integrations.every(tx, with_removed=True)}
    about = integrations.names_of(tx, {event.integration_id} if event.integration_id is not None else set())
    kept = event_list.payload_of(tx, public_id) if event.source == "record" else event.payload
    payload = dict(event.detail) if event.source == "lifecycle" else json.loads(kept) if kept else None
    made = delivery_list.of_event(tx, public_id)
    return event_form(event, standing, about) | {
        "payload": payload,
        "attempts": [delivery_detail(tx, one.public_id, known) for one in made],
    }
