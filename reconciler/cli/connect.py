"""`reconciler connect TYPE NAME`: write a new manifest, over the API, as a commit. Exit code: 0 done, 1 refused."""

import argparse

from reconciler.cli.change_shown import add_change, show, wait_of
from reconciler.cli.given_fields import add_fields, fields_of, labels_of
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, client_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("type", metavar="TYPE", help="a connector; see: reconciler connectors")
    add_change(parser, "what it is to be called: small letters, digits and hyphens")
    parser.add_argument("--workspace", metavar="NAME", help="whose it is (default: default)")
    add_fields(parser)
    parser.add_argument("--source", metavar="NAME", help="which source it goes to, where several could hold it")
    examples(
        parser,
        "reconciler connect slack chat --set auth.type=bot_token --secret auth.token=@token.txt",
        "reconciler connect servicenow sn --workspace it-ops --set config.instance_url=https://acme.service-now.com \\\n"
        "    --set auth.type=basic --set auth.username=recon --secret auth.password=env:SN_PASSWORD --set sync.every=15m",
        exits="0 committed or proposed, 1 refused",
    )


@answered
def run(args: argparse.Namespace) -> int:
    wait, body = wait_of(args), {"name": args.name, **fields_of(args)}
    if args.workspace:
        body["workspace"] = args.workspace
    if labels := labels_of(args):
        body["labels"] = labels
    with client_of(args) as client:
        show(client.integrations.connect(args.type, body, source=args.source, wait=wait), args)
    return 0
