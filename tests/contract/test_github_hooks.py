"""GitHub's repository webhooks: adopted, repaired, and what they deliver is verified."""

from typing import Any

import pytest

from reconciler.sdk.errors import UnauthorizedError
from reconciler.sdk.testing.case import CANARY
from reconciler.sdk.testing.trial import trial
from tests.contract.test_github import CASE, HOOKED


async def test_a_hook_that_exists_already_is_adopted_and_gets_todays_secret() -> None:
    async with trial(CASE) as t:
        connector: Any = t.connector
        (wanted,) = connector.wanted_objects()
        first = await connector.create_object(wanted)
        hook = t.sim.repos[HOOKED]
        hook.secrets.clear()
        second = await connector.create_object(wanted)
        assert second == first
        assert list(hook.secrets.values()) == [f"{CANARY}-hook"]
        assert second.secret_fingerprint == wanted.secret_fingerprint


async def test_a_repair_keeps_the_secret_and_a_lost_one_is_drift() -> None:
    async with trial(CASE) as t:
        connector: Any = t.connector
        (wanted,) = connector.wanted_objects()
        made = await connector.create_object(wanted)
        repo = t.sim.repos[HOOKED]
        (number,) = repo.hooks
        assert repo.hooks[number]["config"]["secret"] == "********"
        repo.hooks[number]["config"].pop("secret")
        (found,) = await connector.list_objects()
        assert found.spec != wanted.spec
        assert found.secret_fingerprint == "", "what cannot be read back is not claimed"
        await connector.update_object(made.remote_id, wanted)
        assert repo.secrets[number] == f"{CANARY}-hook"


async def test_deliveries_of_a_hook_verify_and_keep_their_id() -> None:
    async with trial(CASE) as t:
        connector: Any = t.connector
        await connector.create_object(connector.wanted_objects()[0])
        t.sim.happen(t.sim.repos[HOOKED], "issues", {"action": "opened", "issue": {"title": "Café"}})
        t.sim.redeliver()
        ping, opened, again = t.sim.deliveries
        for headers, body in (ping, opened, again):
            connector.verify(headers, body)
        assert opened[0]["X-GitHub-Delivery"] == again[0]["X-GitHub-Delivery"]
        with pytest.raises(UnauthorizedError):
            connector.verify(opened[0], opened[1] + b" ")
        with pytest.raises(UnauthorizedError):
            connector.verify({}, opened[1])


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        (
            "It's a Secret to Everybody",
            "Hello, World!",
            "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        (
            "recon-gh-secret",
            '{"action":"opened","issue":{"number":7,"title":"Café déjà vu"},"repository":{"full_name":"acme/shop"}}',
            "5736a598ec12476716cf9471088f7402f90733d4b5f3c65de101ee627d884d34",
        ),
    ],
)
async def test_signatures_of_the_documentation(secret: str, body: str, signature: str) -> None:
    async with trial(CASE, config={"webhook": {"secret": secret}}) as t:
        connector: Any = t.connector
        connector.verify({"x-hub-signature-256": f"sha256={signature}"}, body.encode())
        connector.verify({"X-Hub-Signature-256": f"sha256={signature}"}, body.encode())
        with pytest.raises(UnauthorizedError):
            connector.verify({"x-hub-signature-256": f"sha256={signature[:-1]}0"}, body.encode())
