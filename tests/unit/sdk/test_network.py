"""Network settings: NO_PROXY rules and errors of TLS files. Real handshakes are tested in tests/integration/sdk."""

from pathlib import Path

import pytest
import trustme

from reconciler.model.condition import Reason
from reconciler.sdk.errors import RejectedError
from reconciler.sdk.guard import GuardSettings, HostGuard
from reconciler.sdk.network import GuardedNetwork, NetworkSettings, TlsContexts


def network(**settings: object) -> GuardedNetwork:
    return GuardedNetwork(NetworkSettings(**settings), HostGuard(GuardSettings()), TlsContexts())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "host", "bypasses"),
    [
        ("*", "anything.example", True),
        ("corp.example", "corp.example", True),
        ("corp.example", "a.corp.example", True),
        (".corp.example", "a.corp.example", True),
        ("*.corp.example", "a.corp.example", True),
        ("corp.example", "notcorp.example", False),
        ("CORP.example", "a.Corp.Example.", True),
        ("10.0.0.0/8", "10.9.9.9", True),
        ("10.0.0.0/8", "11.9.9.9", False),
        ("10.0.0.0/8", "ten.example", False),
        ("::1", "[::1]", True),
        ("corp.example:8443", "corp.example", True),
        ("corp.example:443", "corp.example", False),
        ("", "corp.example", False),
        (".", "corp.example", False),
    ],
)
def test_no_proxy(rule: str, host: str, bypasses: bool) -> None:
    assert network(proxy="http://proxy:3128", no_proxy=(rule,)).uses_proxy(host, 8443) is not bypasses


def test_without_a_proxy_nothing_goes_through_one() -> None:
    assert network().uses_proxy("x.example", 443) is False


def test_the_proxy_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(NetworkSettings(proxy="http://bob:hunter2@proxy:3128"))


@pytest.mark.parametrize("setting", ["ca_file", "client_cert", "client_key"])
def test_a_missing_file_names_the_setting(setting: str) -> None:
    with pytest.raises(RejectedError, match=rf"{setting} /nowhere\.pem cannot be used: No such file") as caught:
        network(**{setting: "/nowhere.pem"}).tls()
    assert caught.value.why is Reason.TLS_FAILED


@pytest.mark.parametrize("setting", ["ca_file", "client_cert"])
def test_a_file_that_is_no_pem_names_the_setting(setting: str, tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("nonsense")
    with pytest.raises(RejectedError, match=f"{setting} .* cannot be used"):
        network(**{setting: str(file)}).tls()


def test_contexts_are_shared_until_a_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    contexts = TlsContexts()
    first = contexts.of(NetworkSettings(ca_file=str(file)))
    assert contexts.of(NetworkSettings(ca_file=str(file), proxy="http://p:1")) is first
    assert contexts.of(NetworkSettings()) is not first
    trustme.CA().cert_pem.write_to_path(file)
    assert contexts.of(NetworkSettings(ca_file=str(file))) is not first


def test_what_connectors_see() -> None:
    plain, full = network(), network(ca_file="ca.pem", client_cert="c.pem", client_key="k.pem")
    assert (plain.ca_file, plain.client_cert) == (None, None)
    assert (full.ca_file, full.client_cert) == ("ca.pem", ("c.pem", "k.pem"))
    assert network(client_cert="c.pem").client_cert == ("c.pem", "c.pem")
