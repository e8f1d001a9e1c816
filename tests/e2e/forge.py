"""Daemons as processes of their own, quickly: one process imports the product once and forks a daemon for each line.

In: JSON lines `{"argv": [...], "log": path}` on stdin. Out: `started <pid>` and, when it has ended, `ended <status>` on
stdout. The child runs `reconciler.cli.main` like `python -m reconciler` does; only importing, two thirds of a start, is done.
Tests talk to it through `Forge`; `Forge.plain` starts one without it, as a user does.
"""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Forge:
    """`with Forge(env) as forge:`; one daemon at a time."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = {**os.environ, **env, "PYTHONPATH": str(ROOT)}
        self._pid: int | None = None

    def __enter__(self) -> Self:
        line = (sys.executable, str(Path(__file__)))
        self._process = subprocess.Popen(
            line, env=self._env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self._process.communicate(timeout=120)

    def start(self, argv: Sequence[str], log: Path) -> int:
        """The process id of a new daemon."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"argv": list(argv), "log": str(log)}) + "\n")
        self._process.stdin.flush()
        self._pid = int(self._told("started"))
        return self._pid

    def ended(self) -> int:
        """Waits for the end of the daemon: its exit code, or minus the signal that ended it."""
        status = int(self._told("ended"))
        self._pid = None
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self.ended()

    def plain(self, argv: Sequence[str], log: Path) -> "subprocess.Popen[str]":
        """`python -m reconciler ...`, imports and all."""
        with log.open("a") as opened:
            line = (sys.executable, "-m", "reconciler", *argv)
            return subprocess.Popen(line, env=self._env, cwd=ROOT, stdout=opened, stderr=opened, text=True)

    def _told(self, what: str) -> str:
        assert self._process.stdout is not None
        word, _, rest = self._process.stdout.readline().partition(" ")
        assert word == what, f"the forge said {word!r} instead of {what!r}"
        return rest


def _child(argv: Sequence[str], log: str) -> None:
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(opened, number)
    from reconciler.cli.main import main

    code = 70
    try:
        code = main(argv)
    except BaseException:  # noqa: BLE001 - the log of the test shall say why
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Fork for each line; ends with the input."""
    import reconciler.app.daemon
    import reconciler.app.logging
    import reconciler.cli.run  # noqa: F401

    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(asked["argv"], asked["log"])
        print(f"started {pid}", flush=True)
        print(f"ended {os.waitpid(pid, 0)[1]}", flush=True)


if __name__ == "__main__":
    serve()
