"""What can be said of the Dockerfile without an engine: what it copies and starts is there, its health check works."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from reconciler.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) in order, continued lines joined."""
    lines = [x for x in (ROOT / "Dockerfile").read_text("utf-8").splitlines() if not x.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(a, b.strip()) for a, _, b in (line.partition(" ") for line in joined.splitlines() if line)]


def rests(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def sent() -> list[Path]:
    """The files of the checkout that `.dockerignore` lets through, relative."""
    rules = [x for x in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if x and not x.startswith("#")]
    assert rules[0] == "*"
    taken = [rule[1:] for rule in rules if rule.startswith("!")]
    dropped = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    files = [p for name in taken for p in ([ROOT / name] if (ROOT / name).is_file() else (ROOT / name).rglob("*"))]
    shown = [p.relative_to(ROOT) for p in files if p.is_file()]
    return [p for p in shown if not any(fnmatchcase(part, rule) for part in p.parts for rule in dropped)]


def test_what_is_copied_is_there() -> None:
    context = {str(path) for path in sent()}
    copied = [rest.split() for rest in rests("COPY") if not rest.startswith("--from")]
    assert copied
    for *sources, _ in copied:
        assert [s for s in sources if s != "." and s not in context] == []
    stages = [rest.split(" AS ")[1] for rest in rests("FROM") if " AS " in rest]
    assert {rest.split()[0].removeprefix("--from=") for rest in rests("COPY") if "--from" in rest} <= set(stages)
    assert len({rest.split(" AS ")[0] for rest in rests("FROM")}) == 1  # else the copied interpreter would be another's


def test_the_wheel_is_whole_when_made_from_what_the_image_gets(tmp_path: Path) -> None:
    for path in sent():
        (tmp_path / "src" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / "src" / path)
    line = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        ".",
        "./src",
    ]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert [str(p) for p in sent() if p.parts[0] in {"reconciler", "connectors"} and str(p) not in inside] == []


def test_what_is_started_exists_and_is_not_root() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    (entry,), (command,) = rests("ENTRYPOINT"), rests("CMD")
    *wrapper, program = json.loads(entry)
    assert wrapper == ["tini", "--"]
    assert program in scripts
    assert set(json.loads(command)) <= set(COMMANDS)
    (user,) = rests("USER")
    assert re.fullmatch(r"([1-9]\d+):\1", user)
    assert any(f"--uid {user.split(':')[0]} " in rest for rest in rests("RUN"))


def test_all_that_is_written_is_on_the_volume() -> None:
    (volume,) = rests("VOLUME")
    values = dict(pair.split("=", 1) for rest in rests("ENV") for pair in rest.split())
    for name in ("HOME", "TMPDIR", "RECONCILER_STATE_DIR"):
        assert PurePosixPath(values[name]).is_relative_to(volume), name
    assert PurePosixPath(rests("WORKDIR")[-1]).is_relative_to(volume)
    assert values["RECONCILER_LISTEN"].rpartition(":")[2] in rests("EXPOSE")


class _Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_health_check_asks_the_daemon(port: int, status: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Health, "status", status)
    (check,) = rests("HEALTHCHECK")
    python, *words = json.loads(check.split(" CMD ", 1)[1])
    assert python == "python"
    for listen, expected in ((f"0.0.0.0:{port}", code), ("0.0.0.0:9", 1)):
        environment = {**os.environ, "RECONCILER_LISTEN": listen}
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False, timeout=120)
        assert done.returncode == expected
