"""`make demo`: the real program against simulated vendors, told as a story. Started as `python -m simulators.demo`.

`vendors` starts the simulators, `repository` builds a Git repository from `examples/quickstart`, `daemon` runs the real
commands as child processes and reads what they say, `story` is the order of events. Everything lies in `.demo/`, which is
made anew at each start; every address is free to choose by the system. Nothing here is part of the product.
"""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


class DemoError(Exception):
    """The story cannot go on; the message is the reason, for a person."""


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def title(text: str) -> None:
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    say(f"\n{bold}== {text}{plain}")


def wait_for(what: str, look: Callable[[], T | None], seconds: float, why: Callable[[], str] = str) -> T:
    """What `look` finds; raises DemoError that names `what` and says `why` not, when it finds nothing in time."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > until:
            raise DemoError(f"not within {seconds:.0f} s: {what}. {why()}".strip())
        time.sleep(_POLL_SECONDS)
    return found
