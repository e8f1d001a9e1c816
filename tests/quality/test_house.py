"""The house rules a reviewer would check by hand: size, words, docstrings, import contracts."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FUNCTION_LINES = 60
MOST_FILE_LINES = 500
UNUSED_WORDS = frozenset({"manager", "helper", "util", "common", "misc", "handler", "data", "info"})
FOREIGN = frozenset({"data_received"})  # asyncio's protocols are called by these names
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules(*folders: str) -> list[Path]:
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py") if "__pycache__" not in p.parts)


def definitions(path: Path) -> Iterator[Definition]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, Definition):
            yield node


def shown(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if isinstance(node, Definition) else ""
    return f"{path.relative_to(ROOT)}{line}"


def words_of(name: str) -> set[str]:
    """`SyncManager` and `sync_helpers` in words, lower case, without the plural."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return {part.lower().removesuffix("s") for part in parts}


def test_no_function_is_longer_than_a_screen() -> None:
    found = [
        f"{shown(path, node)} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in modules("reconciler", "connectors", "simulators", "benchmarks", "tests")
        for node in definitions(path)
        if not isinstance(node, ast.ClassDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MOST_FUNCTION_LINES
    ]
    assert found == []


def test_no_file_is_longer_than_can_be_read() -> None:
    lengths = {
        shown(path): len(path.read_text("utf-8").splitlines())
        for path in modules("reconciler", "connectors", "simulators", "benchmarks", "tests")
    }
    assert {name: length for name, length in lengths.items() if length > MOST_FILE_LINES} == {}


def test_no_name_says_nothing() -> None:
    found = [shown(path) for path in modules("reconciler", "connectors") if words_of(path.stem) & UNUSED_WORDS]
    found += [
        f"{shown(path, node)} {node.name}"
        for path in modules("reconciler", "connectors")
        for node in definitions(path)
        if words_of(node.name) & UNUSED_WORDS and node.name not in FOREIGN
    ]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    folders = ("reconciler", "connectors", "simulators", "benchmarks")
    assert [shown(p) for p in modules(*folders) if not ast.get_docstring(ast.parse(p.read_text("utf-8")))] == []


def test_exceptions_are_called_errors() -> None:
    found = [
        f"{shown(path, node)} {node.name}"
        for path in modules("reconciler", "connectors", "simulators")
        for node in definitions(path)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(b, ast.Name) and b.id in ("Exception", "BaseException") for b in node.bases)
        and not node.name.endswith("Error")
    ]
    assert found == []


@pytest.mark.timeout(300)
def test_import_contracts() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
