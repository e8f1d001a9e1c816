"""Whose a finding is: said where the document says so, and nobody's where it may be another's."""

from reconciler.desired.validate import Validated
from tests.unit.desired.manifest_kit import check, desk

BROKEN = "kind: [unclosed\n"


def whose(found: Validated) -> set[tuple[str, str]]:
    return {(one.file, one.workspace) for one in found.state.findings}


def test_each_document_speaks_for_its_own_workspace() -> None:
    wrong = {"x.yaml": f"{desk('a', 'one', depends_on='[nobody]')}\n---\n{desk('b', 'two', depends_on='[nobody]')}"}
    assert whose(check(wrong)) == {("x.yaml", "one"), ("x.yaml", "two")}
    workspace = "apiVersion: reconciler.dev/v1\nkind: Workspace\nmetadata: {name: hr}\nspec: {surprise: 1}\n"
    assert whose(check({"w.yaml": workspace})) == {("w.yaml", "hr")}
    taken = check({"x.yaml": desk("a", "one"), "y.yaml": desk("a", "one")})
    assert whose(taken) == {("x.yaml", "one"), ("y.yaml", "one")}


def test_a_file_that_cannot_be_read_is_that_of_the_only_workspace_it_spoke_for() -> None:
    assert whose(check({"x.yaml": BROKEN})) == {("x.yaml", "")}
    before = check({"x.yaml": desk("a", "one"), "y.yaml": f"{desk('b', 'one')}\n---\n{desk('c', 'two')}"})
    broken = check({"x.yaml": BROKEN, "y.yaml": BROKEN}, before)
    assert whose(broken) == {("x.yaml", "one"), ("y.yaml", "")}
    assert whose(check({"x.yaml": f"{BROKEN}# still\n", "y.yaml": BROKEN}, broken)) == {
        ("x.yaml", "one"),
        ("y.yaml", ""),
    }
