"""`reconciler approve DIGEST`: allow exactly the removals that the guard blocked, or will block: it may come before the merge."""

import argparse
import re

from reconciler.cli.options import add_state_dir, examples
from reconciler.cli.store_access import CommandError, guarded, order, reading


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("digest", metavar="DIGEST", help="the 16 hex digits that a blocked plan names")
    add_state_dir(parser)
    examples(parser, "reconciler approve 3f9a1c0b7d2e4a68")


@guarded
def run(args: argparse.Namespace) -> int:
    if not re.fullmatch(r"[0-9a-f]{16}", args.digest):
        raise CommandError(f"{args.digest}: expected the 16 hex digits that a blocked `reconciler plan` names")
    is_awaited = _is_awaited(args)
    order(args, "approve", None, {"digest": args.digest})
    print(f"{args.digest} approved" + ("" if is_awaited else "; nothing waits for it now, it counts when a plan does"))
    return 0


def _is_awaited(args: argparse.Namespace) -> bool:
    from reconciler.model.condition import Reason
    from reconciler.store import conditions

    with reading(args) as tx:
        said = [c for each in conditions.every_condition(tx).values() for c in each.values()]
    return any(c.reason is Reason.PRUNE_BLOCKED and args.digest in c.message for c in said)
