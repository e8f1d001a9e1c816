"""`reconciler key`: make, replace, list and revoke the keys with which others push to an integration of type custom.

Needs no daemon, only its store; a daemon that runs knows of a change at once. With --server the API is asked. A key is shown
once; only its hash is stored.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from getpass import getuser
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import CommandError, find_integration, guarded, location, reading
from reconciler.cli.times import ago, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.control.push_keys import KeyWish, MadeKey
    from reconciler.model.ingest_key import Rotation
    from reconciler.store.database import Tx
    from reconciler.store.ingest_keys import KeyRow
    from reconciler.store.integrations import IntegrationRow

_HEAD = ("ID", "STATE", "LABEL", "CREATED", "BY", "LAST USED", "ENDS", "HINT")


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    create = _command(commands, "create", "make one more key and show it, this once; two open at most")
    regenerate = _command(commands, "regenerate", "make a new key and show it, this once; the old one ends")
    regenerate.add_argument("--grace", metavar="TIME", help="how long the old one still opens, such as 1h (at most 7d)")
    regenerate.add_argument(
        "--instead-of", metavar="ID", help="replace this one; nothing is done where it is active no more"
    )
    for one in (create, regenerate):
        one.add_argument("--label", metavar="TEXT", default="", help="what it is for, such as erp")
        one.add_argument("--expires", metavar="TIME", help="when it ends by itself, such as 90d (default: never)")
    revoke = _command(commands, "revoke", "from now on it opens nothing")
    revoke.add_argument("key", metavar="ID", help="its id, as `key list` shows it")
    listing = _command(commands, "list", "show those of an integration, without the keys themselves")
    add_output(listing)
    for one in (create, regenerate, revoke, listing):
        add_state_dir(one)
        add_server(one, ELSEWHERE)
    examples(
        parser,
        "reconciler key create it-ops/erp --label erp",
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
    return {"create": _create, "regenerate": _regenerate, "list": _list, "revoke": _revoke}[args.action](args)


def _create(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import create

    return _shown_once(args, create)


def _regenerate(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import regenerate

    grace = span(args.grace, "--grace") if args.grace else None
    return _shown_once(
        args,
        lambda tx, row, wish, now: regenerate(tx, row, wish, now, grace=grace, instead_of=args.instead_of),
    )


def _shown_once(args: argparse.Namespace, make: "Callable[[Tx, IntegrationRow, KeyWish, datetime], MadeKey]") -> int:
    from reconciler.control.carried import OrderError
    from reconciler.control.push_keys import KeyLimitError, KeyWish, OtherKeyError
    from reconciler.store.location import write_once

    now, by = datetime.now(UTC), getuser()

    def act(tx: "Tx") -> "MadeKey":
        row = find_integration(tx, args.name)
        made = make(tx, row, wish, now)
        _audit(tx, args, row, made.row.key_id, now)
        return made

    expires_at = now + span(args.expires, "--expires") if args.expires else None
    wish = KeyWish(by=by, label=args.label[:80], expires_at=expires_at)
    try:
        made = write_once(location(args), act)
    except (OrderError, OtherKeyError, KeyLimitError) as error:
        raise CommandError(str(error)) from None
    _show(made)
    return 0


def _audit(tx: "Tx", args: argparse.Namespace, row: "IntegrationRow", key_id: str, now: datetime) -> None:
    from reconciler.model.clock import rfc3339
    from reconciler.store import requests

    requests.write_act(
        tx,
        getuser(),
        f"reconciler key {args.action}",
        rfc3339(now),
        workspace=row.workspace,
        target=row.public_id,
        detail={"key_id": key_id},
    )


def _show(made: "MadeKey") -> None:
    before, is_open = made.previous, made.valid_until > made.row.created_at
    show(made.new.clear.reveal(), made.row.key_id, before.key_id if before else "", made.valid_until if is_open else "")


def show(clear: str, key_id: str, previous: str, until: str) -> None:
    """The key alone on standard output; `until` is how long the `previous` one still opens, empty where it does not."""
    print(clear)
    print(f"{key_id} is shown only now; use it as: Authorization: Bearer rck_...", file=sys.stderr)
    if previous:
        said = f"opens until {until[:19]}Z" if until else "opens nothing now"
        print(f"{previous}, the key before, {said}", file=sys.stderr)


def _list(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import rotation_of
    from reconciler.store import ingest_keys

    now = datetime.now(UTC)
    with reading(args) as tx:
        row = find_integration(tx, args.name)
        keys, rotation = ingest_keys.of_integration(tx, row.id), rotation_of(tx, row.id)
    show_all([_as_json(key, rotation, now) for key in keys], row.ref, args.output)
    return 0


def _as_json(key: "KeyRow", rotation: "Rotation", now: datetime) -> dict[str, Any]:
    return {
        **{name: getattr(key, name) for name in ("key_id", "label", "hint", "created_at", "created_by")},
        **{name: getattr(key, name) for name in ("last_used_at", "expires_at", "valid_until", "revoked_at")},
        "state": key.state(now),
        "rotation_due_at": _due_at(key, rotation, now),
    }


def show_all(keys: Sequence[Mapping[str, Any]], name: object, output: str) -> None:
    if output == "json":
        json.dump({"keys": keys}, sys.stdout, indent=2)
        print()
    elif keys:
        print(aligned(_HEAD, [_line(key, datetime.now(UTC)) for key in keys]))
    else:
        print(f"no keys; make one: reconciler key create {name}")


def _due_at(key: "KeyRow", rotation: "Rotation", now: datetime) -> str | None:
    from reconciler.model.clock import from_rfc3339, rfc3339

    due_at = rotation.due_at(from_rfc3339(key.created_at)) if key.state(now) == "active" else None
    return rfc3339(due_at) if due_at else None


def _line(key: Mapping[str, Any], now: datetime) -> tuple[str, ...]:
    ends = key["revoked_at"] or key["valid_until"] or key["expires_at"]
    return (
        key["key_id"],
        key["state"],
        key["label"] or "-",
        ago(key["created_at"], now),
        key["created_by"],
        ago(key["last_used_at"], now) if key["last_used_at"] else "never",
        f"{ends[:19]}Z" if ends else "never",
        key["hint"],
    )


def _revoke(args: argparse.Namespace) -> int:
    from reconciler.control.push_keys import revoke
    from reconciler.store.location import write_once

    now = datetime.now(UTC)

    def act(tx: "Tx") -> bool:
        row = find_integration(tx, args.name)
        is_gone = revoke(tx, row, args.key, getuser(), now)
        if is_gone:
            _audit(tx, args, row, args.key, now)
        return is_gone

    if not write_once(location(args), act):
        raise CommandError(f"no key {args.key} of {args.name} counts; see: reconciler key list {args.name}")
    print(f"{args.key} opens nothing any more")
    return 0
