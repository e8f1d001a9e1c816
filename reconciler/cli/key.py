"""`reconciler key`: make, list and revoke the keys with which others push to an integration of type custom.

Needs no daemon, only its store; a daemon that runs knows of a change at once. With --server the API is asked. A key is shown
once; only its hash is stored.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from getpass import getuser
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, guarded, location, reading
from reconciler.cli.times import ago

if TYPE_CHECKING:
    from reconciler.store.database import Tx
    from reconciler.store.integrations import IntegrationRow

_HEAD = ("ID", "STATE", "LABEL", "CREATED", "BY", "LAST USED", "ENDS", "HINT")


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    regenerate = _command(commands, "regenerate", "make a new key and show it, this once; the old one ends")
    regenerate.add_argument("--grace", metavar="TIME", help="how long the old one still opens, such as 1h (at most 7d)")
    regenerate.add_argument("--label", metavar="TEXT", default="", help="what it is for, such as erp")
    regenerate.add_argument(
        "--instead-of", metavar="ID", help="only where this is the active key, else nothing is done"
    )
    revoke = _command(commands, "revoke", "from now on it opens nothing")
    revoke.add_argument("key", metavar="ID", help="its id, as `key list` shows it")
    listing = _command(commands, "list", "show those of an integration, without the keys themselves")
    add_output(listing)
    for one in (regenerate, revoke, listing):
        add_state_dir(one)
        add_server(one, ELSEWHERE)
    examples(
        parser,
        "reconciler key regenerate it-ops/erp --grace 1h",
        "reconciler key list it-ops/erp",
        "reconciler key revoke it-ops/erp k7Qm2XaB",
    )


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    made.add_argument("name", metavar="NAME", help="the integration: name or workspace/name")
    return made


@guarded
def run(args: argparse.Namespace) -> int:
    if asks_server(args):
        from reconciler.cli import server_key

        return server_key.run(args)
    return {"regenerate": _regenerate, "list": _list, "revoke": _revoke}[args.action](args)


def _found(tx: "Tx", text: str) -> "IntegrationRow":
    from reconciler.model.ids import meant
    from reconciler.store import integrations

    rows = {row.ref: row for row in integrations.every(tx)}
    try:
        found = meant(text, rows)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if len(found) != 1:
        several = f"{text} are several, say which: {', '.join(map(str, found))}"
        raise CommandError(several if found else f"there is no integration {text}; see: reconciler status")
    return rows[found[0]]


def _regenerate(args: argparse.Namespace) -> int:
    from reconciler.control.carried import OrderError
    from reconciler.control.push_keys import KeyWish, OtherKeyError, regenerate
    from reconciler.model.duration import parse_duration
    from reconciler.store.location import write_once

    now = datetime.now(UTC)
    try:
        grace = parse_duration(args.grace) if args.grace else None
        wish = KeyWish(by=getuser(), grace=grace, label=args.label[:80], instead_of=args.instead_of)
        made = write_once(location(args), lambda tx: regenerate(tx, _found(tx, args.name), wish, now))
    except (OrderError, OtherKeyError, ValueError) as error:
        raise CommandError(str(error)) from None
    print(made.new.clear.reveal())
    print(f"{made.row.key_id} is shown only now; use it as: Authorization: Bearer rck_...", file=sys.stderr)
    if made.previous is not None:
        until = (
            f"opens until {made.valid_until[:19]}Z" if made.valid_until > made.row.created_at else "opens nothing now"
        )
        print(f"{made.previous.key_id}, the key before, {until}", file=sys.stderr)
    return 0


def _list(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import rotation_of
    from reconciler.store import ingest_keys

    now = datetime.now(UTC)
    with reading(args) as tx:
        row = _found(tx, args.name)
        keys, rotation = ingest_keys.of_integration(tx, row.id), rotation_of(tx, row.id)
    if args.output == "json":
        said = [
            {
                **{name: getattr(key, name) for name in ("key_id", "label", "hint", "created_at", "created_by")},
                **{name: getattr(key, name) for name in ("last_used_at", "expires_at", "valid_until")},
                "state": key.state(now),
                "rotation_due_at": rotation.due_at(key) if key.state(now) == "active" else None,
            }
            for key in keys
        ]
        json.dump({"keys": said}, sys.stdout, indent=2)
        print()
    elif not keys:
        print(f"no keys; make one: reconciler key regenerate {row.ref}")
    else:
        print(aligned(_HEAD, [_line(key, now) for key in keys]))
    return 0


def _line(key: Any, now: datetime) -> tuple[str, ...]:
    ends = key.revoked_at or key.valid_until or key.expires_at
    return (
        key.key_id,
        key.state(now),
        key.label or "-",
        ago(key.created_at, now),
        key.created_by,
        ago(key.last_used_at, now) if key.last_used_at else "never",
        f"{ends[:19]}Z" if ends else "never",
        key.hint,
    )


def _revoke(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import revoke
    from reconciler.store.location import write_once

    now = datetime.now(UTC)
    if not write_once(location(args), lambda tx: revoke(tx, _found(tx, args.name), args.key, getuser(), now)):
        raise CommandError(f"no key {args.key} of {args.name} counts; see: reconciler key list {args.name}")
    print(f"{args.key} opens nothing any more")
    return 0
