"""`reconciler enable NAME`: commit `enabled: true`, over the API; the opposite of `reconciler disconnect`."""

import argparse

from reconciler.cli.change_shown import add_change, show, wait_of
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, as_ref, client_of


def configure(parser: argparse.ArgumentParser) -> None:
    add_change(parser)
    examples(parser, "reconciler enable servicenow-prod --wait 20")


@answered
def run(args: argparse.Namespace) -> int:
    wait = wait_of(args)
    with client_of(args) as client:
        show(client.integrations.enable(as_ref(args.name), wait=wait), args)
    return 0
