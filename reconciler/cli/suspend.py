"""`reconciler suspend NAME --reason R`: nothing is changed, synced or delivered until it is resumed."""

import argparse
from datetime import UTC, datetime

from reconciler.cli.options import add_name, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, as_ref, asks_server, client_of
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading
from reconciler.cli.times import instant


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("--reason", required=True, metavar="TEXT", help="why, for whoever wonders later")
    parser.add_argument("--until", metavar="TIME", help="resume by itself then: RFC 3339, or 2h for in two hours")
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(parser, "reconciler suspend servicenow-prod --reason 'upgrade of the instance' --until 4h")


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.model.clock import rfc3339

    if not args.reason.strip():
        raise CommandError("--reason: say why, for whoever wonders later")
    now = datetime.now(UTC)
    until = instant(args.until, "--until", now, is_ahead=True) if args.until else None
    if until is not None and until <= now:
        raise CommandError(f"--until {args.until}: this is in the past")
    params = {"reason": args.reason, "until": rfc3339(until) if until else None}
    ref = _at_server(args, params) if asks_server(args) else _here(args, params)
    then = f" until {rfc3339(until)[:19]}Z" if until else ""
    print(f"{ref} suspended{then}; end it with: reconciler resume {ref}")
    return 0


def _here(args: argparse.Namespace, params: dict[str, str | None]) -> str:
    with reading(args) as tx:
        row = find_integration(tx, args.name)
    order(args, "suspend", row.id, params)
    return str(row.ref)


def _at_server(args: argparse.Namespace, params: dict[str, str | None]) -> str:
    with client_of(args) as client:
        client.integrations.suspend(as_ref(args.name), params)
    return str(args.name)
