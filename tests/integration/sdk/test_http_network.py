"""TLS with a private authority and client certificates, and a real CONNECT proxy, on loopback."""

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import trustme

from reconciler.model.condition import Reason
from reconciler.sdk.errors import AmbiguousError, RejectedError, TransientError
from reconciler.sdk.guard import GuardSettings
from reconciler.sdk.network import NetworkSettings
from tests.integration.sdk.loopback import SECRET, listening, read_request, reply, rigged


@dataclass(frozen=True)
class Authority:
    """A private CA and files signed by it."""

    ca: trustme.CA
    ca_file: str
    client_file: str
    client_key: str

    def server(self, *names: str, wants_client: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(*names).configure_cert(context)
        if wants_client:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    leaf = ca.issue_cert("reconciler.client")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "client.pem")
    leaf.private_key_pem.write_to_path(folder / "client.key")
    return Authority(ca, str(folder / "ca.pem"), str(folder / "client.pem"), str(folder / "client.key"))


async def test_a_private_authority_is_trusted_when_named(authority: Authority) -> None:
    tls = authority.server("snow.corp")
    async with (
        listening(reply(), tls=tls) as server,
        rigged(network=NetworkSettings(ca_file=authority.ca_file)) as rig,
    ):
        assert (await rig.get(f"https://snow.corp:{server.port}/")).status == 200
        assert server.seen[0].headers["host"] == f"snow.corp:{server.port}"


async def test_an_unknown_authority_is_refused_and_the_setting_named(authority: Authority) -> None:
    async with listening(reply(), tls=authority.server("snow.corp")) as server, rigged() as rig:
        with pytest.raises(RejectedError, match=r"certificate is not accepted.*set ca_file") as caught:
            await rig.post(f"https://snow.corp:{server.port}/")
        assert caught.value.why is Reason.TLS_FAILED
        assert server.seen == []


async def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    network = NetworkSettings(ca_file=authority.ca_file)
    async with listening(reply(), tls=authority.server("other.corp")) as server, rigged(network=network) as rig:
        with pytest.raises(RejectedError, match=r"snow\.corp") as caught:
            await rig.get(f"https://snow.corp:{server.port}/")
        assert caught.value.why is Reason.TLS_FAILED


async def test_client_certificates(authority: Authority) -> None:
    tls = authority.server("mtls.corp", wants_client=True)
    network = NetworkSettings(
        ca_file=authority.ca_file, client_cert=authority.client_file, client_key=authority.client_key
    )
    async with listening(reply(), tls=tls) as server, rigged(network=network) as rig:
        assert (await rig.get(f"https://mtls.corp:{server.port}/")).status == 200


def refuse_handshakes(listener: socket.socket, tls: ssl.SSLContext) -> None:
    """Like a real server: says why in an alert, and reads on, so that the alert is not overtaken by a reset."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        wrapped = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        with contextlib.suppress(OSError):
            wrapped.do_handshake()
        with socket.socket(fileno=wrapped.detach()) as rest, contextlib.suppress(OSError):
            rest.settimeout(5)
            while rest.recv(65536):
                pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_missing_client_certificate_names_the_settings(authority: Authority, version: ssl.TLSVersion) -> None:
    tls = authority.server("mtls.corp", wants_client=True)
    tls.maximum_version = version
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(asyncio.to_thread(refuse_handshakes, listener, tls))
    try:
        async with rigged(network=NetworkSettings(ca_file=authority.ca_file)) as rig:
            with pytest.raises(RejectedError, match="set client_cert and client_key") as caught:
                await rig.get(f"https://mtls.corp:{listener.getsockname()[1]}/")
            assert caught.value.why is Reason.TLS_FAILED
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        await serving


async def test_a_port_without_tls_is_said_so() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, rigged() as rig:
        with pytest.raises(RejectedError, match="does not speak TLS"):
            await rig.get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_a_handshake_that_breaks_is_transient() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, rigged() as rig:
        with pytest.raises(TransientError, match="cannot connect") as caught:
            await rig.post(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        assert not isinstance(caught.value, AmbiguousError)


@dataclass
class Proxy:
    """A forwarding and CONNECT proxy; every name leads to loopback. `wants` is the Basic credential it asks for."""

    wants: str = ""
    refuses: bool = False
    port: int = 0
    asked: list[str] = field(default_factory=list)
    authorized: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            seen = await read_request(reader)
            self.asked.append(f"{seen.method} {seen.target}")
            self.authorized.append(seen.headers.get("proxy-authorization", ""))
            if self.refuses or (self.wants and self.authorized[-1] != self.wants):
                status = "403 Forbidden" if self.refuses else "407 Proxy Authentication Required"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
            elif seen.method == "CONNECT":
                await self._tunnel(int(seen.target.rsplit(":", 1)[1]), reader, writer)
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nforwarded")
            await writer.drain()
        writer.close()

    @staticmethod
    async def _tunnel(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pumps = [asyncio.create_task(pump(reader, forth)), asyncio.create_task(pump(back, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            forth.close()


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while part := await source.read(65536):
        sink.write(part)
        await sink.drain()


@contextlib.asynccontextmanager
async def proxying(proxy: Proxy) -> AsyncIterator[Proxy]:
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def only_the_proxy(host: str, port: int) -> Sequence[str]:
    """Targets behind a proxy must not be resolved here."""
    assert host == "proxy.corp"
    return ("127.0.0.1",)


async def test_https_goes_through_the_proxy_with_its_own_credentials(authority: Authority) -> None:
    wants = "Basic " + base64.b64encode(f"bob:{SECRET}".encode()).decode()
    async with (
        listening(reply(200, '{"through": 1}'), tls=authority.server("snow.corp")) as server,
        proxying(Proxy(wants)) as proxy,
    ):
        network = NetworkSettings(proxy=f"http://bob:{SECRET}@proxy.corp:{proxy.port}", ca_file=authority.ca_file)
        async with rigged(network=network, resolve=only_the_proxy) as rig:
            answer = await rig.get(f"https://snow.corp:{server.port}/x", headers={"Authorization": "Bearer y"})
            assert answer.json() == {"through": 1}
        assert (proxy.asked, proxy.authorized) == ([f"CONNECT snow.corp:{server.port}"], [wants])
        assert "proxy-authorization" not in server.seen[0].headers


async def test_http_is_forwarded_by_the_proxy() -> None:
    async with proxying(Proxy()) as proxy:
        network = NetworkSettings(proxy=f"http://proxy.corp:{proxy.port}")
        async with rigged(network=network, resolve=only_the_proxy) as rig:
            assert (await rig.get("http://plain.example/x?y=1")).body == b"forwarded"
        assert proxy.asked == ["GET http://plain.example/x?y=1"]


async def test_no_proxy_goes_straight() -> None:
    async with listening(reply()) as server, proxying(Proxy()) as proxy:
        network = NetworkSettings(proxy=f"http://proxy.corp:{proxy.port}", no_proxy=("127.0.0.0/8",))
        async with rigged(network=network) as rig:
            assert (await rig.get(server.url)).status == 200
        assert proxy.asked == []


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "metadata.google.internal", "127.0.0.1", "2852039166", "localhost"]
)
async def test_the_proxy_is_not_asked_for_forbidden_hosts(host: str) -> None:
    async with proxying(Proxy()) as proxy:
        network = NetworkSettings(proxy=f"http://proxy.corp:{proxy.port}")
        guard = GuardSettings(allow=(f"proxy.corp:{proxy.port}",))
        async with rigged(network=network, guard=guard, resolve=only_the_proxy) as rig:
            with pytest.raises(RejectedError) as caught:
                await rig.get(f"http://{host}/latest/")
            assert caught.value.why is Reason.HOST_NOT_PERMITTED
        assert proxy.asked == []


async def test_the_proxy_itself_is_a_host_like_any_other() -> None:
    network = NetworkSettings(proxy="http://proxy.corp:3128")
    async with rigged(network=network, guard=GuardSettings(), resolve=only_the_proxy) as rig:
        with pytest.raises(RejectedError, match=r"proxy\.corp:3128 is not permitted"):
            await rig.get("https://snow.example/")


@pytest.mark.parametrize(
    ("proxy", "kind", "said"),
    [
        (Proxy(wants="Basic other"), RejectedError, "the proxy wants other credentials"),
        (Proxy(refuses=True), RejectedError, "the proxy refuses this host"),
    ],
)
async def test_a_proxy_that_refuses(proxy: Proxy, kind: type[Exception], said: str) -> None:
    async with proxying(proxy):
        network = NetworkSettings(proxy=f"http://bob:{SECRET}@proxy.corp:{proxy.port}")
        async with rigged(network=network, resolve=only_the_proxy) as rig:
            with pytest.raises(kind, match=said) as caught:
                await rig.post("https://snow.example/")
            assert SECRET not in str(caught.value)


async def test_a_proxy_that_is_not_there() -> None:
    network = NetworkSettings(proxy="http://proxy.corp:9", connect_timeout=timedelta(seconds=1))
    async with rigged(network=network, resolve=only_the_proxy) as rig:
        with pytest.raises(TransientError, match=r"cannot connect to snow\.example through the proxy"):
            await rig.post("https://snow.example/")


@pytest.mark.parametrize("proxy", ["proxy.corp:3128", "socks5://proxy.corp", "http://", "http://[::1"])
async def test_a_proxy_that_is_no_http_url(proxy: str) -> None:
    async with rigged(network=NetworkSettings(proxy=proxy)) as rig:
        with pytest.raises(RejectedError, match="proxy"):
            await rig.get("https://snow.example/")


def _resolving(*answers: str) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """Another address each time, the last one from then on."""
    left = list(answers)

    async def resolve(host: str, port: int) -> Sequence[str]:
        return (left.pop(0) if len(left) > 1 else left[0],)

    return resolve


async def test_what_must_be_public_is_not_sent_to_a_private_address() -> None:
    async with rigged(resolve=_resolving("10.1.2.3")) as rig:
        with pytest.raises(RejectedError, match=r"10\.1\.2\.3 is a private address") as caught:
            await rig.post("http://hooks.example/x", public_only=True)
        assert caught.value.why is Reason.HOST_NOT_PERMITTED


async def test_a_name_that_turns_private_gains_nothing() -> None:
    async with listening(reply()) as server, rigged(resolve=_resolving("127.0.0.1", "10.1.2.3")) as rig:
        url = f"http://hooks.example:{server.port}/x"
        assert (await rig.post(url, public_only=True)).status == 200
        await rig.client.close()
        with pytest.raises(RejectedError, match="private"):
            await rig.post(url, public_only=True)
        assert len(server.seen) == 1


async def test_what_must_be_public_takes_no_connection_of_what_need_not() -> None:
    async with listening(reply()) as server, rigged(resolve=_resolving("127.0.0.1", "10.1.2.3")) as rig:
        url = f"http://hooks.example:{server.port}/x"
        await rig.post(url)
        with pytest.raises(RejectedError, match="private"):
            await rig.post(url, public_only=True)
        assert len(server.seen) == 1


async def test_behind_a_proxy_private_addresses_are_refused_to_what_must_be_public() -> None:
    async with proxying(Proxy()) as proxy:
        network = NetworkSettings(proxy=f"http://proxy.corp:{proxy.port}")
        async with rigged(network=network, resolve=only_the_proxy) as rig:
            with pytest.raises(RejectedError, match="private"):
                await rig.post("http://10.1.2.3/x", public_only=True)
            assert (await rig.post("http://hooks.example/x", public_only=True)).body == b"forwarded"
        assert proxy.asked == ["POST http://hooks.example/x"]


async def test_content_is_sent_as_it_is() -> None:
    body = b'{"b": 1,  "a":2}'
    async with listening(reply()) as server, rigged() as rig:
        await rig.client.send("POST", server.url, content=body, headers={"Content-Type": "application/json"})
        assert (server.seen[0].body, server.seen[0].headers["content-type"]) == (body, "application/json")
