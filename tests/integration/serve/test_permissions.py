"""Who may call what: every operation of the API's description has an entry here, and the server keeps to it.

An operation without an entry fails, so nobody adds a route and forgets to ask who calls it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from reconciler.model.access import Grant, Operation, Permission
from reconciler.serve.admission import Terms
from reconciler.serve.api import make_routes
from reconciler.store import requests
from tests.integration.serve.installation import Installation, Wish, want

P, G, OP = Permission, Grant, Operation
CLIENT = "client"
OPEN = "open"
"""An integration that grants `CLIENT` everything; `shut` grants nobody anything."""
EVERY = frozenset(P) - {P.ADMIN}
VALUES = {
    "type": "jira",
    "version": "1",
    "authorization_id": "aut_x",
    "name": "x",
    "key": "x",
    "entity": "x",
    "token": "x",
    "key_id": "x",
    "id": "run_x",
    "sync_id": "run_x",
    "event_id": "evt_x",
    "delivery_id": "dlv_x",
    "replay_id": "rpl_x",
}
NEW = {"metadata": {"name": "new"}, "spec": {"type": "jira"}}


@dataclass(frozen=True)
class Asks:
    """What a call asks for: a permission, a grant, or (None) only a token. `reserves` is the operation that it is."""

    needs: Permission | Grant | None
    reserves: Operation | None = None
    body: Mapping[str, Any] | None = None


VIEW, EDIT, RETRY = Asks(P.INTEGRATION_VIEW), Asks(P.INTEGRATION_EDIT, OP.EDIT), Asks(P.EVENT_RETRY, OP.RETRY)
STOP, KEY = Asks(P.EVENT_RETRY, OP.CANCEL), Asks(P.INTEGRATION_EDIT, OP.REGENERATE_KEY)
TABLE = {
    "list_connectors": VIEW,
    "get_connector": VIEW,
    "list_available": VIEW,
    "search_available": VIEW,
    "list_integrations": VIEW,
    "get_integration": VIEW,
    "list_synchronizations": VIEW,
    "get_status": VIEW,
    "list_logs": VIEW,
    "list_syncs": VIEW,
    "get_sync": VIEW,
    "list_versions": VIEW,
    "list_credentials": VIEW,
    "get_authorization": VIEW,
    "get_reconcile": VIEW,
    "list_revisions": VIEW,
    "list_findings": VIEW,
    "list_keys": VIEW,
    "stream_changes": VIEW,
    "stream_sync": Asks(P.INTEGRATION_SYNC),  # it names the records that a sync brought
    "create_integration": Asks(P.INTEGRATION_CREATE, OP.CREATE, NEW),
    "connect_integration": Asks(P.INTEGRATION_CREATE, OP.CREATE, {"name": "new"}),
    "replace_integration": Asks(P.INTEGRATION_EDIT, OP.EDIT, {"metadata": {"name": OPEN}, "spec": {"type": "jira"}}),
    "change_integration": Asks(P.INTEGRATION_EDIT, OP.EDIT, {"spec": {}}),
    "enable_integration": EDIT,
    "set_schedule": Asks(P.INTEGRATION_EDIT, OP.EDIT, {"every": "1h"}),
    "put_synchronization": Asks(P.INTEGRATION_EDIT, OP.EDIT, {"event_type": "a.b", "action": "x"}),
    "remove_synchronization": EDIT,
    "suspend_integration": Asks(P.INTEGRATION_EDIT, OP.EDIT, {"reason": "x"}),
    "resume_integration": EDIT,
    "rotate_credentials": Asks(P.INTEGRATION_EDIT, OP.ROTATE),
    "begin_authorization": Asks(P.INTEGRATION_EDIT, OP.AUTHORIZE),
    "create_key": KEY,
    "regenerate_key": KEY,
    "revoke_key": KEY,
    "roll_back_dataset": Asks(P.INTEGRATION_EDIT, OP.ROLLBACK, {"version": 1}),
    "disconnect_integration": Asks(P.INTEGRATION_DELETE, OP.DISCONNECT),
    "remove_integration": Asks(P.INTEGRATION_DELETE, OP.DELETE),
    "cancel_sync": Asks(P.INTEGRATION_SYNC, OP.CANCEL),
    "test_integration": Asks(P.INTEGRATION_SYNC, OP.TEST),
    "reconcile_now": Asks(P.INTEGRATION_SYNC, OP.RECONCILE),
    "start_sync": Asks(G.SYNC, OP.SYNC),
    "send_message": Asks(G.SEND, OP.SEND, {"channel": "x", "fields": {}}),
    "list_records": Asks(G.READ),
    "get_record": Asks(G.READ),
    "diff_versions": Asks(G.READ),
    "publish_events": Asks(P.EVENT_PUBLISH, OP.PUBLISH, {"type": "a.b", "data": {}}),
    "list_events": Asks(P.EVENT_VIEW),
    "filter_events": Asks(P.EVENT_VIEW),
    "get_event": Asks(P.EVENT_VIEW),
    "get_replay": Asks(P.EVENT_VIEW),
    "list_deliveries": Asks(P.EVENT_VIEW),
    "get_delivery": Asks(P.EVENT_VIEW),
    "retry_event": RETRY,
    "retry_delivery": RETRY,
    "cancel_event": STOP,
    "cancel_delivery": STOP,
    "replay_events": Asks(P.EVENT_RETRY, OP.REPLAY, {"integration": OPEN, "since": "2026-01-01T00:00:00Z"}),
    "get_plan": Asks(P.PLAN_VIEW),
    "make_plan": Asks(P.PLAN_VIEW),
    "list_audit": Asks(P.ADMIN),
    "whoami": Asks(None),
}
SIGNED = {
    "take_webhook": "test_inbound",
    "push_events_in": "test_ingest",
    "push_record_in": "test_ingest",
    "delete_record_in": "test_ingest",
    "push_records_in": "test_ingest",
    "get_push_receipt": "test_ingest",
    "ping": "test_ingest",
}
"""They open with a signature or a key of their own, which no token replaces; what they ask for is tested there."""


def operations() -> dict[str, tuple[str, str]]:
    """operationId -> method and path."""
    paths = make_routes().openapi()["paths"]
    return {one["operationId"]: (method.upper(), path) for path, ways in paths.items() for method, one in ways.items()}


class Door:
    """Calls operations with tokens of `CLIENT`."""

    def __init__(self, installation: Installation, client: httpx.AsyncClient) -> None:
        self._installation = installation
        self._client = client
        self._operations = operations()

    async def call(self, operation: str, clear: str = "", ref: str = OPEN, **more: Any) -> httpx.Response:
        method, path = self._operations[operation]
        headers = {"authorization": f"Bearer {clear}"} if clear else {}
        async with self._client.stream(method, path.format(**VALUES, ref=ref), headers=headers, **more) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return answer
            await answer.aread()
            return answer

    async def token(self, *permissions: Permission) -> str:
        made = await self._installation.issue(CLIENT, "default", *permissions)
        self._installation.clock.add(1)  # tokens are looked at again only a moment after they were
        return made


@pytest.fixture
async def filled(installation: Installation) -> Installation:
    access = {"access": [{"client": CLIENT, "allow": [*map(str, Grant)]}]}
    await installation.change(lambda tx: want(tx, Wish(OPEN, spec=access), Wish("shut")))
    return installation


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_every_operation_is_in_the_table() -> None:
    assert TABLE.keys() | SIGNED.keys() == operations().keys()
    assert not TABLE.keys() & SIGNED.keys()


async def test_nothing_without_a_token(filled: Installation) -> None:
    async with filled.client(token="") as client:
        door = Door(filled, client)
        found = {one: code(await door.call(one)) for one in TABLE}
        wrong = {one: code(await door.call(one, "rct_guessed")) for one in TABLE}
    assert found == dict.fromkeys(TABLE, (401, "token-missing"))
    assert wrong == dict.fromkeys(TABLE, (401, "invalid-token"))


async def test_every_other_permission_is_not_enough(filled: Installation) -> None:
    """Of an integration that grants nothing; `integration.sync` is enough to sync."""
    wanted = {}
    async with filled.client(token="") as client:
        door, found = Door(filled, client), {}
        for name, asks in TABLE.items():
            if asks.needs is None:
                continue
            lacking = {asks.needs, P.INTEGRATION_SYNC if asks.needs is G.SYNC else asks.needs}
            answer = await door.call(name, await door.token(*(EVERY - lacking)), "shut", json=asks.body)
            found[name] = (*code(answer), f"{asks.needs}" in answer.json()["detail"])
            wanted[name] = (403, "not-granted" if isinstance(asks.needs, Grant) else "permission-missing", True)
    assert found == wanted


async def test_every_change_that_is_refused_is_in_the_audit(filled: Installation) -> None:
    told, wanted = operations(), []
    async with filled.client(token="") as client:
        door = Door(filled, client)
        for name, asks in TABLE.items():
            if asks.reserves is None:
                continue
            wanted.append((" ".join(told[name]), 403))
            lacking = {asks.needs, P.INTEGRATION_SYNC if asks.needs is G.SYNC else asks.needs}
            await door.call(name, await door.token(*(EVERY - lacking)), "shut", json=asks.body)
    lines = await filled.database.read(lambda tx: requests.audit(tx, "default", limit=100))
    assert sorted((line.action, line.status) for line in lines) == sorted(wanted)


async def test_the_permission_or_the_grant_alone_is_enough(filled: Installation) -> None:
    """Whatever is wrong then, it is not the caller."""
    async with filled.client(token="") as client:
        door, found = Door(filled, client), {}
        for name, asks in TABLE.items():
            alone = [asks.needs] if isinstance(asks.needs, Permission) else []
            found[name] = (await door.call(name, await door.token(*alone), json=asks.body)).status_code
    assert {name: status for name, status in found.items() if status in {401, 403, 500}} == {}


async def test_what_is_reserved_wants_admin(filled: Installation) -> None:
    """Every operation that the settings can reserve, by every route that does it."""
    filled.terms = Terms(reserved=tuple(map(str, Operation)))
    told = {name: asks for name, asks in TABLE.items() if asks.reserves is not None}
    async with filled.client(token="") as client:
        door, found, admins = Door(filled, client), {}, {}
        everything, admin = await door.token(*EVERY), await door.token(P.ADMIN)
        for name, asks in told.items():
            answer = await door.call(name, everything, json=asks.body)
            found[name] = (*code(answer), answer.json().get("operation"))
            admins[name] = (await door.call(name, admin, json=asks.body)).status_code
    assert found == {name: (403, "reserved", str(asks.reserves)) for name, asks in told.items()}
    assert 403 not in admins.values()
    assert {asks.reserves for asks in told.values()} | {OP.PURGE} == set(Operation)
    assert {n for n, (method, _) in operations().items() if method != "GET"} <= told.keys() | SIGNED.keys() | {
        "filter_events",
        "make_plan",
    }
