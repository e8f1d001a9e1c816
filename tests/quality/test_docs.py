"""What the documentation says is so: tables against the code, the README's plan against a real one, links against files."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from reconciler.cli.main import COMMANDS
from reconciler.model.condition import ConditionType, Reason, Status
from reconciler.model.event import Lifecycle
from reconciler.model.manifest import Integration, Synchronization, Workspace
from reconciler.serve import scrape
from reconciler.serve.exposition import INTEGRATION_FAMILIES, Family
from reconciler.serve.metrics import Metrics
from reconciler.settings import ClaimRule, Oidc, Settings, Source, Tenant

ROOT = Path(__file__).parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def first_cells(document: str) -> dict[str, str]:
    """The rows of all tables, by the code in their first cell."""
    return {m[1]: m[0] for m in re.finditer(r"^\| `([^`]+)`.*$", document, re.MULTILINE)}


def fenced(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields that hold a value; lists count as one, unless they have a table of their own."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        parts = (kind, *getattr(kind, "__args__", ()))
        inner = next((c for c in parts if isinstance(c, type) and issubclass(c, BaseModel)), None)
        shown = f"{prefix}{field.alias or name}"
        is_list = "tuple" in str(kind) and inner not in (Source, Tenant, Oidc, ClaimRule)
        if inner is None or is_list or prefix == "spec.defaults.":
            yield shown
        else:
            yield from leaves(inner, f"{shown}.")


def test_every_setting_is_documented() -> None:
    assert set(leaves(Settings)) - set(first_cells(text("docs/settings.md"))) == set()


def test_every_variable_is_documented() -> None:
    names = set(re.findall(r'"(RECONCILER_[A-Z_]+)"', text("reconciler/settings.py")))
    assert names, "the pattern is stale"
    assert {n for n in names if n not in text("docs/settings.md")} == set()


def test_every_field_of_a_manifest_is_documented() -> None:
    wanted = {n for kind in (Integration, Workspace) for n in leaves(kind) if n not in ("apiVersion", "kind")}
    assert wanted - set(first_cells(text("docs/manifests.md"))) == set()
    assert set(leaves(Synchronization)) - set(first_cells(text("docs/manifests.md"))) == set()


def test_every_reason_condition_and_status_is_documented() -> None:
    document = text("docs/operations.md")
    rows = first_cells(document)
    for closed in (Reason, ConditionType, Status):
        assert {str(one) for one in closed} - set(rows) == set(), closed.__name__
    table = document.split("## Reasons", 1)[1].split("\n## ", 1)[0]
    assert set(first_cells(table)) == {str(one) for one in Reason}


def test_reserved_reasons_are_set_nowhere() -> None:
    """And what is said to be set somewhere is."""
    sources = [p for f in ("reconciler", "connectors") for p in (ROOT / f).rglob("*.py")]
    code = "\n".join(p.read_text("utf-8") for p in sources)
    used = {one for one in Reason if re.search(rf"Reason\.{one.name}\b", code)}
    rows = first_cells(text("docs/operations.md").split("## Reasons", 1)[1].split("\n## ", 1)[0])
    assert {name for name, row in rows.items() if "Reserved" in row} == {str(r) for r in set(Reason) - used}


def test_the_metrics_exist() -> None:
    named = set(re.findall(r"`(reconciler_[a-z_]+)`", text("docs/operations.md")))
    of_the_process = set(re.findall(r"^# TYPE (\S+)", Metrics().render().decode(), re.MULTILINE))
    of_the_store = {family.name for family in vars(scrape).values() if isinstance(family, Family)}
    assert named - {family.name for family in INTEGRATION_FAMILIES} - of_the_process - of_the_store == set()


def test_every_event_of_integrations_is_explained() -> None:
    named = set(re.findall(r"`((?:integration|sync|schema)\.[a-z]+)`", text("docs/manifests.md")))
    assert named == {str(event) for event in Lifecycle}


def test_the_table_of_commands_is_the_help() -> None:
    assert fenced(text("README.md"), "yaml"), "the README shows no manifest"
    rows = re.findall(r"^\| `([a-z]+)` \| (.*) \|$", text("README.md"), re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_the_readme_shows_the_plan_of_its_manifest(tmp_path: Path) -> None:
    readme = text("README.md")
    folder = tmp_path / "repo" / "it-ops"
    folder.mkdir(parents=True)
    (folder / "slack.yaml").write_text(fenced(readme, "yaml")[0])
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "plan", "--repo", "repo", "--state-dir", "none", "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    shown = next(block for block in fenced(readme, "text") if "will be connected" in block)
    assert [line.rstrip() for line in shown.strip().splitlines()] == [
        line.rstrip() for line in done.stdout.strip().splitlines()
    ]


@pytest.mark.parametrize("path", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []
