"""Reading objects offline: revisions a person may write, listings, differences, sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pygit2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.desired.snapshot import ReadError, ReadFault, blob_id
from reconciler.desired.source_error import Fault, SourceError
from reconciler.desired.tree import changed, list_blobs, open_repository, open_snapshot, read_blob, resolve_revision
from tests.integration.git_remote import Repo


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "r")
    made.commit("first", files={"i/a.yaml": "1\n", "i/deep/b.json": "{}\n", "top.txt": "t\n"})
    return made


def test_revisions_as_people_write_them(repo: Repo) -> None:
    first = repo.git("rev-parse", "HEAD")
    head = repo.commit("second")
    repo.git("tag", "-a", "-m", "x", "v1")
    for ref, commit in {"HEAD": head, "main": head, "v1": head, "HEAD~1": first, first[:10]: first}.items():
        assert resolve_revision(repo.root, ref) == commit
    assert resolve_revision(repo.root / "i", "HEAD") == head


@pytest.mark.parametrize("ref", ["nope", "HEAD:i/a.yaml", "--help", "\x1b[31m", ""])
def test_revisions_that_are_none(ref: str, repo: Repo) -> None:
    with pytest.raises(SourceError, match="has no revision") as caught:
        resolve_revision(repo.root, ref)
    assert "\x1b" not in str(caught.value)


def test_a_shallow_clone_and_a_plain_folder_say_what_to_do(repo: Repo, tmp_path: Path) -> None:
    repo.commit("second")
    repo.git("clone", "-q", "--depth=1", f"file://{repo.root}", str(tmp_path / "cut"))
    with pytest.raises(SourceError, match="fetch-depth: 0"):
        resolve_revision(tmp_path / "cut", "HEAD~1")
    (tmp_path / "plain").mkdir()
    with pytest.raises(SourceError, match="not a Git repository"):
        resolve_revision(tmp_path / "plain", "HEAD")


def test_somebody_elses_repository_is_explained(repo: Repo) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to give files to another user")
    for path in (repo.root, repo.root / ".git"):
        os.chown(path, 12_345, 12_345)
    with pytest.raises(SourceError, match=r"safe\.directory") as caught:
        resolve_revision(repo.root, "HEAD")
    assert caught.value.fault is Fault.OWNERSHIP


def test_a_listing_by_folder_and_by_suffix(repo: Repo) -> None:
    opened, head = open_repository(repo.root), repo.git("rev-parse", "HEAD")
    assert set(list_blobs(opened, head)) == {"i/a.yaml", "i/deep/b.json", "top.txt"}
    assert set(list_blobs(opened, head, "i/./")) == {"i/a.yaml", "i/deep/b.json"}
    assert set(list_blobs(opened, head, "i", (".yaml", ".yml"))) == {"i/a.yaml"}
    assert list_blobs(opened, head)["i/a.yaml"].blob_id == blob_id(b"1\n")
    with pytest.raises(SourceError, match="more than 1 files"):
        list_blobs(opened, head, limit=1)
    for missing in ("j", "i/a.yaml", "i/a.yaml/x"):
        with pytest.raises(SourceError, match="has no folder"):
            list_blobs(opened, head, missing)


def test_a_tree_that_holds_itself_a_million_times_is_stopped(tmp_path: Path) -> None:
    opened = pygit2.init_repository(tmp_path / "bomb", bare=True)
    entry, kind = opened.create_blob(b"x"), pygit2.enums.FileMode.BLOB
    for _ in range(7):
        builder = opened.TreeBuilder()
        for number in range(10):
            builder.insert(f"{number}", entry, kind)
        entry, kind = builder.write(), pygit2.enums.FileMode.TREE
    author = pygit2.Signature("a", "a@example.test", 1, 0)
    commit = opened.create_commit(None, author, author, "bomb", entry, [])
    with pytest.raises(SourceError, match="more than 5000 files") as caught:
        list_blobs(opened, str(commit), limit=5000)
    assert caught.value.fault is Fault.TOO_LARGE


def test_a_file_that_became_a_folder_and_back(repo: Repo) -> None:
    first = repo.git("rev-parse", "HEAD")
    repo.git("mv", "i/a.yaml", "tmp")
    (repo.root / "i/a.yaml").mkdir()
    repo.git("mv", "tmp", "i/a.yaml/x.yaml")
    second = repo.commit("folder")
    opened = open_repository(repo.root)
    there, back = changed(opened, first, second), changed(opened, second, first)
    assert {path: entry is None for path, entry in there.items()} == {"i/a.yaml": True, "i/a.yaml/x.yaml": False}
    assert {path: entry is None for path, entry in back.items()} == {"i/a.yaml": False, "i/a.yaml/x.yaml": True}


def test_a_mode_alone_is_a_change(repo: Repo) -> None:
    first = repo.git("rev-parse", "HEAD")
    (repo.root / "top.txt").unlink()
    (repo.root / "top.txt").symlink_to("t\n")
    second = repo.commit("link")
    assert [entry and entry.is_link for entry in changed(open_repository(repo.root), first, second).values()] == [True]


def test_a_blob_is_measured_before_it_is_read(repo: Repo) -> None:
    opened = open_repository(repo.root)
    assert read_blob(opened, blob_id(b"1\n"), "i/a.yaml", 2) == b"1\n"
    with pytest.raises(ReadError) as caught:
        read_blob(opened, blob_id(b"1\n"), "i/a.yaml", 1)
    assert caught.value.fault is ReadFault.TOO_LARGE
    with pytest.raises(SourceError, match="missing or corrupt"):
        read_blob(opened, "ab" * 20, "i/a.yaml")


def test_an_offline_snapshot_compares_with_another(repo: Repo) -> None:
    base = open_snapshot(repo.root, "HEAD", "i")
    repo.commit("second", files={"i/a.yaml": "2\n", "top.txt": "u\n"})
    head = open_snapshot(repo.root, "HEAD", "i")
    assert set(head.changes(base)) == {"i/a.yaml"}
    assert head.changes(head) == {}
    assert set(open_snapshot(repo.root, "HEAD").changes(base)) == {"i/a.yaml", "top.txt"}
    assert head.read("i/a.yaml") == b"2\n"


NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d/e/a"])


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.binary(max_size=2)), st.dictionaries(NAMES, st.binary(max_size=2)))
def test_the_tree_walk_agrees_with_comparing_listings(
    tmp_path_factory: pytest.TempPathFactory, old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    opened = pygit2.init_repository(tmp_path_factory.mktemp("t") / "r", bare=True)
    one, other = _commit(opened, old), _commit(opened, new)
    before, after = list_blobs(opened, one), list_blobs(opened, other)
    expected = {path: after.get(path) for path in {*before, *after} if before.get(path) != after.get(path)}
    assert changed(opened, one, other) == expected


def _commit(opened: pygit2.Repository, files: dict[str, bytes]) -> str:
    index = pygit2.Index()
    for path, content in files.items():
        index.add(pygit2.IndexEntry(path, opened.create_blob(content), pygit2.enums.FileMode.BLOB))
    author = pygit2.Signature("a", "a@example.test", 1, 0)
    return str(opened.create_commit(None, author, author, "m", index.write_tree(opened), []))


def test_the_offline_way_imports_neither_asyncio_nor_pygit2_before_it_reads() -> None:
    heavy = "{'asyncio', 'pygit2', 'subprocess'}"
    check = f"import sys, reconciler.desired.tree, reconciler.desired.folder; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
