"""What `examples/deploy/compose` starts, as plain processes: its words, variables, settings and secrets in other places.

Different from the example: where the repository lies, that loopback may be reached (the vendors are simulated there), ports,
and the folders that stand for those of a container.
"""

import os
import subprocess
from collections.abc import Iterable
from typing import Any

import yaml

from tests.deployment import COMPOSE, Started, composed, of_compose
from tests.e2e.keys import Keys
from tests.e2e.site import KEY, Site
from tests.e2e.stage import git
from tests.e2e.town import ROOT


class Deployed:
    """The services of the example over a site; the manifests' credentials are encrypted in Git, as its settings want it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._services = {one.name: one for one in of_compose(composed())}
        self._keys = Keys()
        self._place = {"/run/secrets": site.stage.root / "secrets", "/etc/reconciler": site.stage.root / "etc"}
        for folder in self._place.values():
            folder.mkdir()
        self._write_secrets()
        self._write_settings()
        self._commit()

    def start(self, name: str, service: str) -> "subprocess.Popen[str]":
        """One container of that service."""
        started = self._services[service]
        return self._site.launch(name, ("reconciler", *started.words), self._env(name, started))

    def scrape(self, names: Iterable[str]) -> dict[str, Any]:
        """The example's configuration, with these processes in place of the names of services."""
        config: dict[str, Any] = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text("utf-8"))
        (job,) = config["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [self._site.address(name) for name in names]}]
        config["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}  # a scrape may take as long
        config["rule_files"] = [str(COMPOSE / name) for name in config["rule_files"]]
        return config

    def _env(self, name: str, started: Started) -> dict[str, str]:
        """Nothing of this process's own but where programs are."""
        state = self._site.stage.root / name
        own = {"RECONCILER_STATE_DIR": str(state / "state"), "RECONCILER_LISTEN": "127.0.0.1:0", "HOME": str(state)}
        image = {"RECONCILER_LOG_FORMAT": "json", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        return image | own | {key: self._moved(value) for key, value in started.env.items()}

    def _moved(self, value: str) -> str:
        for inside, outside in self._place.items():
            value = value.replace(inside, str(outside))
        return value

    def _write_secrets(self) -> None:
        secrets = self._place["/run/secrets"]
        (secrets / "database-url").write_text(f"{self._site.url.reveal()}\n")
        (secrets / "master-key").write_text(f"{KEY}\n")
        (secrets / "age-key").write_text(f"{self._keys.identity}\n")

    def _write_settings(self) -> None:
        settings: dict[str, Any] = yaml.safe_load(self._moved((COMPOSE / "settings.yaml").read_text("utf-8")))
        (source,) = settings["sources"]
        source["url"] = str(self._site.stage.repo)
        del source["token_file"]  # a folder asks for none
        settings["hosts"] = {"allow": ["127.0.0.0/8", "::1"]}
        (self._place["/etc/reconciler"] / "settings.yaml").write_text(yaml.safe_dump(settings))

    def _commit(self) -> None:
        stage = self._site.stage
        folder = stage.repo / "it-ops"
        folder.mkdir()
        for path in stage.repo.glob("*.yaml"):
            path.rename(folder / path.name)
        self._keys.encrypt(*folder.glob("*.yaml"))
        stage.commit()
        assert "canary" not in git(stage.repo, "grep", "-h", "", "HEAD")
