"""All manifests together, revision after revision: names, links, what is held, and that only changes are read."""

from itertools import pairwise

import pytest

from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.validate import Inputs, Validated, validate
from reconciler.model.ids import Ref
from tests.unit.desired.manifest_kit import TinyRegistry, check, desk, lines, snapshot

A, B, C = Ref("default", "a"), Ref("default", "b"), Ref("default", "c")


def test_a_name_taken_twice_is_told_at_both_places_and_held() -> None:
    good = check({"x.yaml": desk("a")})
    both = check({"x.yaml": desk("a"), "y.yaml": "# two\n" + desk("a")}, good)
    assert [line.split(" (")[0] for line in lines(both)] == [
        "x.yaml:3:18: duplicate-name: the integration default/a is also defined in y.yaml:2",
        "y.yaml:4:18: duplicate-name: the integration default/a is also defined in x.yaml:1",
    ]
    assert both.state.held == {A}
    assert both.state.integrations == good.state.integrations
    again = check({"y.yaml": desk("a")}, both)
    assert not again.state.findings
    assert again.state.integrations[A].origin.file == "y.yaml"


def test_a_missing_dependency_is_told_until_it_comes() -> None:
    alone = check({"x.yaml": desk("alpha", depends_on="[alpa, beta]")})
    assert lines(alone)[0].startswith(
        "x.yaml:8:16: invalid-reference: there is no integration alpa in the workspace default"
    )
    first = check({"x.yaml": desk("a", depends_on="[b]")})
    assert first.state.held == {A}
    second = check({"x.yaml": desk("a", depends_on="[b]"), "y.yaml": desk("b")}, first)
    assert not second.state.findings
    third = check({"x.yaml": desk("a", depends_on="[b]")}, second)
    assert "there is no integration b" in lines(third)[0]
    assert third.state.integrations.keys() == {A}


def test_dependencies_stay_within_a_workspace() -> None:
    files = {"x.yaml": desk("a", "one", depends_on="[b]"), "y.yaml": desk("b", "two")}
    assert "no integration b in the workspace one" in lines(check(files))[0]


def test_sources_of_synchronizations_must_exist() -> None:
    send = "[{name: s, event_type: ticket.created, from: [b, nobody], action: post, template: x, map: {channel: c}}]"
    found = lines(check({"x.yaml": desk("a", synchronizations=send), "y.yaml": desk("b")}))
    assert [line.split(" (")[0] for line in found] == [
        "x.yaml:8:70: invalid-reference: there is no integration nobody in the workspace default"
    ]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_circle_is_told_to_each_member_by_all_names(size: int) -> None:
    names = [f"n{number}" for number in range(size)]
    edges = [*pairwise(names), (names[-1], names[0])]
    files = {f"{name}.yaml": desk(name, depends_on=f"[{target}, behind]") for name, target in edges}
    files |= {"behind.yaml": desk("behind"), "before.yaml": desk("before", depends_on="[n0]")}
    checked = check(files)
    found = lines(checked)
    assert len(found) == size
    assert (
        f"n0.yaml:8:16: dependency-cycle: depends_on goes round in a circle: {' -> '.join([*names, 'n0'])}" in found[0]
    )
    assert checked.state.held == {Ref("default", name) for name in names}
    assert checked.state.integrations.keys() == {Ref("default", "behind"), Ref("default", "before")}


def test_a_circle_that_a_change_closes_or_opens_is_seen_at_once() -> None:
    files = {"a.yaml": desk("a", depends_on="[b]"), "b.yaml": desk("b", depends_on="[c]"), "c.yaml": desk("c")}
    fine = check(files)
    closed = check(files | {"c.yaml": desk("c", depends_on="[a]")}, fine)
    assert len(closed.state.findings) == 3
    assert closed.state.integrations == fine.state.integrations
    assert not check(files, closed).state.findings


class TestHolding:
    def test_a_manifest_turned_bad_keeps_its_last_good_spec(self) -> None:
        good = check({"x.yaml": desk("a"), "y.yaml": desk("b", depends_on="[a]")})
        bad = check({"x.yaml": desk("a", drift="{mode: x}"), "y.yaml": desk("b", depends_on="[a]")}, good)
        assert bad.state.held == {A}
        assert bad.state.integrations == good.state.integrations
        assert bad.state.is_complete
        later = check({"x.yaml": desk("a", drift="{mode: y}"), "y.yaml": desk("b", depends_on="[a]")}, bad)
        assert later.state.integrations == good.state.integrations

    def test_an_unreadable_file_holds_the_names_it_held(self) -> None:
        good = check({"x.yaml": desk("a") + "---\n" + desk("b"), "y.yaml": desk("c", depends_on="[a]")})
        for broken in ("a: [", b"\0", desk("a") + "---\n: [", b"x" * 2_000_000):
            bad = check({"x.yaml": broken, "y.yaml": desk("c", depends_on="[a]")}, good)
            assert len(bad.state.findings) == 1
            assert bad.state.held >= {B}
            assert bad.state.integrations.keys() == {A, B, C}
            assert bad.state.is_complete
            again = check({"x.yaml": broken, "y.yaml": desk("c", depends_on="[a]"), "z.yaml": desk("z")}, bad)
            assert again.state.integrations.keys() == {A, B, C, Ref("default", "z")}
            mended = check({"x.yaml": desk("b")}, again)
            assert not mended.state.findings
            assert mended.state.integrations.keys() == {B}
            assert not mended.state.held

    def test_a_removed_file_holds_nothing(self) -> None:
        good = check({"x.yaml": desk("a"), "y.yaml": desk("b")})
        assert check({"y.yaml": desk("b")}, good).state.integrations.keys() == {B}

    def test_a_name_moved_into_a_file_that_breaks_is_held(self) -> None:
        good = check({"x.yaml": desk("a"), "y.yaml": desk("b")})
        bad = check({"y.yaml": desk("b") + "---\n" + desk("a") + "  broken: [\n"}, good)
        assert bad.state.integrations.keys() == {A, B}
        assert A in bad.state.held
        still = check({"y.yaml": desk("b") + "---\n" + desk("a") + "  broken: [[\n"}, bad)
        assert A in still.state.held

    def test_a_broken_document_that_nobody_can_attribute_stops_pruning(self) -> None:
        good = check({"x.yaml": desk("a")})
        assert not check({"x.yaml": desk("a"), "new.yaml": "a: ["}, good).state.is_complete
        assert not check({"new.yaml": desk().replace("name: a", "nam: a")}).state.is_complete
        assert check({"new.yaml": desk("a", drift="{mode: x}")}).state.is_complete
        assert not check({"x.yaml": desk("a") + "---\nkind: Integration\n"}, good).state.is_complete

    def test_a_link_is_told_and_not_followed(self) -> None:
        shot = snapshot({"x.yaml": "target.yaml"}, modes={"x.yaml": 0o120000})
        checked = validate(shot, Inputs(source="test", registry=TinyRegistry()))
        assert lines(checked)[0].startswith("x.yaml: file-symlink: a symbolic link is not followed")
        assert not shot.reads
        assert not checked.state.is_complete


class TestIncremental:
    def run(self, files: dict[str, str], previous: Validated | None, revision: str) -> tuple[Validated, list[str]]:
        shot = snapshot(files, revision)
        return validate(shot, Inputs(source="test", registry=TinyRegistry()), previous), shot.reads

    def test_only_changed_files_are_read(self) -> None:
        files = {f"m{n}.yaml": desk(f"m{n}", depends_on=f"[m{n // 2}]" if n else "[]") for n in range(50)}
        first, reads = self.run(files, None, "r1")
        assert len(reads) == 50
        second, reads = self.run(files | {"m7.yaml": desk("m7", display_name="Seven")}, first, "r2")
        assert reads == ["m7.yaml"]
        seven = second.state.integrations[Ref("default", "m7")]
        assert (seven.manifest.spec.display_name, seven.origin.revision) == ("Seven", "r2")
        assert second.state.integrations[Ref("default", "m8")].origin.revision == "r1"
        third, reads = self.run(files | {"m7.yaml": desk("m7", display_name="Seven")}, second, "r3")
        assert reads == []
        assert third.state.revision == "r3"

    def test_a_changed_secret_file_touches_the_manifests_that_name_it(self) -> None:
        auth = "{type: key, key: {from_sops: {file: ../s/k.yaml, key: a}}}"
        files = {"m/a.yaml": desk("a", auth=auth), "m/b.yaml": desk("b"), "s/k.yaml": "a: 1\n"}
        first, _ = self.run(files, None, "r1")
        second, reads = self.run(files | {"s/k.yaml": "a: 2\n"}, first, "r2")
        assert "m/b.yaml" not in reads
        assert first.state.integrations[A].source_hash != second.state.integrations[A].source_hash
        third, _ = self.run({path: text for path, text in files.items() if path != "s/k.yaml"}, second, "r3")
        assert "secret-missing" in lines(third)[0]
        assert third.state.held == {A}

    def test_step_by_step_comes_to_the_same_as_all_at_once(self) -> None:
        steps: list[dict[str, str]] = [
            {"a.yaml": desk("a"), "b.yaml": desk("b", depends_on="[a]")},
            {"a.yaml": desk("a2"), "b.yaml": desk("b", depends_on="[a]")},
            {"a.yaml": desk("a2"), "b.yaml": desk("b", depends_on="[a]"), "c.yaml": desk("b")},
            {"c.yaml": desk("b", depends_on="[a2]"), "a.yaml": desk("a2", depends_on="[b]")},
            {"c.yaml": desk("b", depends_on="[a2]"), "a.yaml": desk("a2"), "d.yaml": desk("d", sync="{every: 1}")},
            {"c.yaml": desk("b") + "---\n" + desk("e"), "d.yaml": desk("d")},
        ]
        previous = None
        for number, files in enumerate(steps):
            previous, _ = self.run(files, previous, f"r{number}")
            fresh, _ = self.run(files, None, f"r{number}")
            assert previous.state.findings == fresh.state.findings
            assert previous.index.claims == fresh.index.claims
            assert previous.index.good.keys() == fresh.index.good.keys()

    def test_another_policy_checks_everything_again(self) -> None:
        files = {"a.yaml": desk("a")}
        first = check(files)
        strict = check(files, first, policy=TenantPolicy((WorkspaceRule(types=("bell",)),)))
        assert "may not use connectors of type desk" in "".join(lines(strict))
        assert strict.state.held == {A}
        assert strict.state.integrations == first.state.integrations
