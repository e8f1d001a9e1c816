"""TLS with real handshakes: certificates that change on disk, versions, files that are of no use."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme

from reconciler.serve.errors import ListenError
from reconciler.serve.server import Server
from reconciler.serve.tls import Certificate, CertificateFiles
from tests.integration.serve.installation import Installation


class Place:
    """Where the certificate lies."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        self.files = CertificateFiles(folder / "tls.crt", folder / "tls.key")
        self._turn = 0

    def write(self, name: str, *, only_certificate: bool = False) -> None:
        leaf = self.authority.issue_cert("localhost", common_name=name)
        chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
        written = [(self.files.certificate, chain)]
        if not only_certificate and self.files.key:
            written.append((self.files.key, leaf.private_key_pem.bytes()))
        self._turn += 1
        for path, content in written:
            path.write_bytes(content)
            os.utime(path, (self._turn, self._turn))

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def place(tmp_path: Path) -> Place:
    found = Place(tmp_path)
    found.write("first")
    return found


@asynccontextmanager
async def serving(installation: Installation, files: CertificateFiles) -> AsyncIterator[Server]:
    server = installation.server(tls=files)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def served_name(server: Server, place: Place, *, named: bool = True) -> str:
    """Who the server says it is, in a new handshake, with or without naming the host."""
    context = place.client()
    context.check_hostname = named
    port = int(server.address.rpartition(":")[2])
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="localhost" if named else ""
    )
    subject = dict(pair for part in writer.get_extra_info("peercert")["subject"] for pair in part)
    writer.close()
    return str(subject["commonName"])


async def test_https_says_to_stay_with_it(installation: Installation, place: Place) -> None:
    async with serving(installation, place.files) as server:
        url = f"https://localhost:{server.address.rpartition(':')[2]}"
        async with httpx.AsyncClient(base_url=url, verify=place.client(), trust_env=False) as client:
            answer = await client.get("/v1/integrations", headers=installation.bearer)
            assert answer.status_code == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            assert (await client.get("/nowhere")).headers["strict-transport-security"]
            assert not {"server", "access-control-allow-origin"} & set(answer.headers)
        async with httpx.AsyncClient(trust_env=False) as plain:
            with pytest.raises(httpx.TransportError):
                await plain.get(url.replace("https", "http"))


async def test_without_tls_nothing_is_said_of_it(installation: Installation) -> None:
    async with installation.client() as client:
        answer = await client.get("/")
        preflight = await client.options("/v1/integrations", headers={"origin": "https://evil.example"})
    assert not {"strict-transport-security", "server", "access-control-allow-origin"} & set(answer.headers)
    assert not [name for name in preflight.headers if name.startswith("access-control")]


async def test_a_certificate_that_changes_is_served_without_a_restart(
    installation: Installation, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(installation, place.files) as server:
        assert await served_name(server, place) == "first"
        place.write("second")
        server.renew()
        assert [await served_name(server, place, named=named) for named in (True, False)] == ["second", "second"]
        place.write("third", only_certificate=True)
        server.renew()
        server.renew()
        assert await served_name(server, place) == "second"
        place.files.certificate.unlink()
        server.renew()
        assert await served_name(server, place) == "second"
        place.write("fourth")
        server.renew()
        assert await served_name(server, place) == "fourth"
    assert capsys.readouterr().out.count("the new certificate is not taken") == 2


@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_older_versions_are_refused(installation: Installation, place: Place, version: str) -> None:
    files = CertificateFiles(place.files.certificate, place.files.key, version)
    async with serving(installation, files) as server:
        old = place.client()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(verify=old, trust_env=False) as client:
            url = f"https://localhost:{server.address.rpartition(':')[2]}/"
            if version == "1.2":
                assert (await client.get(url)).status_code == 200
            else:
                with pytest.raises(httpx.TransportError):
                    await client.get(url)


def test_one_file_may_hold_both(place: Place) -> None:
    files = place.files
    assert files.key is not None
    files.certificate.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert Certificate(CertificateFiles(files.certificate)).context


def test_files_of_no_use_are_told(place: Place, tmp_path: Path) -> None:
    files, other = place.files, Place(tmp_path / "nowhere")
    assert files.key is not None
    junk = tmp_path / "junk"
    junk.write_text("no PEM")
    stranger = tmp_path / "stranger.key"
    stranger.write_bytes(other.authority.issue_cert("x").private_key_pem.bytes())
    for wrong, said in (
        (CertificateFiles(tmp_path / "none"), r"tls\.cert_file: .*/none: No such file"),
        (CertificateFiles(files.certificate, tmp_path / "none"), r"tls\.key_file: .*/none: No such file"),
        (CertificateFiles(junk, files.key), "cannot be used .*PEM without a password"),
        (CertificateFiles(files.certificate), "must hold the key too where key_file is not set"),
        (CertificateFiles(files.certificate, stranger), "stranger.key is not the key of"),
    ):
        with pytest.raises(ListenError, match=said):
            Certificate(wrong)
