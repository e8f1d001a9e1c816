"""What is committed says nothing about the machine it was made on, and fits together."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-ldap.lock", "requirements-build.lock")
_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", re.MULTILINE)
# Written apart, so that this file does not hold what it looks for.
_REGISTRIES = ("py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs", "index-" + "url =")


def tracked() -> Iterator[tuple[Path, str]]:
    """Text files that are or would be committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no Git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            yield path, path.read_text("utf-8", errors="replace")


def test_no_path_of_a_machine() -> None:
    """Of this one: where the checkout lies, the virtual environment, the home of whoever runs this."""
    places = {ROOT.parent, Path(sys.prefix), Path.home()}
    pattern = re.compile("|".join(re.escape(f"{place}/") for place in places if place != Path(place.anchor)))
    found = [f"{path.relative_to(ROOT)}: {m[0]}" for path, text in tracked() if (m := pattern.search(text))]
    assert found == []


def test_no_host_of_a_package_registry() -> None:
    found = [f"{path.relative_to(ROOT)}: {host}" for path, text in tracked() for host in _REGISTRIES if host in text]
    assert found == []


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def locked(name: str) -> dict[str, str]:
    return {canonicalize_name(m[1]): m[2] for m in _ENTRY.finditer((ROOT / name).read_text("utf-8"))}


def declared(found: Mapping[str, Any], group: str) -> Iterator[Requirement]:
    for one in found["dependency-groups"][group]:
        yield from declared(found, one["include-group"]) if isinstance(one, dict) else (Requirement(one),)


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_holds_what_the_project_asks_for(name: str) -> None:
    found = project()
    wanted = [Requirement(one) for one in found["project"]["dependencies"]]
    extra = [Requirement(one) for one in found["project"]["optional-dependencies"]["ldap"]]
    by_lock = {
        "requirements.lock": [*wanted, *declared(found, "dev")],
        "requirements-ldap.lock": [*wanted, *extra],
        "requirements-build.lock": list(declared(found, "build")),
    }
    versions = locked(name)
    wrong = [
        str(one)
        for one in by_lock[name]
        if canonicalize_name(one.name) not in versions
        or not one.specifier.contains(Version(versions[canonicalize_name(one.name)]), prereleases=True)
    ]
    assert wrong == [], f"run `make lock`; {name} does not hold these"


def test_the_locks_agree() -> None:
    development = locked("requirements.lock")
    for name in LOCKS[1:]:
        others = locked(name)
        assert {n: v for n, v in others.items() if development.get(n, v) != v} == {}, name


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_a_hash(name: str) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / name).read_text("utf-8"))
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_ci_installs_what_tests_need() -> None:
    """Every program that a test is marked with has an entry in conftest, whose package `.ci/run` or the lock installs."""
    conftest = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    install = {name: (by, what) for name, by, what in re.findall(r'"(\S+)": "(apt-get|pip) install ([^"]+)"', conftest)}
    sources = "\n".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    needed = {p for marked in re.findall(r"mark\.needs\(([^)]*)\)", sources) for p in re.findall(r'"([^"]+)"', marked)}
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert needed, "no test is marked with a program: the pattern above is stale"
    for program in sorted(needed):
        assert program in install, f"tests/conftest.py does not say how to install {program}"
        by, packages = install[program]
        installed = locked(LOCKS[0]) if by == "pip" else set(re.split(r"[\s()]+", script))
        assert [package for package in packages.split() if package not in installed] == [], program


def test_what_is_imported_is_declared() -> None:
    """Or required by what is declared; anything else happens to be installed, and is missing elsewhere."""
    found = project()
    wanted = {canonicalize_name(Requirement(one).name) for one in found["project"]["dependencies"]}
    wanted |= {canonicalize_name(Requirement(one).name) for one in found["project"]["optional-dependencies"]["ldap"]}
    wanted |= {part for name in wanted for part in parts_of(name)}
    # For authors of connectors and for PostgreSQL: imported where they are used, and the message says what to install.
    optional = {canonicalize_name(one.name) for one in declared(found, "dev")}
    optional |= {part for name in optional for part in parts_of(name)}
    owners, shipped = packages_distributions(), ("reconciler", "connectors")
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for folder in ("reconciler", "connectors", "simulators", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for name, is_lazy in imported(path)
        if (known := {canonicalize_name(owner) for owner in owners.get(name, ())})
        and not known & (wanted | optional if is_lazy or "testing" in path.parts or folder not in shipped else wanted)
    }
    assert missing == set()


def parts_of(name: str) -> set[NormalizedName]:
    """What an installed distribution requires itself; nothing for one that is not there (for another platform)."""
    try:
        return {canonicalize_name(Requirement(part).name) for part in requires(name) or ()}
    except PackageNotFoundError:
        return set()


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Top names of absolute imports, and whether they stand inside a function or condition."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in ("reconciler", "connectors", "simulators"):
                yield top, node not in tree.body
