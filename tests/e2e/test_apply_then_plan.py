"""Apply, then plan, shows nothing: for every connector, through the real daemon and the real `plan`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler.app.daemon import Daemon
from reconciler.app.offline import Offline, applied_state
from reconciler.model.clock import SystemClock
from reconciler.model.condition import Status
from reconciler.plan.render import exit_code, text
from reconciler.sdk.registry import known_types, load
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.settings import load_settings
from tests.contract.test_custom import CustomCase
from tests.contract.test_email import EmailCase
from tests.contract.test_github import GitHubCase
from tests.contract.test_hr_ldap import LdapCase
from tests.contract.test_servicenow import ServiceNowCase
from tests.contract.test_slack import SlackCase
from tests.e2e.stage import Running, git
from tests.servers.slapd import require_bonsai

CASES: Mapping[str, type[Case]] = {
    case.connector.type: case for case in (CustomCase, EmailCase, GitHubCase, LdapCase, ServiceNowCase, SlackCase)
}
NEEDS = {"hr_ldap": [pytest.mark.needs("slapd", "ldapmodify")]}


@pytest.fixture(params=[pytest.param(t, marks=NEEDS.get(t, [])) for t in known_types()])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "hr_ldap":
        require_bonsai()
    return CASES[request.param]()


@pytest.fixture
def remote(case: Case) -> Iterator[Any]:
    with case.simulator(SystemClock().now) as sim:
        yield sim


def _to_env(node: Any, env: dict[str, str]) -> Any:
    """Secrets of the case become references to the environment, as a manifest has them."""
    if isinstance(node, str) and node.startswith(CANARY):
        name = f"T_SECRET_{len(env)}"
        env[name] = node
        return {"from_env": name}
    return {k: _to_env(v, env) for k, v in node.items()} if isinstance(node, Mapping) else node


async def test_apply_then_plan_is_empty(case: Case, remote: Any, tmp_path: Path) -> None:
    env: dict[str, str] = {}
    type_name = case.connector.type
    spec = {"type": type_name, "auth": _to_env(case.auth(remote), env), "config": _to_env(case.config(remote), env)}
    reach = case.reach(remote)
    repo = tmp_path / "repo"
    repo.mkdir()
    document = {
        "apiVersion": "reconciler.dev/v1",
        "kind": "Integration",
        "metadata": {"name": "one"},
        "spec": spec,
    }
    (repo / "one.yaml").write_text(json.dumps(document, indent=1))
    git(repo, "init", "-q", "-b", "main")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "one")
    settings = load_settings(
        {},
        flags={
            "state_dir": tmp_path / "state",
            "source.url": str(repo),
            "source.ref": "main",
            "listen": "",
            "public_url": "https://recon.example.org",
            "hosts": {"allow": ("127.0.0.0/8",)},
            "tenants": ({"env_prefix": "T_"},),
            "network": {k: v for k, v in reach.items() if k in {"ca_file", "client_cert", "client_key"}},
        },
    )
    daemon = Daemon(settings, env)
    await daemon.start()
    try:
        up = {Status.CONNECTED, Status.SYNCING}
        await Running(daemon).until_view("one", f"of type {type_name} is connected", lambda v: v.status in up)
    finally:
        await daemon.stop()
    applied = applied_state(tmp_path / "state" / "reconciler.db")
    assert applied is not None
    plan = Offline(repo).plan_against(applied, "main")
    assert (exit_code(plan), plan.unchanged) == (0, 1), text(plan)


def test_every_connector_has_a_case() -> None:
    assert set(CASES) == set(known_types())
    assert all(load(t).type == t for t in known_types())
