"""`reconciler credentials NAME`: what an integration signs in with, without the values; with --renew it is obtained anew.

Reading needs no daemon, renewing does: whoever is connected there does it.
"""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_name, add_output, add_state_dir, examples
from reconciler.cli.store_access import find_integration, guarded, order, reading
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.control.credentials import CredentialView

_HEAD = ("KIND", "NAME", "FINGERPRINT", "EXPIRES", "SINCE", "SCOPES")


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("--renew", action="store_true", help="obtain anew now what can be without a person")
    add_output(parser)
    add_state_dir(parser)
    examples(parser, "reconciler credentials github-acme", "reconciler credentials github-acme --renew")


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.control.credentials import credentials

    with reading(args) as tx:
        row = find_integration(tx, args.name)
        found = credentials(tx, row.id)
    if args.renew:
        answer = order(args, "renew-credentials", row.id, {})
        print(f"{answer['integration']}: renewed by the reconcile that begins now")
        return 0
    if args.output == "json":
        json.dump({"integration": str(row.ref), "credentials": [asdict(one) for one in found]}, sys.stdout, indent=2)
        print()
    elif not found:
        print(f"{row.ref} has no credential that is known yet")
    else:
        print(aligned(_HEAD, [_line(one, datetime.now(UTC)) for one in found]))
    return 0


def _line(one: "CredentialView", now: datetime) -> tuple[str, ...]:
    return (
        one.kind,
        one.name,
        one.fingerprint or "-",
        f"{one.expires_at[:19]}Z" if one.expires_at else "-",
        ago(one.updated_at, now) if one.updated_at else "-",
        ", ".join(one.scopes) if one.scopes else "-",
    )
