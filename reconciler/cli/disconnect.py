"""`reconciler disconnect NAME`: commit `enabled: false`, over the API. The manifest stays; `reconciler remove` removes it."""

import argparse

from reconciler.cli.change_shown import add_change, agree, show, wait_of
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, as_ref, client_of

GUARD = "let more go than the prune guard permits; for tokens with admin"


def configure(parser: argparse.ArgumentParser) -> None:
    add_change(parser)
    parser.add_argument("--purge-data", action="store_true", help="delete its records once it is disconnected")
    parser.add_argument("--beyond-guard", action="store_true", help=GUARD)
    parser.add_argument("--yes", action="store_true", help="do it without being asked")
    examples(parser, "reconciler disconnect servicenow-prod", "reconciler disconnect it-ops/chat --purge-data --yes")


@answered
def run(args: argparse.Namespace) -> int:
    wait = wait_of(args)
    what = " and delete all its records" if args.purge_data else ""
    agree(args, f"Disconnect {args.name}{what}?")
    with client_of(args) as client:
        done = client.integrations.disconnect(
            as_ref(args.name), {"purge_data": args.purge_data}, beyond_guard=args.beyond_guard, wait=wait
        )
        show(done, args)
    return 0
