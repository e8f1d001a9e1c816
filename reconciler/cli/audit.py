"""`reconciler audit`: who asked for which change, over the API or with a command, and what became of it.

From the daemon's store or a server, which tells what is in the workspace of the token.
"""

import argparse
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server, client_of
from reconciler.cli.store_access import CommandError, guarded, reading
from reconciler.cli.times import instant

PAGE = 100
_HEAD = ("AT", "WORKSPACE", "CALLER", "OUTCOME", "ACTION", "TARGET", "DETAIL")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workspace", metavar="NAME", help="only what was asked for there (default: everywhere)")
    parser.add_argument("--since", metavar="TIME", help="only since then: RFC 3339, or 2h for the last two hours")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most the newest so many (default: 50)")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(parser, "reconciler audit --since 7d", "reconciler audit --workspace it-ops --output json")


@guarded
def run(args: argparse.Namespace) -> int:
    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    since = instant(args.since, "--since", datetime.now(UTC)) if args.since else None
    found = _at_server(args, since) if asks_server(args) else _here(args, since)
    if args.output == "json":
        print(json.dumps({"audit": found}, indent=2))
    else:
        print(aligned(_HEAD, [_row(line) for line in found]) if found else "nothing was asked for")
    return 0


def _here(args: argparse.Namespace, since: datetime | None) -> list[dict[str, Any]]:
    from reconciler.model.clock import rfc3339
    from reconciler.serve.forms import audit_form
    from reconciler.store import requests

    with reading(args) as tx:
        found = requests.audit(tx, args.workspace, since=rfc3339(since) if since else None, limit=args.limit)
    return [audit_form(line) for line in found]


def _at_server(args: argparse.Namespace, since: datetime | None) -> list[dict[str, Any]]:
    with client_of(args) as client:
        every = client.access.all_audit(limit=PAGE if args.workspace else min(args.limit, PAGE), since=since)
        wanted = (line for line in every if args.workspace in (None, line.workspace))
        return [line.model_dump(mode="json") for line in islice(wanted, args.limit)]


def _row(line: Mapping[str, Any]) -> tuple[str, ...]:
    said = ", ".join(f"{name}={value}" for name, value in line["detail"].items())
    return (
        f"{line['at'][:19]}Z",
        line["workspace"] or "(every)",
        line["caller"],
        f"{line['outcome']} {line['status']}",
        line["action"],
        line["target"] or (line["revision"] or "")[:12] or "-",
        one_line(said, 60) or "-",
    )
