"""What is spared: listings, readings and checks of what did not change, and that the outcome is the same without them."""

from pathlib import Path

import pytest

from reconciler.desired.folder import scan_folder
from reconciler.desired.parse_cache import ParseCache
from reconciler.desired.source_error import SourceError
from reconciler.desired.tree import open_snapshot
from reconciler.desired.validate import Inputs, validate
from reconciler.model.ids import Ref
from tests.integration.git_remote import Repo
from tests.unit.desired.manifest_kit import TinyRegistry, check, desk, snapshot


def test_a_revision_that_changes_no_manifest_keeps_everything_but_its_name() -> None:
    files = {"x.yaml": desk("a"), "wrong.yaml": "kind: [\n"}
    before = check(files)
    after = check(files | {"notes.txt": "t\n"}, before)
    assert after.state.integrations is before.state.integrations
    assert after.state.findings == before.state.findings
    assert after.state.findings
    assert after.state.revision == after.snapshot.revision != before.state.revision
    assert "notes.txt" in after.snapshot.files


def test_a_commit_is_listed_by_its_difference_from_another(tmp_path: Path) -> None:
    repo = Repo.make(tmp_path / "r")
    old = repo.commit("one", files={"i/a.yaml": "1\n", "i/b.yaml": "1\n", "i/c.yaml": "1\n", "top.txt": "t\n"})
    repo.git("rm", "-q", "i/b.yaml")
    new = repo.commit("two", files={"i/a.yaml": "2\n", "i/d.yaml": "1\n"})
    near = open_snapshot(repo.root, old, "i")
    found = open_snapshot(repo.root, new, "i", near=near)
    assert dict(found.files) == dict(open_snapshot(repo.root, new, "i").files)
    assert found.read("i/a.yaml") == b"2\n"
    assert open_snapshot(repo.root, old, "i", near=near).files is near.files


def test_a_folder_that_the_other_commit_lacks_is_still_told(tmp_path: Path) -> None:
    repo = Repo.make(tmp_path / "r")
    old = repo.commit("one", files={"i/a.yaml": "1\n", "top.txt": "t\n"})
    repo.git("rm", "-q", "-r", "i")
    new = repo.commit("two")
    with pytest.raises(SourceError, match="has no folder i"):
        open_snapshot(repo.root, new, "i", near=open_snapshot(repo.root, old, "i"))


def test_a_snapshot_of_one_use_gives_what_it_listed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("1\n")
    found = scan_folder(tmp_path, keeps=True)
    (tmp_path / "a.yaml").write_text("2\n")
    assert found.read("a.yaml") == b"1\n"
    assert not scan_folder(tmp_path).contents


def test_a_few_changes_among_many_do_not_rewrite_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "manifests.cache"
    files = {f"m{number}.yaml": desk(f"m{number}") for number in range(300)}

    def run(changed: int) -> bytes:
        cache = ParseCache(path)
        now = files | {f"m{number}.yaml": desk(f"m{number}", drift="{mode: off}") for number in range(changed)}
        found = validate(snapshot(now), Inputs(source="test", registry=TinyRegistry(), cache=cache))
        assert found.state.integrations[Ref("default", "m0")].tree.get("drift") == (
            {"mode": "off"} if changed else None
        )
        cache.save()
        return path.read_bytes()

    first = run(0)
    assert run(1) == first
    assert run(2) != first
