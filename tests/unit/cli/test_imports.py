"""What a command imports decides how fast it answers: each is looked at in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = {"httpx", "dbos", "sqlalchemy", "starlette", "uvicorn", "prometheus_client", "structlog", "rich"}
SLOW = HEAVY | {"pydantic", "yaml", "asyncio", "sqlite3", "pygit2", "cryptography", "msgspec", "connectors"}
MANIFEST = """
apiVersion: reconciler.dev/v1
kind: Integration
metadata: {name: mail}
spec:
  type: email
  auth: {type: none}
  config: {host: mail.example.org, sender: a@example.org}
"""
SCRIPT = """
import sys
from reconciler.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("|", code, *sys.modules)
"""


def _run(*words: str) -> tuple[int, set[str]]:
    """The exit code, and the top-level names of what was imported."""
    line = (sys.executable, "-c", SCRIPT, *words)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    code, *modules = done.stdout.rpartition("|")[2].split()
    return int(code), {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("sync", "--help"),
        ("deliveries", "show", "--help"),
        ("dataset", "x", "export", "--help"),
        ("database", "copy", "--help"),
        ("migrate", "--help"),
        ("connect", "--help"),
        ("edit", "--help"),
        ("api", "--help"),
        ("logs", "--help"),
        ("test", "--help"),
        ("reconcile", "--help"),
        ("key", "list", "--help"),
        ("events", "publish", "--help"),
        ("audit", "--help"),
    ],
)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    code, modules = _run(*words)
    assert (code, modules & SLOW) == (0, set())


def test_plan_and_validate_need_no_engine_web_or_http_library(tmp_path: Path) -> None:
    (tmp_path / "mail.yaml").write_text(MANIFEST)
    code, modules = _run("validate", str(tmp_path))
    assert (code, modules & HEAVY) == (0, set())
    code, modules = _run("plan", "--repo", str(tmp_path), "--state-dir", str(tmp_path / "none"), "--no-cache")
    assert (code, modules & HEAVY) == (2, set())
