"""`reconciler key --server`: the same over the API."""

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.key import show, show_all
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError
from reconciler.cli.times import span

if TYPE_CHECKING:
    from reconciler.api.ingest import NewIngestKey


def run(args: argparse.Namespace) -> int:
    return {"create": _create, "regenerate": _regenerate, "list": _list, "revoke": _revoke}[args.action](args)


def _create(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        made = client.integrations.create_key(as_ref(args.name), _wished(args))
    return _shown(args, made)


def _regenerate(args: argparse.Namespace) -> int:
    body = _wished(args)
    if args.grace:
        body["grace_seconds"] = int(span(args.grace, "--grace").total_seconds())
    if_match = f'"{args.instead_of}"' if args.instead_of else None
    with client_of(args) as client:
        made = client.integrations.regenerate_key(as_ref(args.name), body, if_match=if_match)
    return _shown(args, made)


def _wished(args: argparse.Namespace) -> dict[str, Any]:
    wished: dict[str, Any] = {"label": args.label[:80]}
    if args.expires:
        wished["expires_at"] = (datetime.now(UTC) + span(args.expires, "--expires")).isoformat()
    return wished


def _shown(args: argparse.Namespace, made: "NewIngestKey") -> int:
    if made.key is None:
        lost = f"{made.key_id} was made, but the answer that showed it was lost"
        raise CommandError(f"{lost}; make another: reconciler key regenerate {args.name} --instead-of {made.key_id}")
    before = made.previous
    until = before.valid_until.isoformat() if before is not None and before.state == "retiring" else ""
    show(made.key, made.key_id, before.key_id if before else "", until)
    return 0


def _list(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        keys = [key.model_dump(mode="json") for key in client.integrations.all_keys(as_ref(args.name), limit=100)]
    show_all(keys, args.name, args.output)
    return 0


def _revoke(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        client.integrations.revoke_key(as_ref(args.name), args.key)
    print(f"{args.key} opens nothing any more")
    return 0
