"""Real remotes for the tests of the Git source: repositories on disk, an HTTPS server, an SSH server.

Used by the unit tests of `desired` too. Every server is a process or thread of the test's own, on loopback.
"""

import asyncio
import base64
import contextlib
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

MANIFEST = "apiVersion: reconciler.dev/v1\nkind: Integration\nmetadata: {{name: {name}}}\nspec: {{type: jira}}\n"


class StepClock:
    """Time that moves when told to. `sleep` returns once `advance` has gone far enough."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 1, tzinfo=UTC)
        self.asked: list[float] = []
        self._moved = asyncio.Condition()

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    async def sleep(self, seconds: float) -> None:
        due = self.at + timedelta(seconds=seconds)
        self.asked.append(seconds)
        async with self._moved:
            self._moved.notify_all()
            await self._moved.wait_for(lambda: self.at >= due)

    async def advance(self, seconds: float) -> None:
        async with self._moved:
            self.at += timedelta(seconds=seconds)
            self._moved.notify_all()

    async def slept(self, times: int) -> None:
        """Waits until `sleep` was called so many times."""
        async with self._moved:
            await self._moved.wait_for(lambda: len(self.asked) >= times)


@dataclass
class Repo:
    """A working tree that a test writes to and commits in, as people do."""

    root: Path
    seconds: int = field(default=1_700_000_000)

    @classmethod
    def make(cls, root: Path) -> "Repo":
        root.mkdir(parents=True)
        repo = cls(root)
        repo.git("init", "--quiet", "-b", "main")
        return repo

    def git(self, *arguments: str, author: str = "ada") -> str:
        when = f"{self.seconds} +0000"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": f"{author}@example.test",
            "GIT_COMMITTER_NAME": author,
            "GIT_COMMITTER_EMAIL": f"{author}@example.test",
            "GIT_AUTHOR_DATE": when,
            "GIT_COMMITTER_DATE": when,
        }
        done = subprocess.run(
            ["git", "-c", "protocol.file.allow=always", *arguments],
            cwd=self.root,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def write(self, path: str, text: str | None = None) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(MANIFEST.format(name=file.stem) if text is None else text)
        return file

    def commit(self, message: str, files: Mapping[str, str | None] | None = None, author: str = "ada") -> str:
        """Commits everything; returns the commit. Each commit is a minute later than the one before."""
        self.seconds += 60
        for path, text in (files or {}).items():
            self.write(path, text)
        self.git("add", "--all", author=author)
        self.git("commit", "--quiet", "--allow-empty", "-m", message, author=author)
        return self.git("rev-parse", "HEAD")

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def bare(self, path: Path) -> Path:
        """A bare clone at `path`, which this working tree then pushes to."""
        self.git("clone", "--quiet", "--bare", str(self.root), str(path))
        self.git("remote", "add", "origin", str(path))
        return path


class GitHttps:
    """Git's own `http-backend` behind TLS. `expected` is the Authorization header it demands, empty for none."""

    def __init__(self, root: Path, folder: Path, *, tls: bool = True) -> None:
        self.root = root
        self.expected = ""
        self.status = 0
        self.location = ""
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        self.seen: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._request_class())
        self._server.daemon_threads = True
        self.ca_file = folder / "ca.pem"
        if tls:
            self._wrap()
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _wrap(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca_file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def basic(self, token: str, name: str = "x-access-token") -> str:
        return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()

    def _request_class(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Request(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            do_POST = do_GET

            def log_message(self, *args: Any) -> None: ...

        return Request

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        given = request.headers.get("Authorization", "")
        self.seen.append((request.path, given))
        self.arrived.set()
        self.gate.wait(120)
        if self.status or (self.expected and given != self.expected):
            status, content = self.status or 401, b"no\n"
            if status in (401, 403):  # a careless server that repeats what it was given
                content = f"access denied for {given}\n".encode()
            headers = {"WWW-Authenticate": 'Basic realm="git"', "Content-Type": "text/plain"}
            if self.location:
                headers = {"Location": self.location + request.path}
        else:
            status, headers, content = self._run(request, body)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(content)

    def _run(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path, _, query = request.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self.root),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=False)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        return status, headers, content


@contextlib.contextmanager
def https_server(root: Path, folder: Path, *, tls: bool = True) -> Iterator[GitHttps]:
    server = GitHttps(root, folder, tls=tls)
    try:
        yield server
    finally:
        server.close()


@dataclass(frozen=True)
class Sshd:
    port: int
    key_file: Path
    known_hosts_file: Path
    user: str


@contextlib.contextmanager
def ssh_server(sshd: str, folder: Path) -> Iterator[Sshd]:
    """sshd as a process of its own with its own host key, which takes one user key."""
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    if os.getuid() == 0:  # sshd insists on it when it starts as root
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process, port = _listening(sshd, folder)
    try:
        kind, key, *_ = (folder / "host.pub").read_text().split()
        known = folder / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
        yield Sshd(port, folder / "user", known, getpass.getuser())
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _listening(sshd: str, folder: Path) -> tuple["subprocess.Popen[str]", int]:
    """On a port that is free; sshd takes no port 0, so another process may be faster: then the next one."""
    for _ in range(10):
        port = _free_port()
        (folder / "sshd_config").write_text(_sshd_config(folder, port))
        command = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Server listening" in line:
                return process, port
        process.communicate(timeout=60)
    raise AssertionError(f"sshd did not start: {''.join(said)}")


def _sshd_config(folder: Path, port: int) -> str:
    lines = {
        "Port": str(port),
        "ListenAddress": "127.0.0.1",
        "HostKey": str(folder / "host"),
        "AuthorizedKeysFile": str(folder / "authorized_keys"),
        "PidFile": "none",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PermitRootLogin": "prohibit-password",
        "AcceptEnv": "GIT_PROTOCOL",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
