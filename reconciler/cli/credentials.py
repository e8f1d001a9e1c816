"""`reconciler credentials NAME`: what an integration signs in with, without the values; with --renew it is obtained anew.

Reading the store needs no daemon, renewing does: whoever is connected there does it. With --server the API is asked for both.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_name, add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, as_ref, asks_server, client_of
from reconciler.cli.store_access import find_integration, guarded, order, reading
from reconciler.cli.times import ago

_HEAD = ("KIND", "NAME", "FINGERPRINT", "EXPIRES", "SINCE", "SCOPES")


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    parser.add_argument("--renew", action="store_true", help="obtain anew now what can be without a person")
    add_output(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(parser, "reconciler credentials github-acme", "reconciler credentials github-acme --renew")


@guarded
def run(args: argparse.Namespace) -> int:
    ref, found = _at_server(args) if asks_server(args) else _here(args)
    if args.renew:
        print(f"{ref}: renewed by the reconcile that begins now")
    elif args.output == "json":
        json.dump({"integration": ref, "credentials": found}, sys.stdout, indent=2)
        print()
    elif not found:
        print(f"{ref} has no credential that is known yet")
    else:
        print(aligned(_HEAD, [_line(one, datetime.now(UTC)) for one in found]))
    return 0


def _here(args: argparse.Namespace) -> tuple[str, Sequence[Mapping[str, Any]]]:
    from dataclasses import asdict

    from reconciler.control.credentials import credentials

    with reading(args) as tx:
        row = find_integration(tx, args.name)
        found = credentials(tx, row.id)
    if args.renew:
        order(args, "renew-credentials", row.id, {})
    return str(row.ref), [asdict(one) for one in found]


def _at_server(args: argparse.Namespace) -> tuple[str, Sequence[Mapping[str, Any]]]:
    with client_of(args) as client:
        if args.renew:
            client.credentials.rotate(as_ref(args.name))
            return args.name, ()
        found = client.credentials.list(as_ref(args.name)).data
    return args.name, [one.model_dump(mode="json") for one in found]


def _line(one: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        one["kind"],
        one["name"],
        one["fingerprint"] or "-",
        f"{one['expires_at'][:19]}Z" if one["expires_at"] else "-",
        ago(one["updated_at"], now) if one["updated_at"] else "-",
        ", ".join(one["scopes"]) if one["scopes"] else "-",
    )
