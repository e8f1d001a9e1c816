"""The cache gives what checking would have given, forgets what is stale, and never fails."""

from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.desired.parse_cache import ParseCache
from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.ids import Ref
from tests.unit.desired.manifest_kit import MemorySnapshot, TinyRegistry, desk, snapshot

WORKSPACE = (
    "apiVersion: reconciler.dev/v1\nkind: Workspace\nmetadata: {name: ops}\nspec: {defaults: {drift: {mode: detect}}}\n"
)
SEND = "[{name: s, event_type: ticket.created, from: [b], action: post, template: 'x', map: {channel: c}}]"
FILES = {
    "a.yaml": desk(
        "a",
        auth="{type: basic_auth, username: u, password: {from_sops: {file: s.yaml, key: k}}}",
        synchronizations=SEND,
    ),
    "b.yaml": desk("b") + "---\n" + desk("c", depends_on="[a, b]"),
    "w.yaml": WORKSPACE,
    "o.yaml": desk("o", "ops"),
    "s.yaml": "k: 1\n",
    "other.yaml": "kind: Deployment\napiVersion: apps/v1\n",
}


def run(path: Path, files: dict[str, str], policy: TenantPolicy | None = None) -> tuple[Validated, MemorySnapshot]:
    shot = snapshot(files)
    cache = ParseCache(path, policy)
    checked = validate(shot, Inputs(source="test", registry=TinyRegistry(), policy=policy, cache=cache))
    cache.save()
    return checked, shot


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "manifests.cache"


def test_what_comes_back_is_what_was_checked(cache: Path) -> None:
    cold, _ = run(cache, FILES)
    warm, shot = run(cache, FILES)
    assert shot.reads == ["w.yaml"]
    assert not cold.state.findings
    assert warm.index.links == cold.index.links
    assert warm.state.workspaces == cold.state.workspaces
    for ref, desired in cold.state.integrations.items():
        kept = warm.state.integrations[ref]
        fields = ("ref", "manifest", "tree", "source_hash", "origin", "created_by", "updated_at")
        assert [getattr(kept, field) for field in fields] == [getattr(desired, field) for field in fields]
    assert replace(warm.state.integrations[Ref("default", "a")], created_by="x").manifest.spec.auth["type"] == "basic"


def test_only_what_changed_is_read_again(cache: Path) -> None:
    run(cache, FILES)
    _, shot = run(cache, FILES | {"b.yaml": desk("b") + "---\n" + desk("c", drift="{mode: off}")})
    assert set(shot.reads) == {"w.yaml", "b.yaml"}
    _, shot = run(cache, FILES | {"s.yaml": "k: 2\n"})
    assert {"a.yaml", "s.yaml"} <= set(shot.reads)
    changed, shot = run(cache, FILES | {"w.yaml": WORKSPACE.replace("detect", "off")})
    assert "o.yaml" in shot.reads
    assert changed.state.integrations[Ref("ops", "o")].manifest.spec.drift.mode == "off"


def test_another_policy_reads_everything(cache: Path) -> None:
    run(cache, FILES)
    policy = TenantPolicy((WorkspaceRule(types=("bell",)),))
    checked, _ = run(cache, FILES, policy)
    assert not checked.state.integrations


def test_files_with_findings_and_clear_secrets_are_not_kept(cache: Path) -> None:
    checked, _ = run(cache, {"a.yaml": desk("a", auth="{type: key, key: canary-in-clear}")})
    assert checked.state.findings
    assert not cache.exists() or b"canary" not in cache.read_bytes()
    run(cache, FILES | {"x.yaml": desk("x", auth="{type: key, key: canary-in-clear}")})
    assert b"canary" not in cache.read_bytes()
    assert cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"\xc1", b"\x92\xa1k\x80", b"\xdf\xff\xff\xff\xff"])
def test_a_corrupt_cache_is_none(cache: Path, content: bytes) -> None:
    run(cache, FILES)
    good = cache.read_bytes()
    for broken in (content, good[:-10], good[:100] + content + good[100:]):
        cache.write_bytes(broken)
        checked, _ = run(cache, FILES)
        assert not checked.state.findings
        assert len(checked.state.integrations) == 4
    assert len(cache.read_bytes()) == len(good)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    checked, _ = run(tmp_path / "file" / "cache", FILES)
    assert len(checked.state.integrations) == 4


def test_files_that_are_gone_can_be_forgotten(cache: Path) -> None:
    run(cache, FILES)
    kept = ParseCache(cache)
    kept.keep_only({"a.yaml": None})
    kept.save()
    _, shot = run(cache, FILES)
    assert "a.yaml" not in shot.reads
    assert "b.yaml" in shot.reads
