"""How commands reach a daemon on this machine: through its store. Reading needs no daemon; orders need one to answer."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from reconciler.cli import names

if TYPE_CHECKING:
    from reconciler.model.ids import Ref
    from reconciler.store.database import Tx
    from reconciler.store.integrations import IntegrationRow
    from reconciler.store.location import Location

T = TypeVar("T")
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.05
GONE_SECONDS = 2.0


class CommandError(Exception):
    """The command cannot be done; the message is for the person who typed it."""


def state_dir(args: argparse.Namespace) -> Path:
    from reconciler.settings import default_state_dir

    given = args.state_dir or os.environ.get("RECONCILER_STATE_DIR")
    return Path(given) if given else default_state_dir(os.environ)


def location(args: argparse.Namespace) -> "Location":
    """Where the store is: the database that the environment names, unless a state directory is named here."""
    from reconciler.settings import SettingsError, database_url

    try:
        url = None if args.state_dir else database_url(os.environ)
    except SettingsError as error:
        raise CommandError(str(error)) from None
    return url or state_dir(args) / "reconciler.db"


@contextmanager
def reading(args: argparse.Namespace) -> "Iterator[Tx]":
    """One snapshot of the daemon's store, also while it works."""
    from reconciler.store.location import open_readonly
    from reconciler.store.migrations import check_version

    place = location(args)
    with open_readonly(place) as tx:
        check_version(tx, "the store")
        yield tx


class Snapshots(Protocol):
    """Each call is one snapshot: none lasts while a pager waits for its reader."""

    def __call__(self, query: "Callable[[Tx], T]") -> T: ...


@contextmanager
def snapshots(args: argparse.Namespace) -> Iterator[Snapshots]:
    """For commands that read long, over one connection."""
    from reconciler.store.location import backend
    from reconciler.store.migrations import check_version

    place = location(args)
    with closing(backend(place).visit(is_reader=True)) as session:
        session.run(lambda tx: check_version(tx, "the store"), "read")
        yield lambda query: session.run(query, "read")


def find_integration(tx: "Tx", text: str, *, with_removed: bool = False) -> "IntegrationRow":
    """As `match_ref` finds it among those of the store; raises CommandError."""
    from reconciler.store import integrations

    rows = {row.ref: row for row in integrations.every(tx, with_removed=with_removed)}
    return rows[match_ref(rows, text)]


def match_ref(refs: "Collection[Ref]", text: str) -> "Ref":
    """The one that a person means by `text`; raises CommandError with suggestions."""
    from reconciler.model.ids import meant

    try:
        found = meant(text, refs)
    except ValueError as error:
        raise CommandError(str(error)) from None
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"{text} is in several workspaces, say which: {', '.join(map(str, sorted(found)))}")
    if not refs:
        raise CommandError(f"no integration {text}; there is none at all yet")
    known = [str(ref) if "/" in text or "." in text else ref.name for ref in refs]
    raise CommandError(f"no integration {text}{names.meant(text.replace('.', '/'), known)}")


def order(args: argparse.Namespace, kind: str, integration_id: int | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave an order for the daemon and wait for its answer; raises CommandError where it refuses or is not there."""
    from datetime import UTC, datetime

    from reconciler.model.clock import rfc3339
    from reconciler.store import journal
    from reconciler.store.location import write_once

    demand_daemon(args)
    by = getuser()
    at = rfc3339(datetime.now(UTC))
    public_id = write_once(
        location(args), lambda tx: journal.ask(tx, kind, integration_id, params, by, at, is_of_command=True)
    )
    deadline, daemon = time.monotonic() + ANSWER_SECONDS, DaemonWatch(args, "the order stays and is done")
    while time.monotonic() < deadline:
        daemon.check()
        with reading(args) as tx:
            answer = journal.answer_of(tx, public_id)
        if answer is not None:
            if not answer.get("ok"):
                raise CommandError(str(answer.get("error", "refused")))
            return dict(answer)
        time.sleep(POLL_SECONDS)
    raise CommandError(f"the daemon has not answered within {ANSWER_SECONDS:.0f} s; the order stays and will be done")


def demand_daemon(args: argparse.Namespace) -> None:
    """Raises CommandError where nobody would carry an order out."""
    if not daemon_works(args):
        place = location(args)
        where = f"{place.parent}" if isinstance(place, Path) else "that database"
        raise CommandError(f"no daemon works on {where}; start one with: reconciler run, or name another --state-dir")


def daemon_works(args: argparse.Namespace) -> bool:
    """Whether a process leads on the store that these commands read."""
    place = location(args)
    if isinstance(place, Path):
        return daemon_runs(place.parent)
    with reading(args) as tx:
        return is_led(place, tx)


def is_led(location: "Location", tx: "Tx") -> bool:
    """A daemon holds the lock of a state directory, or the lease of a shared database; there, a hand-over counts."""
    if isinstance(location, Path):
        return daemon_runs(location.parent)
    from reconciler.store import leases

    return leases.is_expected(tx, leases.CONTROLLER, tx.now())


class DaemonWatch:
    """For whoever waits: `check` raises CommandError soon after the daemon is gone. `what` goes on when it is back."""

    def __init__(self, args: argparse.Namespace, what: str) -> None:
        self._args = args
        self._what = what
        self._next = time.monotonic() + GONE_SECONDS

    def check(self) -> None:
        # not at every look: who tries the lock could be in the way of a daemon that starts
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + GONE_SECONDS
        if not daemon_works(self._args):
            raise CommandError(f"the daemon has stopped; {self._what} when it runs again")


def daemon_runs(folder: Path) -> bool:
    """Whether a process holds the state directory. Shared, so that two who look never take each other for it."""
    import fcntl

    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def guarded(call: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Turns errors for a person into a line on stderr and exit code 1."""

    def run(args: argparse.Namespace) -> int:
        from reconciler.store.errors import StoreError

        try:
            return call(args)
        except (CommandError, StoreError) as error:
            print(f"reconciler: {error}", file=sys.stderr)
            return 1

    return run
