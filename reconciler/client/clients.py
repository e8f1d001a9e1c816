"""The two clients, put together: terms, a wire, and the generated groups of calls on it."""

import os
from collections.abc import AsyncGenerator, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from reconciler.client.ask import KEY, Ask, Given, Reply, new_key
from reconciler.client.awaited.calls import AsyncCalls
from reconciler.client.awaited.wire import Wire as AwaitedWire
from reconciler.client.blocking.calls import Calls
from reconciler.client.blocking.wire import Wire
from reconciler.client.conversation import Patience
from reconciler.client.listening import Kinds
from reconciler.client.terms import Token, make_terms, named_by

T = TypeVar("T")
_MUTATIONS = frozenset({"PUT", "PATCH", "DELETE"})


class Client(Calls):
    """Use it with `with`, or call `close`. Calls raise `ClientError`; threads may share it."""

    def __init__(
        self,
        url: str,
        token: Token | None,
        *,
        patience: Patience | None = None,
        ca_file: str | Path | None = None,
        certificate: tuple[str | Path, str | Path] | None = None,
        user_agent: str = "",
        trust_env: bool = True,
    ) -> None:
        """`certificate`: files of the client's own one and its key. `trust_env`: proxies that the environment names are used."""
        terms = make_terms(
            url,
            token,
            patience=patience,
            ca_file=ca_file,
            certificate=certificate,
            user_agent=user_agent,
            trust_env=trust_env,
        )
        self.url = terms.url
        self._wire = Wire(terms)
        super().__init__(self._wire)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ, url: str | None = None) -> Self:
        """As `RECONCILER_URL`, `RECONCILER_TOKEN` or `RECONCILER_TOKEN_FILE` and `RECONCILER_CA_FILE` say; `url` counts more."""
        return cls(**named_by(env, url))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Given | bytes | None = None,
    ) -> Reply:
        """Any call, unread. What changes something gets an Idempotency-Key, POST only where `headers` have one."""
        return self._wire.send(_any(method, path, query, headers, body))

    def listen(
        self,
        method: str,
        path: str,
        kinds: Kinds[T],
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Given | bytes | None = None,
    ) -> Generator[T, None, None]:
        """Any stream; `kinds` are in `reconciler.client.streams`. What begins something gets an Idempotency-Key."""
        given = {KEY: new_key(), **(headers or {})} if method != "GET" else headers
        return self._wire.listen(_any(method, path, query, given, body), kinds)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.url!r})"


class AsyncClient(AsyncCalls):
    """Use it with `async with`, or call `close`. Calls raise `ClientError`; the tasks of one loop may share it."""

    def __init__(
        self,
        url: str,
        token: Token | None,
        *,
        patience: Patience | None = None,
        ca_file: str | Path | None = None,
        certificate: tuple[str | Path, str | Path] | None = None,
        user_agent: str = "",
        trust_env: bool = True,
    ) -> None:
        """As `Client`."""
        terms = make_terms(
            url,
            token,
            patience=patience,
            ca_file=ca_file,
            certificate=certificate,
            user_agent=user_agent,
            trust_env=trust_env,
        )
        self.url = terms.url
        self._wire = AwaitedWire(terms)
        super().__init__(self._wire)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ, url: str | None = None) -> Self:
        """As of `Client`."""
        return cls(**named_by(env, url))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Given | bytes | None = None,
    ) -> Reply:
        """As of `Client`."""
        return await self._wire.send(_any(method, path, query, headers, body))

    def listen(
        self,
        method: str,
        path: str,
        kinds: Kinds[T],
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Given | bytes | None = None,
    ) -> AsyncGenerator[T, None]:
        """As of `Client`."""
        given = {KEY: new_key(), **(headers or {})} if method != "GET" else headers
        return self._wire.listen(_any(method, path, query, given, body), kinds)

    async def close(self) -> None:
        await self._wire.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"


def _any(
    method: str,
    path: str,
    query: Mapping[str, Any] | None,
    headers: Mapping[str, str] | None,
    body: Given | bytes | None,
) -> Ask[Any]:
    if not path.startswith("/") or path.startswith("//"):
        raise ValueError(f"{path}: expected a path such as /v1/integrations")
    given = {name.lower(): value for name, value in (headers or {}).items()}
    if method in _MUTATIONS:
        given.setdefault(KEY, new_key())
    return Ask(method, path, {}, query or {}, given, body)
