"""A person allows what an integration does: a daemon, Git, and Authlib's authorization server, over a connector of a third party.

Also here: what `reconciler authorize` and `reconciler credentials` say, and that no secret of all this is anywhere.
"""

import asyncio
import io
import json
import logging
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from reconciler.api.credentials import AuthorizationBegun, Credentials
from reconciler.app.authorizations import Authorizations, NotAuthorizableError, StateRefusedError, returned_by
from reconciler.cli.main import main
from reconciler.control.holdup import of_integration
from reconciler.model.access import Permission
from reconciler.model.clock import SystemClock
from reconciler.model.condition import ConditionType, Reason, Status
from reconciler.model.event import Lifecycle
from reconciler.sdk import registry
from reconciler.store import events as event_log
from tests.e2e.stage import ENV, PATIENCE, PUBLIC_URL, Running, Stage
from tests.e2e.test_canary import spellings
from tests.servers.oauth import CLIENT_ID, CLIENT_SECRET, OAuthServer
from tests.tokens import bearer, issue

SECRETS = {**ENV, "ITOPS_NOTES": CLIENT_SECRET}
C = ConditionType
NOT_OURS = (
    "authlib",
    "httpx",
    "httpcore",
    "werkzeug",
)  # here they speak for the server and the person, in this very process


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The connector is installed as a package with an entry point."""
    package = tmp_path / "site" / "acme_notes-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-notes\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[reconciler.connectors]\nnotes = tests.servers.notes:Notes\n")
    monkeypatch.syspath_prepend(str(package.parent))
    _look_again()
    yield
    monkeypatch.undo()
    _look_again()


def _look_again() -> None:
    for one in (registry._third_party, registry.known_types, registry.load):
        one.cache_clear()


@pytest.fixture
def server() -> Iterator[OAuthServer]:
    with OAuthServer() as made:
        yield made


@pytest.fixture
def stage(tmp_path: Path, server: OAuthServer, third_party: None) -> Iterator[Stage]:
    made = Stage(tmp_path)
    with made.servicenow, made.slack:
        made.manifest("chat", **made.slack_spec(synchronizations=[]))
        write(made, server)
        yield made


def write(stage: Stage, server: OAuthServer, **more: Any) -> None:
    auth = {"type": "oauth", "client_id": CLIENT_ID, "client_secret": {"from_env": "ITOPS_NOTES"}}
    stage.manifest("notes", type="notes", auth=auth, config={"base_url": server.url}, **more)
    stage.commit()


class Desk:
    """The running daemon, and a process beside it that serves the API."""

    def __init__(self, running: Running, server: OAuthServer, stage: Stage) -> None:
        self.running, self.server, self.stage = running, server, stage
        self.api = Authorizations(running.daemon.database, SystemClock())

    async def until(self, status: Status, name: str = "notes") -> str:
        view = await self.running.until_view(name, status, lambda v: v.status is status)
        return view.message

    async def allow(self) -> str:
        row = (await self.running.view("notes")).row
        asked = await self.api.begin(row.id, "ada")
        address = await asyncio.to_thread(self.server.person, asked.url)
        return (await self.api.finish(returned_by(address))).status

    async def events(self) -> list[str]:
        row = (await self.running.view("notes")).row
        found = await self.running.read(lambda tx: event_log.to_route(tx, 0, 1000))
        return [e.type for e in found if e.integration_id == row.id]

    async def command(self, *words: str, stdin: io.StringIO | None = None) -> int:
        """As a person types it, while the daemon works."""
        return await asyncio.to_thread(run, [*words, "--state-dir", str(self.stage.state)], stdin or io.StringIO())


def run(words: list[str], stdin: io.StringIO) -> int:
    kept, sys.stdin = sys.stdin, stdin
    try:
        return main(words)
    finally:
        sys.stdin = kept


async def at_work(stage: Stage, server: OAuthServer, test: Callable[[Desk], Awaitable[None]], **more: Any) -> None:
    async with stage.daemon(env=SECRETS, public_url=PUBLIC_URL, **more) as running:
        await test(Desk(running, server, stage))


async def test_from_pending_to_connected_and_given_back(stage: Stage, server: OAuthServer) -> None:
    async def test(desk: Desk) -> None:
        said = await desk.until(Status.PENDING_AUTH)
        assert said == (
            "AwaitingAuthorization: a person has to allow it: nobody has yet; reconciler authorize it-ops/notes"
        )
        await desk.until(Status.CONNECTED, "chat")
        assert server.seen == [], "nothing is asked of the remote meanwhile"
        assert await desk.allow() == "authorized"
        await desk.until(Status.CONNECTED)
        view = await desk.running.view("notes")
        assert view.row.identity == "ada"
        assert C.STALLED not in view.conditions
        write(stage, server, enabled=False)
        await desk.until(Status.DISCONNECTED)
        assert len(server.revoked) == 2
        with pytest.raises(NotAuthorizableError, match=r"is disabled; set spec.enabled to true in notes\.yaml"):
            await desk.api.begin(view.row.id, "ada")
        write(stage, server)
        await desk.until(Status.PENDING_AUTH)

    await at_work(stage, server, test)


async def test_it_is_there_after_a_restart(stage: Stage, server: OAuthServer) -> None:
    async def first(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        assert await desk.allow() == "authorized"

    async def second(desk: Desk) -> None:
        await desk.until(Status.CONNECTED)
        assert len(server.exchanges) == 1

    await at_work(stage, server, first)
    await at_work(stage, server, second)


async def test_what_the_remote_does_not_renew_waits_for_a_person_in_peace(stage: Stage, server: OAuthServer) -> None:
    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        await desk.allow()
        await desk.until(Status.CONNECTED)
        server.refresh_tokens.clear()
        server.expire()
        await desk.running.order("reconcile", "notes")
        said = await desk.until(Status.PENDING_AUTH)
        assert "the remote does not renew the token any more: invalid_grant" in said
        asked = len(server.exchanges)
        for _ in range(3):
            await desk.running.order("reconcile", "notes")
        await asyncio.sleep(1)
        assert len(server.exchanges) == asked
        server.login = "grace"
        assert await desk.allow() == "authorized"
        said = await desk.until(Status.CONNECTED)
        assert said == "connected as grace, before as ada"
        events = await desk.events()
        assert events == [Lifecycle.ERROR, Lifecycle.CONNECTED, Lifecycle.ERROR, Lifecycle.RECOVERED]
        row = (await desk.running.view("notes")).row
        assert await desk.running.read(lambda tx: of_integration(tx, row)) is None

    await at_work(stage, server, test)


async def test_the_end_of_what_cannot_be_renewed_is_told_ahead(stage: Stage) -> None:
    with OAuthServer(gives_refresh=False) as server:
        write(stage, server)

        async def test(desk: Desk) -> None:
            await desk.until(Status.PENDING_AUTH)
            await desk.allow()
            await desk.until(Status.CONNECTED)
            view = await desk.running.view("notes")
            condition = view.conditions[C.CREDENTIAL_EXPIRING]
            assert condition.reason is Reason.CREDENTIAL_EXPIRING
            assert condition.message.endswith("UTC: put a new one into the manifest, or authorize again")
            assert view.message.startswith("CredentialExpiring: the credential ends at")
            assert (await desk.events())[-1] == Lifecycle.EXPIRING

        await at_work(stage, server, test)


async def test_what_is_renewed_by_itself_does_not_end(stage: Stage, server: OAuthServer) -> None:
    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        await desk.allow()
        await desk.until(Status.CONNECTED)
        assert C.CREDENTIAL_EXPIRING not in (await desk.running.view("notes")).conditions

    await at_work(stage, server, test)


async def test_the_command_with_the_pasted_address(
    stage: Stage, server: OAuthServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here the person's fingers are a stdin that opens the URL it was shown."""

    class Person(io.StringIO):
        def readline(self, *_: object) -> str:  # type: ignore[override]
            shown = capsys.readouterr().out
            url = next(line.strip() for line in shown.splitlines() if line.startswith("  http"))
            assert f"({PUBLIC_URL}/v1/oauth/callback?...)" in shown
            return server.person(url) + "\n"

    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        assert await desk.command("authorize", "notes", "--paste", stdin=Person()) == 0
        assert capsys.readouterr().out.endswith("authorized\nit-ops/notes connected: connected as ada\n")
        assert await desk.command("audit", "--workspace", "it-ops") == 0
        assert "reconciler authorize" in capsys.readouterr().out
        assert await desk.command("credentials", "notes") == 0
        listed = capsys.readouterr().out
        assert "access_token" in listed
        assert "notes:read, notes:write" in listed
        assert await desk.command("credentials", "notes", "--output", "json") == 0
        kinds = [c["kind"] for c in json.loads(capsys.readouterr().out)["credentials"]]
        assert kinds == ["manifest", "access_token", "refresh_token"]
        assert await desk.command("credentials", "notes", "--renew") == 0
        await desk.running.until("renewed", lambda: _renewed(server))

    await at_work(stage, server, test)


async def _renewed(server: OAuthServer) -> bool:
    return [asked["grant_type"] for asked in server.exchanges] == ["authorization_code", "refresh_token"]


async def test_the_command_waits_for_the_callback(
    stage: Stage, server: OAuthServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.denies = True

    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        waiting = asyncio.create_task(desk.command("authorize", "notes"))
        shown = ""
        while "  http" not in shown:
            await asyncio.sleep(0.02)
            shown += capsys.readouterr().out
        url = next(line.strip() for line in shown.splitlines() if line.startswith("  http"))
        await desk.api.finish(returned_by(await asyncio.to_thread(server.person, url)))
        assert await waiting == 1
        assert "did not allow it: access_denied" in capsys.readouterr().err
        assert await desk.command("authorize", "chat") == 1
        assert "nobody has to allow it-ops/chat anything" in capsys.readouterr().err
        wrong = io.StringIO("https://elsewhere/?code=secret-code\n")
        assert await desk.command("authorize", "notes", "--paste", stdin=wrong) == 1
        said = capsys.readouterr()
        assert "this is not the address" in said.err
        assert "secret-code" not in said.out + said.err
        assert await desk.command("credentials", "notes", "--renew") == 1
        assert "a person has to allow it first; reconciler authorize it-ops/notes" in capsys.readouterr().err

    await at_work(stage, server, test)


async def test_the_command_at_a_server(
    stage: Stage, server: OAuthServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the browser first, where the person says no; then with the address pasted."""

    class Person(io.StringIO):
        def readline(self, *_: object) -> str:  # type: ignore[override]
            return server.person(_way(capsys.readouterr().out)) + "\n"

    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        url = f"http://{desk.running.daemon.window.address}"
        monkeypatch.setenv("RECONCILER_URL", url)
        token = await issue(desk.running.daemon.database, "ci", None, Permission.ADMIN)
        monkeypatch.setenv("RECONCILER_TOKEN", token)

        def typed(*words: str, stdin: io.StringIO | None = None) -> Awaitable[int]:
            return asyncio.to_thread(run, ["authorize", *words], stdin or io.StringIO())

        server.denies = True
        waiting = asyncio.ensure_future(typed("notes"))
        shown = ""
        while "  http" not in shown:
            await asyncio.sleep(0.02)
            shown += capsys.readouterr().out
        await desk.api.finish(returned_by(await asyncio.to_thread(server.person, _way(shown))))
        assert await waiting == 1
        assert "did not allow it: access_denied" in capsys.readouterr().err
        server.denies = False
        wrong = io.StringIO("https://elsewhere/?state=none&code=secret-code\n")
        assert await typed("notes", "--paste", stdin=wrong) == 1
        said = capsys.readouterr()
        assert "the server does not take that address (400)" in said.err
        assert "secret-code" not in said.out + said.err
        assert await typed("it-ops/notes", "--paste", stdin=Person()) == 0
        lines = capsys.readouterr().out.splitlines()  # those of the daemon in between
        assert "authorized" in lines
        assert lines[-1] == "it-ops/notes connected: connected as ada"
        assert await typed("chat") == 1
        assert "nobody has to allow it-ops/chat anything" in capsys.readouterr().err

    await at_work(stage, server, test, listen="127.0.0.1:0")


def _way(shown: str) -> str:
    """Where the person is to go."""
    return next(line.strip() for line in shown.splitlines() if line.startswith("  http"))


async def test_without_a_daemon_nobody_is_sent_anywhere(stage: Stage, server: OAuthServer) -> None:
    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)

    await at_work(stage, server, test)
    assert await asyncio.to_thread(run, ["authorize", "notes", "--state-dir", str(stage.state)], io.StringIO()) == 1


async def test_no_secret_is_anywhere(
    stage: Stage,
    server: OAuthServer,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Code, verifier, state, tokens and the client's secret; in the store while it happens and after, in logs, in commands."""
    caplog.set_level(logging.DEBUG)
    seen: list[bytes] = []
    states: list[str] = []

    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        row = (await desk.running.view("notes")).row
        for _ in range(2):
            asked = await desk.api.begin(row.id, "ada")
            states.append(asked.state.reveal())
            returned = returned_by(await asyncio.to_thread(server.person, asked.url))
            await desk.api.finish(returned)
            with pytest.raises(StateRefusedError) as caught:
                await desk.api.finish(returned)
            seen.append(str(caught.value).encode())
        await desk.until(Status.CONNECTED)
        server.expire()
        await desk.running.order("reconcile", "notes")
        await desk.running.until("renewed", lambda: _is_renewed(server))
        server.refresh_tokens.clear()
        server.expire()  # the remote now echoes the bearer that it refuses
        await desk.running.order("reconcile", "notes")
        await desk.until(Status.PENDING_AUTH)
        seen.extend(stage.kept().values())
        for words in (["status", "notes"], ["logs", "notes"], ["credentials", "notes"], ["keys", "list"]):
            for form in ("text", "json"):
                await desk.command(*words, "--output", form)

    await at_work(stage, server, test)
    said = capsys.readouterr()
    logged = [r.getMessage().encode() for r in caplog.records if not r.name.startswith(NOT_OURS)]
    seen += [*stage.kept().values(), said.out.encode(), said.err.encode(), *logged]
    verifiers = [asked["code_verifier"] for asked in server.exchanges if "code_verifier" in asked]
    hidden = {*server.secrets(), *states, *verifiers}
    assert len(hidden) >= 12
    found = [secret for secret in hidden for text in seen for one in spellings(secret) if one in text]
    assert found == []


async def _is_renewed(server: OAuthServer) -> bool:
    return "refresh_token" in server.exchanges[-1]


async def test_how_long_before_is_a_setting(stage: Stage) -> None:
    with OAuthServer(gives_refresh=False) as server:
        write(stage, server)

        async def test(desk: Desk) -> None:
            await desk.until(Status.PENDING_AUTH)
            await desk.allow()
            await desk.until(Status.CONNECTED)
            view = await desk.running.view("notes")
            assert view.row.credential_expires_at is not None
            assert C.CREDENTIAL_EXPIRING not in view.conditions

        await at_work(stage, server, test, credential_warning="1m")


async def test_over_http(stage: Stage, server: OAuthServer) -> None:
    """As a program begins it and a browser comes back; the callback needs no token, and what it brings is in no log."""

    async def test(desk: Desk) -> None:
        await desk.until(Status.PENDING_AUTH)
        database = desk.running.daemon.database
        signed_in = bearer(await issue(database, "ci <b>", None, Permission.ADMIN))
        async with httpx.AsyncClient(
            base_url=f"http://{desk.running.daemon.window.address}", timeout=PATIENCE, trust_env=False
        ) as browser:

            async def is_listed() -> bool:
                return (await browser.get("/v1/integrations/notes", headers=signed_in)).status_code == httpx.codes.OK

            await desk.running.until("it is listed", is_listed)
            begun = await browser.get("/v1/integrations/notes/authorize", headers=signed_in)
            AuthorizationBegun.model_validate(begun.json(), strict=False)
            waiting = await browser.get(f"/v1/authorizations/{begun.json()['id']}", headers=signed_in)
            assert waiting.json()["status"] == "waiting"
            address = await asyncio.to_thread(server.person, begun.json()["url"])
            back = urlsplit(address)
            page = await browser.get(f"{back.path}?{back.query}")
            assert (page.status_code, "Allowed" in page.text) == (200, True), page.text
            assert "Integration notes of workspace it-ops." in page.text
            assert re.search(r"<p>ci &lt;b&gt; began this on 20\d\d-\d\d-\d\d at \d\d:\d\d UTC\.</p>", page.text), (
                page.text
            )
            assert "take the access away there" in page.text
            again = await browser.get(f"{back.path}?{back.query}")
            assert (again.status_code, "counts once" in again.text) == (400, True)
            forged = await browser.get(f"{back.path}?state=<script>&code=x")
            assert (forged.status_code, "<script>" in forged.text) == (400, False)
            await desk.until(Status.CONNECTED)
            listed = (await browser.get("/v1/integrations/notes/credentials", headers=signed_in)).json()
            Credentials.model_validate(listed, strict=False)
            assert {one["kind"] for one in listed["data"]} == {"manifest", "access_token", "refresh_token"}
            rotated = await browser.post("/v1/integrations/notes/rotate", headers=signed_in)
            assert (rotated.status_code, len(rotated.json()["renewed"])) == (202, 1)
            detail = (await browser.get("/v1/integrations/notes", headers=signed_in)).json()
            assert detail["granted_scopes"]
            over = await browser.get("/v1/integrations/chat/authorize", headers=signed_in)
            assert (over.status_code, over.json()["code"]) == (409, "not-authorizable")

    await at_work(stage, server, test, listen="127.0.0.1:0")
