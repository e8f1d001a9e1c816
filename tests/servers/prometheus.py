"""A real Prometheus server for tests: a scrape configuration in, answers of its HTTP API out."""

import re
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.conftest import find_program

_LISTENING = re.compile(r'msg="Listening on" address=(?P<address>[0-9.]+:\d+)')
_PATIENCE = 180.0


class Prometheus:
    """`with Prometheus(folder, config) as prometheus:` on a port of its own."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir()
        self._folder = folder
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(dict(config)))
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def __enter__(self) -> Self:
        program = find_program("prometheus")
        assert program is not None
        line = [
            program,
            f"--config.file={self._folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self._folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(line, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT)
        self._url = f"http://{self._address()}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_PATIENCE)

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _address(self) -> str:
        end = time.monotonic() + _PATIENCE
        while (found := _LISTENING.search(self._log.read_text())) is None:
            assert self._process is not None
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        return found["address"]

    def value(self, expression: str) -> float | None:
        """Of an expression with one result; None where there is none."""
        answer = httpx.get(f"{self._url}/api/v1/query", params={"query": expression}, timeout=_PATIENCE)
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:  # it reads its log yet
            return None
        answer.raise_for_status()
        found = answer.json()["data"]["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> dict[str, str]:
        """Health of each alerting rule by name: ok, unknown or err."""
        answer = httpx.get(f"{self._url}/api/v1/rules", timeout=_PATIENCE).raise_for_status()
        return {rule["name"]: rule["health"] for group in answer.json()["data"]["groups"] for rule in group["rules"]}
