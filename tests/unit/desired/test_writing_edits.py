"""Edits of manifests: which file they change, what they keep, what they are refused for."""

from typing import Any

import pytest

from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.writing.standing import find_standing
from reconciler.desired.writing.terms import Edit, Patch, Put, Remove, WriteFault
from reconciler.model.ids import Ref
from reconciler.model.secret import MASK
from tests.unit.desired.manifest_kit import check, desk
from tests.unit.desired.write_kit import A, Bench, pointers, spec

NOTED = "# about a\n" + desk() + "  enabled: true # since May\n---\n" + desk("b") + "# the end\n"


def test_a_new_manifest_goes_where_the_template_says() -> None:
    made = Bench({"x.yaml": desk("b")}, folder="clusters").after(Put(Ref("it", "new"), {"spec": spec()}))
    assert list(made) == ["clusters/it/new.yaml"]
    text = made["clusters/it/new.yaml"]
    assert text is not None
    assert text.startswith(
        "apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata:\n  name: new\n  workspace: it\nspec:\n"
    )


def test_a_manifest_is_found_by_its_name_wherever_it_is() -> None:
    text = Bench({"deep/er/x.yml": NOTED}).only(Patch(A, {"spec": {"enabled": False}}))
    assert text == NOTED.replace("enabled: true # since", "enabled: false # since")


def test_putting_back_what_is_there_changes_nothing() -> None:
    manifest = {
        "apiVersion": "reconciler.dev/v1",
        "kind": "Integration",
        "metadata": {"name": "a", "workspace": "default"},
    }
    edited = Bench({"x.yaml": NOTED}).edited(
        Put(A, {**manifest, "spec": spec(config={"url": "https://desk.test"}, enabled=True)})
    )
    assert edited.contents == {}


def test_what_is_the_workspaces_stays_the_workspaces() -> None:
    defaults = "{drift: {mode: detect}, sync: {every: 1h, jitter: 5m}, objectives: {freshness: 3h}}"
    workspace = f"""
apiVersion: reconciler.dev/v1
kind: Workspace
metadata: {{name: default}}
spec: {{defaults: {defaults}}}
"""
    own = desk() + "  sync: {every: 2h}\n"
    shown = {
        "config": {"url": "https://desk.test"},
        "drift": {"mode": "detect"},
        "sync": {"every": "2h", "jitter": "5m"},
        "objectives": {"freshness": "3h"},
    }
    bench = Bench({"w.yaml": workspace, "x.yaml": own})
    assert bench.edited(Put(A, {"metadata": {"name": "a"}, "spec": spec(**shown)})).contents == {}
    changed = {**shown, "drift": {"mode": "off"}, "sync": {"every": "2h", "jitter": "5m", "timeout": "9m"}}
    text = bench.only(Put(A, {"metadata": {"name": "a"}, "spec": spec(**changed)}))
    for said in ("timeout: 9m", "every: 2h", "mode: off"):
        assert said in text.replace('"', "")
    assert "jitter" not in text
    assert "objectives" not in text


def test_annotations_that_are_not_named_stay() -> None:
    noted = desk().replace("{name: a, workspace: default}", "{name: a, annotations: {by: ada, why: x}}")
    put = Put(
        A, {"metadata": {"name": "a", "annotations": {"why": "z"}}, "spec": spec(config={"url": "https://desk.test"})}
    )
    assert "annotations: {by: ada, why: z}" in Bench({"x.yaml": noted}).only(put)


def test_a_merge_patch_takes_away_what_is_null_and_replaces_references_whole() -> None:
    patch: dict[str, Any] = {"spec": {"enabled": None, "auth": {"key": {"from_file": "key"}}}}
    rules = TenantPolicy((WorkspaceRule(env_prefix="DESK_", secret_folder="/x"),))  # type: ignore[arg-type]
    text = Bench({"x.yaml": NOTED}, inputs={"policy": rules}).only(Patch(A, patch))
    assert "{from_file: key}" in text
    assert "enabled" not in text


def test_the_last_document_takes_its_file_with_it() -> None:
    bench = Bench({"x.yaml": NOTED, "y.yaml": desk("c")})
    assert bench.only(Remove(A)) == "# about a\n---\n" + desk("b") + "# the end\n"
    assert bench.after(Remove(A), Remove(Ref("default", "b"))) == {"x.yaml": None}
    assert bench.after(Remove(Ref("default", "c")), Remove(A), Remove(Ref("default", "b"))) == {
        "x.yaml": None,
        "y.yaml": None,
    }


def test_masks_keep_what_is_there() -> None:
    listed = desk(
        synchronizations="\n  - {name: s, event_type: ticket.created, action: post, map: {text: x, channel: y}}"
    )
    bench = Bench({"x.yaml": listed})
    text = bench.only(Patch(A, {"spec": {"auth": {"key": MASK}, "display_name": "New"}}))
    assert text == listed + "  display_name: New\n"
    error = bench.refused(Put(A, {"spec": spec(auth={"type": "key", "key": f"Bearer {MASK}", "backup_key": MASK})}))
    assert (error.fault, pointers(error)) == (WriteFault.INVALID, ["/spec/auth/key", "/spec/auth/backup_key"])
    assert (
        bench.refused(Put(Ref("default", "n"), {"spec": spec(auth={"type": "key", "key": MASK})})).fault
        is WriteFault.INVALID
    )


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        ({"metadata": {"name": "other"}, "spec": spec()}, "/metadata/name"),
        ({"metadata": {"workspace": "other"}, "spec": spec()}, "/metadata/workspace"),
        ({"spec": spec(), "status": {}}, "/status"),
        ({"spec": spec(display_name=2**63)}, "/spec/display_name"),
        ({"spec": spec(display_name=float("inf"))}, "/spec/display_name"),
        ({"spec": {**spec(), "\udfff": 1}}, "/spec"),
        ({"spec": {**spec(), "k" * 600: 1}}, "/spec"),
        ({"kind": "Workspace", "spec": {}}, "/kind"),
        ({"apiVersion": "v1", "spec": spec()}, "/apiVersion"),
        ({"spec": []}, "/spec"),
        ({"spec": spec(display_name="\ud800")}, "/spec/display_name"),
        ({"spec": spec(auth={"type": "key", "key": 12345})}, "/spec/auth/key"),
        ({"spec": spec(auth={"type": "key", "key": "ENC[AES256_GCM,data:x,iv:x,tag:x,type:str]"})}, "/spec/auth/key"),
        ({"spec": spec(enabled="no")}, "/spec/enabled"),
        ({"spec": spec(nonsense=1)}, "/spec/nonsense"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(sent: dict[str, Any], where: str) -> None:
    error = Bench({"x.yaml": desk()}).refused(Put(A, sent))
    assert (error.fault, list(pointers(error))) == (WriteFault.INVALID, [where])


@pytest.mark.parametrize("depth", [60, 500, 100_000])
def test_what_is_nested_too_deeply_is_refused(depth: int) -> None:
    deep: Any = 1
    for _ in range(depth):
        deep = [deep]
    for put in (Put(A, {"spec": spec(config=deep)}), Put(Ref("default", "n"), {"spec": spec(config=deep)})):
        assert Bench({"x.yaml": desk()}).refused(put).fault is WriteFault.INVALID


def test_new_findings_refuse_an_edit_and_old_ones_do_not() -> None:
    broken = desk("c", config="{url: nowhere}")
    bench = Bench({"x.yaml": NOTED, "c.yaml": broken})
    assert bench.only(Patch(A, {"spec": {"display_name": "New"}}))
    assert bench.only(Patch(Ref("default", "c"), {"spec": {"display_name": "Still wrong"}}))
    error = bench.refused(Patch(A, {"spec": {"config": {"url": "nowhere"}}}))
    assert [str(finding).split(": ")[0] for finding in error.findings] == ["x.yaml:8:17"]
    assert pointers(error) == ["/spec/config/url"]


def test_who_others_depend_on_is_not_removed() -> None:
    bench = Bench({"x.yaml": desk(), "y.yaml": desk("b", depends_on="[a]")})
    error = bench.refused(Remove(A))
    assert (error.fault, error.findings[0].file) == (WriteFault.INVALID, "y.yaml")
    assert bench.after(Remove(A), Patch(Ref("default", "b"), {"spec": {"depends_on": None}}))["x.yaml"] is None


def test_conditions_of_an_edit() -> None:
    bench = Bench({"x.yaml": NOTED, "d1.yaml": desk("d"), "d2.yaml": desk("d")})
    standing = find_standing(check({"x.yaml": NOTED}), A)
    assert standing is not None
    assert bench.only(Patch(A, {"spec": {"enabled": False}}, standing.tag))
    same = find_standing(check({"x.yaml": "# more\n" + NOTED + "---\nx: 1\n"}), A)
    assert same is not None
    assert same.tag == standing.tag
    faults: dict[WriteFault, list[Edit]] = {
        WriteFault.CONFLICT: [
            Patch(A, {}, "another"),
            Remove(Ref("default", "gone"), standing.tag),
            Remove(A, "another"),
        ],
        WriteFault.NOT_FOUND: [Patch(Ref("default", "gone"), {}), Remove(Ref("it", "a"))],
        WriteFault.EXISTS: [Put(A, {"spec": spec()}, is_new=True)],
        WriteFault.AMBIGUOUS: [Remove(Ref("default", "d"))],
    }
    for fault, edits in faults.items():
        assert [bench.refused(edit).fault for edit in edits] == [fault] * len(edits)


def test_a_name_that_an_unreadable_file_may_hold_is_not_written_a_second_time() -> None:
    error = Bench({"x.yaml": desk() + "  oops: [\n"}).refused(Put(A, {"spec": spec()}))
    assert error.fault is WriteFault.AMBIGUOUS


def test_places_of_new_manifests() -> None:
    new, files = Put(Ref("it", "n"), {"spec": spec()}), {"it/n.yaml": "other: file\n"}
    assert Bench(files).refused(new).fault is WriteFault.EXISTS
    assert Bench({"it": "a file"}).refused(new).fault is WriteFault.EXISTS
    rules = TenantPolicy((WorkspaceRule(("it",), ("teams/it/**",), env_prefix="DESK_"),))
    error = Bench({}, inputs={"policy": rules}).refused(new)
    assert (error.fault, "teams/it/**" in str(error), "write_back.path" in str(error)) == (
        WriteFault.NOT_PERMITTED,
        False,
        True,
    )
    assert Bench({}, template="teams/{workspace}/{name}.yaml", inputs={"policy": rules}).only(new)
    assert Bench({}, inputs={"workspaces": ("hr",)}).refused(new).fault is WriteFault.NOT_PERMITTED


def test_a_file_with_a_byte_order_mark_and_crlf_keeps_both() -> None:
    text = "\ufeff" + NOTED.replace("\n", "\r\n")
    assert Bench({"x.yaml": text}).only(Patch(A, {"spec": {"enabled": False}})) == text.replace(
        "enabled: true", "enabled: false"
    )


def test_aliases_and_their_anchors_are_told() -> None:
    text = desk(config="&c {url: 'https://desk.test'} # mine") + "---\n" + desk("b")
    assert Bench({"x.yaml": text}).only(Patch(A, {"spec": {"enabled": False}})).count("&c") == 1
