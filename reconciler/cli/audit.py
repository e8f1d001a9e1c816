"""`reconciler audit`: who asked for which change, over the API or with a command, and what became of it; from the store."""

import argparse
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.cli.columns import aligned, one_line
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.store_access import CommandError, guarded, reading
from reconciler.cli.times import instant

if TYPE_CHECKING:
    from reconciler.store.requests import AuditLine

_HEAD = ("AT", "WORKSPACE", "CALLER", "OUTCOME", "ACTION", "TARGET", "DETAIL")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workspace", metavar="NAME", help="only what was asked for there (default: everywhere)")
    parser.add_argument("--since", metavar="TIME", help="only since then: RFC 3339, or 2h for the last two hours")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="at most the newest so many (default: 50)")
    add_output(parser)
    add_state_dir(parser)
    examples(parser, "reconciler audit --since 7d", "reconciler audit --workspace it-ops --output json")


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.model.clock import rfc3339
    from reconciler.serve.forms import audit_form
    from reconciler.store import requests

    if args.limit < 1:
        raise CommandError("--limit: expected a number above 0")
    since = rfc3339(instant(args.since, "--since", datetime.now(UTC))) if args.since else None
    with reading(args) as tx:
        found = requests.audit(tx, args.workspace, since=since, limit=args.limit)
    if args.output == "json":
        print(json.dumps({"audit": [audit_form(line) for line in found]}, indent=2))
    else:
        print(aligned(_HEAD, [_row(line) for line in found]) if found else "nothing was asked for")
    return 0


def _row(line: "AuditLine") -> tuple[str, ...]:
    said = ", ".join(f"{name}={value}" for name, value in line.detail.items())
    return (
        f"{line.at[:19]}Z",
        line.workspace or "(every)",
        line.caller,
        f"{line.outcome} {line.status}",
        line.action,
        line.target or line.revision[:12] or "-",
        one_line(said, 60) or "-",
    )
