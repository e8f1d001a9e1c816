"""`reconciler token`: make, list and revoke what opens the API. A token is shown once; only its hash is stored.

Needs no daemon, only its store; a daemon that runs knows of a change within a second. Tokens that a workspace's manifest
declares are listed here and changed in Git.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from getpass import getuser
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.store_access import CommandError, guarded, location, reading
from reconciler.cli.times import ago, instant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.store.database import Tx
    from reconciler.store.tokens import TokenRow

DEFAULT_PERMISSION = "integration.view"
_HEAD = ("ID", "NAME", "WORKSPACE", "STATE", "FROM", "EXPIRES", "LAST USED", "MAY")


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    create = _command(commands, "create", "make one and show it, this once")
    create.add_argument("name", metavar="NAME", help="whom it is for, such as ci or dashboard")
    where = create.add_mutually_exclusive_group(required=True)
    where.add_argument("--workspace", metavar="NAME", help="all it opens is in this workspace")
    where.add_argument("--every-workspace", action="store_true", help="it opens the whole installation")
    may = f"what it may do: integration.view, plan.view, admin, ...; may be repeated (default: {DEFAULT_PERMISSION})"
    create.add_argument("--allow", metavar="PERMISSION", action="append", help=may)
    create.add_argument("--expires", metavar="TIME", help="RFC 3339, or 90d for in ninety days (default: never)")
    revoke = _command(commands, "revoke", "from now on it opens nothing")
    revoke.add_argument("token", metavar="ID", help="its id, the token itself or, where only one has it, its name")
    listing = _command(commands, "list", "show all there are, without the tokens themselves")
    add_output(listing)
    for one in (create, revoke, listing):
        add_state_dir(one)
    examples(
        parser,
        "reconciler token create dashboard --workspace it-ops --expires 90d",
        "reconciler token create ci --workspace it-ops --allow plan.view --allow integration.sync",
        "reconciler token list",
        "reconciler token revoke dashboard",
    )


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return made


@guarded
def run(args: argparse.Namespace) -> int:
    return {"create": _create, "list": _list, "revoke": _revoke}[args.action](args)


def _create(args: argparse.Namespace) -> int:
    from reconciler.model.access import new_token
    from reconciler.model.clock import rfc3339
    from reconciler.store import tokens
    from reconciler.store.location import write_once

    now = datetime.now(UTC)
    made = new_token()
    row = tokens.TokenRow(
        public_id=made.public_id,
        workspace=_workspace(args),
        name=_name(args.name, "NAME"),
        sha256=made.sha256,
        permissions=_permissions(args.allow or [DEFAULT_PERMISSION]),
        origin="command",
        created_at=rfc3339(now),
        created_by=getuser(),
        expires_at=_expiry(args.expires, now),
    )
    with reading(args) as tx:
        same = [t for t in tokens.standing(tx, now) if (t.workspace, t.name) == (row.workspace, row.name)]
    if same:
        raise CommandError(
            f"there is a token {row.name} already ({same[0].public_id}); revoke it first, or choose a name"
        )

    def put(tx: "Tx") -> None:
        tokens.put(tx, row)
        _note(tx, "create", row)

    write_once(location(args), put)
    print(made.clear.reveal())
    print(f"{row.public_id} is shown only now; use it as: Authorization: Bearer ...", file=sys.stderr)
    return 0


def _note(tx: "Tx", what: str, row: "TokenRow") -> None:
    from reconciler.model.clock import rfc3339
    from reconciler.store.requests import write_act

    detail = {"name": row.name, "permissions": list(row.permissions)}
    at = rfc3339(datetime.now(UTC))
    write_act(
        tx, getuser(), f"reconciler token {what}", at, workspace=row.workspace, target=row.public_id, detail=detail
    )


def _name(text: str, what: str) -> str:
    from reconciler.model.ids import DNS_LABEL

    if not DNS_LABEL.fullmatch(text):
        raise CommandError(f"{what} {text}: expected small letters, digits and hyphens, at most 63")
    return text


def _workspace(args: argparse.Namespace) -> str | None:
    return None if args.every_workspace else _name(args.workspace, "--workspace")


def _permissions(names: "Sequence[str]") -> tuple[str, ...]:
    from reconciler.cli.names import meant
    from reconciler.model.access import Permission

    known = [str(one) for one in Permission]
    for name in names:
        if name not in known:
            raise CommandError(
                f"--allow {name}: there is no such permission{meant(name, known)}; there are: {', '.join(known)}"
            )
    return tuple(dict.fromkeys(names))


def _expiry(text: str | None, now: datetime) -> str | None:
    from reconciler.model.clock import rfc3339

    if text is None:
        return None
    at = instant(text, "--expires", now, is_ahead=True)
    if at <= now:
        raise CommandError(f"--expires {text}: this is in the past")
    return rfc3339(at)


def _list(args: argparse.Namespace) -> int:
    from reconciler.store import tokens

    now = datetime.now(UTC)
    with reading(args) as tx:
        found = tokens.every(tx)
    if args.output == "json":
        json.dump({"tokens": [as_json(t, now) for t in found]}, sys.stdout, indent=2)
        print()
    elif not found:
        print("no tokens; make one: reconciler token create NAME --workspace WORKSPACE")
    else:
        print(aligned(_HEAD, [_line(t, now) for t in found]))
    return 0


def as_json(token: "TokenRow", now: datetime) -> dict[str, Any]:
    """The stable JSON form of one token: everything but the token."""
    return {
        "id": token.public_id,
        "name": token.name,
        "workspace": token.workspace,
        "state": token.state(now),
        "origin": token.origin,
        "permissions": list(token.permissions),
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }


def _line(token: "TokenRow", now: datetime) -> tuple[str, ...]:
    return (
        token.public_id,
        token.name,
        token.workspace or "(every)",
        token.state(now),
        token.origin,
        f"{token.expires_at[:19]}Z" if token.expires_at else "never",
        ago(token.last_used_at, now) if token.last_used_at else "never",
        ", ".join(token.permissions),
    )


def _revoke(args: argparse.Namespace) -> int:
    from reconciler.model.access import id_of
    from reconciler.model.clock import rfc3339
    from reconciler.store import tokens
    from reconciler.store.location import write_once

    now, meant = datetime.now(UTC), id_of(args.token)
    with reading(args) as tx:
        found = [t for t in tokens.every(tx) if meant in (t.public_id, t.name)]
    found = [t for t in found if t.revoked_at is None] or found
    if not found:
        raise CommandError(f"there is no token {meant}; see: reconciler token list")
    if len(found) > 1:
        raise CommandError(f"{meant} are several, say which: {', '.join(t.public_id for t in found)}")
    (token,) = found
    if token.origin == "git":
        raise CommandError(f"{token.name} stands in the manifest of workspace {token.workspace}; take it out there")

    def revoke(tx: "Tx") -> bool:
        is_gone = tokens.revoke(tx, token.public_id, rfc3339(now))
        if is_gone:
            _note(tx, "revoke", token)
        return is_gone

    if not write_once(location(args), revoke):
        raise CommandError(f"{meant} is revoked already")
    print(f"{token.name} ({token.public_id}) opens nothing any more; a daemon that runs knows within a second")
    return 0
