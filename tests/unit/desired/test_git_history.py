"""Authorship from a log: merges, moves, deletions, cuts, and the same answer in one pass as in many."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.desired.history import HistoryTable, extend, read_log
from tests.integration.git_remote import Repo

SHAPE = ["--raw", "-c", "-z", "--no-abbrev", "--no-renames", "--full-history", "--topo-order", "--reverse"]
FORMAT = "--format=%x01%H%x00%an%x00%ae%x00%at%x00%ct"


def log(repo: Repo, *span: str) -> bytes:
    done = subprocess.run(["git", "log", *SHAPE, FORMAT, *span], cwd=repo.root, check=True, capture_output=True)
    return done.stdout


def table(repo: Repo) -> HistoryTable:
    return extend(HistoryTable(), log(repo, "HEAD"), "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo.make(tmp_path / "r")
    made.commit("first", files={"a.yaml": "1\n", "b.yaml": "2\n"})
    return made


def test_a_merge_is_not_an_author_but_its_own_resolution_is(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side", author="bob", files={"a.yaml": "side\n", "new.yaml": "n\n"})
    side_at = repo.at
    repo.git("checkout", "-q", "main")
    repo.commit("main", author="cyd", files={"a.yaml": "main\n"})
    repo.seconds += 60
    subprocess.run(["git", "merge", "-q", "side"], cwd=repo.root, check=False, capture_output=True)
    repo.commit("merged", author="eve", files={"a.yaml": "both\n"})
    known = table(repo)
    assert known.of("a.yaml").updated_by == "eve@example.test"
    assert known.of("a.yaml").created_by == "ada@example.test"
    assert (known.of("new.yaml").created_by, known.of("new.yaml").updated_at) == ("bob@example.test", side_at)


def test_an_old_branch_merged_late_does_not_turn_time_back(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side", author="bob", files={"a.yaml": "1\n2\n"})
    repo.git("checkout", "-q", "main")
    repo.commit("main", author="cyd", files={"a.yaml": "0\n1\n"})
    newest = repo.at
    repo.git("merge", "-q", "-s", "ours", "-m", "merge", "side")
    assert table(repo).of("a.yaml").updated_at == newest


def test_moving_keeps_the_creator_and_deleting_does_not(repo: Repo) -> None:
    repo.git("mv", "a.yaml", "moved.yaml")
    repo.commit("move", author="bob")
    repo.git("rm", "-q", "b.yaml")
    repo.commit("delete", author="bob")
    repo.commit("again", author="cyd", files={"b.yaml": "2\n"})
    known = table(repo)
    assert known.of("moved.yaml").created_by == "ada@example.test"
    assert known.of("moved.yaml").updated_by == "bob@example.test"
    assert known.of("b.yaml").created_by == "cyd@example.test"


def test_of_two_who_wrote_it_again_the_first_in_the_log_is_the_creator(repo: Repo) -> None:
    repo.git("rm", "-q", "b.yaml")
    repo.commit("delete")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side", {"b.yaml": "same\n"}, author="bob")
    repo.git("checkout", "-q", "main")
    repo.commit("main", {"b.yaml": "same\n"}, author="cyd")
    repo.git("merge", "-q", "-m", "merge", "side")
    again = [c.author for c in read_log(log(repo, "HEAD")) if ("b.yaml", "0" * 40) in {t[:2] for t in c.touched}]
    assert sorted(again) == ["ada@example.test", "bob@example.test", "cyd@example.test"]
    assert table(repo).of("b.yaml").created_by == again[1]


def test_a_cut_names_nobody_and_later_commits_do(repo: Repo) -> None:
    cut = repo.git("rev-parse", "HEAD")
    repo.commit("second", author="bob", files={"a.yaml": "3\n"})
    known = extend(HistoryTable(), log(repo, "HEAD"), "HEAD", frozenset({cut}))
    assert (known.of("b.yaml").created_by, known.of("b.yaml").updated_at) == ("", None)
    assert (known.of("a.yaml").created_by, known.of("a.yaml").updated_by) == ("", "bob@example.test")


def test_odd_names_and_times(repo: Repo) -> None:
    odd = "sub dir/\u00fc:\n'x'.yaml"
    repo.seconds = 4_000_000_000
    repo.commit("odd", author="a:\x02colon", files={odd: "1\n"})
    assert table(repo).of(odd).created_by == "a:\x02colon@example.test"
    assert table(repo).of("nowhere").created_by == ""


STEP = st.tuples(
    st.sampled_from(["write", "delete", "move"]), st.integers(0, 3), st.integers(0, 3), st.sampled_from(["ada", "bob"])
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=st.lists(STEP, min_size=1, max_size=6))
def test_many_extensions_give_what_one_pass_gives(
    steps: list[tuple[str, int, int, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    repo = Repo.make(tmp_path_factory.mktemp("h") / "r")
    before = repo.commit("start", files={"0.yaml": "start\n"})
    grown = extend(HistoryTable(), log(repo, "HEAD"), before)
    for number, (what, one, other, author) in enumerate(steps):
        source, target = repo.root / f"{one}.yaml", repo.root / f"{other}.yaml"
        if what == "write":
            source.write_text(f"{number}\n")
        elif source.exists() and what == "delete":
            source.unlink()
        elif source.exists():
            source.rename(target)
        after = repo.commit(str(number), author=author)
        grown = extend(grown, log(repo, after, f"^{before}"), after)
        before = after
    assert grown == extend(HistoryTable(), log(repo, "HEAD"), before)
