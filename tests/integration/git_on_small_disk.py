"""Run by `test_git_small_disk` on a disk of its own: fetches from a repository, fills the disk, fetches, restarts, makes room.

Prints one line of JSON for each step: what the source says then.
"""

import asyncio
import json
import sys
from pathlib import Path

from reconciler.desired.source import GitSource
from reconciler.desired.source_error import SourceError
from reconciler.desired.source_settings import SourceSettings
from tests.integration.git_remote import Repo, StepClock
from tests.servers.small_disk import fill


async def tell(step: str, source: GitSource) -> None:
    message = ""
    try:
        await source.fetch()
    except SourceError as error:
        message = str(error)
    good, state = source.last_good, source.state
    said = {
        "step": step,
        "files": sorted(good.files) if good else None,
        "author": good.history("first.yaml").created_by if good else "",
        "reason": state.error.reason if state.error else "",
        "message": message,
    }
    print(json.dumps(said), flush=True)


async def main(root: Path, disk: Path) -> None:
    settings = SourceSettings(name="main", url=f"file://{root}", ref="main")
    repo, filler = Repo(root), disk / "filler"

    def source() -> GitSource:
        return GitSource(settings, disk / "git", StepClock())

    fill(filler)
    empty = source()
    await tell("nothing fits", empty)
    with filler.open("rb+") as file:
        file.truncate(filler.stat().st_size - 20_000)  # room to begin, not to end
    await tell("little fits", empty)
    filler.unlink()
    await tell("first", empty)
    repo.commit("second", files={"second.yaml": "x: " + "y" * 3000})
    fill(filler)
    await tell("full again", empty)
    restarted = source()
    await tell("restarted", restarted)
    filler.unlink()
    await tell("room again", restarted)


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
