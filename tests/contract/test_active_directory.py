"""What the hr_ldap connector makes of Active Directory, which no test server shows: tests of pure functions."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from connectors.hr_ldap.flavours import FLAVOURS
from connectors.hr_ldap.lookups import complete, slice_of
from connectors.hr_ldap.records import View
from reconciler.model.record import ReadRequest, Scope
from reconciler.sdk.errors import ConnectorError, ForbiddenError, RejectedError, TransientError, UnauthorizedError
from reconciler.sdk.ldap import Entry, Values
from reconciler.sdk.ldap_codes import error_of

AD = FLAVOURS["active_directory"]
GUID = bytes.fromhex("33221100554477668899aabbccddeeff")


def view(*attributes: str, flavour: str = "active_directory") -> View:
    names = FLAVOURS[flavour]
    return View(
        flavour=names,
        base_dn="DC=example,DC=org",
        filter=names.filters["people"],
        attributes=attributes,
        single=frozenset(),
        binary=frozenset({"objectsid"}),
    )


def test_ad_records_have_the_guid_as_identity_and_bytes_in_base64() -> None:
    values: Values = {
        "objectGUID": [GUID],
        "whenChanged": [b"20260301101112.0Z"],
        "cn": [b"Ada"],
        "objectSid": [b"\x01\x05"],
        "odd": [b"\xff\xfe"],
    }
    page = view("cn", "objectSid", "odd").page([Entry("CN=Ada,DC=example,DC=org", values)], {}, None)
    assert page.keys == ("00112233-4455-6677-8899-aabbccddeeff",)
    assert page.watermark == "2026-03-01T10:11:12.000000Z"
    assert page.payloads[0] == (
        b'{"cn":["Ada"],"dn":"CN=Ada,DC=example,DC=org","id":"00112233-4455-6677-8899-aabbccddeeff",'
        b'"objectSid":["AQU="],"odd":["//4="]}'
    )


def test_a_listing_of_keys_names_the_guid_with_its_change_time() -> None:
    entry = Entry("CN=Ada", {"objectGUID": [GUID], "whenChanged": [b"20260301101112.0Z"]})
    timeless = Entry("CN=Bob", {"objectGUID": [GUID[::-1]]})
    assert sorted(view().wire_names) == ["objectGUID", "whenChanged"]
    page = view().keys([entry, timeless], {"page": 1})
    assert page.keys[0] == "00112233-4455-6677-8899-aabbccddeeff"
    assert (page.changed_at, page.watermark, page.position) == (("2026-03-01T10:11:12.000000Z", ""), None, {"page": 1})


def test_one_entry_that_hides_its_identity_spoils_a_listing_of_keys() -> None:
    """In a read of records it is a reject; here nobody could tell whether it is the one that is missed."""
    shown = Entry("CN=Ada", {"objectGUID": [GUID], "whenChanged": [b"20260301101112.0Z"]})
    with pytest.raises(ForbiddenError, match="1 entries of DC=example,DC=org do not show their objectGUID"):
        view().keys([shown, Entry("CN=Eve", {})], None)


def test_links_are_found_and_shown_by_id_whatever_case_the_names_have() -> None:
    boss, gone = "CN=Boss,DC=example,DC=org", "CN=Gone,DC=example,DC=org"
    entry = Entry(
        "CN=Ada", {"objectGUID": [GUID], "manager": [boss.encode()], "member": [boss.encode(), gone.encode()]}
    )
    ids = {boss: "00112233-4455-6677-8899-aabbccddeeff", gone: None}
    person, group = (replace(view("Manager", "member"), link=link) for link in ("manager", "member"))
    assert (person.linked([entry]), group.linked([entry])) == ({boss}, {boss, gone})
    assert json.loads(person.page([entry], ids, None).payloads[0])["manager_id"] == ids[boss]
    assert json.loads(group.page([entry], ids, None).payloads[0])["member_ids"] == [ids[boss]]
    assert json.loads(person.page([entry], {boss: None}, None).payloads[0])["manager_id"] is None
    assert view("manager").linked([entry]) == set()


def test_the_time_of_a_domain_controller_is_no_value_of_a_record() -> None:
    assert not {"whenChanged", "uSNChanged", "lastLogon"} & {n for names in AD.attributes.values() for n in names}
    assert "whenChanged" in view("cn").wire_names


def test_ad_is_asked_in_its_own_time_format() -> None:
    since = ReadRequest(Scope.INCREMENTAL, "", {"": "2026-03-01T10:11:12.000000Z"})
    bound = view("cn").since(since, timedelta(minutes=11))
    assert bound == "(&(&(objectCategory=person)(objectClass=user))(whenChanged>=20260301100012.0Z))"
    assert view("cn").since(ReadRequest(Scope.FULL, "", since.since), timedelta()) == AD.filters["people"]
    assert "(modifyTimestamp>=20260301101112Z)" in view("cn", flavour="openldap").since(since, timedelta())


def test_entries_without_identity_are_never_an_empty_directory() -> None:
    hidden = Entry("CN=Eve,DC=example,DC=org", {"cn": [b"Eve"]})
    with pytest.raises(ForbiddenError, match="not their objectGUID"):
        view("cn").page([hidden], {}, None)
    mixed = view("cn").page([hidden, Entry("CN=Ada", {"objectGUID": [GUID]})], {}, None)
    assert (len(mixed.keys), len(mixed.rejects)) == (1, 1)


def test_slices_are_recognised() -> None:
    assert slice_of("member;range=0-1499") == ("member", 1499)
    assert slice_of("Member;Range=3000-*") == ("Member", None)
    assert slice_of("member") is None
    assert slice_of("userCertificate;binary") is None


class Slices:
    """A group with so many members as Active Directory shows it: at most `step` at a time."""

    def __init__(self, members: int, step: int) -> None:
        self.all = [f"CN=m{n:04}".encode() for n in range(members)]
        self.step = step

    def cut(self, start: int) -> dict[str, Sequence[bytes | str]]:
        part = self.all[start : start + self.step]
        end = "*" if start + self.step >= len(self.all) else start + self.step - 1
        return {f"member;range={start}-{end}": list(part)}

    async def look(self, dn: str, names: Sequence[str]) -> Values:
        start = int(names[0].partition("=")[2].removesuffix("-*"))
        return self.cut(start)


@pytest.mark.parametrize("members", [1, 1500, 1501, 4500, 4999])
async def test_a_big_group_is_read_to_its_end(members: int) -> None:
    group = Slices(members, 1500)
    entry = Entry("CN=all", {"cn": [b"all"], "member": [], **group.cut(0)})
    whole = await complete(entry, group.look)
    assert whole["member"] == group.all
    assert whole["cn"] == [b"all"]


async def test_a_group_that_changes_meanwhile_is_read_again() -> None:
    async def same_slice(dn: str, names: Sequence[str]) -> Values:
        return {"member;range=0-1499": [b"CN=x"]}

    async def nothing(dn: str, names: Sequence[str]) -> Values | None:
        return None

    for look in (same_slice, nothing):
        with pytest.raises(TransientError, match="changed while"):
            await complete(Entry("CN=all", {"member;range=0-1499": [b"CN=x"]}), look)


@pytest.mark.parametrize(
    ("code", "said", "kind", "meaning"),
    [
        (49, "80090308: LdapErr: AcceptSecurityContext error, data 52e, v4563", UnauthorizedError, "wrong password"),
        (49, "AcceptSecurityContext error, data 532, v4563", UnauthorizedError, "password has expired"),
        (49, "AcceptSecurityContext error, data 533, v4563", UnauthorizedError, "account is disabled"),
        (49, "AcceptSecurityContext error, data 701, v4563", UnauthorizedError, "account has expired"),
        (49, "AcceptSecurityContext error, data 775, v4563", UnauthorizedError, "account is locked"),
        (49, "AcceptSecurityContext error, data fff, v4563", UnauthorizedError, "wrong bind_dn or password"),
        (8, "Strong(er) authentication required", RejectedError, "demands TLS"),
        (3, "Time limit exceeded", TransientError, "time limit"),
        (11, "Administrative limit exceeded", RejectedError, "administrative limit"),
        (50, "Insufficient access", ForbiddenError, "may not read"),
        (51, "Busy", TransientError, "busy"),
        (52, "Unavailable", TransientError, "unavailable"),
        (12, "Critical extension is unavailable", RejectedError, "refused"),
    ],
)  # fmt: skip
def test_result_codes_mean(code: int, said: str, kind: type[ConnectorError], meaning: str) -> None:
    found = error_of(code, said, "dc1.example.org:636")
    assert type(found) is kind
    assert meaning in found.message
    assert found.detail == {"result_code": code}
