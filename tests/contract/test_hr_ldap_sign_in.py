"""Signing in to a real OpenLDAP server that demands a client certificate, with one that stands in the manifest."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from connectors.hr_ldap import HrLdap
from reconciler.model.condition import Reason
from reconciler.sdk.errors import TransientError, UnauthorizedError
from reconciler.sdk.testing.room import Bench
from simulators.hr_ldap import SYNC_DN, Slapd
from tests.contract.test_hr_ldap import certificate_of, ldap, read
from tests.servers.slapd import require_bonsai

needs_server = pytest.mark.needs("slapd", "ldapmodify")


@pytest.fixture(scope="module")
def strict_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """No TLS without a client certificate: read it, and leave it as it was."""
    require_bonsai()
    with Slapd(tmp_path_factory.mktemp("slapd"), people=25, demands_certificate=True) as server:
        yield server


def client_certificate(certificate: str, key: str) -> dict[str, str]:
    return {"type": "client_certificate", "certificate": certificate, "private_key": key}


def stranger() -> dict[str, str]:
    """A certificate of an authority that the server does not know."""
    leaf = trustme.CA().issue_cert("svc-sync.example.org", common_name="svc-sync")
    return client_certificate(leaf.cert_chain_pems[0].bytes().decode(), leaf.private_key_pem.bytes().decode())


def secrets_open() -> list[Path]:
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [name for name in (link.readlink() for link in links) if "memfd:secret" in name.name]


@needs_server
@pytest.mark.parametrize("way", ["url", "tls_url"])
async def test_the_certificate_of_the_manifest_says_who_we_are(strict_directory: Slapd, way: str) -> None:
    auth = client_certificate(*certificate_of(strict_directory))
    async with ldap(strict_directory, auth=auth, url=getattr(strict_directory, way)) as connector:
        probe = await connector.probe()
        assert len(await read(connector)) == 25
    assert probe.identity == f"dn:{SYNC_DN}"
    assert secrets_open() == []


@needs_server
async def test_it_goes_before_that_of_the_network(strict_directory: Slapd, tmp_path: Path) -> None:
    other = stranger()
    for name in ("certificate", "private_key"):
        (tmp_path / name).write_text(other[name])
    bench = Bench(
        ca_file=str(strict_directory.ca_file),
        client_cert=str(tmp_path / "certificate"),
        client_key=str(tmp_path / "private_key"),
    )
    settings = {"url": strict_directory.url, "base_dn": "dc=example,dc=org"}
    async with bench:
        own = bench.connector(HrLdap, settings, client_certificate(*certificate_of(strict_directory)))
        assert (await own.probe()).identity == f"dn:{SYNC_DN}"


@needs_server
@pytest.mark.parametrize("way", ["url", "tls_url"])
async def test_a_certificate_that_the_server_does_not_know_is_a_failure_of_tls(
    strict_directory: Slapd, way: str
) -> None:
    auth = stranger()
    async with ldap(strict_directory, auth=auth, url=getattr(strict_directory, way)) as connector:
        with pytest.raises(TransientError, match="does not accept ours") as caught:
            await connector.probe()
    assert caught.value.why is Reason.TLS_FAILED


@needs_server
@pytest.mark.parametrize("way", ["url", "tls_url"])
async def test_without_one_it_says_what_the_server_demands(strict_directory: Slapd, way: str) -> None:
    async with ldap(strict_directory, url=getattr(strict_directory, way)) as connector:
        with pytest.raises(TransientError, match="demands a client certificate") as caught:
            await connector.probe()
    assert caught.value.why is Reason.TLS_FAILED


@needs_server
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"certificate": "no PEM"}, "must be PEM"),
        ({"private_key": "no PEM"}, "must be PEM"),
        ({"private_key": stranger()["private_key"]}, "belong together"),
    ],
)
async def test_what_is_no_pair_is_said_before_it_is_sent(
    strict_directory: Slapd, wrong: Mapping[str, Any], said: str
) -> None:
    auth = {**client_certificate(*certificate_of(strict_directory)), **wrong}
    async with ldap(strict_directory, auth=auth) as connector:
        with pytest.raises(UnauthorizedError, match=said) as caught:
            await connector.probe()
    assert "PRIVATE KEY" not in f"{caught.value!r} {caught.value.detail}"
    assert secrets_open() == []
