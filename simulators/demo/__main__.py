"""`python -m simulators.demo`, as `make demo` calls it. `ONCE=1` in the environment ends it by itself.

Exit code: 0 when everything converged or the reader ended it, 1 with the reason when something did not.
"""

import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from simulators.demo import DemoError
from simulators.demo.story import play


class _EndedError(BaseException):
    """Somebody ends the demo; not an Exception, so that nothing on the way takes it for a fault."""


def _end(number: int, _: FrameType | None) -> None:
    # A second signal must not interrupt the orderly end.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    raise _EndedError(number)


def main() -> int:
    """Leaves no process behind, whichever way it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # the mail server's library talks about itself
    folder = Path(os.environ.get("DEMO_FOLDER") or ".demo").absolute()
    is_once = os.environ.get("ONCE", "") not in ("", "0")
    try:
        play(folder, once=is_once)
    except DemoError as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        return 1
    except _EndedError as ended:
        sys.stdout.write("\nended; the files stay in .demo until the next start\n")
        return 130 if is_once else 0 if ended.args[0] == signal.SIGINT else 128 + int(ended.args[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
