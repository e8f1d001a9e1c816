"""Folders and working trees as they lie there."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from reconciler.desired.folder import StatCache, scan_folder
from reconciler.desired.folder_source import FolderSource
from reconciler.desired.snapshot import ReadError, ReadFault
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.source_settings import SourceSettings
from tests.integration.git_remote import Repo, StepClock


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "r")
    made.write(".gitignore", "*.tmp\nbuild/\n")
    made.commit("first", files={"i/a.yaml": "1\n", "top.yaml": "t\n"})
    return made


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    root = tmp_path / "plain"
    (root / "sub").mkdir(parents=True)
    (root / "sub/a.yaml").write_text("1\n")
    return root


def test_a_clean_working_tree_is_its_commit(repo: Repo) -> None:
    found = scan_folder(repo.root)
    assert found.revision == repo.git("rev-parse", "HEAD")
    assert found.files["i/a.yaml"].blob_id == repo.git("rev-parse", "HEAD:i/a.yaml")
    assert found.read("i/a.yaml") == b"1\n"


def test_uncommitted_files_count_and_ignored_ones_do_not(repo: Repo) -> None:
    clean = scan_folder(repo.root)
    repo.write("i/new.yaml", "n\n")
    repo.write("x.tmp", "no\n")
    repo.write("build/out.yaml", "no\n")
    (repo.root / "top.yaml").unlink()
    dirty = scan_folder(repo.root)
    assert set(dirty.changes(clean)) == {"i/new.yaml", "top.yaml"}
    assert dirty.revision.startswith(f"{clean.revision}-dirty.")
    repo.write("i/new.yaml", "other\n")
    assert scan_folder(repo.root).revision != dirty.revision


def test_a_part_of_a_working_tree(repo: Repo) -> None:
    by_path, by_root = scan_folder(repo.root, "i"), scan_folder(repo.root / "i")
    assert (set(by_path.files), set(by_root.files)) == ({"i/a.yaml"}, {"a.yaml"})
    assert by_path.revision == by_root.revision == repo.git("rev-parse", "HEAD")


def test_a_working_tree_still_has_what_an_earlier_commit_held(repo: Repo) -> None:
    before = scan_folder(repo.root)
    path = min(before.files)
    content = before.read(path)
    (repo.root / path).write_bytes(b"otherwise: true\n")
    now = scan_folder(repo.root)
    earlier = now.earlier(before.revision)
    assert earlier is not None
    assert (earlier.revision, earlier.files.keys()) == (before.revision, before.files.keys())
    assert earlier.read(path) == content
    assert now.earlier(now.revision) is None
    assert now.earlier("0" * 40) is None


def test_in_a_working_tree_links_and_nested_repositories_stay_what_they_are(repo: Repo, tmp_path: Path) -> None:
    (repo.root / "link.yaml").symlink_to("top.yaml")
    Repo.make(repo.root / "nested").commit("x", files={"inside.yaml": "1\n"})
    found = scan_folder(repo.root)
    assert found.files["link.yaml"].is_link
    assert not found.files["nested"].is_regular
    assert "nested/inside.yaml" not in found.files


def test_a_config_map_mount_is_read_through_its_links(tmp_path: Path) -> None:
    real = tmp_path / "mount/..2026_01_01"
    real.mkdir(parents=True)
    (real / "a.yaml").write_text("1\n")
    (tmp_path / "mount/..data").symlink_to("..2026_01_01")
    (tmp_path / "mount/a.yaml").symlink_to("..data/a.yaml")
    found = scan_folder(tmp_path / "mount")
    assert set(found.files) == {"a.yaml"}
    assert found.read("a.yaml") == b"1\n"
    assert found.revision.startswith("folder@")


def test_links_that_lead_out_are_not_followed(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.yaml").write_text("secret\n")
    (plain / "file.yaml").symlink_to(tmp_path / "outside/secret.yaml")
    (plain / "folder").symlink_to(tmp_path / "outside")
    (plain / "loop").symlink_to("loop")
    found = scan_folder(plain)
    assert set(found.files) == {"sub/a.yaml", "file.yaml", "folder", "loop"}
    with pytest.raises(ReadError) as caught:
        found.read("file.yaml")
    assert caught.value.fault is ReadFault.NOT_A_FILE
    # Swapped after the listing: the second look at reading catches it.
    (plain / "sub/a.yaml").unlink()
    (plain / "sub/a.yaml").symlink_to(tmp_path / "outside/secret.yaml")
    with pytest.raises(ReadError, match="leads out"):
        found.read("sub/a.yaml")


def test_a_pipe_is_passed_over_and_a_huge_or_closed_file_stays_listed(plain: Path) -> None:
    os.mkfifo(plain / "pipe.yaml")
    (plain / "huge.yaml").write_bytes(b"x" * 100)
    found = scan_folder(plain, max_file_bytes=10)
    assert set(found.files) == {"sub/a.yaml", "huge.yaml"}
    with pytest.raises(ReadError) as caught:
        found.read("huge.yaml")
    assert caught.value.fault is ReadFault.TOO_LARGE


def test_a_file_edited_after_the_listing_is_not_half_of_two_revisions(plain: Path) -> None:
    found = scan_folder(plain)
    (plain / "sub/a.yaml").write_text("2\n")
    with pytest.raises(ReadError) as caught:
        found.read("sub/a.yaml")
    assert caught.value.fault is ReadFault.CHANGED


def test_what_cannot_be_reached_is_never_an_empty_set(plain: Path, tmp_path: Path) -> None:
    for root, path, fault in ((tmp_path / "none", "", Fault.UNREACHABLE), (plain, "none", Fault.PATH_MISSING)):
        with pytest.raises(SourceError) as caught:
            scan_folder(root, path)
        assert caught.value.fault is fault


def test_unchanged_files_are_not_read_again(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, later = StatCache(), datetime.now(UTC) + timedelta(minutes=1)
    first = scan_folder(plain, cache=cache, now=later)
    opened: list[str] = []
    real = os.open

    def noted(path: str, flags: int) -> int:
        opened.append(Path(path).name)
        return real(path, flags)

    monkeypatch.setattr(os, "open", noted)
    assert scan_folder(plain, cache=cache, now=later).files == first.files
    assert opened == []
    (plain / "sub/b.yaml").write_text("b\n")
    assert set(scan_folder(plain, cache=cache, now=later).changes(first)) == {"sub/b.yaml"}
    assert opened == ["b.yaml"]


def test_a_fresh_file_is_not_trusted_by_its_stamp(plain: Path) -> None:
    cache, file = StatCache(), plain / "sub/a.yaml"
    soon = datetime.fromtimestamp(file.stat().st_mtime, UTC) + timedelta(seconds=1)
    first = scan_folder(plain, cache=cache, now=soon)
    assert cache.known == {}
    file.write_text("2\n")
    assert set(scan_folder(plain, cache=cache, now=soon).changes(first)) == {"sub/a.yaml"}


async def test_as_a_source(repo: Repo, tmp_path: Path) -> None:
    settings = SourceSettings(name="here", url=str(repo.root), path="i")
    source = FolderSource(settings, tmp_path / "cache", StepClock())
    first = await source.fetch()
    assert await source.fetch() is first
    known = first.history("i/a.yaml")
    assert (known.created_by, known.updated_by, known.updated_at) == ("ada@example.test", "ada@example.test", repo.at)
    repo.write("i/a.yaml", "2\n")
    dirty = (await source.fetch()).history("i/a.yaml")
    assert (dirty.created_by, dirty.updated_by) == ("ada@example.test", "")
    assert dirty.updated_at
    assert dirty.updated_at > repo.at
    repo.commit("second", author="bob")
    assert (await source.fetch()).history("i/a.yaml").updated_by == "bob@example.test"
    repo.git("commit", "-q", "--amend", "-m", "other")
    await source.fetch()
    assert source.state.is_rewritten is True
    good = source.last_good
    repo.root.rename(tmp_path / "away")
    with pytest.raises(SourceError):
        await source.fetch()
    assert source.last_good is good
    assert source.state.error
    assert source.state.error.fault is Fault.UNREACHABLE


async def test_a_plain_folder_knows_no_author(plain: Path, tmp_path: Path) -> None:
    source = FolderSource(SourceSettings(name="here", url=str(plain)), tmp_path / "cache", StepClock())
    known = (await source.fetch()).history("sub/a.yaml")
    assert (known.created_by, known.updated_by) == ("", "")
    assert known.updated_at
