"""A process that syncs twice into an empty store, for its memory: `python -m benchmarks.filling URL FOLDER`.

Everything is new to the first sync, nothing to the second. Prints, in kB, how much the process held before, and its peak from
then on. Its remote is another process.
"""

import asyncio
import gc
import sys
from pathlib import Path

from benchmarks.synced import syncing


async def main(url: str, folder: Path) -> None:
    async with syncing(folder, folder / "reconciler.db", url) as sync:
        before = _start_counting()
        await sync()
        await sync()
        print(before, _held("VmHWM"))


def _start_counting() -> int:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return _held("VmRSS")


def _held(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
