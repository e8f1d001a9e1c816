"""What is noted of a look at Git: when it began, because a commit that came while it lasted may not be in it."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from reconciler.app.attended import Attended
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.source import GitSource, Source
from reconciler.desired.source_settings import SourceSettings
from reconciler.sdk.testing.room import VirtualClock
from reconciler.serve.metrics import Metrics
from tests.integration.git_remote import Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "work")
    made.commit("first", files={"integrations/jira.yaml": None})
    return made


async def test_a_look_is_as_old_as_its_beginning(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, noted = VirtualClock(), list[datetime | None]()
    source = GitSource(SourceSettings(name="w", url=str(repo.root), ref="main"), tmp_path / "cache", clock)
    fetch = source.fetch

    async def slowly() -> Snapshot:
        found = await fetch()
        clock.advance(timedelta(seconds=5))
        return found

    async def note(_: Source, asked_at: datetime | None) -> None:
        noted.append(asked_at)

    monkeypatch.setattr(source, "fetch", slowly)
    attended, first = Attended(source, note, Metrics(), clock), clock.now()
    await attended.note()
    await attended.fetch()
    await attended.note()
    second = clock.now()
    await attended.fetch()
    assert noted == [None, first, second]
