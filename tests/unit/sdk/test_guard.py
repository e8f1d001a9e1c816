"""The host guard: what is refused by default, what settings open and close, and tricks that must not work."""

import socket
from collections.abc import Sequence

import pytest

from reconciler.model.condition import Reason
from reconciler.sdk.errors import RejectedError, TransientError
from reconciler.sdk.guard import GuardSettings, HostGuard, system_resolve


def guard(*addresses: str, **settings: object) -> HostGuard:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return HostGuard(GuardSettings(**settings), resolve)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
async def test_addresses_of_the_machine_and_the_cloud_are_refused(address: str) -> None:
    with pytest.raises(RejectedError, match="not permitted") as caught:
        await guard(address).permit("snow.example", 443)
    assert caught.value.why is Reason.HOST_NOT_PERMITTED
    with pytest.raises(RejectedError):
        await guard(address).addresses("snow.example", 443)


PRIVATE = [
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "fd12::1",
    "100.64.0.1",
    "fec0::1",
    "::ffff:10.1.2.3",
    "64:ff9b::a01:203",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_private_ranges_are_for_the_settings_to_close(address: str) -> None:
    await guard(address).permit("cmdb.corp", 443)
    for closed in (guard(address, allow_private=False), guard(address).public()):
        with pytest.raises(RejectedError, match="private"):
            await closed.permit("cmdb.corp", 443)


@pytest.mark.parametrize("allow", ["10.1.2.0/24", "10.1.2.3:443", "*.corp"])
async def test_the_allow_list_opens_private_addresses_to_what_must_be_public(allow: str) -> None:
    await guard("10.1.2.3", allow=(allow,)).public().permit("hooks.corp", 443)
    with pytest.raises(RejectedError, match="denied"):
        await guard("10.1.2.3", allow=(allow,), deny=("10.0.0.0/8",)).public().permit("hooks.corp", 443)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1"])
async def test_public_addresses_are_permitted(address: str) -> None:
    assert await guard(address, allow_private=False).addresses("api.example", 443) == (address,)


@pytest.mark.parametrize("name", ["metadata.google.internal", "METADATA.google.internal.", "instance-data", "metadata"])
async def test_metadata_names_are_refused_whatever_they_resolve_to(name: str) -> None:
    with pytest.raises(RejectedError, match="metadata"):
        await guard("93.184.216.34").permit(name, 80)


async def test_one_forbidden_address_refuses_permit_and_is_left_out_of_addresses() -> None:
    both = guard("127.0.0.1", "93.184.216.34")
    with pytest.raises(RejectedError):
        await both.permit("mixed.example", 389)
    assert await both.addresses("mixed.example", 389) == ("93.184.216.34",)


async def test_allow_opens_by_address_range_name_and_port() -> None:
    await guard("127.0.0.1", allow=("127.0.0.1",)).permit("x", 1)
    await guard("127.0.0.9", allow=("127.0.0.0/8",)).permit("x", 1)
    await guard("::1", allow=("[::1]:8443",)).permit("x", 8443)
    await guard("127.0.0.1", allow=("*.local.test",)).permit("a.local.test", 1)
    await guard("127.0.0.1", allow=("127.0.0.1:3128",)).permit("x", 3128)
    with pytest.raises(RejectedError):
        await guard("127.0.0.1", allow=("127.0.0.1:3128",)).permit("x", 3129)
    with pytest.raises(RejectedError):
        await guard("127.0.0.1", allow=("*.local.test",)).permit("local.test", 1)


async def test_a_name_never_opens_metadata_but_an_address_does() -> None:
    with pytest.raises(RejectedError):
        await guard("169.254.169.254", allow=("*",)).permit("rebound.example", 80)
    await guard("169.254.169.254", allow=("169.254.169.254",)).permit("imds.example", 80)


async def test_deny_wins_over_everything() -> None:
    for rule in ("*.evil.example", "93.184.0.0/16", "api.evil.example:443"):
        with pytest.raises(RejectedError, match="den"):
            await guard("93.184.216.34", deny=(rule,), allow=("*", "93.184.216.34")).permit("API.evil.example.", 443)


async def test_deny_sees_through_mapped_addresses() -> None:
    with pytest.raises(RejectedError):
        await guard("::ffff:10.1.2.3", deny=("10.0.0.0/8",)).permit("x.example", 443)


async def test_only_lists_all_that_may_be_reached() -> None:
    settings = {"only": ("*.service-now.com", "10.0.0.0/8")}
    await guard("93.184.216.34", **settings).permit("company.service-now.com", 443)
    await guard("10.1.1.1", **settings).permit("anything.corp", 443)
    with pytest.raises(RejectedError, match="not among"):
        await guard("93.184.216.34", **settings).permit("service-now.com.evil.example", 443)
    with pytest.raises(RejectedError, match="not among"):
        guard(**settings).check_name("evil.example", 443)
    with pytest.raises(RejectedError, match="loopback"):
        await guard("127.0.0.1", **settings).permit("company.service-now.com", 443)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "0177.0.0.1", "[::1]", "localhost"])
def test_behind_a_proxy_every_spelling_of_loopback_is_refused(host: str) -> None:
    with pytest.raises(RejectedError):
        guard().check_name(host, 80)


@pytest.mark.parametrize("host", ["api.example", "93.184.216.34", "face.example", "10.0.0.1"])
def test_behind_a_proxy_ordinary_hosts_pass(host: str) -> None:
    guard().check_name(host, 443)


def test_behind_a_proxy_the_settings_may_allow_a_loopback_name() -> None:
    guard(allow=("localhost",)).check_name("localhost", 80)


async def test_a_name_that_does_not_resolve_says_which() -> None:
    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(TransientError, match=r"cannot resolve host snow\.exmaple: Name or service not known"):
        await HostGuard(GuardSettings(), nowhere).permit("snow.exmaple", 443)
    with pytest.raises(TransientError, match="no address"):
        await guard().permit("snow.example", 443)


async def test_the_system_resolver_reads_odd_spellings_so_the_guard_sees_the_address() -> None:
    assert await system_resolve("127.1", 80) == ("127.0.0.1",)
    with pytest.raises(RejectedError, match="loopback"):
        await HostGuard(GuardSettings()).permit("2130706433", 80)
