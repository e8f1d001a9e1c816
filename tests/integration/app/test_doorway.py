"""Who may call a daemon, from its settings file to the socket: an issuer, a certificate, limits, a body."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from reconciler.app.doorway import doorway
from reconciler.app.window import Window
from reconciler.model.access import Caller, Operation, Permission
from reconciler.sdk.redact import Redactor
from reconciler.serve.metrics import Metrics
from reconciler.serve.ports import Ports
from reconciler.serve.problem import ProblemError
from reconciler.settings import load_settings
from reconciler.store.database import Database
from reconciler.store.migrations import migrate
from reconciler.store.sqlite import Sqlite
from tests.integration.sdk.loopback import listening
from tests.integration.serve.authority import Authority
from tests.integration.serve.installation import StandingClock
from tests.integration.serve.test_tls import Place

LIST = "/v1/integrations"


@asynccontextmanager
async def windowed(folder: Path, settings: str) -> AsyncIterator[Window]:
    file = folder / "settings.yaml"
    file.write_text(settings)
    clock, metrics = StandingClock(), Metrics()
    database = Database(Sqlite(folder / "reconciler.db", clock))
    await migrate(database)
    loaded = load_settings({"RECONCILER_STATE_DIR": str(folder)}, file)
    door = doorway(loaded, clock, Redactor(), metrics.observe_http)
    window = Window(
        "127.0.0.1:0",
        database=database,
        clock=clock,
        redactor=Redactor(),
        metrics=metrics,
        checks={},
        is_leader=lambda: True,
        ports=Ports(),
        door=door,
    )
    await window.start()
    try:
        yield window
    finally:
        await window.stop()
        database.close()


async def test_settings_open_the_door(tmp_path: Path) -> None:
    place, authority = Place(tmp_path), Authority(StandingClock())
    place.write("first")
    async with listening(authority.play) as issuer:
        authority.url = issuer.url
        settings = f"""
            hosts: {{allow: ["127.0.0.1:{issuer.port}"]}}
            tls: {{cert_file: {place.files.certificate}, key_file: {place.files.key}, min_version: "1.3"}}
            api: {{rate: {{requests: 60, burst: 2}}, max_body: 2048}}
            oidc:
              - issuer: {issuer.url}
                audience: reconciler
                allow_http: true
                workspace: it
                permissions: [{{claim: groups, value: viewers, grant: [integration.view]}}]
        """
        async with windowed(tmp_path, settings) as window:
            base = f"https://localhost:{window.address.rpartition(':')[2]}"
            bearer = {"authorization": f"Bearer {authority.token()}"}
            async with httpx.AsyncClient(
                base_url=base, verify=place.client(), trust_env=False, headers=bearer
            ) as client:
                answers = [(await client.get(LIST)).status_code for _ in range(3)]
                large = await client.request("GET", LIST, content=b"x" * 2049)
                place.write("second")
                await window.refresh()
            assert (answers, large.status_code) == ([200, 200, 429], 413)
            async with httpx.AsyncClient(base_url=base, verify=place.client(), trust_env=False) as client:
                assert (await client.get("/healthz")).status_code == 200


async def test_an_issuer_on_a_host_that_is_not_permitted_is_not_asked(tmp_path: Path) -> None:
    authority = Authority(StandingClock())
    async with listening(authority.play) as issuer:
        authority.url = issuer.url
        rule = "{claim: groups, value: viewers, workspace: '*'}"
        settings = f"oidc: [{{issuer: '{issuer.url}', audience: reconciler, allow_http: true, permissions: [{rule}]}}]"
        async with windowed(tmp_path, settings) as window, httpx.AsyncClient(trust_env=False) as client:
            bearer = {"authorization": f"Bearer {authority.token()}"}
            answer = await client.get(f"http://{window.address}{LIST}", headers=bearer)
        assert (answer.status_code, answer.json()["code"]) == (503, "issuer-unavailable")
        assert (answer.headers["retry-after"], authority.asked.total()) == ("30", 0)


async def test_what_is_reserved_is_told_to_the_door(tmp_path: Path) -> None:
    async with windowed(tmp_path, "api: {reserved: [/spec/network/**, purge], rate: {requests: 0}}") as window:
        admission = window._admission
        editor = Caller("ci", "it", frozenset({Permission.INTEGRATION_EDIT}))
        with pytest.raises(ProblemError, match="reserved for admin"):
            admission.change(editor, {"spec": {}}, {"spec": {"network": {"proxy": "http://p"}}})
        with pytest.raises(ProblemError, match="reserve purge"):
            admission.operation(editor, Operation.PURGE)
        admission.operation(editor, Operation.ROLLBACK)


async def test_a_proxy_on_this_machine_may_ask_for_the_public_name(tmp_path: Path) -> None:
    settings = "public_url: https://r.example.org/sub\n"
    async with (
        windowed(tmp_path, settings) as window,
        httpx.AsyncClient(base_url=f"http://{window.address}", trust_env=False) as client,
    ):
        asked = [
            (await client.get("/healthz", headers={"host": host})).status_code
            for host in ("r.example.org", "R.example.org:443", "localhost", "evil.example")
        ]
    assert asked == [200, 200, 200, 421]
