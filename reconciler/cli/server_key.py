"""`reconciler key --server`: the same over the API. Of a key that was revoked it does not tell when."""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.server_access import as_ref, client_of
from reconciler.cli.store_access import CommandError
from reconciler.cli.times import ago, span

if TYPE_CHECKING:
    from reconciler.api.ingest import NewIngestKey

_HEAD = ("ID", "STATE", "LABEL", "CREATED", "BY", "LAST USED", "ENDS", "HINT")


def run(args: argparse.Namespace) -> int:
    return {"regenerate": _regenerate, "list": _list, "revoke": _revoke}[args.action](args)


def _regenerate(args: argparse.Namespace) -> int:
    body: dict[str, Any] = {"label": args.label[:80]}
    if args.grace:
        body["grace_seconds"] = int(span(args.grace, "--grace").total_seconds())
    if_match = f'"{args.instead_of}"' if args.instead_of else None
    with client_of(args) as client:
        made = client.integrations.regenerate_key(as_ref(args.name), body, if_match=if_match)
    if made.key is None:
        lost = f"{made.key_id} was made, but the answer that showed it was lost"
        raise CommandError(f"{lost}; make another: reconciler key regenerate {args.name}")
    print(made.key)
    print(_told(made), file=sys.stderr)
    return 0


def _told(made: "NewIngestKey") -> str:
    lines = [f"{made.key_id} is shown only now; use it as: Authorization: Bearer rck_..."]
    if made.previous is not None:
        at = f"{made.previous.valid_until:%Y-%m-%dT%H:%M:%S}Z"
        until = f"opens until {at}" if made.previous.state == "retiring" else "opens nothing now"
        lines.append(f"{made.previous.key_id}, the key before, {until}")
    return "\n".join(lines)


def _list(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        keys = [key.model_dump(mode="json") for key in client.integrations.list_keys(as_ref(args.name)).data]
    if args.output == "json":
        print(json.dumps({"keys": keys}, indent=2))
    elif not keys:
        print(f"no keys; make one: reconciler key regenerate {args.name}")
    else:
        print(aligned(_HEAD, [_line(key, datetime.now(UTC)) for key in keys]))
    return 0


def _line(key: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    ends = key["valid_until"] or key["expires_at"]
    return (
        key["key_id"],
        key["state"],
        key["label"] or "-",
        ago(key["created_at"], now),
        key["created_by"],
        ago(key["last_used_at"], now) if key["last_used_at"] else "never",
        "-" if key["state"] == "revoked" else f"{ends[:19]}Z" if ends else "never",
        key["hint"],
    )


def _revoke(args: argparse.Namespace) -> int:
    with client_of(args) as client:
        client.integrations.revoke_key(as_ref(args.name), args.key)
    print(f"{args.key} opens nothing any more")
    return 0
