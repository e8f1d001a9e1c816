"""`reconciler patch NAME --set ...`: change some fields of a manifest, over the API, as a commit."""

import argparse
from typing import Any

from reconciler.cli.change_shown import add_change, show, wait_of
from reconciler.cli.given_fields import add_fields, fields_of, labels_of
from reconciler.cli.options import examples
from reconciler.cli.server_access import answered, as_ref, client_of
from reconciler.cli.store_access import CommandError


def configure(parser: argparse.ArgumentParser) -> None:
    add_change(parser)
    add_fields(parser)
    parser.add_argument("--unset", dest="unsets", action="append", default=[], metavar="FIELD", help="take a field out")
    unlabel = "take a label off"
    parser.add_argument("--unlabel", dest="unlabels", action="append", default=[], metavar="NAME", help=unlabel)
    examples(
        parser,
        "reconciler patch servicenow-prod --set sync.every=15m --unset sync.schedule",
        "reconciler patch chat --secret auth.token=- < token.txt",
        "reconciler patch chat --set 'sync.entities=[users, channels]' --label team=chat",
    )


@answered
def run(args: argparse.Namespace) -> int:
    wait, body = wait_of(args), _body(args)
    if not body:
        raise CommandError("what is to change? --set, --secret, --unset, --label or --unlabel")
    with client_of(args) as client:
        show(client.integrations.change(as_ref(args.name), body, wait=wait), args)
    return 0


def _body(args: argparse.Namespace) -> dict[str, Any]:
    labels: dict[str, str | None] = {**labels_of(args), **dict.fromkeys(args.unlabels)}
    spec = fields_of(args)
    return ({"spec": spec} if spec else {}) | ({"metadata": {"labels": labels}} if labels else {})
