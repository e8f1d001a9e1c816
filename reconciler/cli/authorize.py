"""`reconciler authorize NAME`: send a person to the remote, and wait until the integration is connected or refused.

Needs a daemon at work, here or at --server: it exchanges what the remote sends back. Where the remote can send the person's
browser to the daemon, that is all; with --paste the person copies the address that the browser ends up at. Nothing secret is
printed but that one URL, which is good for ten minutes and once.
"""

import argparse
import sys
import time
from datetime import UTC, datetime, timedelta
from getpass import getuser
from typing import TYPE_CHECKING

from reconciler.cli.options import add_name, add_state_dir, examples
from reconciler.cli.server_access import ELSEWHERE, add_server, asks_server
from reconciler.cli.store_access import (
    CommandError,
    DaemonWatch,
    demand_daemon,
    find_integration,
    guarded,
    location,
    reading,
)
from reconciler.cli.times import span

if TYPE_CHECKING:
    from reconciler.app.authorizations import Authorization, Returned
    from reconciler.control.standing import Standing
    from reconciler.control.view import IntegrationView
    from reconciler.store.database import Tx
    from reconciler.store.integrations import IntegrationRow

LOOK_SECONDS = 0.2
EXITS = "0 authorized and connected; 1 refused, not connected, or not done in time"


def configure(parser: argparse.ArgumentParser) -> None:
    add_name(parser)
    paste = "read the address that the browser was sent back to, where it cannot reach the daemon"
    parser.add_argument("--paste", action="store_true", help=paste)
    parser.add_argument("--timeout", default="10m", metavar="DURATION", help="how long to wait (default: 10m)")
    add_state_dir(parser)
    add_server(parser, ELSEWHERE)
    examples(parser, "reconciler authorize github-acme", "reconciler authorize github-acme --paste", exits=EXITS)


@guarded
def run(args: argparse.Namespace) -> int:
    patience = span(args.timeout, "--timeout")
    if asks_server(args):
        from reconciler.cli import server_authorize

        return server_authorize.run(args, patience)
    deadline = datetime.now(UTC) + patience
    with reading(args) as tx:
        row = find_integration(tx, args.name)
    demand_daemon(args)
    asked = _begin(args, row)
    show_way(str(row.ref), asked.url, asked.expires_at)
    if args.paste:
        _finish(args, pasted(asked.redirect_uri))
    else:
        warn_of_way_back(asked.redirect_uri)
    waiting = _Waiting(args, min(deadline, asked.expires_at + timedelta(minutes=1)))
    _await_exchange(args, asked.id, waiting)
    return _await_connected(args, row.id, waiting)


def show_way(ref: str, url: str, expires_at: datetime) -> None:
    """Where the person goes."""
    print(f"Open this, and allow what {ref} asks for. It is good until {expires_at:%H:%M} UTC, and once:\n")
    print(f"  {url}\n", flush=True)


def warn_of_way_back(redirect_uri: str) -> None:
    if redirect_uri.startswith("http://"):
        print(f"The remote sends you back to {redirect_uri}, so use a browser on the daemon's machine, or --paste.")


def _begin(args: argparse.Namespace, row: "IntegrationRow") -> "Authorization":
    from reconciler.app.authorizations import NotAuthorizableError, begin
    from reconciler.model.clock import rfc3339
    from reconciler.store.location import write_once
    from reconciler.store.requests import write_act

    by, now = getuser(), datetime.now(UTC)

    def ask(tx: "Tx") -> "Authorization":
        begun = begin(tx, row.id, by, now)
        detail, where = {"authorization": begun.id}, row.workspace
        write_act(tx, by, "reconciler authorize", rfc3339(now), workspace=where, target=row.public_id, detail=detail)
        return begun

    try:
        return write_once(location(args), ask)
    except NotAuthorizableError as error:
        raise CommandError(str(error)) from None


def _finish(args: argparse.Namespace, returned: "Returned") -> None:
    from reconciler.app.authorizations import StateRefusedError, finish
    from reconciler.store.location import write_once

    try:
        write_once(location(args), lambda tx: finish(tx, returned, datetime.now(UTC)))
    except StateRefusedError as error:
        raise CommandError(str(error)) from None


def pasted(redirect_uri: str) -> "Returned":
    """What the person pastes is not repeated: it may hold a code."""
    from reconciler.app.authorizations import returned_by

    print(f"Then paste the address you were sent back to ({redirect_uri}?...), and press Enter:", flush=True)
    text = sys.stdin.readline().strip()
    returned = returned_by(text)
    if not returned.state or not (returned.code or returned.error):
        raise CommandError("this is not the address that the remote sent you back to: it has no state, or no code")
    return returned


class _Waiting:
    """A moment between two looks, as long as there is time and a daemon works."""

    def __init__(self, args: argparse.Namespace, deadline: datetime) -> None:
        self._deadline = deadline
        self._daemon = DaemonWatch(args, "what is under way goes on")

    def go_on(self, what: str) -> None:
        if datetime.now(UTC) > self._deadline:
            raise CommandError(f"{what} in time; begin anew")
        self._daemon.check()
        time.sleep(LOOK_SECONDS)


def _await_exchange(args: argparse.Namespace, attempt: str, waiting: _Waiting) -> None:
    from reconciler.app.authorizations import outcome

    while True:
        with reading(args) as tx:
            found = outcome(tx, attempt)
        if found.status != "waiting":
            break
        waiting.go_on(found.message)
    if found.status != "authorized":
        raise CommandError(found.message)
    print(f"authorized{f'; {found.message}' if found.message else ''}", flush=True)


def _await_connected(args: argparse.Namespace, integration_id: int, waiting: _Waiting) -> int:
    while True:
        view, stands = _look(args, integration_id)
        if stands.is_settled:
            break
        waiting.go_on(f"{view.row.ref} was not looked at again")
    print(f"{view.row.ref} {stands}: {view.message}")
    return 0 if stands.is_good else 1


def _look(args: argparse.Namespace, integration_id: int) -> "tuple[IntegrationView, Standing]":
    from reconciler.control.standing import standings

    with reading(args) as tx:
        found = [pair for pair in standings(tx, tx.now()) if pair[0].row.id == integration_id]
    if not found:
        raise CommandError("Git does not name it any more")
    return found[0]
