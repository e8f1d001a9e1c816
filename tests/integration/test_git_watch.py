"""Polling and watching over real folders and repositories. Time is stepped; waiting is for conditions only."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest
import watchfiles
from watchfiles._rust_notify import WatchfilesRustInternalError

from reconciler.desired.folder_source import FolderSource
from reconciler.desired.polling import poll
from reconciler.desired.snapshot import Snapshot
from reconciler.desired.source import GitSource, SourceState, open_source
from reconciler.desired.source_error import Fault
from reconciler.desired.source_settings import SourceSettings
from tests.integration.git_remote import Repo, StepClock

Told = Snapshot | SourceState


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "work")
    made.commit("first", files={"integrations/jira.yaml": None})
    return made


async def soon(stream: AsyncGenerator[Told, None]) -> Told:
    async with asyncio.timeout(120):
        return await stream.__anext__()


async def test_a_commit_is_picked_up_at_once(repo: Repo, tmp_path: Path) -> None:
    clock = StepClock()
    source = GitSource(SourceSettings(name="w", url=str(repo.root), ref="main"), tmp_path / "cache", clock)
    async with aclosing(poll(source, clock, Random(1))) as stream:
        first = await soon(stream)
        head = repo.commit("second", files={"integrations/new.yaml": None})
        second = await soon(stream)
    assert first.revision != head
    assert (second.revision, set(source.last_good.files)) == (head, {"integrations/jira.yaml", "integrations/new.yaml"})  # type: ignore[union-attr]
    assert clock.at.second == 0  # no interval went by


async def test_a_push_to_a_bare_repository_is_picked_up_at_once(repo: Repo, tmp_path: Path) -> None:
    clock = StepClock()
    bare = repo.bare(tmp_path / "r.git")
    source = open_source(SourceSettings(name="w", url=str(bare)), tmp_path / "cache", clock)
    async with aclosing(poll(source, clock, Random(1))) as stream:
        await soon(stream)
        head = repo.commit("second")
        repo.git("push", "--quiet", "origin", "main")
        assert (await soon(stream)).revision == head


async def test_an_uncommitted_file_and_its_commit_are_picked_up_at_once(repo: Repo, tmp_path: Path) -> None:
    clock = StepClock()
    source = open_source(SourceSettings(name="w", url=str(repo.root)), tmp_path / "cache", clock)
    async with aclosing(poll(source, clock, Random(1))) as stream:
        assert (await soon(stream)).revision == repo.git("rev-parse", "HEAD")
        repo.write("integrations/draft.yaml")
        assert "-dirty." in (await soon(stream)).revision
        head = repo.commit("draft done")
        while (await soon(stream)).revision != head:
            pass
    assert source.last_good
    assert source.last_good.history("integrations/draft.yaml").created_by == "ada@example.test"


async def test_where_the_system_gives_no_watch_the_interval_is_left(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> AsyncIterator[None]:
        raise WatchfilesRustInternalError("error creating recommended watcher: Too many open files (os error 24)")

    monkeypatch.setattr(watchfiles, "awatch", none_left)
    clock = StepClock()
    source = GitSource(SourceSettings(name="w", url=str(repo.root), ref="main"), tmp_path / "cache", clock)
    async with aclosing(poll(source, clock, Random(1))) as stream:
        await soon(stream)
        head = repo.commit("second")
        looking = asyncio.create_task(soon(stream))
        await clock.slept(1)
        await clock.advance(70)
        assert (await looking).revision == head


async def test_a_plain_folder_is_watched(tmp_path: Path) -> None:
    clock, root = StepClock(), tmp_path / "plain"
    (root / "sub").mkdir(parents=True)
    source = open_source(SourceSettings(name="w", url=str(root)), tmp_path / "cache", clock)
    assert isinstance(source, FolderSource)
    async with aclosing(poll(source, clock, Random(1))) as stream:
        await soon(stream)
        (root / "sub/a.yaml").write_text("a: 1\n")
        found = await soon(stream)
        assert set(found.files) == {"sub/a.yaml"}  # type: ignore[union-attr]


async def test_the_interval_and_a_trigger(repo: Repo, tmp_path: Path) -> None:
    clock, trigger = StepClock(), asyncio.Event()
    away = GitSource(SourceSettings(name="w", url=f"file://{repo.root}", ref="main"), tmp_path / "cache", clock)
    away.watch = _silent  # type: ignore[method-assign]  # as a remote is: nothing says that it moved
    async with aclosing(poll(away, clock, Random(1), trigger)) as stream:
        await soon(stream)
        head = repo.commit("second")
        waiting = asyncio.create_task(soon(stream))
        await clock.slept(1)
        assert 54 <= clock.asked[0] <= 66
        await clock.advance(53)
        assert not waiting.done()
        await clock.advance(14)
        assert (await waiting).revision == head
        head = repo.commit("third")
        trigger.set()
        assert (await soon(stream)).revision == head
        assert not trigger.is_set()


async def _silent() -> AsyncIterator[None]:
    for _ in ():
        yield


async def test_failures_are_told_once_and_tried_again_with_growing_pauses(repo: Repo, tmp_path: Path) -> None:
    clock = StepClock()
    source = GitSource(SourceSettings(name="w", url=f"file://{repo.root}", ref="main"), tmp_path / "cache", clock)
    source.watch = _silent  # type: ignore[method-assign]
    async with aclosing(poll(source, clock, Random(1))) as stream:
        good = await soon(stream)
        away = repo.root.rename(tmp_path / "away")
        waiting = asyncio.create_task(soon(stream))
        await clock.slept(1)
        await clock.advance(70)
        told = await waiting
        assert isinstance(told, SourceState)
        assert told.error
        assert (told.error.fault, told.revision) == (Fault.UNREACHABLE, good.revision)
        waiting = asyncio.create_task(soon(stream))
        for attempt in range(12):
            await clock.slept(attempt + 2)
            await clock.advance(301)
        await clock.slept(14)
        assert not waiting.done()
        away.rename(repo.root)
        await clock.advance(301)
        recovered = await waiting
    assert isinstance(recovered, SourceState)
    assert recovered.error is None
    pauses = clock.asked[1:14]
    assert all(1 <= pause <= min(300, 2.0 ** (n + 1)) for n, pause in enumerate(pauses))
    assert max(pauses) > 60


async def test_after_a_restart_the_last_good_revision_comes_first(repo: Repo, tmp_path: Path) -> None:
    clock = StepClock()
    settings = SourceSettings(name="w", url=f"file://{repo.root}", ref="main")
    good = await GitSource(settings, tmp_path / "cache", clock).fetch()
    repo.root.rename(tmp_path / "away")
    async with aclosing(poll(GitSource(settings, tmp_path / "cache", clock), clock, Random(1))) as stream:
        first, second = await soon(stream), await soon(stream)
    assert first.revision == good.revision
    assert isinstance(second, SourceState)
    assert second.error
