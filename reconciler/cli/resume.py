"""`reconciler resume NAME`: ends a suspension that a person ordered."""

import argparse

from reconciler.cli.options import add_name, add_state_dir
from reconciler.cli.store_access import CommandError, find_integration, guarded, order, reading


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    add_state_dir(parser)


@guarded
def run(args: argparse.Namespace) -> int:
    with reading(args) as tx:
        row = find_integration(tx, args.name)
    if not row.is_suspended:
        raise CommandError(f"{row.ref} is not suspended")
    order(args, "resume", row.id, {})
    print(f"{row.ref} resumed")
    return 0
