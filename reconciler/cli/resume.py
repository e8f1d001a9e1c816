"""`reconciler resume NAME`: ends a suspension that a person ordered."""

import argparse

from reconciler.cli.options import add_name, add_state_dir
from reconciler.cli.server_access import ELSEWHERE, add_server, as_ref, asks_server, client_of
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)


@guarded
def run(args: argparse.Namespace) -> int:
    print(f"{_at_server(args) if asks_server(args) else _here(args)} resumed")
    return 0


def _here(args: argparse.Namespace) -> str:
    with reading(args) as tx:
        row = find_integration(tx, args.name)
    if not row.is_suspended:
        raise CommandError(f"{row.ref} is not suspended")
    order(args, "resume", row.id, {})
    return str(row.ref)


def _at_server(args: argparse.Namespace) -> str:
    with client_of(args) as client:
        client.integrations.resume(as_ref(args.name))
    return str(args.name)
