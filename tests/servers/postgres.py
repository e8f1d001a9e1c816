"""A real PostgreSQL server for tests: one for each test process, a fresh database for each test."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from reconciler.model.secret import Secret
from tests.conftest import find_program

_CONF = """
listen_addresses = ''
unix_socket_directories = '{folder}'
fsync = off
full_page_writes = off
max_connections = 300
shared_buffers = 64MB
max_wal_size = 1GB
log_min_messages = fatal
"""


class PostgresServer:
    """`with PostgresServer() as server:` on a socket of its own; durable it is not."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._cluster = self._folder / "cluster"
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._own()
        self._call("initdb", "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "-D", self._cluster)
        with (self._cluster / "postgresql.conf").open("a") as conf:
            conf.write(_CONF.format(folder=self._folder))
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        self._call("pg_ctl", "-D", self._cluster, "-w", "-t", "120", "-l", self._folder / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        self._call("pg_ctl", "-D", self._cluster, "-w", "-t", "120", "-m", mode, "stop")

    def restart(self) -> None:
        """Every connection is cut."""
        self.stop("fast")
        self.start()

    def create(self, template: str = "template1") -> Secret:
        """The URL of a new database."""
        name = f"t{next(self._numbers)}"
        with self.admin() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return Secret(self.url(name))

    def drop(self, url: Secret) -> None:
        with self.admin() as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {_name(url)} WITH (FORCE)")

    def admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url("postgres"), autocommit=True)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def _own(self) -> None:
        """The server refuses to run as root; the package brings a user for it."""
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")

    def _call(self, program: str, *words: str | Path) -> None:
        path = find_program(program)
        assert path is not None, f"{program} belongs to the server's package"
        user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        done = subprocess.run(
            [path, *map(str, words)], cwd=self._folder, check=False, capture_output=True, timeout=180, **user
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def cut_listeners(url: Secret) -> int:
    """As an administrator, or a firewall, ends connections; only those that listen for notices of that database."""
    with psycopg.connect(url.reveal(), autocommit=True) as connection:
        found: Any = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'reconciler-notices' AND datname = current_database()"
        ).fetchone()
        return int(found[0])


def _name(url: Secret) -> str:
    return psycopg.conninfo.conninfo_to_dict(url.reveal())["dbname"]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[Secret]:
    """An empty database of this test alone."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)
