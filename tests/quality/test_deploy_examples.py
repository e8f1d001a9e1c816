"""The deployment examples: rendered by docker-compose and kustomize, checked against the schemas and against each other.

No container is started here; what they would start is, as plain processes, in `tests/e2e/test_deployment.py`.
"""

import argparse
import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from reconciler.cli import run
from reconciler.settings import Settings, database_url, load_settings
from tests.conftest import find_program
from tests.deployment import COMPOSE, KUBERNETES, ROOT, SECRETS, Started, of_compose, of_kubernetes
from tests.quality.test_image import rests

VERSIONS = ("1.30", kubernetes_validate.latest_version())
IMAGE_ENV = dict(pair.split("=", 1) for rest in rests("ENV") for pair in rest.split())
PORT = 8750


def call(program: str, *words: str | Path) -> str:
    found = find_program(program)
    assert found is not None
    done = subprocess.run([found, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compose() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        call("docker-compose", "--file", COMPOSE / "compose.yaml", "config", "--format", "json")
    )
    return document


@pytest.fixture
def kubernetes(tmp_path: Path) -> list[dict[str, Any]]:
    """Rendered with secrets of this test, as an operator would with theirs."""
    folder = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, folder, ignore=shutil.ignore_patterns("secrets"))
    (folder / "secrets").mkdir()
    for name in SECRETS:
        (folder / "secrets" / name).write_text(f"the {name}\n")
    return [
        *yaml.safe_load_all(call("kubectl", "kustomize", folder)),
        *yaml.safe_load_all(call("kubectl", "kustomize", folder / "monitoring")),
    ]


def started(kind: str, request: pytest.FixtureRequest) -> list[Started]:
    if kind == "compose":
        return list(of_compose(compose()))
    return list(of_kubernetes(request.getfixturevalue("kubernetes")))


both = pytest.mark.parametrize(
    ("kind", "roles"),
    [
        pytest.param("compose", {"controller": 1, "worker": 2}, marks=pytest.mark.needs("docker-compose")),
        pytest.param("kubernetes", {"controller": 2, "worker": 2, "api": 1}, marks=pytest.mark.needs("kubectl")),
    ],
)


@both
def test_what_is_started_is_understood(kind: str, roles: dict[str, int], request: pytest.FixtureRequest) -> None:
    found = started(kind, request)
    assert {one.name: one.count for one in found} == roles
    for one in found:
        settings = settings_of(one, ROOT / "examples" / "deploy" / kind / "settings.yaml")
        assert settings.role == one.name
        assert settings.listen == f"0.0.0.0:{PORT}"
        assert settings.state_dir.parent.as_posix() in one.writable


def settings_of(one: Started, file: Path) -> Settings:
    """What the daemon makes of its words, its variables and its settings file."""
    command, *words = one.words
    assert command == "run"
    parser = argparse.ArgumentParser(exit_on_error=False)
    run.configure(parser)
    role = parser.parse_args(words).role
    env = {name: value for name, value in {**IMAGE_ENV, **one.env}.items() if name != "RECONCILER_CONFIG"}
    if "RECONCILER_CONFIG" not in one.env:
        return load_settings(env, flags={"role": role})
    assert one.files[one.env["RECONCILER_CONFIG"]].removesuffix(".yaml") == "settings"
    return load_settings(env, file, {"role": role})


@both
def test_the_files_it_is_told_of_are_there(kind: str, roles: object, request: pytest.FixtureRequest) -> None:
    for one in started(kind, request):
        settings = settings_of(one, ROOT / "examples" / "deploy" / kind / "settings.yaml")
        named = {Path(one.env["RECONCILER_DATABASE_URL_FILE"]): "database-url"}
        if one.name != "api":
            (source,) = settings.sources
            named |= {settings.master_key_file: "master-key", settings.age_key_file: "age-key"}  # type: ignore[dict-item]
            named |= {source.token_file: "git-token"}  # type: ignore[dict-item]
        assert {str(path): one.files.get(str(path)) for path in named} == {str(p): name for p, name in named.items()}
        assert set(one.files.values()) <= {*named.values(), "settings", "settings.yaml"}, (
            "it gets what it does not need"
        )


@both
def test_its_variables_are_known(kind: str, roles: object, request: pytest.FixtureRequest) -> None:
    known = set(re.findall(r'"(RECONCILER_[A-Z_]+)"', (ROOT / "reconciler" / "settings.py").read_text("utf-8")))
    for one in started(kind, request):
        assert set(one.env) - known - {"RECONCILER_DATABASE_URL_FILE"} == set()


@pytest.mark.needs("docker-compose")
def test_compose_services_are_confined() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert service["read_only"] is True, name
        assert int(service["user"].partition(":")[0]) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["healthcheck"], name
        assert [p["host_ip"] for p in service.get("ports", [])] == ["127.0.0.1"] * len(service.get("ports", [])), name
        assert not [v for v in service.get("environment", {}).values() if "://" in v], name
    assert {s["user"] for s in document["services"].values() if "build" in s} == set(rests("USER"))
    assert all(s["depends_on"]["database"]["condition"] == "service_healthy" for s in ours(document))
    assert all("test" not in s["healthcheck"] for s in ours(document)), "the image brings it"
    assert {Path(s["file"]).parent for s in document["secrets"].values()} == {COMPOSE / "secrets"}
    assert all(Path(c["file"]).is_file() for c in document["configs"].values())


def ours(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [s for s in document["services"].values() if "build" in s]
    assert found
    assert all(Path(s["build"]["context"]) == ROOT for s in found)
    return found


@pytest.mark.needs("docker-compose")
def test_the_scrape_names_services_and_their_port() -> None:
    config = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text("utf-8"))
    (job,) = config["scrape_configs"]
    (search,) = job["dns_sd_configs"]
    assert set(search["names"]) == {one.name for one in of_compose(compose())}
    assert search["port"] == PORT
    mounted = {Path(c["target"]).name for c in compose()["services"]["prometheus"]["configs"]}
    assert {*config["rule_files"], "prometheus.yaml"} == mounted


@pytest.mark.needs("promtool")
def test_prometheus_understands_its_files() -> None:
    assert "SUCCESS" in call("promtool", "check", "config", COMPOSE / "prometheus.yaml")
    rules = yaml.safe_load((COMPOSE / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
    tested = (ROOT / "tests" / "quality" / "alerts.yaml").read_text("utf-8")
    assert {rule["alert"] for rule in rules} == set(re.findall(r"alertname: (\w+)", tested))
    assert "SUCCESS" in call("promtool", "test", "rules", ROOT / "tests" / "quality" / "alerts.yaml")


@pytest.mark.needs("kubectl")
def test_nothing_is_rendered_without_secrets() -> None:
    assert not (KUBERNETES / "secrets").exists(), "yours, for trying? This test needs them elsewhere"
    line = [str(find_program("kubectl")), "kustomize", str(KUBERNETES)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode != 0
    assert "secrets/database-url" in done.stderr


@pytest.mark.needs("kubectl")
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_the_resources(kubernetes: list[dict[str, Any]], version: str) -> None:
    checked = 0
    for document in kubernetes:
        if not document["apiVersion"].startswith("monitoring.coreos.com/"):  # the operator's own; no schema at hand
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked == len(kubernetes) - 1


@pytest.mark.needs("kubectl")
def test_the_secrets_are_those_of_the_operator(kubernetes: list[dict[str, Any]]) -> None:
    found = {k: v for one in of_kind(kubernetes, "Secret") for k, v in one["data"].items()}
    assert {k: base64.b64decode(v).decode() for k, v in found.items()} == {n: f"the {n}\n" for n in SECRETS}


@pytest.mark.needs("kubectl")
def test_pods_are_restricted(kubernetes: list[dict[str, Any]]) -> None:
    """As the standard `restricted` wants it, and the user is that of the image."""
    (user,) = {int(u.partition(":")[0]) for u in rests("USER")}
    (namespace,) = of_kind(kubernetes, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(kubernetes):
        context, (container,) = pod["spec"]["securityContext"], pod["spec"]["containers"]
        assert (context["runAsNonRoot"], context["runAsUser"], context["fsGroup"]) == (True, user, user)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
        assert {"memory", "cpu"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        modes = [part["defaultMode"] for v in pod["spec"]["volumes"] for part in v.values() if "defaultMode" in part]
        assert modes == [0o440]


@pytest.mark.needs("kubectl")
def test_probes_ask_what_is_served(kubernetes: list[dict[str, Any]]) -> None:
    wanted = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for pod in pods(kubernetes):
        (container,) = pod["spec"]["containers"]
        assert {name: container[name]["httpGet"]["path"] for name in wanted} == wanted
        assert container["ports"] == [{"name": "http", "containerPort": PORT}]
        assert {container[name]["httpGet"]["port"] for name in wanted} == {"http"}


@pytest.mark.needs("kubectl")
def test_every_selector_finds_its_own(kubernetes: list[dict[str, Any]]) -> None:
    for one in of_kind(kubernetes, "Deployment"):
        assert roles_of(kubernetes, one["spec"]["selector"]) == {
            one["metadata"]["labels"]["app.kubernetes.io/component"]
        }
    budgets = [roles_of(kubernetes, b["spec"]["selector"]) for b in of_kind(kubernetes, "PodDisruptionBudget")]
    several = [one for one in of_kubernetes(kubernetes) if one.count > 1]
    assert sorted(budgets, key=str) == sorted(({one.name} for one in several), key=str)
    services = {s["metadata"]["name"]: s for s in of_kind(kubernetes, "Service")}
    found = {n: roles_of(kubernetes, {"matchLabels": s["spec"]["selector"]}) for n, s in services.items()}
    assert found == {"reconciler": {"api"}, "reconciler-metrics": {"api", "controller", "worker"}}
    policies = {p["metadata"]["name"]: p["spec"]["podSelector"] for p in of_kind(kubernetes, "NetworkPolicy")}
    assert {name: roles_of(kubernetes, selector) for name, selector in policies.items()} == {
        "reconciler-nothing": {"api", "controller", "worker"},
        "reconciler-everybody": {"api", "controller", "worker"},
        "reconciler-remotes": {"controller", "worker"},
    }


@pytest.mark.needs("kubectl")
def test_names_of_ports_and_accounts_are_those_that_exist(kubernetes: list[dict[str, Any]]) -> None:
    (account,) = of_kind(kubernetes, "ServiceAccount")
    assert {pod["spec"]["serviceAccountName"] for pod in pods(kubernetes)} == {account["metadata"]["name"]}
    ports = [port for s in of_kind(kubernetes, "Service") for port in s["spec"]["ports"]]
    assert {port["targetPort"] for port in ports} == {"http"}
    (monitor,) = of_kind(kubernetes, "ServiceMonitor")
    (watched,) = [
        s for s in of_kind(kubernetes, "Service") if fits(monitor["spec"]["selector"], s["metadata"]["labels"])
    ]
    assert watched["metadata"]["name"] == "reconciler-metrics"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (watched["spec"]["ports"][0]["name"], "/metrics")
    assert watched["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "reconciler"  # what the alerts ask for
    assert {d["metadata"].get("namespace", "reconciler") for d in kubernetes} == {"reconciler"}


def test_the_settings_name_their_database_by_file_only() -> None:
    """No example holds a URL with a password."""
    for path in sorted((ROOT / "examples" / "deploy").rglob("*.yaml")):
        assert not re.search(r"postgres(ql)?://", path.read_text("utf-8")), path
    assert database_url({}) is None


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in of_kind(documents, "Deployment"):
        yield one["spec"]["template"]


def roles_of(documents: list[dict[str, Any]], selector: Mapping[str, Any]) -> set[str]:
    found = [pod["metadata"]["labels"] for pod in pods(documents) if fits(selector, pod["metadata"]["labels"])]
    return {labels["app.kubernetes.io/component"] for labels in found}


def fits(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    assert {e["operator"] for e in selector.get("matchExpressions", [])} <= {"In"}
    equal = all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
    return equal and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))
