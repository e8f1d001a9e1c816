"""How commands reach a daemon anywhere: over its API, as `--server` or the environment says.

The token comes from RECONCILER_TOKEN or RECONCILER_TOKEN_FILE, never from an argument: those are seen by others.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reconciler.cli.store_access import CommandError

if TYPE_CHECKING:
    from reconciler.client import ApiError, Client

SERVER = "the daemon's address, such as https://reconciler.example.org (default: $RECONCILER_URL)"
TOKEN = "the token is in $RECONCILER_TOKEN, or in the file that $RECONCILER_TOKEN_FILE names"
ELSEWHERE = "ask the daemon there instead, over its API (default: $RECONCILER_URL, where no --state-dir is given)"
REF = "an integration: name, workspace.name, id, or a type that only one has"


def add_server(parser: argparse.ArgumentParser, what: str = SERVER, default: Any = None) -> None:
    parser.add_argument("--server", metavar="URL", default=default, help=f"{what}; {TOKEN}")


def asks_server(args: argparse.Namespace) -> bool:
    """Of commands that know a store, too: what is said in this line counts more than the environment."""
    if args.server and args.state_dir:
        raise CommandError("--server or --state-dir: which one?")
    return bool(args.server or (not args.state_dir and os.environ.get("RECONCILER_URL")))


@contextmanager
def client_of(args: argparse.Namespace) -> "Iterator[Client]":
    """Raises CommandError for all that goes wrong within, with how to mend it."""
    from reconciler.client import ApiError, Client, ClientError, UnreachableError

    if not (args.server or os.environ.get("RECONCILER_URL")):
        raise CommandError("which server? --server URL, or set RECONCILER_URL")
    try:
        with Client.from_environment(os.environ, args.server) as client:
            yield client
    except ApiError as error:
        raise CommandError(explained(error)) from None
    except UnreachableError as error:
        raise CommandError(f"{args.server or os.environ['RECONCILER_URL']}: {error}") from None
    except (ClientError, ValueError) as error:
        raise CommandError(str(error)) from None


def explained(error: "ApiError") -> str:
    """What the server said, and what it says more: the candidates, or what to commit oneself."""
    remedies = {401: "; see: reconciler token create", 412: "; somebody changed it meanwhile: look, and do it again"}
    lines = [f"{error}{remedies.get(error.status, '')}"]
    lines += [f"  {one['ref']} ({one['type']}, {one['id']})" for one in error.more.get("candidates", ())]
    if error.more.get("diff"):
        lines.append(f"commit this yourself:\n{error.more['diff']}")
    return "\n".join(lines)


def as_ref(name: str) -> str:
    """The API knows `workspace.name`; people type `workspace/name`, too."""
    return name.replace("/", ".", 1)


def answered(call: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """As `guarded`, for commands that know no store."""

    def run(args: argparse.Namespace) -> int:
        try:
            return call(args)
        except CommandError as error:
            print(f"reconciler: {error}", file=sys.stderr)
            return 1

    return run
