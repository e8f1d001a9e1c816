"""How commands reach a daemon on this machine: through its store. Reading needs no daemon; orders need one to answer."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reconciler.model.ids import Ref
    from reconciler.store.database import Tx
    from reconciler.store.integrations import IntegrationRow

ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.05


class CommandError(Exception):
    """The command cannot be done; the message is for the person who typed it."""


def add_state_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state-dir", type=Path, help="state directory of the daemon")


def state_dir(args: argparse.Namespace) -> Path:
    from reconciler.settings import default_state_dir

    given = args.state_dir or os.environ.get("RECONCILER_STATE_DIR")
    return Path(given) if given else default_state_dir(os.environ)


@contextmanager
def reading(args: argparse.Namespace) -> "Iterator[Tx]":
    """One snapshot of the daemon's store, also while it works."""
    from reconciler.store.database import open_readonly
    from reconciler.store.migrations import check_version

    path = state_dir(args) / "reconciler.db"
    with open_readonly(path) as tx:
        check_version(tx, str(path))
        yield tx


def find_integration(tx: "Tx", text: str, *, with_removed: bool = False) -> "IntegrationRow":
    """By `workspace/name`, or by bare name where only one workspace has it; raises CommandError with suggestions."""
    from reconciler.store import integrations

    rows = {row.ref: row for row in integrations.every(tx, with_removed=with_removed)}
    return rows[match_ref(rows, text)]


def match_ref(refs: "Collection[Ref]", text: str) -> "Ref":
    """The one that a person means by `text`; raises CommandError."""
    from difflib import get_close_matches

    from reconciler.model.ids import Ref

    try:
        wanted = Ref.parse(text)
    except ValueError as error:
        raise CommandError(str(error)) from None
    is_bare = "/" not in text and "." not in text
    found = [ref for ref in refs if (ref.name == wanted.name if is_bare else ref == wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise CommandError(f"{text} is in several workspaces: {', '.join(map(str, found))}")
    close = get_close_matches(text, [ref.name if is_bare else str(ref) for ref in refs], 1)
    raise CommandError(f"no integration {text}{f', did you mean {close[0]}?' if close else ''}")


def order(args: argparse.Namespace, kind: str, integration_id: int | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """Leave an order for the daemon and wait for its answer; raises CommandError where it refuses or is not there."""
    from datetime import UTC, datetime

    from reconciler.model.clock import rfc3339
    from reconciler.store import journal

    folder = state_dir(args)
    if not daemon_runs(folder):
        raise CommandError(f"no daemon works on {folder}; start one with: reconciler run")
    by = getuser()
    public_id = _write(folder, lambda tx: journal.ask(tx, kind, integration_id, params, by, rfc3339(datetime.now(UTC))))
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        with reading(args) as tx:
            answer = journal.answer_of(tx, public_id)
        if answer is not None:
            if not answer.get("ok"):
                raise CommandError(str(answer.get("error", "refused")))
            return dict(answer)
        time.sleep(POLL_SECONDS)
    raise CommandError(f"the daemon has not answered within {ANSWER_SECONDS:.0f} s; the order stays and will be done")


def _write(folder: Path, call: "Callable[[Tx], str]") -> str:
    from reconciler.store.database import write_once

    return write_once(folder / "reconciler.db", call)


def daemon_runs(folder: Path) -> bool:
    """Whether a process holds the state directory."""
    import fcntl

    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
