"""`reconciler database copy|backup|restore`: an installation in another place, nothing lost.

Out: what went over, table by table, and what the person has to do now. The URL of a database is never shown.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.cli.options import add_state_dir, examples
from reconciler.cli.store_access import CommandError, guarded, location, state_dir

if TYPE_CHECKING:
    from reconciler.app.moving import Moved
    from reconciler.model.secret import Secret
    from reconciler.settings import Settings
    from reconciler.store.location import Location

_URL = "default, and better, because others can read command lines: $RECONCILER_DATABASE_URL or _URL_FILE"


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    what = "copy a state directory into an empty PostgreSQL database; its daemon must be stopped"
    copy = commands.add_parser("copy", help=what, description=f"{what[0].upper()}{what[1:]}.")
    copy.add_argument("source", type=Path, metavar="STATE_DIR", help="the state directory that is outgrown")
    copy.add_argument("url", nargs="?", metavar="POSTGRES_URL", help=f"where to; {_URL}")
    what = "write everything in the database into a new file, also while daemons work"
    backup = commands.add_parser("backup", help=what, description=f"{what[0].upper()}{what[1:]}.")
    what = "bring a backup back, into a state directory without database or an empty PostgreSQL database"
    restore = commands.add_parser("restore", help=what, description=f"{what[0].upper()}{what[1:]}.")
    for one in (backup, restore):
        one.add_argument("file", type=Path, metavar="FILE", help="the backup: one file, the same for both databases")
        add_state_dir(one)
    examples(
        parser,
        "reconciler database backup /backup/reconciler-2026-05-04.db",
        "reconciler database restore /backup/reconciler-2026-05-04.db --state-dir /var/lib/reconciler",
        "RECONCILER_DATABASE_URL_FILE=/etc/reconciler/database-url reconciler database copy /var/lib/reconciler",
    )


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.settings import SettingsError

    try:
        return {"copy": _copy, "backup": _back_up, "restore": _restore}[args.action](args)
    except (SettingsError, OSError) as error:
        raise CommandError(str(error)) from None


def _copy(args: argparse.Namespace) -> int:
    from reconciler.app.moving import copy_installation

    moved = copy_installation(args.source, _url(args), _settings(args.source), os.environ, _tell)
    _sum_up(f"copied {moved.source} to {moved.target}", moved)
    own = args.source / "keys" / "master.key"
    copy = f", a copy of {own}" if own.is_file() else ""
    print("\nNow:")
    if moved.key:
        print(f"- The master key given here ({moved.key}) is that of this installation: give it to every process.")
    else:
        print(f"- Give every process the same master key as before: RECONCILER_MASTER_KEY_FILE{copy}.")
    print("- Start the daemons with RECONCILER_DATABASE_URL, each with a state directory of its own.")
    print(f"- Never start one on {args.source} without it again: both would do everything.")
    return 0


def _back_up(args: argparse.Namespace) -> int:
    from reconciler.app.moving import back_up

    place = location(args)
    moved = back_up(place, args.file, _tell)
    _sum_up(f"backed up {moved.source} to {moved.target}", moved)
    own = f" {place.parent / 'keys' / 'master.key'}" if isinstance(place, Path) else ""
    opens = f": it opens the {_credentials(moved)} in the backup" if moved.sealed else ""
    print(f"\nNot in it: the master key{own}{opens}. Keep a copy of it in another place than the backup.")
    print("Nor Git, keys for SOPS and settings. The file holds all records; only its owner can read it.")
    return 0


def _restore(args: argparse.Namespace) -> int:
    from reconciler.app.moving import restore

    place = location(args)
    moved = restore(args.file, place, _settings(state_dir(args)), os.environ, _tell)
    _sum_up(f"restored {moved.source} to {moved.target}", moved)
    _say_key(moved, place)
    print("\nWhat happened after the backup was made is read again, and may be told again: see docs/recovery.md.")
    return 0


def _say_key(moved: "Moved", place: "Location") -> None:
    """What is sealed with a key that is not there is of no use."""
    foreign = {key: n for key, n in moved.sealed.items() if key != moved.key}
    if moved.key and not foreign:
        return
    where = f"at {place.parent / 'keys' / 'master.key'}" if isinstance(place, Path) else "in RECONCILER_MASTER_KEY_FILE"
    there = (
        f"The master key given here ({moved.key}) is another one" if moved.key else f"There is no master key {where}"
    )
    print(f"\n{there}. Before a daemon starts, put that of this installation {where if moved.key else 'there'}.")
    if foreign:
        names = " and ".join(sorted(foreign))
        print(f"Without it (key {names}) the {_credentials(moved)} must be obtained again.")
    else:
        print("With another one every integration is applied anew, once.")


def _url(args: argparse.Namespace) -> "Secret":
    from reconciler.settings import DATABASE_ENV, database_url

    env = {DATABASE_ENV: args.url} if args.url else os.environ
    url = database_url(env)
    if url is None:
        raise CommandError("where to? set RECONCILER_DATABASE_URL or RECONCILER_DATABASE_URL_FILE, or name the URL")
    return url


def _settings(folder: Path) -> "Settings":
    from reconciler.settings import load_settings

    return load_settings(os.environ, None, {"state_dir": folder})


def _tell(table: str, rows: int) -> None:
    if rows:
        print(f"  {table:<16} {rows:>12,}")
        sys.stdout.flush()


def _sum_up(done: str, moved: "Moved") -> None:
    print(f"{done}: {sum(moved.rows.values()):,} rows, counted on both sides, schema version {moved.schema}")


def _credentials(moved: "Moved") -> str:
    count = sum(moved.sealed.values())
    return f"{count} credential{'s' if count > 1 else ''} obtained at run time"
