"""Real directories for tests: a big one shared by a module, fresh ones for the conformance kit."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from simulators.hr_ldap import Slapd


def require_bonsai() -> None:
    """Skip by name where the optional LDAP library is missing; a failure in CI."""
    if importlib.util.find_spec("bonsai") is None:
        reason = "bonsai is not installed: apt-get install libldap-dev libsasl2-dev libkrb5-dev; pip install '.[ldap]'"
        if os.environ.get("CI"):
            pytest.fail(f"in CI this may not be skipped: {reason}", pytrace=False)
        pytest.skip(reason)


class FreshSlapd(Slapd):
    """An empty directory in a folder of its own, which goes when the server does."""

    def __init__(self, password: str) -> None:
        self._kept = tempfile.TemporaryDirectory(prefix="slapd-", ignore_cleanup_errors=True)
        super().__init__(Path(self._kept.name), people=0, password=password)

    def __enter__(self) -> Self:
        require_bonsai()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        super().__exit__(kind, error, at)
        self._kept.cleanup()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """2,500 people: read it, and leave it as it was."""
    require_bonsai()
    with Slapd(tmp_path_factory.mktemp("slapd"), people=2500) as server:
        yield server


@pytest.fixture
def small_directory(tmp_path: Path) -> Iterator[Slapd]:
    """A directory to change."""
    require_bonsai()
    with Slapd(tmp_path / "slapd", people=25) as server:
        yield server
