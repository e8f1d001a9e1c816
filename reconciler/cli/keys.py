"""`reconciler keys`: the master key that seals credentials obtained at run time; which is in use, and another in its place.

Needs the keys as a daemon has them (environment, file or state directory), and its store. Keys themselves are never shown: they
are told apart by ids.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.cli.columns import aligned
from reconciler.cli.options import add_output, add_state_dir, examples
from reconciler.cli.store_access import CommandError, guarded, location

if TYPE_CHECKING:
    from reconciler.app.rekeying import Keys
    from reconciler.settings import Settings


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    listing = _command(commands, "list", "show which keys are given here, and what is sealed with which")
    add_output(listing)
    rotate = _command(commands, "rotate", "seal everything anew with the first key that is given; may be repeated")
    lost = "drop what only this lost key opens; it has to be obtained again"
    rotate.add_argument("--forget", metavar="KEY", help=lost)
    for one in (listing, rotate):
        one.add_argument("--config", type=Path, metavar="FILE", help="the daemon's settings file")
        add_state_dir(one)
    examples(
        parser,
        "reconciler keys list",
        "reconciler keys rotate",
        "RECONCILER_MASTER_KEY_FILE=/etc/reconciler/master.key reconciler keys rotate",
    )


def _command(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    return made


@guarded
def run(args: argparse.Namespace) -> int:
    from reconciler.settings import SettingsError, load_settings

    try:
        settings = load_settings(os.environ, args.config, {"state_dir": args.state_dir} if args.state_dir else None)
        return {"list": _list, "rotate": _rotate}[args.action](args, settings)
    except SettingsError as error:
        raise CommandError(str(error)) from None


def _list(args: argparse.Namespace, settings: "Settings") -> int:
    from reconciler.app.rekeying import keys_at

    found = keys_at(location(args), settings, os.environ)
    if args.output == "json":
        json.dump({"keys": [_as_json(found, key) for key in _every(found)]}, sys.stdout, indent=2)
        print()
    else:
        print(aligned(("KEY", "STATE", "CREDENTIALS"), [_line(found, key) for key in _every(found)]))
    return 0


def _every(found: "Keys") -> list[str]:
    return [*found.given, *found.unknown]


def _state(found: "Keys", key: str) -> str:
    if key not in found.given:
        return "not given here"
    return "seals and opens" if key == found.given[0] else "opens"


def _as_json(found: "Keys", key: str) -> dict[str, Any]:
    return {
        "id": key,
        "is_given": key in found.given,
        "seals": key in found.given[:1],
        "credentials": found.sealed.get(key, 0),
    }


def _line(found: "Keys", key: str) -> tuple[str, str, str]:
    return key, _state(found, key), str(found.sealed.get(key, 0))


def _rotate(args: argparse.Namespace, settings: "Settings") -> int:
    from reconciler.app.rekeying import forget, rotate

    place = location(args)
    if args.forget:
        count = forget(place, settings, os.environ, args.forget)
        print(f"forgotten: {_credentials(count)} that only {args.forget} opened; start the daemons anew")
        return 0
    done = rotate(place, settings, os.environ)
    print(f"{_credentials(done.count)} sealed anew; everything that could be opened is sealed with {done.key_id}")
    for path in done.retired:
        print(f"the key before it is in {path}: backups made until now need it; remove it when those are gone")
    for key in done.keys.unknown:
        count = done.keys.sealed.get(key, 0)
        print(
            f"reconciler: {_credentials(count)} can be opened by {key} only, which is not given here; give it as well, or, "
            f"where it is lost: reconciler keys rotate --forget {key}",
            file=sys.stderr,
        )
    return 1 if done.keys.unknown else 0


def _credentials(count: int) -> str:
    return f"{count} credential{'' if count == 1 else 's'}"
