"""The Git source over real repositories on disk: what it reads, what it keeps, and what it survives."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from reconciler.desired.snapshot import MODE_LINK, MODE_SUBMODULE, ReadError, ReadFault
from reconciler.desired.source import GitSource, open_source
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import SourceSettings
from reconciler.model.condition import Reason
from tests.integration.git_remote import Repo, StepClock

Make = Callable[..., GitSource]
T = TypeVar("T")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "work")
    made.write("integrations/jira.yaml")
    made.write("integrations/slack.yaml")
    made.write("README.md", "hello\n")
    made.commit("first")
    return made


@pytest.fixture
def make(tmp_path: Path, repo: Repo) -> Make:
    def build(url: str | None = None, **settings: object) -> GitSource:
        values = {"name": "main", "url": url or f"file://{repo.root}", "ref": "main", **settings}
        return GitSource(SourceSettings(**values), tmp_path / "cache", StepClock())  # type: ignore[arg-type]

    return build


def mirror(tmp_path: Path) -> Path:
    return next((tmp_path / "cache").glob("*/tip.git"))


@pytest.mark.parametrize("form", ["file://{}", "{}"])
@pytest.mark.parametrize("is_bare", [True, False])
async def test_reads_a_repository_on_disk(form: str, is_bare: bool, make: Make, repo: Repo, tmp_path: Path) -> None:
    root = repo.bare(tmp_path / "with space.git") if is_bare else repo.root
    snapshot = await make(form.format(root)).fetch()
    assert snapshot.revision == repo.git("rev-parse", "HEAD")
    assert set(snapshot.files) == {"README.md", "integrations/jira.yaml", "integrations/slack.yaml"}
    assert b"name: jira" in snapshot.read("integrations/jira.yaml")
    assert snapshot.files["README.md"].blob_id == repo.git("rev-parse", "HEAD:README.md")


async def test_only_the_tip_is_fetched_and_history_without_blobs(make: Make, repo: Repo, tmp_path: Path) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    old_blob = repo.git("rev-parse", "HEAD:README.md")
    repo.commit("second", files={"README.md": "changed\n"})
    await make().fetch()
    tip, line = mirror(tmp_path), mirror(tmp_path).with_name("history.git")
    assert repo.git("--git-dir", str(tip), "rev-list", "--count", "refs/reconciler/tip") == "1"
    assert repo.git("--git-dir", str(line), "rev-list", "--count", "refs/reconciler/line") == "2"
    objects = [repo.git("--git-dir", str(d), "cat-file", "--batch-all-objects", "--batch-check") for d in (tip, line)]
    assert not any(old_blob in listed for listed in objects)
    assert " blob " not in objects[1]


@pytest.mark.parametrize("annotated", [True, False])
async def test_a_tag_stays_where_it_is(annotated: bool, make: Make, repo: Repo) -> None:
    tagged = repo.git("rev-parse", "HEAD")
    repo.git("tag", *(["-a", "-m", "release"] if annotated else []), "v1.0")
    repo.commit("second", files={"integrations/new.yaml": None})
    assert (await make(ref="v1.0").fetch()).revision == tagged


async def test_a_branch_wins_over_a_tag_of_the_same_name(make: Make, repo: Repo) -> None:
    repo.git("tag", "prod")
    head = repo.commit("second")
    repo.git("branch", "prod")
    assert (await make(ref="prod").fetch()).revision == head


async def test_a_commit_is_pinned_and_needs_the_remote_once(make: Make, repo: Repo, tmp_path: Path) -> None:
    pinned = repo.git("rev-parse", "HEAD")
    repo.commit("second")
    repo.git("config", "uploadpack.allowAnySHA1InWant", "false")
    source = make(ref=pinned)
    assert (await source.fetch()).revision == pinned
    shutil.rmtree(repo.root)
    assert (await source.fetch()).revision == pinned


async def test_a_commit_the_remote_does_not_have(make: Make) -> None:
    with pytest.raises(SourceError) as caught:
        await make(ref="0123456789" * 4).fetch()
    assert caught.value.fault is Fault.VANISHED


async def test_without_ref_the_default_branch_of_a_bare_repository(make: Make, repo: Repo, tmp_path: Path) -> None:
    repo.git("branch", "-m", "trunk")
    source = make(str(repo.bare(tmp_path / "r.git")), ref="")
    assert (await source.fetch()).revision == repo.git("rev-parse", "trunk")


async def test_an_empty_repository_is_said_to_be_empty(make: Make, tmp_path: Path) -> None:
    empty = Repo.make(tmp_path / "empty")
    with pytest.raises(SourceError, match="no commits on its default branch"):
        await make(str(empty.root), ref="HEAD").fetch()


async def test_a_sub_path_limits_what_is_seen(make: Make, repo: Repo) -> None:
    source = make(path="integrations/")
    first = await source.fetch()
    assert set(first.files) == {"integrations/jira.yaml", "integrations/slack.yaml"}
    repo.commit("second", files={"README.md": "other\n", "integrations/new.yaml": None})
    second = await source.fetch()
    assert set(second.changes(first)) == {"integrations/new.yaml"}
    with pytest.raises(ReadError) as caught:
        second.read("README.md")
    assert caught.value.fault is ReadFault.MISSING


async def test_a_sub_path_that_never_was_is_a_mistake_and_one_that_went_is_empty(make: Make, repo: Repo) -> None:
    with pytest.raises(SourceError) as caught:
        await make(path="integration").fetch()
    assert caught.value.fault is Fault.PATH_MISSING
    source = make(path="integrations")
    await source.fetch()
    repo.git("rm", "-rq", "integrations")
    gone = repo.commit("all gone")
    assert (await source.fetch()).files == {}
    restarted = make(path="integrations")
    restored = await restarted.restore()
    assert restored is not None
    assert (restored.revision, restored.files) == (gone, {})


async def test_the_same_snapshot_while_nothing_moves_then_changes_only(make: Make, repo: Repo) -> None:
    source = make()
    first = await source.fetch()
    assert await source.fetch() is first
    repo.write("integrations/jira.yaml", "changed: true\n")
    repo.git("rm", "-q", "integrations/slack.yaml")
    (repo.root / "integrations/deep").mkdir()
    head = repo.commit("second", files={"integrations/deep/new.yaml": None})
    second = await source.fetch()
    changes = second.changes(first)
    assert set(changes) == {"integrations/jira.yaml", "integrations/slack.yaml", "integrations/deep/new.yaml"}
    assert changes["integrations/slack.yaml"] is None
    assert (source.state.revision, source.state.error, source.state.is_rewritten) == (head, None, False)
    assert dict(second.files) == dict((await make(name="fresh").fetch()).files)


async def test_history_names_creator_and_last_change(make: Make, repo: Repo) -> None:
    created_at = repo.at
    source = make()
    await source.fetch()
    repo.commit("edit", author="bob", files={"integrations/jira.yaml": "a: 1\n"})
    known = (await source.fetch()).history("integrations/jira.yaml")
    assert (known.created_by, known.created_at) == ("ada@example.test", created_at)
    assert (known.updated_by, known.updated_at) == ("bob@example.test", repo.at)
    repo.git("mv", "integrations/jira.yaml", "integrations/moved.yaml")
    repo.commit("move", author="eve")
    moved = (await source.fetch()).history("integrations/moved.yaml")
    assert (moved.created_by, moved.updated_by) == ("ada@example.test", "eve@example.test")
    again = (await make(name="again").fetch()).history("integrations/moved.yaml")
    assert again == moved


async def test_a_shallow_remote_names_nobody_it_does_not_know(make: Make, repo: Repo, tmp_path: Path) -> None:
    repo.commit("second", author="bob", files={"integrations/new.yaml": None})
    repo.commit("third", author="eve", files={"integrations/last.yaml": None})
    repo.git("clone", "--quiet", "--depth=2", f"file://{repo.root}", str(tmp_path / "cut"))
    snapshot = await make(str(tmp_path / "cut")).fetch()
    assert snapshot.history("integrations/jira.yaml").created_by == ""
    assert snapshot.history("integrations/last.yaml").created_by == "eve@example.test"


async def test_a_force_push_is_taken_and_said(make: Make, repo: Repo) -> None:
    repo.commit("second")
    source = make()
    await source.fetch()
    repo.git("reset", "--hard", "--quiet", "HEAD~1")
    rewritten = repo.commit("other", author="eve", files={"integrations/other.yaml": None})
    snapshot = await source.fetch()
    assert (snapshot.revision, source.state.is_rewritten) == (rewritten, True)
    assert snapshot.history("integrations/other.yaml").created_by == "eve@example.test"
    repo.commit("ordinary")
    await source.fetch()
    assert source.state.is_rewritten is False


async def test_a_vanished_branch_keeps_the_last_good_revision(make: Make, repo: Repo) -> None:
    repo.git("branch", "prod")
    source = make(ref="prod")
    good = await source.fetch()
    repo.git("branch", "-D", "prod")
    with pytest.raises(SourceError, match="no branch or tag prod") as caught:
        await source.fetch()
    assert (caught.value.fault, caught.value.reason) == (Fault.VANISHED, Reason.REJECTED)
    assert source.last_good is good
    assert source.state.error
    assert source.state.error.fault is Fault.VANISHED
    assert b"jira" in good.read("integrations/jira.yaml")


async def test_a_restart_without_the_remote_still_has_the_last_good_revision(make: Make, repo: Repo) -> None:
    good = await make().fetch()
    away = repo.root.rename(repo.root.with_name("away"))
    restarted = make()
    with pytest.raises(SourceError) as caught:
        await restarted.fetch()
    assert caught.value.fault is Fault.UNREACHABLE
    restored = restarted.last_good
    assert restored is not None
    assert (restored.revision, dict(restored.files)) == (good.revision, dict(good.files))
    assert b"jira" in restored.read("integrations/jira.yaml")
    assert restored.history("integrations/jira.yaml") == good.history("integrations/jira.yaml")
    since = restarted.state.error
    with pytest.raises(SourceError):
        await restarted.fetch()
    assert restarted.state.error == since
    away.rename(repo.root)
    assert (await restarted.fetch()).revision == good.revision
    assert restarted.state.error is None


async def test_another_ref_does_not_inherit_what_was_good(make: Make, repo: Repo) -> None:
    await make().fetch()
    assert await make(ref="prod").restore() is None
    assert await make(path="integrations").restore() is None


@pytest.mark.parametrize("what", ["blob", "tree", "commit", "ref-lock", "config", "all"])
async def test_a_corrupt_mirror_is_built_anew(what: str, make: Make, repo: Repo, tmp_path: Path) -> None:
    good = await make().fetch()
    tip = mirror(tmp_path)
    _damage(repo, tip, what)
    away = repo.root.rename(repo.root.with_name("away"))
    source = make()
    with pytest.raises(SourceError):
        await source.fetch()
    away.rename(repo.root)
    repo.commit("second", files={"integrations/new.yaml": None})
    snapshot = await source.fetch()
    assert set(snapshot.files) == {*good.files, "integrations/new.yaml"}
    assert all(snapshot.read(path) for path in snapshot.files)
    assert source.state.error is None
    restored = await make().restore()
    assert restored is not None
    assert restored.revision == snapshot.revision


def _damage(repo: Repo, tip: Path, what: str) -> None:
    names = {"blob": "HEAD:integrations/jira.yaml", "tree": "HEAD^{tree}", "commit": "HEAD"}
    if what == "all":
        shutil.rmtree(tip / "objects")
    elif what == "config":
        (tip / "HEAD").write_bytes(b"\0\0\0")
    elif what == "ref-lock":
        (tip / "refs/reconciler/tip.lock").write_text("")
        (tip / "shallow.lock").write_text("")
    else:
        _unpack(tip)
        name = repo.git("rev-parse", names[what])
        loose = tip / "objects" / name[:2] / name[2:]
        loose.chmod(0o600)
        loose.write_bytes(b"not an object")


def _unpack(tip: Path) -> None:
    for pack in [*(tip / "objects/pack").glob("*.pack")]:
        aside = tip / pack.name
        pack.rename(aside)
        pack.with_suffix(".idx").unlink()
        with aside.open("rb") as packed:
            subprocess.run(["git", f"--git-dir={tip}", "unpack-objects", "-q"], stdin=packed, check=True)


async def test_corruption_found_while_reading_heals_at_the_next_fetch(make: Make, repo: Repo, tmp_path: Path) -> None:
    source = make()
    good = await source.fetch()
    _unpack(mirror(tmp_path))
    shutil.rmtree(mirror(tmp_path) / "objects")
    (mirror(tmp_path) / "objects").mkdir()
    source._objects._repository = None  # as after a restart: nothing of it in the cache
    with pytest.raises(SourceError) as caught:
        good.read("integrations/jira.yaml")
    assert caught.value.fault is Fault.CORRUPT
    assert source.last_good is good
    healed = await source.fetch()
    assert healed.revision == good.revision
    assert await source.fetch() is healed
    assert b"jira" in good.read("integrations/jira.yaml")


async def test_a_corrupt_remote_leaves_the_mirror_alone(make: Make, repo: Repo) -> None:
    source = make()
    good = await source.fetch()
    repo.commit("second", files={"integrations/new.yaml": None})
    blob = repo.git("rev-parse", "HEAD:integrations/new.yaml")
    (repo.root / ".git/objects" / blob[:2] / blob[2:]).unlink()
    with pytest.raises(SourceError) as caught:
        await source.fetch()
    assert caught.value.fault in (Fault.CORRUPT, Fault.UNREACHABLE)
    assert source.state.revision == good.revision
    assert source.state.attempted_revision == repo.git("rev-parse", "HEAD")
    assert b"jira" in good.read("integrations/jira.yaml")


async def test_links_and_submodules_are_listed_and_not_followed(make: Make, repo: Repo, tmp_path: Path) -> None:
    other = Repo.make(tmp_path / "other")
    other.commit("inside", files={"secret.yaml": None})
    (repo.root / "integrations/link.yaml").symlink_to("/etc/passwd")
    repo.git("submodule", "--quiet", "add", f"file://{other.root}", "module")
    repo.commit("second")
    snapshot = await make().fetch()
    assert snapshot.files["integrations/link.yaml"].mode == MODE_LINK
    assert snapshot.files["module"].mode == MODE_SUBMODULE
    assert not [path for path in snapshot.files if path.startswith("module/")]
    for path in ("integrations/link.yaml", "module"):
        with pytest.raises(ReadError) as caught:
            snapshot.read(path)
        assert caught.value.fault is ReadFault.NOT_A_FILE


async def test_a_huge_blob_is_refused_by_its_size_and_spoils_nothing(make: Make, repo: Repo) -> None:
    repo.commit("second", files={"huge.yaml": "x" * 2_000_000})
    snapshot = await make().fetch()
    with pytest.raises(ReadError, match="2000000 bytes, more than the 1048576") as caught:
        snapshot.read("huge.yaml")
    assert caught.value.fault is ReadFault.TOO_LARGE
    assert snapshot.read("README.md") == b"hello\n"


async def test_nothing_of_the_repository_is_run(make: Make, repo: Repo, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    bare = repo.bare(tmp_path / "hooked.git")
    script = f"#!/bin/sh\ntouch {proof}\n"
    for hooks in (repo.root / ".git/hooks", bare / "hooks"):
        for name in ("post-checkout", "post-merge", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman"):
            (hooks / name).parent.mkdir(exist_ok=True)
            (hooks / name).write_text(script)
            (hooks / name).chmod(0o755)
    run = tmp_path / "run"
    run.write_text(script)
    run.chmod(0o755)
    (repo.root / ".gitattributes").write_text("*.yaml filter=evil\n")
    repo.git("config", "core.fsmonitor", str(run))
    repo.git("config", "uploadpack.packObjectsHook", str(run))
    for root in (repo.root, bare):
        await make(str(root), name="hooked").fetch()
    # The same with hooks smuggled into the mirror itself.
    tip = mirror(tmp_path)
    (tip / "hooks").mkdir(exist_ok=True)
    (tip / "hooks/reference-transaction").write_text(script)
    (tip / "hooks/reference-transaction").chmod(0o755)
    repo.git("config", "--unset", "core.fsmonitor")
    shutil.rmtree(repo.root / ".git/hooks")
    repo.git("commit", "--quiet", "--allow-empty", "-m", "more")
    await make(str(repo.root), name="hooked").fetch()
    assert not proof.exists()


async def test_a_repository_of_another_user_is_explained(make: Make, repo: Repo) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to give files to another user")
    for folder, _, files in os.walk(repo.root):
        for name in (".", *files):
            os.lchown(Path(folder) / name, 12_345, 12_345)
    with pytest.raises(SourceError) as caught:
        await make().fetch()
    assert caught.value.fault is Fault.OWNERSHIP
    assert "safe.directory" in str(caught.value)
    assert (await make(trust_owner=True).fetch()).files


async def test_two_sources_and_two_fetches_at_once(make: Make, repo: Repo) -> None:
    one, other = make(name="one"), make(name="two", path="integrations")
    found = await asyncio.gather(one.fetch(), one.fetch(), other.fetch())
    assert found[0] is found[1]
    assert found[0].revision == found[2].revision


async def test_a_cancelled_fetch_leaves_no_process_and_a_working_source(
    make: Make, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, real = tmp_path / "started", shutil.which("git")
    slow = tmp_path / "bin/git"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\n[ "$1" = ls-remote ] && {{ echo $$ > {started}; exec sleep 60; }}\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    source = make()
    task = asyncio.create_task(source.fetch())
    pid = await _until(lambda: started.read_text().strip() if started.exists() else "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _is_alive(pid)
    slow.unlink()
    assert (await source.fetch()).files


async def test_a_deadline_ends_a_fetch(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, pid = tmp_path / "bin/git", tmp_path / "pid"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && exec echo git version 2.39\ntrap "" TERM\nsleep 60 &\necho $! > {pid}\nwait\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    with pytest.raises(SourceError) as caught:
        await make(timeout=timedelta(seconds=3)).fetch()  # within which the program has begun
    assert (caught.value.fault, caught.value.reason) == (Fault.TIMEOUT, Reason.TIMED_OUT)
    await _until(lambda: not _is_alive(pid.read_text().strip()))


async def _until(found: Callable[[], T]) -> T:
    """What `found` gives once it gives anything; the test's deadline bounds the wait."""
    while not (result := found()):  # noqa: ASYNC110 - another process's doing, which sets no event
        await asyncio.sleep(0.01)
    return result


def _is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_without_git_the_remedy_is_to_install_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SourceError, match="install git") as caught:
        await make().fetch()
    assert caught.value.fault is Fault.PROGRAM_MISSING


async def test_history_that_cannot_be_had_spoils_authorship_only(make: Make, repo: Repo, tmp_path: Path) -> None:
    cache_blocks_history = make()
    folder = cache_blocks_history._mirror.line
    folder.parent.mkdir(parents=True)
    folder.write_text("a file where the repository should be")
    snapshot = await cache_blocks_history.fetch()
    assert snapshot.files
    assert snapshot.history("README.md").created_by == ""
    assert cache_blocks_history.state.history_failure
    assert cache_blocks_history.state.error is None
    folder.unlink()
    assert (await cache_blocks_history.fetch()) is snapshot  # not before its time
    cache_blocks_history._clock.at += timedelta(minutes=11)  # type: ignore[attr-defined]
    assert (await cache_blocks_history.fetch()).history("README.md").created_by == "ada@example.test"
    assert cache_blocks_history.state.history_failure is None


def test_open_source_tells_folders_from_repositories(repo: Repo, tmp_path: Path) -> None:
    plain = SourceSettings(name="s", url=str(repo.root))
    kinds = [
        type(open_source(replace(plain, **changes), tmp_path, StepClock())).__name__  # type: ignore[arg-type]
        for changes in ({}, {"ref": "main"}, {"url": str(repo.bare(tmp_path / "b.git"))})
    ]
    assert kinds == ["FolderSource", "GitSource", "GitSource"]
