"""The HTTP library behind the client: a request in, an answer or an error of the contract out.

The only module that imports httpx and httpcore, and imported by `HttpClient` on its first request. Connections go to
addresses that the guard has checked, TLS names and verifies the host as usual. Exceptions of the library are translated
here: whether anything was sent decides between Transient and Ambiguous. Not done here: retries, budgets, status codes.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from reconciler.model.condition import Reason
from reconciler.sdk.errors import AmbiguousError, ConnectorError, RejectedError, TransientError
from reconciler.sdk.guard import HostGuard
from reconciler.sdk.network import GuardedNetwork, tls_refusal

_NOTHING_SENT = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, httpcore.ProxyError)


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request, ready to be sent any number of times. `headers` are complete; `body` is what they describe."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    body: bytes | None
    is_safe: bool


@dataclass(frozen=True, slots=True)
class Received:
    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens TCP connections to the addresses that the guard permits, one after the other."""

    def __init__(self, guard: HostGuard) -> None:
        self._guard = guard
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the library's signature
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._guard.addresses(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no answer from DNS for {host}") from None
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._tcp.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._tcp.connect_tcp(addresses[-1], port, share, local_address, socket_options)


class _Bytes(httpx.AsyncByteStream):
    """The library's stream of an answer, as httpx wants it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Pools(httpx.AsyncBaseTransport):
    """A direct pool and, where there is a proxy, one through it. `guard` is for remotes; a proxy may stand in the house."""

    def __init__(self, network: GuardedNetwork, guard: HostGuard, context: ssl.SSLContext, keep: float) -> None:
        self._network = network
        self._guard = guard
        common: dict[str, Any] = {"ssl_context": context, "keepalive_expiry": keep}
        self._direct = httpcore.AsyncConnectionPool(
            max_connections=None, network_backend=_CheckedBackend(guard), **common
        )
        common["network_backend"] = _CheckedBackend(network.guard)
        self._proxied = _proxy_pool(network.settings.proxy, common) if network.settings.proxy else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        inner = httpcore.Request(
            request.method, target, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        answer = await self._pool(url).handle_async_request(inner)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Bytes(answer.stream), extensions=answer.extensions
        )

    def _pool(self, url: httpx.URL) -> Any:
        port = url.port or (443 if url.scheme == "https" else 80)
        if self._proxied is None or not self._network.uses_proxy(url.host, port):
            return self._direct
        self._guard.check_name(url.host, port)
        return self._proxied

    async def aclose(self) -> None:
        await self._direct.aclose()
        if self._proxied is not None:
            await self._proxied.aclose()


def _proxy_pool(proxy: str, common: Mapping[str, Any]) -> httpcore.AsyncHTTPProxy:
    try:
        url = httpx.Proxy(proxy)
    except (httpx.InvalidURL, ValueError):
        raise RejectedError("proxy is not a URL; it must look like http://proxy.example:3128") from None
    if url.url.scheme != "http" or not url.url.host:
        raise RejectedError("proxy must be an http:// URL with a host, such as http://proxy.example:3128")
    at = httpcore.URL(scheme=b"http", host=url.url.raw_host, port=url.url.port or 80, target=b"/")
    auth = None if url.raw_auth is None else url.raw_auth
    return httpcore.AsyncHTTPProxy(at, proxy_auth=auth, max_connections=None, **common)


class Wire:
    """Connections are kept between requests, cookies are not. Unused for `keep`, everything is closed until the next one.

    The library closes a connection that was kept for too long with the next request only, and a thousand integrations that
    ask once in five minutes would hold a thousand sockets meanwhile. `public_only` wires share no connection with others.
    """

    def __init__(
        self,
        network: GuardedNetwork,
        context: ssl.SSLContext,
        *,
        max_body: int,
        keep: timedelta,
        public_only: bool = False,
    ) -> None:
        self._network = network
        self._guard = network.guard.public() if public_only else network.guard
        self._context = context
        self._max_body = max_body
        self._keep = keep.total_seconds()
        self._client: httpx.AsyncClient | None = None
        self._busy = 0
        self._used_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def exchange(self, request: Prepared) -> Received:
        """Send once and read the whole answer; raises errors of the contract."""
        self._busy += 1
        try:
            return await self._exchange(request)
        finally:
            self._busy -= 1
            self._rest_later()

    async def _exchange(self, request: Prepared) -> Received:
        client = self._opened()
        built = client.build_request(request.method, request.url, headers=dict(request.headers), content=request.body)
        try:
            answer = await client.send(built, stream=True)
            try:
                body = await self._body(answer)
            finally:
                await answer.aclose()
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError,
                httpcore.UnsupportedProtocol, httpx.HTTPError, OSError) as error:  # fmt: skip
            raise self._translated(error, request) from None
        return Received(answer.status_code, answer.headers, body, str(answer.url))

    async def _body(self, answer: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in answer.aiter_bytes():
            size += len(part)
            if size > self._max_body:
                raise RejectedError(
                    f"the answer of {answer.url.host} is larger than {self._max_body // 2**20} MiB; ask for smaller pages",
                    reason=Reason.PROTOCOL_ERROR,
                    status=answer.status_code,
                )
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._let_go()
        await asyncio.gather(*self._closing)

    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            settings = self._network.settings
            read, connect = settings.read_timeout.total_seconds(), settings.connect_timeout.total_seconds()
            self._client = httpx.AsyncClient(
                transport=_Pools(self._network, self._guard, self._context, self._keep),
                timeout=httpx.Timeout(read, connect=connect),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                trust_env=False,
            )
            self._client.headers.clear()
        return self._client

    def _rest_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._used_at = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._keep, self._rest)

    def _rest(self) -> None:
        """One timer for many requests: it looks when the last one was, and comes again where that was later."""
        self._timer = None
        if self._busy:
            return
        loop = asyncio.get_running_loop()
        left = self._used_at + self._keep - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._rest)
        else:
            self._let_go()

    def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            task = asyncio.create_task(client.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _translated(self, error: Exception, request: Prepared) -> ConnectorError:
        host = request.url.netloc.decode()
        tls = next((e for e in _chain(error) if isinstance(e, ssl.SSLError)), None)
        if tls is not None and (refused := tls_refusal(tls, host)):
            return refused
        if isinstance(error, httpcore.ProxyError):
            return _proxy_refusal(error)
        if isinstance(error, httpcore.LocalProtocolError | httpcore.UnsupportedProtocol):
            # The library's text quotes the header, which may be the credential.
            return RejectedError(f"the request to {host} cannot be written as HTTP", reason=Reason.REJECTED)
        if isinstance(error, _NOTHING_SENT):
            return self._unreachable(error, request, host)
        timed_out = isinstance(error, httpcore.TimeoutException)
        seconds = self._network.settings.read_timeout.total_seconds()
        why = f"no answer within {seconds:g} s" if timed_out else _lost(error)
        kind = TransientError if request.is_safe else AmbiguousError
        reason = Reason.TIMED_OUT if timed_out else Reason.REMOTE_UNAVAILABLE
        if isinstance(error, httpx.DecodingError | httpcore.RemoteProtocolError):
            reason = Reason.PROTOCOL_ERROR
        sent = "" if request.is_safe else "; it may have been carried out"
        return kind(f"{request.method} to {host}: {why}{sent}", reason=reason)

    def _unreachable(self, error: Exception, request: Prepared, host: str) -> TransientError:
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        through = " through the proxy" if self._network.uses_proxy(request.url.host, port) else ""
        if isinstance(error, httpcore.ConnectTimeout):
            seconds = self._network.settings.connect_timeout.total_seconds()
            return TransientError(f"no connection to {host}{through} within {seconds:g} s", reason=Reason.TIMED_OUT)
        causes = [e for e in _chain(error) if isinstance(e, OSError) and e.strerror]
        broken = any(isinstance(e, ssl.SSLError) for e in causes)
        said = "the TLS handshake broke off" if broken else next((e.strerror for e in causes), "connection failed")
        return TransientError(f"cannot connect to {host}{through}: {said}")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from error.exceptions
        error = error.__cause__ or error.__context__


def _lost(error: Exception) -> str:
    if isinstance(error, httpx.DecodingError):
        return "the answer's compression is broken"
    if isinstance(error, httpcore.RemoteProtocolError):
        # The library quotes what came where it is no HTTP; vendor text leaves only through the redactor.
        text = str(error)
        return "what came is not HTTP" if "'" in text else f"the connection ended before the answer did ({text})"
    return "the connection broke before the answer was complete"


def _proxy_refusal(error: Exception) -> ConnectorError:
    status = str(error)[:60]
    if status.startswith("407"):
        return RejectedError(f"the proxy wants other credentials: {status}; set user and password in proxy")
    if status.startswith("403"):
        return RejectedError(f"the proxy refuses this host: {status}")
    return TransientError(f"the proxy did not connect: {status}")
