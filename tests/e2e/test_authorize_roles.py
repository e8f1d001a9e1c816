"""Authorizations over several processes on PostgreSQL, with GitHub: the one that begins and takes callbacks has no keys at all.

This test is that process: it has the database and nothing else, as one with role `api`.
"""

import asyncio
import signal
import subprocess
from datetime import timedelta

import httpx
import pytest

from reconciler.app.authorizations import Authorization, AuthorizationOutcome, Authorizations, returned_by
from reconciler.model.clock import SystemClock
from reconciler.model.condition import ConditionType, Reason
from reconciler.model.ids import Ref
from reconciler.store import conditions, integrations
from reconciler.store.database import Database, Tx
from reconciler.store.location import backend
from tests.e2e.site import Site
from tests.e2e.stage import GITHUB_CANARY, PUBLIC_URL, held_back

pytestmark = pytest.mark.needs("initdb")
TOKENS = "/login/oauth/access_token"
GH = Ref("it-ops", "gh")


def reason(tx: Tx) -> Reason | None:
    row = integrations.find(tx, GH)
    said = conditions.conditions(tx, row.id).get(ConditionType.CONNECTED) if row else None
    return said.reason if said else None


def until(site: Site, wanted: Reason) -> None:
    site.until(f"GitHub: {wanted}", lambda: site.read(reason) is wanted)


def begin(site: Site) -> Authorization:
    async def ask() -> Authorization:
        database = Database(backend(site.url))
        try:
            row = await database.read(lambda tx: integrations.find(tx, GH))
            assert row is not None
            return await Authorizations(database, SystemClock()).begin(row.id, "ada")
        finally:
            database.close()

    return asyncio.run(ask())


def come_back(site: Site, address: str, seconds: float) -> AuthorizationOutcome:
    async def finish() -> AuthorizationOutcome:
        database = Database(backend(site.url))
        try:
            return await Authorizations(database, SystemClock()).finish(
                returned_by(address), timedelta(seconds=seconds)
            )
        finally:
            database.close()

    return asyncio.run(finish())


def person(url: str) -> str:
    return str(httpx.get(url, trust_env=False).headers["location"])


def start(site: Site) -> "subprocess.Popen[str]":
    """GitHub waits for a person; a controller and the worker that is returned are at work."""
    github = site.stage.github
    github.oauth_clients["Iv1.app"] = GITHUB_CANARY
    auth = {"type": "oauth", "client_id": "Iv1.app", "client_secret": {"from_env": "ITOPS_GITHUB"}}
    config = {"base_url": github.url, "repositories": ["acme/app"]}
    site.stage.manifest("gh", **site.stage.github_spec(auth=auth, config=config))
    site.stage.commit()
    site.start("controller", "controller", public_url=PUBLIC_URL)
    worker = site.start("one", "worker", public_url=PUBLIC_URL)
    site.until_tables()
    until(site, Reason.AWAITING_AUTHORIZATION)
    return worker


def test_begun_and_ended_without_keys(site: Site) -> None:
    with site.stage.github:
        start(site)
        found = come_back(site, person(begin(site).url), 60)
        assert (found.status, found.message) == ("authorized", "")
        until(site, Reason.SUCCEEDED)


def test_a_worker_killed_while_the_remote_answers(site: Site) -> None:
    """Nobody sends the code again; the next attempt succeeds with another worker."""
    with site.stage.github:
        worker = start(site)
        asked = begin(site)
        with held_back(site.stage.github, TOKENS):
            assert come_back(site, person(asked.url), 0).status == "waiting"
            site.until("the code is under way", lambda: site.read(_step) == "exchanging")
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        site.start("two", "worker", public_url=PUBLIC_URL)
        site.until("it is over", lambda: site.read(_step) == "failed")
        assert "ended before it had kept the answer" in str(site.read(_message))
        assert _sent(site) <= 1
        assert come_back(site, person(begin(site).url), 60).status == "authorized"
        until(site, Reason.SUCCEEDED)


def _sent(site: Site) -> int:
    return len([call for call in site.stage.github.requests if call.url_path == TOKENS])


def _step(tx: Tx) -> object:
    return tx.value("SELECT step FROM authorization_attempt ORDER BY id LIMIT 1")


def _message(tx: Tx) -> object:
    return tx.value("SELECT message FROM authorization_attempt ORDER BY id LIMIT 1")
