"""ServiceNow: the conformance kit, then what only ServiceNow does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.servicenow import ServiceNow
from reconciler.model.clock import rfc3339
from reconciler.model.manifest import Integration
from reconciler.model.record import Scope
from reconciler.model.secret import Unresolved
from reconciler.sdk.contract import Channel, Entity
from reconciler.sdk.errors import RateLimitedError, RejectedError, TransientError
from reconciler.sdk.testing.case import CANARY, Case, Dispatch, message
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.faults import html, status
from reconciler.sdk.testing.room import START, auth_settings
from reconciler.sdk.testing.trial import trial
from simulators.servicenow import ServiceNow as Instance

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
SYS_ID = "0123456789abcdef0123456789abcde"


def table_of(entity: Entity) -> str:
    return entity.path.rsplit("/", 1)[1]  # type: ignore[attr-defined, no-any-return]


class ServiceNowCase(Case):
    connector = ServiceNow
    tick = timedelta(seconds=1)
    null_cursors = frozenset(e.name for e in ServiceNow.entities if e.cursor == "sys_updated_on")
    renews = True
    revokes = True
    finds_by_content = frozenset({"add_comment", "add_work_note"})

    instance = Instance

    def simulator(self, now: Callable[[], datetime]) -> Instance:
        sim = self.instance(now=now)
        sim.users["svc"] = f"{CANARY}-password"
        sim.api_keys[f"{CANARY}-key"] = "svc"
        sim.application_users["app"] = "svc"
        sim.clients["app"] = f"{CANARY}-client"
        sim.client_keys["app"] = {"k1": KEY.public_key()}
        return sim

    def config(self, sim: Any) -> Mapping[str, Any]:
        return {"instance_url": sim.url}

    def auth(self, sim: Any) -> Mapping[str, Any]:
        return {"type": "basic", "username": "svc", "password": f"{CANARY}-password"}

    def auths(self, sim: Any) -> Sequence[Mapping[str, Any]]:
        client = {"client_id": "app", "client_secret": f"{CANARY}-client"}
        return (
            self.auth(sim),
            {"type": "api_key", "api_key": f"{CANARY}-key"},
            {"type": "oauth2", **client},
            {"type": "oauth2", **client, "username": "svc", "password": f"{CANARY}-password"},
            {"type": "jwt_bearer", **client, "private_key": PEM, "key_id": "k1", "username": "svc"},
        )

    def renewable_auth(self, sim: Any) -> Mapping[str, Any]:
        return self.auths(sim)[2]

    def wrong_auth(self, sim: Any) -> Mapping[str, Any]:
        return {**self.auth(sim), "password": f"{CANARY}-wrong"}

    def expire(self, sim: Any) -> None:
        sim.access.clear()

    def put(self, sim: Any, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        sys_id, table = f"{number:032x}", table_of(entity)
        column = "value" if table == "sys_journal_field" else "description"
        row = sim.put(table, {"sys_id": sys_id, column: text, "element": "comments"}, at)
        if entity.cursor == "sys_created_on" and at is not None:
            row["sys_created_on"] = at.strftime("%Y-%m-%d %H:%M:%S")
        if at is None:
            row[entity.cursor or ""] = ""
        return sys_id

    def remove(self, sim: Any, entity: Entity, key: str) -> None:
        sim.delete(table_of(entity), key)

    def deny(self, sim: Any, entity: Entity) -> None:
        sim.denied.add(table_of(entity))

    def empty_page(self, sim: Any, entity: Entity) -> None:
        """Access rules hide rows after the page is cut."""
        between = START - timedelta(hours=1, minutes=4)
        for number in range(900, 900 + 2 * self.page_size):
            sim.hidden.add(self.put(sim, entity, number, between, "hidden"))

    def dispatch(self, sim: Any, channel: Channel) -> Dispatch:
        def noted(element: str) -> Callable[[Any], int]:
            return lambda s: sum(row["element"] == element for row in s.tables["sys_journal_field"].values())

        incident = sim.put("incident", {"short_description": "existing", "state": "1"}, START - timedelta(days=1))
        there = {"table": "incident", "sys_id": incident["sys_id"]}
        return {
            "create_incident": Dispatch(
                fields={"short_description": "Disk full \U0001f4a5", "urgency": "1", "values": {"u_source": "kit"}},
                arrived=lambda s: sum(r["short_description"].startswith("Disk") for r in s.tables["incident"].values()),
            ),
            "update_record": Dispatch(
                fields={**there, "values": {"state": "6"}},
                arrived=lambda s: int(s.tables["incident"][incident["sys_id"]]["state"] == "6"),
            ),
            "add_comment": Dispatch(fields={**there, "text": "for the caller"}, arrived=noted("comments")),
            "add_work_note": Dispatch(fields={**there, "text": "internal\nonly"}, arrived=noted("work_notes")),
            "create_ci": Dispatch(
                fields={
                    "attributes": {"name": "web01"},
                    "outbound_relations": [{"type": SYS_ID + "1", "target": SYS_ID + "2", "sys_class_name": "cmdb_ci"}],
                },
                arrived=lambda s: len(s.tables["cmdb_ci_server"]),
            ),
        }[channel.name]


class TestServiceNow(Conformance):
    case = ServiceNowCase()


async def test_rows_hidden_by_access_rules_do_not_end_a_read() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 9)
        t.sim.hidden |= set(keys[3:9])
        last = t.put(of, 20, START, "behind the hidden ones")
        read = await t.read(of)
        assert read.keys == {*keys[:3], last}


async def test_a_lower_page_ceiling_with_hidden_rows_loses_nothing() -> None:
    """The instance gives at most 2 rows a page; stepping by what was asked for would jump over visible ones."""
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 9)
        t.sim.max_limit = 2
        t.sim.hidden |= set(keys[2:4])
        assert (await t.read(of)).keys == set(keys) - t.sim.hidden


async def test_only_the_first_and_the_last_page_are_counted() -> None:
    async with trial(TestServiceNow.case) as t:
        t.seed(t.entity("incidents"), 12)
        read = await t.read(t.entity("incidents"))
        counted = ["sysparm_no_count" not in r.query for r in t.sim.requests if r.url_path.endswith("incident")]
        assert read.pages[0].total == 12
        assert counted[:5] == [True, False, False, False, False]
        assert counted[5:] == [True, True], "the end and the records without a change time"


async def test_an_incremental_read_with_nothing_new_is_one_request() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("changes")
        first = await t.read(of, Scope.FULL) if t.seed(of) else None
        assert first is not None
        before = len(t.sim.requests)
        await t.read(of, Scope.INCREMENTAL, since={"": "2026-03-02T09:59:00.000000Z"})
        assert len(t.sim.requests) == before + 1


async def test_keys_are_listed_alone_and_many_at_a_time() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 12)
        (page,) = [p async for p in t.connector.read(of, replace(t.request(Scope.KEYS), page_size=None))]
        (call,) = t.sim.requests
        assert (call.query["sysparm_fields"], call.query["sysparm_limit"]) == ("sys_id,sys_updated_on", "10000")
        assert (set(page.keys), page.total, page.position) == (set(keys), 12, None)
        assert page.changed_at[0] == "2026-03-02T08:48:00.000000Z"


async def test_no_read_of_records_goes_on_where_a_listing_of_keys_stands() -> None:
    """They walk the table in different orders: what lies behind one's place may lie before the other's."""
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        t.seed(of)
        part = await t.read(of, Scope.KEYS, stop_after=1)
        with pytest.raises(TypeError):
            await t.read(of, Scope.FULL, into=part)


async def test_a_filter_narrows_the_keys_too() -> None:
    async with trial(TestServiceNow.case, config={"query": {"incidents": "priority=1^ORpriority=2"}}) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 12)
        for n, key in enumerate(keys):
            t.sim.tables["incident"][key]["priority"] = str(n % 3)
        assert (await t.read(of, Scope.KEYS)).keys == {key for n, key in enumerate(keys) if n % 3}
        assert await t.connector.count(of, t.request(Scope.KEYS)) == 8  # type: ignore[attr-defined]


async def test_a_session_in_another_time_zone_is_found_out() -> None:
    async with trial(TestServiceNow.case) as t:
        t.seed(t.entity("incidents"))
        t.sim.session_offset = timedelta(hours=-8)
        with pytest.raises(RejectedError, match="time zone of the integration's user to GMT"):
            await t.connector.probe()


@pytest.mark.parametrize("query", ["activ=true", "active=true^ORpriorty=1", "priority=1^u_missing!=2"])
async def test_a_filter_on_an_unknown_field_is_refused(query: str) -> None:
    case = TestServiceNow.case
    async with trial(case, config={"query": {"incidents": query}}) as t:
        t.seed(t.entity("incidents"))
        with pytest.raises(RejectedError, match=r"config\.query\.incidents"):
            await t.connector.probe()


@pytest.mark.parametrize("step", [timedelta(0), timedelta(minutes=1)])
async def test_a_filter_narrows_every_page_and_the_count(step: timedelta) -> None:
    async with trial(TestServiceNow.case, config={"query": {"incidents": "priority=1^ORpriority=2"}}) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 12, step=step)
        for n, key in enumerate(keys):
            t.sim.tables["incident"][key]["priority"] = str(n % 3)
        wanted = {key for n, key in enumerate(keys) if n % 3}
        assert (await t.read(of)).keys == wanted
        assert await t.connector.count(of, t.request()) == len(wanted)  # type: ignore[attr-defined]


@pytest.mark.parametrize("query", ["active=true^ORDERBYnumber", "a=1^NQb=2", "ORDERBYDESCnumber", "a=1^EQ"])
def test_a_filter_must_not_break_our_order(query: str) -> None:
    with pytest.raises(ValueError, match="give conditions only"):
        ServiceNow.Config.model_validate({"instance_url": "https://x.example", "query": {"incidents": query}})


def test_a_filter_for_an_unknown_entity_is_refused() -> None:
    with pytest.raises(ValueError, match="names no entity"):
        ServiceNow.Config.model_validate({"instance_url": "https://x.example", "query": {"incidnets": "a=1"}})


def test_settings_add_entities() -> None:
    plain = ServiceNow.Config.model_validate({"instance_url": "https://x.example/"})
    more = ServiceNow.Config.model_validate({**plain.model_dump(), "cmdb_federation": True, "tables": ["u_asset"]})
    by_default = [{e.name for e in ServiceNow.entities_of(c) if e.by_default} for c in (plain, more)]
    assert by_default[1] - by_default[0] == {"cis", "ci_relations", "u_asset"}


async def test_a_further_table_is_read_like_any_other() -> None:
    async with trial(TestServiceNow.case, config={"tables": ["u_asset"]}) as t:
        t.sim.tables["u_asset"] = {}
        keys = t.seed(t.entity("u_asset"))
        assert (await t.read(t.entity("u_asset"))).keys == set(keys)


async def test_a_hibernating_instance_is_waited_for() -> None:
    async with trial(TestServiceNow.case) as t:
        t.sim.is_hibernating = True
        with pytest.raises(TransientError, match="hibernates"):
            await t.connector.probe()


@pytest.mark.parametrize("midway", [False, True])
async def test_a_cancelled_query_is_asked_again_with_half_the_page(midway: bool) -> None:
    async with trial(TestServiceNow.case, tries=1) as t:
        of = t.entity("incidents")
        keys = t.seed(of)
        t.sim.slowest, t.sim.cancels_midway = 1, midway
        read = await t.read(of)
        assert read.keys == set(keys)
        assert {r.query["sysparm_limit"] for r in t.sim.requests} == {"3", "1"}


async def test_the_limit_of_an_hour_is_the_engines_to_wait_for() -> None:
    async with trial(TestServiceNow.case) as t:
        t.seed(t.entity("incidents"))
        t.sim.per_hour = 2
        with pytest.raises(RateLimitedError) as caught:
            await t.read(t.entity("incidents"))
        assert caught.value.retry_after is not None
        assert timedelta(minutes=50) < caught.value.retry_after <= timedelta(hours=1)


async def test_too_many_at_once_has_no_retry_after() -> None:
    async with trial(TestServiceNow.case) as t:
        keys = t.seed(t.entity("incidents"))
        t.sim.faults.add(status(429), first=2, times=1)
        assert (await t.read(t.entity("incidents"))).keys == set(keys)


async def test_references_come_as_plain_values() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        key = t.put(of, 1, START, "x")
        t.sim.tables["incident"][key] |= {"assigned_to": SYS_ID + "f", "assignment_group": ""}
        read = await t.read(of)
        assert f'"assigned_to": "{SYS_ID}f"'.encode() in read.records[key]


async def test_a_token_is_obtained_once_and_revoked() -> None:
    case = TestServiceNow.case
    async with trial(case, auth=case.renewable_auth) as t:
        await t.connector.probe()
        await t.connector.probe()
        assert sum(r.url_path == "/oauth_token.do" for r in t.sim.requests) == 1
        await t.connector.revoke()
        assert t.sim.access == {}
        assert t.bench.tokens.kept == {}


async def test_an_undeleted_record_is_not_deleted() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        keys = t.seed(of)
        first = await t.read(of, Scope.DELTA)
        row = dict(t.sim.tables["incident"][keys[2]])
        t.sim.delete("incident", keys[2])
        t.sim.tables["incident"][keys[2]] = row
        assert (await t.read(of, Scope.DELTA, since=first.watermarks)).deleted == set()


async def test_many_deletions_are_told_over_several_pages() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        keys = t.seed(of, 20)
        first = await t.read(of, Scope.DELTA)
        for key in keys[:10]:
            t.sim.delete("incident", key)
        assert (await t.read(of, Scope.DELTA, since=first.watermarks)).deleted == set(keys[:10])


def test_a_journal_column_is_not_set_by_update() -> None:
    channel = ServiceNow.channel("update_record")
    assert channel is not None
    with pytest.raises(ValueError, match="use add_comment or add_work_note"):
        channel.fields.model_validate({"sys_id": SYS_ID + "0", "values": {"comments": "x"}})


async def test_an_incident_bears_our_mark() -> None:
    async with trial(TestServiceNow.case) as t:
        channel = ServiceNow.channel("create_incident")
        assert channel is not None
        fields = {"short_description": "x", "urgency": "2", "values": {"u_source": "kit", "urgency": "3"}}
        receipt = await t.connector.deliver(channel, message(channel, fields))
        row = t.sim.tables["incident"][receipt.remote_id]
        assert (row["short_description"], row["urgency"], row["u_source"]) == ("x", "2", "kit")
        assert (row["correlation_id"], row["correlation_display"]) == ("reconciler:dlv-1", "kit/under-test")
        assert receipt.url == f"{t.sim.url}/nav_to.do?uri=incident.do%3Fsys_id={receipt.remote_id}"


async def test_a_ci_is_sent_with_its_relations_and_where_it_is_known_from() -> None:
    async with trial(TestServiceNow.case) as t:
        channel = ServiceNow.channel("create_ci")
        assert channel is not None
        fields = TestServiceNow.case.dispatch(t.sim, channel).fields
        for source in ({}, {"source": "Manual Entry"}):
            receipt = await t.connector.deliver(channel, message(channel, {**fields, **source}))
            assert receipt.url == f"{t.sim.url}/nav_to.do?uri=cmdb_ci_server.do%3Fsys_id={receipt.remote_id}"
            sent = {"source": "ServiceNow", **fields, **source}
            assert t.sim.requests[-1].json == sent


async def test_a_sign_on_page_before_the_token_endpoint_is_transient() -> None:
    case = TestServiceNow.case
    async with trial(case, auth=case.renewable_auth) as t:
        t.sim.faults.add(html(), path="/oauth_token.do", times=None)
        with pytest.raises(TransientError):
            await t.connector.probe()


async def test_the_simulator_refuses_what_the_vendor_does_not_know() -> None:
    async with trial(TestServiceNow.case) as t:
        for path, params in (("/api/now/tabel/incident", {}), ("/api/now/table/incident", {"sysparam_limit": "1"})):
            with pytest.raises(RejectedError, match="SIMULATOR REFUSES"):
                await t.connector.send("GET", path, params=params)  # type: ignore[attr-defined]
        assert {v.split(":")[0] for v in t.sim.violations} == {
            "GET /api/now/tabel/incident",
            "GET /api/now/table/incident",
        }
        t.sim.violations.clear()


async def test_errors_are_the_instances_own() -> None:
    async with trial(TestServiceNow.case) as t:
        with pytest.raises(RejectedError, match="Invalid table nosuch"):
            await t.connector.send("GET", "/api/now/table/nosuch")  # type: ignore[attr-defined]


def test_the_example_manifest_is_valid() -> None:
    text = (Path(__file__).parents[2] / "examples" / "manifests" / "servicenow.yaml").read_text("utf-8")
    spec = Integration.model_validate(yaml.safe_load(text)).spec
    config = ServiceNow.Config.model_validate(spec.config)
    reference = spec.auth["client_secret"]
    secret = Unresolved("from_env", "digest", key=reference["from_env"])
    settings = auth_settings(ServiceNow, {**spec.auth, "client_secret": secret})
    assert settings.model_dump(exclude={"client_secret"})["client_id"] == spec.auth["client_id"]
    assert set(spec.sync.entities or ()) <= {e.name for e in ServiceNow.entities_of(config)}
    for delivery in spec.synchronizations:
        channel = ServiceNow.channel(delivery.action)
        assert channel is not None
        assert set(delivery.map) <= channel.fields.model_fields.keys()


async def test_a_record_on_the_lower_bound_is_read() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("incidents")
        key = t.put(of, 1, START, "on the bound")
        read = await t.read(of, Scope.INCREMENTAL, since={"": rfc3339(START + of.overlap)})
        assert read.keys == {key}


async def test_a_deleted_ci_is_noted_under_its_class() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("cis")
        t.seed(of)
        first = await t.read(of, Scope.DELTA)
        gone = t.sim.put("cmdb_ci_server", {"name": "web01"})["sys_id"]
        t.sim.delete("cmdb_ci_server", gone)
        assert (await t.read(of, Scope.DELTA, since=first.watermarks)).deleted == {gone}


async def test_only_comments_and_work_notes_are_journal_records() -> None:
    async with trial(TestServiceNow.case) as t:
        of = t.entity("journal")
        keys = t.seed(of)
        t.sim.put("sys_journal_field", {"element": "approval_history", "value": "x"})
        assert (await t.read(of)).keys == set(keys)


async def test_a_table_whose_rows_are_all_hidden_is_missing_in_the_probe() -> None:
    async with trial(TestServiceNow.case) as t:
        t.sim.hidden |= set(t.seed(t.entity("incidents")))
        assert (await t.connector.probe()).missing == ("read incidents",)
