"""`reconciler remove NAME`: remove the manifest, over the API. What becomes of records says its `deletion_policy`."""

import argparse

from reconciler.cli.change_shown import add_change, agree, show, wait_of
from reconciler.cli.disconnect import GUARD
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, as_ref, client_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_change(parser)
    parser.add_argument("--beyond-guard", action="store_true", help=GUARD)
    parser.add_argument("--yes", action="store_true", help="do it without being asked")
    examples(parser, "reconciler remove servicenow-prod", "reconciler remove it-ops/chat --yes")


@answered
def run(args: argparse.Namespace) -> int:
    wait = wait_of(args)
    with client_of(args) as client:
        found = client.integrations.get(as_ref(args.name))
        policy = found.spec.get("deletion_policy", "disconnect")
        agree(args, f"Remove {found.workspace}/{found.name} ({found.type}, {found.status}, deletion policy {policy})?")
        done = client.integrations.remove(found.id, beyond_guard=args.beyond_guard, wait=wait)
        show(done, args, "removed")
    return 0
