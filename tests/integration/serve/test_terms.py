"""What callers may ask of a daemon, over the real server: how often, how much, for which data."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from reconciler.model.access import Caller, Grant, Permission
from reconciler.serve.admission import Admission, Terms
from reconciler.serve.buckets import Flow
from reconciler.serve.limits import FAILURES, Limits
from reconciler.serve.problem import Envelope, ProblemError
from reconciler.serve.server import Server
from reconciler.serve.snapshot import Entry
from tests.integration.serve.installation import Installation, Wish, want

LIST = "/v1/integrations"


async def test_a_token_that_asks_too_often_waits_and_others_do_not(installation: Installation) -> None:
    installation.terms = Terms(limits=Limits(installation.clock, Flow(per_second=0.5, burst=3)))
    other = await installation.issue("other", "it", Permission.INTEGRATION_VIEW)
    async with installation.client() as client:
        answers = [await client.get(LIST) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        late = answers[-1]
        assert (late.json()["code"], late.headers["retry-after"], late.headers["ratelimit-limit"]) == (
            "rate-limited",
            "2",
            "3",
        )
        assert late.headers.get_list("ratelimit-limit") == ["3"]
        assert (await client.get(LIST, headers={"authorization": f"Bearer {other}"})).status_code == 200
        assert (await client.get("/healthz")).status_code == 200
        installation.clock.add(2)
        assert (await client.get(LIST)).status_code == 200


async def test_guessing_costs_and_keeps_nobody_out_who_was_in(installation: Installation) -> None:
    installation.terms = Terms(limits=Limits(installation.clock))
    newcomer = await installation.issue("new", "it", Permission.INTEGRATION_VIEW)

    async with installation.client() as client:

        async def tried(token: str) -> int:
            return (await client.get(LIST, headers={"authorization": f"Bearer {token}"})).status_code

        assert await tried(installation.token) == 200
        assert [await tried(f"rct_guess_{n}") for n in range(FAILURES + 2)] == [401] * FAILURES + [429] * 2
        assert (await tried(newcomer), await tried(installation.token)) == (429, 200)
        assert (await client.get(LIST, headers={"authorization": ""})).status_code == 401
        installation.clock.add(6.1)
        assert [await tried(newcomer), await tried("rct_guess_x")] == [200, 401]


async def test_many_newcomers_at_once_are_no_guesses(installation: Installation) -> None:
    installation.terms = Terms(limits=Limits(installation.clock))
    tokens = [await installation.issue(f"t{n}", "it", Permission.INTEGRATION_VIEW) for n in range(5 * FAILURES)]
    async with installation.client() as client:
        asked = [client.get(LIST, headers={"authorization": f"Bearer {token}"}) for token in tokens]
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_behind_a_proxy_the_address_is_the_clients(installation: Installation) -> None:
    installation.terms = Terms(limits=Limits(installation.clock, proxies=("127.0.0.0/8",)))
    async with installation.client(token="rct_wrong_one") as client:
        for n in range(FAILURES + 1):
            answer = await client.get(LIST, headers={"x-forwarded-for": "6.6.6.6"})
            assert answer.status_code == (401 if n < FAILURES else 429)
        assert (await client.get(LIST, headers={"x-forwarded-for": "7.7.7.7"})).status_code == 401


ACCESS = {"access": [{"client": "bot", "allow": ["read", "send"]}, {"client": "ci", "allow": ["sync"]}]}


async def test_data_needs_a_grant(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("open", spec=ACCESS), Wish("shut")))
    open_, shut = (await installation.board.current()).entries
    admission = Admission(installation.database, installation.clock)
    refusals: list[tuple[int, str, bool]] = []

    def may(name: str, grant: Grant, entry: Entry = open_, *permissions: Permission) -> bool:
        try:
            admission.granted(Caller(name, "default", frozenset(permissions)), entry, grant)
        except ProblemError as problem:
            refusals.append((problem.status, problem.code, f"allow: [{grant}]" in problem.detail))
            return False
        return True

    assert [may("bot", grant) for grant in Grant] == [True, True, False]
    assert [may("ci", grant) for grant in Grant] == [False, False, True]
    assert [may("bot", grant, shut) for grant in Grant] == [False, False, False]
    every = [one for one in Permission if one is not Permission.ADMIN]
    assert [may("dashboard", grant, shut, *every) for grant in Grant] == [False, False, True]
    assert [may("ada", grant, shut, Permission.ADMIN) for grant in Grant] == [True, True, True]
    assert set(refusals) == {(403, "not-granted", True)}


async def test_a_grant_that_is_taken_away_is_gone(installation: Installation) -> None:
    await installation.change(lambda tx: want(tx, Wish("open", spec=ACCESS)))
    (before,) = (await installation.board.current()).entries
    fewer = Wish("open", spec={"access": [{"client": "bot", "allow": ["read"]}]})
    changed = fewer.desired
    object.__setattr__(changed, "source_hash", "another")
    from reconciler.model.clock import rfc3339
    from reconciler.store import integrations
    from reconciler.store.integrations import DesiredChange

    at = rfc3339(installation.clock.now())
    await installation.change(lambda tx: integrations.want(tx, [DesiredChange(changed, "effective 2")], at))
    (after,) = installation.board.snapshot.entries
    assert before.facts.grants == {"bot": {Grant.READ, Grant.SEND}, "ci": {Grant.SYNC}}
    assert after.facts.grants == {"bot": {Grant.READ}}


async def hang(scope: Any, receive: Any, send: Any) -> None:
    """Goes on after its body was refused."""
    try:
        while True:
            await receive()
    except ProblemError:
        await asyncio.Event().wait()


async def test_a_refused_body_is_told_however_the_application_ends() -> None:
    server = Server("127.0.0.1:0", Envelope(hang, max_body=10, patience=timedelta(seconds=0.2)), max_body=10)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as client:

            async def pieces() -> AsyncIterator[bytes]:
                yield b"x" * 11

            answer = await client.post("/", content=pieces())
    finally:
        await server.stop()
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers how many bytes came; what goes wrong while reading is a 400, as frameworks make it."""
    size, more = 0, True
    status = 200
    try:
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    except Exception:  # noqa: BLE001 - as frameworks do
        status = 400
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.mark.parametrize(
    ("size", "is_chunked", "status"),
    [(100_000, True, 200), (100_001, True, 413), (100_000, False, 200), (100_001, False, 413)],
)
async def test_bodies_are_counted_while_they_come(size: int, is_chunked: bool, status: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 7_000):
            yield b"x" * min(7_000, size - start)

    server = Server("127.0.0.1:0", Envelope(echo, max_body=100_000), max_body=100_000)
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://{server.address}", trust_env=False) as client:
            answer = await client.post("/", content=pieces() if is_chunked else b"x" * size)
    finally:
        await server.stop()
    assert answer.status_code == status
    assert answer.text == str(size) if status == 200 else answer.json()["code"] == "too-large"
