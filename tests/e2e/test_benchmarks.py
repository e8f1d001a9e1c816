"""The benchmarks run and give rows that mean something: every group, quickly. What they take is nobody's business here."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import GROUPS
from benchmarks.rows import HEAD, Row, table

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "benchmarks", *words)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1700, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_quick_run_gives_finite_rows(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    done = run("--quick", "--output", str(output))
    assert done.returncode == 0, done.stderr
    content = json.loads(output.read_text())
    assert content["is_quick"] is True
    assert content["machine"]["cores"] > 0
    assert list(content["groups"]) == list(GROUPS)
    for group, found in content["groups"].items():
        assert found["rows"], group
        for row in found["rows"]:
            assert row["name"] in done.stdout
            assert row["compared_with"]
            assert all(math.isfinite(row[name]) and row[name] > 0 for name in ("figure", "compared", "ratio")), row
            assert row["limit"] is None, "limits are for the full size"
    # Results are published: they name neither a place nor a host.
    assert str(Path.home()) not in output.read_text()
    assert str(tmp_path) not in output.read_text()


def test_groups_that_did_not_run_are_kept(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    output.write_text(json.dumps({"groups": {"idle": {"measured_at": "2026-01-01", "rows": []}, "unknown": {}}}))
    assert run("--quick", "secrets", "--output", str(output)).returncode == 0
    assert list(json.loads(output.read_text())["groups"]) == ["secrets", "idle"]


def test_an_unknown_group_is_told() -> None:
    done = run("nothing")
    assert done.returncode == 2
    assert "there are commands" in done.stderr


def test_a_row_against_its_limit() -> None:
    shared: dict[str, Any] = {"name": "x", "unit": "ms", "compared_with": "y", "compared": 4.0}
    over = Row(figure=10.0, limit=8.0, **shared)
    assert (over.ratio, over.is_met, over.at_reference(2.0)) == (2.5, False, 5.0)
    by_ratio = Row(figure=10.0, limit=3.0, limit_on="ratio", **shared)
    assert (by_ratio.is_met, by_ratio.at_reference(2.0)) == (True, None)
    assert Row(figure=1.0, **shared).is_met is None
    shown = table([over.cells(2.0)]).splitlines()
    assert shown[0].split()[: len(HEAD) - 3] == ["NAME", "FIGURE", "COMPARED", "WITH", "THAT"]
    assert "10.0 ms" in shown[1]
    assert " no " in shown[1]
