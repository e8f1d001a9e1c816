"""Corporate networks through the daemon: proxies, private authorities, client certificates and the host guard."""

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from reconciler.control.view import IntegrationView
from reconciler.model.condition import ConditionType, Reason, Status, Truth
from simulators.servicenow import ServiceNow
from tests.e2e.proxy import Proxy
from tests.e2e.stage import CANARY, Running, Stage

PROXY_CANARY = "canary-4b1d-proxy-password"


class Corporation:
    """ServiceNow behind TLS of a private authority; files as an administrator lays them out."""

    def __init__(self, root: Path, *, wants_client: bool = False) -> None:
        self.authority = trustme.CA()
        self.folder = root / "permitted"
        self.folder.mkdir()
        self.authority.cert_pem.write_to_path(self.folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert("127.0.0.1").configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.maximum_version = ssl.TLSVersion.TLSv1_2  # with 1.3 the refusal comes after the handshake
            self.authority.configure_trust(context)
            client = self.authority.issue_cert("reconciler@corp.example")
            client.private_key_and_cert_chain_pem.write_to_path(self.folder / "client.pem")
        self.servicenow = ServiceNow(tls=context)
        self.servicenow.users["recon"] = CANARY
        self.servicenow.put("incident", {"short_description": "One", "priority": "3"})
        self.stage = Stage(root)
        self.tenants = ({"env_prefix": "ITOPS_", "secret_folder": str(self.folder)},)

    def manifest(self, name: str, **network: Any) -> None:
        config = {"instance_url": self.servicenow.url}
        self.stage.manifest(name, **self.stage.servicenow_spec(config=config, network=network))
        self.stage.commit(name)

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture
def corporation(tmp_path: Path) -> Iterator[Corporation]:
    made = Corporation(tmp_path)
    with made.servicenow:
        yield made


async def until_not_connected(running: Running, name: str, reason: Reason) -> str:
    """What status says when the integration has ended up not connected for that reason."""

    def told(view: IntegrationView) -> bool:
        connected = view.conditions.get(ConditionType.CONNECTED)
        return connected is not None and connected.truth is not Truth.TRUE and connected.reason is reason

    view = await running.until_view(name, f"says {reason}", told)
    assert view.status is Status.ERROR
    return view.message


async def test_private_authority_for_the_daemon(corporation: Corporation) -> None:
    corporation.manifest("sn")
    async with corporation.stage.daemon(network={"ca_file": corporation.path("ca.pem")}) as running:
        await running.until_synced("sn")


async def test_private_authority_for_one_integration(corporation: Corporation) -> None:
    corporation.manifest("sn", ca_file="ca.pem")
    corporation.manifest("plain")
    async with corporation.stage.daemon(tenants=corporation.tenants) as running:
        await running.until_synced("sn")
        said = await until_not_connected(running, "plain", Reason.TLS_FAILED)
        assert "certificate" in said.lower()


async def test_file_outside_the_permitted_folder_is_refused(corporation: Corporation) -> None:
    (corporation.stage.root / "elsewhere.pem").write_bytes(corporation.authority.cert_pem.bytes())
    (corporation.folder / "link.pem").symlink_to(corporation.stage.root / "elsewhere.pem")
    corporation.manifest("sn", ca_file="link.pem")
    async with corporation.stage.daemon(tenants=corporation.tenants) as running:
        said = await until_not_connected(running, "sn", Reason.HOST_NOT_PERMITTED)
        assert "permitted folder" in said


@pytest.mark.parametrize("scope", ["daemon", "integration", "none"])
async def test_client_certificate(tmp_path: Path, scope: str) -> None:
    corporation = Corporation(tmp_path, wants_client=True)
    with corporation.servicenow:
        own = {"client_cert_file": "client.pem"} if scope == "integration" else {}
        corporation.manifest("sn", **own)
        network = {"ca_file": corporation.path("ca.pem")}
        network |= {"client_cert": corporation.path("client.pem")} if scope == "daemon" else {}
        async with corporation.stage.daemon(network=network, tenants=corporation.tenants) as running:
            if scope == "none":
                assert "TLS handshake" in await until_not_connected(running, "sn", Reason.REMOTE_UNAVAILABLE)
                assert corporation.servicenow.requests == []
            else:
                await running.until_synced("sn")


async def test_proxy_for_the_daemon(corporation: Corporation) -> None:
    """Its credential is in its URL, and the log and the store never see it."""
    corporation.manifest("sn")
    with Proxy(f"corp:{PROXY_CANARY}") as proxy:
        url = proxy.url.replace("//", f"//corp:{PROXY_CANARY}@")
        async with corporation.stage.daemon(network={"proxy": url, "ca_file": corporation.path("ca.pem")}) as running:
            await running.until_synced("sn")
        assert set(proxy.seen) == {corporation.servicenow.url.removeprefix("https://")}
        assert proxy.refused == 0
    kept = b"".join(corporation.stage.kept().values())
    assert PROXY_CANARY.encode() not in kept


async def test_no_proxy_goes_around_it(corporation: Corporation) -> None:
    corporation.manifest("sn")
    with Proxy() as proxy:
        network = {"proxy": proxy.url, "no_proxy": ("127.0.0.0/8",), "ca_file": corporation.path("ca.pem")}
        async with corporation.stage.daemon(network=network) as running:
            await running.until_synced("sn")
        assert proxy.seen == []


async def test_proxy_for_one_integration(corporation: Corporation) -> None:
    with Proxy() as proxy:
        corporation.manifest("plain")
        network = {"ca_file": corporation.path("ca.pem")}
        async with corporation.stage.daemon(network=network) as running:
            await running.until_synced("plain")
            assert proxy.seen == []
            corporation.manifest("sn", proxy=proxy.url)
            await running.until_synced("sn")
            assert len(proxy.seen) > 0


async def test_proxy_that_refuses_is_told(corporation: Corporation) -> None:
    corporation.manifest("sn")
    with Proxy("corp:right") as proxy:
        network = {"proxy": proxy.url, "ca_file": corporation.path("ca.pem")}
        async with corporation.stage.daemon(network=network) as running:
            view = await running.until_view("sn", "is told", lambda v: v.status is Status.ERROR)
            assert "proxy" in view.message.lower()
    assert corporation.servicenow.requests == []


async def test_loopback_is_refused_unless_permitted(corporation: Corporation) -> None:
    corporation.manifest("sn")
    async with corporation.stage.daemon(hosts={}) as running:
        said = await until_not_connected(running, "sn", Reason.HOST_NOT_PERMITTED)
        assert "loopback" in said
        assert "hosts.allow in its settings" in said
        assert ConditionType.STALLED in (await running.view("sn")).conditions
    assert corporation.servicenow.requests == []


@pytest.mark.parametrize("url", ["http://169.254.169.254", "http://metadata.google.internal", "http://2852039166"])
async def test_metadata_service_is_refused_also_where_every_name_is_permitted(
    corporation: Corporation, url: str
) -> None:
    stage = corporation.stage
    stage.manifest("sn", **stage.servicenow_spec(config={"instance_url": url}))
    stage.commit()
    async with stage.daemon(hosts={"allow": ("*",)}) as running:
        assert "metadata" in await until_not_connected(running, "sn", Reason.HOST_NOT_PERMITTED)
