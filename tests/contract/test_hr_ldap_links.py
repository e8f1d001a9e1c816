"""What DNs in a directory stand for: ids that outlive renames, read from a real OpenLDAP server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.hr_ldap import lookups as lookups_module
from connectors.hr_ldap.flavours import FLAVOURS
from connectors.hr_ldap.lookups import Lookups
from reconciler.model.record import Page
from reconciler.sdk.contract import Connector
from reconciler.sdk.errors import TransientError
from reconciler.sdk.ldap import Session
from simulators.hr_ldap import BASE_DN, Slapd
from tests.contract.test_hr_ldap import GROUPS, PEOPLE, directory, ldap, read, request, small_directory

__all__ = ["directory", "small_directory"]
pytestmark = pytest.mark.needs("slapd", "ldapmodify")


def dn_of(number: int) -> str:
    return f"uid=u{number:05},ou=people,{BASE_DN}"


def id_of(number: int) -> str:
    return f"96f21282-7959-1041-9773-{number:012x}"


def change(number: int, attribute: str, *values: str) -> str:
    listed = "".join(f"{attribute}: {value}\n" for value in values)
    return f"dn: {dn_of(number)}\nchangetype: modify\nreplace: {attribute}\n{listed}"


async def manager_ids(connector: Connector[Any, Any]) -> dict[str, str | None]:
    return {key: record["manager_id"] for key, record in (await read(connector)).items()}


async def test_everybody_has_the_id_of_the_manager_over_all_pages(directory: Slapd) -> None:
    async with ldap(directory, page_size=7) as connector:
        assert await manager_ids(connector) == {id_of(n): id_of(n // 10) for n in range(2500)}


async def test_the_id_outlives_a_rename_that_changes_the_dn(tmp_path: Path) -> None:
    with Slapd(tmp_path / "slapd", people=25, follows_renames=True) as server:
        async with ldap(server, single_valued=["manager"]) as connector:
            before = (await read(connector))[id_of(10)]
            server.apply(f"dn: {dn_of(1)}\nchangetype: modrdn\nnewrdn: uid=married\ndeleteoldrdn: 1\n")
            async with asyncio.timeout(120):  # the server mends references in the background
                while (after := (await read(connector))[id_of(10)])["manager"] == before["manager"]:
                    pass
    assert after["manager"] == f"uid=married,ou=people,{BASE_DN}"
    assert after["manager_id"] == before["manager_id"] == id_of(1)


async def test_who_cannot_be_found_is_null_and_the_page_goes_on(small_directory: Slapd) -> None:
    board = f"ou=board,{BASE_DN}"
    small_directory.apply(
        f"dn: {board}\nchangetype: add\nobjectClass: organizationalUnit\nou: board\nentryUUID: {id_of(500)}\n\n"
        + change(10, "manager", "uid=gone,ou=people,dc=elsewhere,dc=org")
        + "\n"
        + change(11, "manager", f"uid=gone,ou=people,{BASE_DN}")
        + "\n"
        + change(12, "manager")
        + "\n"
        + change(13, "manager", board)
    )
    async with ldap(small_directory, people={"base_dn": f"ou=people,{BASE_DN}"}) as connector:
        before = await manager_ids(connector)
        small_directory.deny(board)
        hidden = await manager_ids(connector)
    assert len(before) == len(hidden) == 25
    assert [before[id_of(n)] for n in range(10, 15)] == [None, None, None, id_of(500), id_of(1)]
    assert hidden == {**before, id_of(13): None}


async def test_of_several_managers_it_is_the_same_one_after_a_rename(small_directory: Slapd) -> None:
    small_directory.apply(change(10, "manager", dn_of(7), dn_of(3)))
    async with ldap(small_directory) as connector:
        before = (await manager_ids(connector))[id_of(10)]
        small_directory.apply(
            f"dn: {dn_of(3)}\nchangetype: modrdn\nnewrdn: uid=zz\ndeleteoldrdn: 1\n\n"
            + change(10, "manager", dn_of(7), f"uid=zz,ou=people,{BASE_DN}")
        )
        after = (await manager_ids(connector))[id_of(10)]
    assert before == after == id_of(3)


async def test_without_manager_among_the_attributes_there_is_no_manager_id(small_directory: Slapd) -> None:
    async with ldap(small_directory, people={"attributes": ["cn"]}) as connector:
        assert {frozenset(r) for r in (await read(connector)).values()} == {frozenset({"id", "dn", "cn"})}


async def test_groups_have_the_ids_of_their_members_where_asked(small_directory: Slapd) -> None:
    async with ldap(small_directory) as connector:
        assert not any("member_ids" in team for team in (await read(connector, GROUPS)).values())
    async with ldap(small_directory, member_ids=True, page_size=1) as connector:
        teams = await read(connector, GROUPS)
    assert {team["cn"][0]: team["member_ids"] for team in teams.values()} == {
        f"team-{n}": [id_of(m) for m in range(3 * n)] for n in (1, 2, 3)
    }


@asynccontextmanager
async def counted(server: Slapd, asked: list[str]) -> AsyncIterator[Lookups]:
    """Look-ups at the server; `asked` collects the DNs it is asked for."""

    async with ldap(server) as connector:

        async def connect() -> Session:
            session = await connector._connect()  # type: ignore[attr-defined]
            look_each = session.look_each

            async def counting(dns: Sequence[str], names: Any) -> Any:
                asked.extend(dns)
                return await look_each(dns, names)

            session.look_each = counting
            return session  # type: ignore[no-any-return]

        async with aclosing(Lookups(connect, FLAVOURS["openldap"])) as lookups:
            yield lookups


async def test_a_dn_is_asked_for_once_and_memory_is_bounded(
    small_directory: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups_module, "KEPT", 3)
    asked: list[str] = []
    gone = f"uid=gone,{BASE_DN}"
    async with counted(small_directory, asked) as lookups:
        assert await lookups.ids([dn_of(1), gone, dn_of(1)]) == {dn_of(1): id_of(1), gone: None}
        assert await lookups.ids([gone, dn_of(1)]) == {dn_of(1): id_of(1), gone: None}
        assert sorted(asked) == sorted([dn_of(1), gone])
        many = {dn_of(n): id_of(n) for n in range(20)}
        assert await lookups.ids(many) == many
        assert len(lookups._known) == 3


async def test_a_server_in_trouble_never_looks_like_a_manager_who_left(small_directory: Slapd) -> None:
    async with counted(small_directory, []) as lookups:
        await lookups.ids([dn_of(1)])
        small_directory.stop()
        with pytest.raises(TransientError):
            await lookups.ids([dn_of(2)])


async def test_a_page_that_is_under_way_is_not_lost_to_a_look(small_directory: Slapd) -> None:
    async with ldap(small_directory) as connector, connector._session() as session:  # type: ignore[attr-defined]
        pages = session.pages(f"ou=people,{BASE_DN}", "(uid=*)", ["entryUUID"], 5)
        async with aclosing(pages):
            await anext(pages)
            with pytest.raises(RuntimeError, match="would be lost"):
                await session.look(dn_of(1), ["entryUUID"])
            with pytest.raises(RuntimeError, match="would be lost"):
                await session.look_each([dn_of(1)], ["entryUUID"])
        assert await session.look(dn_of(1), ["entryUUID"]) == {"entryUUID": (id_of(1).encode(),)}


async def test_look_ups_ask_the_server_that_the_scan_asks(directory: Slapd) -> None:
    async with ldap(directory, url="ldap://127.0.0.1:1", fallback_urls=[directory.url]) as connector:
        assert (await manager_ids(connector))[id_of(2499)] == id_of(249)
        said = connector.room.log.__self__.log  # type: ignore[attr-defined]
    assert [line.message for line in said] == ["directory server skipped"]


async def test_a_resumed_read_has_the_same_records(small_directory: Slapd) -> None:
    async with ldap(small_directory, page_size=4) as connector:
        first: list[Page] = [page async for page in connector.read(PEOPLE, request())]
        again = [page async for page in connector.read(PEOPLE, request(resume=first[2].position))]
    assert [p.payloads for p in first] == [p.payloads for p in again]
