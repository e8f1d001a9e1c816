"""The hr_ldap connector against a real OpenLDAP server."""

import asyncio
import base64
import json
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.hr_ldap import HrLdap
from connectors.hr_ldap.settings import Config
from reconciler.model.clock import rfc3339
from reconciler.model.condition import Reason
from reconciler.model.record import Page, ReadRequest, Scope
from reconciler.sdk.contract import Connector, Entity
from reconciler.sdk.errors import RejectedError, TransientError, UnauthorizedError, UnsupportedError
from reconciler.sdk.testing.case import CANARY, Case
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.room import Bench
from simulators.hr_ldap import BASE_DN, LIMITED_DN, PASSWORD, SYNC_DN, Slapd
from tests.servers.slapd import FreshSlapd, directory, require_bonsai, small_directory

__all__ = ["directory", "small_directory"]
PEOPLE, GROUPS = HrLdap.entities
OU = {"people": f"ou=people,{BASE_DN}", "groups": f"ou=groups,{BASE_DN}"}


class LdapCase(Case):
    """`description` is the free field; the server is reached over StartTLS."""

    connector = HrLdap
    pages_may_be_empty = False

    def simulator(self, now: Callable[[], datetime]) -> FreshSlapd:
        return FreshSlapd(f"{CANARY}-password")

    def reach(self, sim: FreshSlapd) -> Mapping[str, Any]:
        certificate, key = sim.client_cert
        return {"ca_file": str(sim.ca_file), "client_cert": certificate, "client_key": key}

    def config(self, sim: FreshSlapd) -> Mapping[str, Any]:
        sources = {name: {"base_dn": dn, "attributes": ["cn", "description"]} for name, dn in OU.items()}
        return {"url": sim.url, "base_dn": BASE_DN, **sources}

    def auth(self, sim: FreshSlapd) -> Mapping[str, Any]:
        return {"type": "simple", "bind_dn": SYNC_DN, "password": sim.password}

    def auths(self, sim: FreshSlapd) -> Sequence[Mapping[str, Any]]:
        certificate, key = certificate_of(sim)
        # What stands before the first line of PEM is a comment.
        own = {"certificate": certificate, "private_key": f"{CANARY}-key\n{key}"}
        return (self.auth(sim), {"type": "external"}, {"type": "client_certificate", **own})

    def wrong_auth(self, sim: FreshSlapd) -> Mapping[str, Any]:
        return {"type": "simple", "bind_dn": SYNC_DN, "password": f"{CANARY}-wrong"}

    def put(self, sim: FreshSlapd, entity: Entity, number: int, at: datetime | None, text: str = "") -> str:
        assert at is not None
        key = str(uuid.UUID(int=number + (0 if entity is PEOPLE else 1 << 64)))
        stamp = at.strftime("%Y%m%d%H%M%SZ")
        dn = f"cn=r{number},{OU[entity.name]}"
        if (number, entity.name) in _put_at(sim):
            sim.apply(
                f"dn: {dn}\nchangetype: modify\nreplace: description\n{_ldif('description', text)}\n-\n"
                f"replace: modifyTimestamp\nmodifyTimestamp: {stamp}\n"
            )
            return key
        own = (
            "objectClass: inetOrgPerson\nsn: s" if entity is PEOPLE else f"objectClass: groupOfNames\nmember: {BASE_DN}"
        )
        sim.apply(
            f"dn: {dn}\nchangetype: add\n{own}\ncn: r{number}\n{_ldif('description', text)}\nentryUUID: {key}\n"
            f"modifyTimestamp: {stamp}\n"
        )
        _put_at(sim).add((number, entity.name))
        return key

    def remove(self, sim: FreshSlapd, entity: Entity, key: str) -> None:
        number = uuid.UUID(key).int & 0xFFFF
        sim.apply(f"dn: cn=r{number},{OU[entity.name]}\nchangetype: delete\n")
        _put_at(sim).discard((number, entity.name))

    def deny(self, sim: FreshSlapd, entity: Entity) -> None:
        sim.deny(OU[entity.name])


def certificate_of(sim: Slapd) -> tuple[str, str]:
    """Certificate and key of the account of the sync, as PEM texts."""
    certificate, key = sim.client_cert
    return Path(certificate).read_text(), Path(key).read_text()


def _put_at(sim: FreshSlapd) -> set[tuple[int, str]]:
    known: set[tuple[int, str]] = sim.__dict__.setdefault("put_before", set())
    return known


def _ldif(name: str, value: str) -> str:
    return f"{name}:: {base64.b64encode(value.encode()).decode()}"


@pytest.mark.needs("slapd", "ldapmodify")
class TestHrLdapConformance(Conformance):
    case = LdapCase()


needs_server = pytest.mark.needs("slapd", "ldapmodify")


@asynccontextmanager
async def ldap(
    server: Slapd, *, auth: Mapping[str, Any] | None = None, ca_file: str | None = None, **config: Any
) -> AsyncIterator[Connector[Any, Any]]:
    given = auth or {"type": "simple", "bind_dn": SYNC_DN, "password": PASSWORD}
    settings = {"url": server.url, "base_dn": BASE_DN, "timeout_seconds": 60, **config}
    async with Bench(ca_file=str(server.ca_file) if ca_file is None else ca_file) as bench:
        yield bench.connector(HrLdap, settings, given)


def _way(server: Slapd, way: str) -> dict[str, Any]:
    """Config that reaches the server this way."""
    plain = {"start_tls": False, "allow_plaintext": True} if way == "plain" else {}
    return {"url": server.tls_url if way == "ldaps" else server.url, **plain}


def request(since: datetime | None = None, **more: Any) -> ReadRequest:
    stored = {"": rfc3339(since)} if since else {}
    return ReadRequest(Scope.INCREMENTAL if since else Scope.FULL, "2026-03-02T10:00:00.000000Z", stored, **more)


async def read(
    connector: Connector[Any, Any], entity: Entity = PEOPLE, since: datetime | None = None
) -> dict[str, Any]:
    pages = [page async for page in connector.read(entity, request(since))]
    assert pages[-1].position is None
    return {key: json.loads(payload) for page in pages for key, payload in zip(page.keys, page.payloads, strict=True)}


async def collect(pages: AsyncIterator[Page], into: list[Page]) -> None:
    async for page in pages:
        into.append(page)  # noqa: PERF401


@needs_server
@pytest.mark.parametrize("way", ["starttls", "ldaps", "plain"])
async def test_everybody_is_read_over_all_pages(directory: Slapd, way: str) -> None:
    async with ldap(directory, **_way(directory, way), page_size=300) as connector:
        pages = [page async for page in connector.read(PEOPLE, request())]
    assert [len(page.keys) for page in pages] == [300] * 8 + [100]
    assert len({key for page in pages for key in page.keys}) == 2500
    assert [page.position for page in pages[-2:]] == [{"page": 8}, None]
    assert {page.watermark for page in pages} == {"2026-01-05T08:00:00.000000Z"}


@needs_server
async def test_values_are_what_the_directory_holds(directory: Slapd) -> None:
    async with ldap(directory, single_valued=["mail"]) as connector:
        record = (await read(connector))["96f21282-7959-1041-9773-000000000001"]
        teams = await read(connector, GROUPS)
    assert record == {
        "id": "96f21282-7959-1041-9773-000000000001",
        "dn": f"uid=u00001,ou=people,{BASE_DN}",
        "uid": ["u00001"],
        "cn": ["User 1"],
        "sn": ["Name1"],
        "givenName": ["Given1"],
        "mail": "u00001@example.org",
        "employeeNumber": ["1001"],
        "departmentNumber": ["D1"],
        "title": ["Analyst"],
        "telephoneNumber": ["+1 555 0001"],
        "manager": [f"uid=u00000,ou=people,{BASE_DN}"],
        "manager_id": "96f21282-7959-1041-9773-000000000000",
        "modifyTimestamp": "20260105080000Z",
    }
    assert sorted(len(t["member"]) for t in teams.values()) == [3, 6, 9]
    assert all(t["member"] == sorted(t["member"]) for t in teams.values())


@needs_server
async def test_text_stays_text_and_bytes_are_base64(small_directory: Slapd) -> None:
    dn = f"uid=u00003,ou=people,{BASE_DN}"
    small_directory.apply(
        f"dn: {dn}\nchangetype: modify\nreplace: telephoneNumber\ntelephoneNumber: +15550101\n-\n"
        "replace: employeeNumber\nemployeeNumber: 0x10\n-\nreplace: title\ntitle: TRUE\n-\n"
        "add: jpegPhoto\njpegPhoto:: /9j/4A==\n-\nadd: description;lang-de\ndescription;lang-de: deutsch\n-\n"
        "add: description\ndescription: plain\n-\nadd: cn\ncn: Aa\ncn: zz\n"
    )
    names = ["telephoneNumber", "employeenumber", "title", "jpegPhoto", "description", "cn"]
    async with ldap(small_directory, people={"attributes": names}) as connector:
        record = (await read(connector))["96f21282-7959-1041-9773-000000000003"]
    assert {name: record[name] for name in names} == {
        "telephoneNumber": ["+15550101"],
        "employeenumber": ["0x10"],
        "title": ["TRUE"],
        "jpegPhoto": ["/9j/4A=="],
        "description": ["plain"],
        "cn": ["Aa", "User 3", "zz"],
    }


@needs_server
async def test_a_rename_keeps_the_identity_and_counts_as_a_change(small_directory: Slapd) -> None:
    async with ldap(small_directory) as connector:
        before = await read(connector)
        small_directory.apply(
            f"dn: uid=u00007,ou=people,{BASE_DN}\nchangetype: modrdn\nnewrdn: uid=renamed\ndeleteoldrdn: 1\n"
        )
        changed = await read(connector, since=datetime(2026, 1, 5, 9, tzinfo=UTC))
        after = await read(connector)
    assert before.keys() == after.keys()
    assert [r["dn"] for r in changed.values()] == [f"uid=renamed,ou=people,{BASE_DN}"]


@needs_server
async def test_who_is_deleted_is_absent_from_a_full_read(small_directory: Slapd) -> None:
    async with ldap(small_directory) as connector:
        before = await read(connector)
        small_directory.apply(f"dn: uid=u00007,ou=people,{BASE_DN}\nchangetype: delete\n")
        gone = before.keys() - (await read(connector)).keys()
    assert gone == {"96f21282-7959-1041-9773-000000000007"}


@needs_server
async def test_a_size_limit_is_an_error_and_never_a_short_list(directory: Slapd) -> None:
    limited = {"type": "simple", "bind_dn": LIMITED_DN, "password": PASSWORD}
    seen: list[Page] = []
    async with ldap(directory, auth=limited, page_size=200) as connector:
        with pytest.raises(RejectedError, match="size limit") as caught:
            await collect(connector.read(PEOPLE, request()), seen)
    assert caught.value.detail == {"result_code": 4}
    assert all(page.position is not None for page in seen)


@needs_server
@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ({"type": "simple", "bind_dn": SYNC_DN, "password": "wrong-pass"}, "wrong bind_dn or password"),
        ({"type": "simple", "bind_dn": "nonsense", "password": "wrong-pass"}, "bind_dn is malformed"),
        ({"type": "external"}, "no client certificate to sign in with"),
    ],
)
async def test_a_refused_credential_is_unauthorized(directory: Slapd, auth: Mapping[str, Any], said: str) -> None:
    async with ldap(directory, auth=auth) as connector:
        with pytest.raises(UnauthorizedError, match=said) as caught:
            await connector.probe()
    assert "wrong-pass" not in f"{caught.value!r} {caught.value.detail}"


@needs_server
async def test_a_base_that_is_not_there_is_an_error(directory: Slapd) -> None:
    async with ldap(directory, people={"base_dn": "ou=nowhere,dc=example,dc=org"}) as connector:
        with pytest.raises(RejectedError, match="ou=nowhere"):
            await read(connector)
        with pytest.raises(RejectedError, match="ou=nowhere"):
            await connector.probe()


@needs_server
async def test_a_part_of_the_tree_elsewhere_is_an_error_unless_ignored(small_directory: Slapd) -> None:
    small_directory.apply(
        f"dn: ou=far,ou=people,{BASE_DN}\nchangetype: add\nobjectClass: referral\nobjectClass: extensibleObject\n"
        f"ou: far\nref: ldap://far.example.org/ou=far,{BASE_DN}\n"
    )
    async with ldap(small_directory) as connector:
        with pytest.raises(RejectedError, match=r"far\.example\.org"):
            await read(connector)
    async with ldap(small_directory, ignore_referrals=True) as connector:
        assert len(await read(connector)) == 25
    async with ldap(small_directory, people={"base_dn": f"ou=far,ou=people,{BASE_DN}"}) as connector:
        with pytest.raises(RejectedError, match="is on another server"):
            await read(connector)


@needs_server
@pytest.mark.parametrize("way", ["starttls", "ldaps"])
async def test_an_unknown_certificate_is_refused(directory: Slapd, way: str) -> None:
    async with ldap(directory, **_way(directory, way), ca_file="") as connector:
        with pytest.raises(RejectedError, match="TLS") as caught:
            await connector.probe()
    assert caught.value.why is Reason.TLS_FAILED


@needs_server
async def test_a_restart_in_the_middle_is_transient_and_the_read_begins_again(small_directory: Slapd) -> None:
    async with ldap(small_directory, page_size=4) as connector:
        pages = connector.read(PEOPLE, request())
        first, second = await anext(pages), await anext(pages)
        small_directory.stop()
        small_directory.start()
        with pytest.raises(TransientError):
            await collect(pages, [])
        resumed = [page async for page in connector.read(PEOPLE, request(resume=second.position))]
    assert resumed[0].keys == first.keys
    assert sum(len(page.keys) for page in resumed) == 25


@needs_server
async def test_another_server_is_asked_where_the_first_is_down(directory: Slapd) -> None:
    async with ldap(directory, url="ldap://127.0.0.1:1", fallback_urls=[directory.tls_url]) as connector:
        assert (await connector.probe()).identity == f"dn:{SYNC_DN}"
    async with ldap(directory, url="ldap://127.0.0.1:1") as connector:
        with pytest.raises(TransientError, match="cannot be reached"):
            await connector.probe()


@needs_server
@pytest.mark.parametrize("way", ["starttls", "ldaps", "plain"])
async def test_a_server_that_hangs_ends_in_time_and_the_loop_goes_on(small_directory: Slapd, way: str) -> None:
    async with ldap(small_directory, **_way(small_directory, way), timeout_seconds=1) as connector:
        small_directory.freeze()
        probing = asyncio.create_task(connector.probe())
        turns = 0
        while not probing.done():
            await asyncio.sleep(0.005)
            turns += 1
        with pytest.raises(TransientError) as caught:
            await probing
    assert caught.value.why is Reason.TIMED_OUT
    assert turns > 3, "the library kept the interpreter while it waited"


@needs_server
async def test_an_alias_is_named_instead_of_lost(directory: Slapd) -> None:
    async with ldap(directory, people={"attributes": ["cn", "surname"]}) as connector:
        with pytest.raises(RejectedError, match=r"answered with sn, .* write sn in `attributes`"):
            await read(connector)


@needs_server
async def test_probe_says_who_we_are_and_what_is_empty(directory: Slapd) -> None:
    async with ldap(directory, groups={"filter": "(cn=nobody-*)"}) as connector:
        probe = await connector.probe()
    assert probe.identity == f"dn:{SYNC_DN}"
    assert probe.entities == {"people": True, "groups": True}
    assert {r.name: r.is_granted for r in probe.rights} == {
        "read entryUUID of people": True,
        "read modifyTimestamp of people": True,
    }
    assert probe.warnings == ("no entry matches the filter of groups",)


@needs_server
def test_ports_that_somebody_took_before_the_start_are_given_up(tmp_path: Path) -> None:
    server = Slapd(tmp_path / "slapd", people=1)
    with socket.create_server(("127.0.0.1", int(server.url.rpartition(":")[2]))) as taken, server:
        assert not server.url.endswith(f":{taken.getsockname()[1]}")
        server.apply(f"dn: ou=more,{BASE_DN}\nchangetype: add\nobjectClass: organizationalUnit\nou: more\n")


async def test_a_handshake_that_breaks_off_is_tried_again() -> None:
    require_bonsai()
    dropping = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    port = dropping.sockets[0].getsockname()[1]
    async with dropping, Bench() as bench:
        settings = {"url": f"ldaps://127.0.0.1:{port}", "base_dn": BASE_DN, "timeout_seconds": 60}
        connector = bench.connector(HrLdap, settings, {"type": "simple", "bind_dn": SYNC_DN, "password": PASSWORD})
        with pytest.raises(TransientError, match="cannot be reached"):
            await connector.probe()


async def test_an_empty_password_is_never_sent() -> None:
    require_bonsai()
    settings = {"url": "ldap://127.0.0.1:1", "base_dn": BASE_DN}
    async with Bench() as bench:
        connector = bench.connector(HrLdap, settings, {"type": "simple", "bind_dn": SYNC_DN, "password": "x"})
        object.__setattr__(connector.auth.password, "_value", "")
        with pytest.raises(UnauthorizedError, match="empty"):
            await connector.probe()


async def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bonsai", None)
    async with Bench() as bench:
        auth = {"type": "simple", "bind_dn": SYNC_DN, "password": "x"}
        connector = bench.connector(HrLdap, {"url": "ldap://127.0.0.1:1", "base_dn": BASE_DN}, auth)
        with pytest.raises(UnsupportedError, match=r"pip install 'reconciler\[ldap\]'.*libldap-dev") as caught:
            await connector.probe()
    assert caught.value.why is Reason.MISSING_DEPENDENCY


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start_tls": False}, "allow_plaintext"),
        ({"url": "http://ldap.example.org"}, "must be ldap://"),
        ({"url": "ldap://h/dc=x??sub"}, "nothing more"),
        ({"fallback_urls": ["h:389"]}, "must be ldap://"),
        ({"people": {"attributes": ["*"]}}, "name what you need"),
        ({"people": {"attributes": ["userPassword"]}}, "never read"),
        ({"people": {"filter": "uid=x"}}, "pattern"),
        ({"page_size": 5000}, "1000"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate({"url": "ldap://h", "base_dn": BASE_DN, **wrong})
