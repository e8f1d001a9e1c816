"""Programs of others, each in a virtual environment of its own, in a cache folder outside the repository.

Kept from run to run, one for each set of versions; removing the folder is always safe. What cannot be installed is left out,
and said by name with the reason.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_INSTALL_SECONDS = 600


class NotInstalledError(Exception):
    """A peer cannot be had here, and why."""


def environment(name: str, packages: Sequence[str]) -> Path:
    """Its `bin` folder. Raises NotInstalledError."""
    place = _cache() / "-".join([name, *(one.partition("==")[2] for one in packages)])
    ready = place / ".ready"
    if not ready.exists():
        shutil.rmtree(place, ignore_errors=True)
        print(f"installing {', '.join(packages)}", file=sys.stderr, flush=True)
        _call([sys.executable, "-m", "venv", str(place)])
        _call([str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
        ready.touch()
    return place / "bin"


def _call(command: Sequence[str]) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_INSTALL_SECONDS, env=own)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalledError(type(error).__name__) from None
    if done.returncode:
        raise NotInstalledError(next(iter(done.stderr.strip().splitlines()[-1:]), f"exit code {done.returncode}")[:300])


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "reconciler-benchmarks"
