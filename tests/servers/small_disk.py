"""A small real disk: a tmpfs in a mount namespace of its own. Needs no root where users may have namespaces.

Outside the namespace its folder is empty: commands are run inside with `command`, files are reached through `seen`.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_KEEP = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && echo ready && exec cat'


@dataclass(frozen=True)
class SmallDisk:
    """Mounted at `folder` for all who are inside, as long as its keeper lives."""

    folder: Path
    keeper: int

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` where the disk is."""
        return ["nsenter", f"--target={self.keeper}", "--user", "--mount", "--preserve-credentials", *words]

    def seen(self, path: Path) -> Path:
        """How a process outside opens a file on the disk."""
        return Path(f"/proc/{self.keeper}/root") / path.relative_to("/")

    @property
    def filler(self) -> Path:
        return self.seen(self.folder / "filler")


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """`size` is like 6m. Skips the test where the machine lets nobody mount a disk of their own."""
    folder.mkdir()
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter are not installed: apt-get install util-linux")
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _KEEP, "sh", size, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != b"ready\n":
            pytest.skip(f"no disk of one's own may be mounted here: {keeper.stderr.read().decode().strip()}")
        try:
            yield SmallDisk(folder, keeper.pid)
        finally:
            keeper.kill()


def fill(path: Path) -> None:
    """Write until nothing fits any more."""
    with path.open("wb", buffering=0) as filler:
        for size in (1 << 16, 1 << 12):
            try:
                while True:
                    filler.write(b"\0" * size)
            except OSError:
                continue
