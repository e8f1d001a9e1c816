"""The email connector against a real mail server: what arrives, what does not, and what is never said in clear."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.email import Config, Email, Mail, envelope_sender
from reconciler.model.condition import Reason
from reconciler.model.event import Message
from reconciler.sdk.contract import Channel, Connector, Repeat
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    PartialDeliveryError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.smtp import refusal
from reconciler.sdk.testing.case import CANARY, Case, Dispatch
from reconciler.sdk.testing.conformance import Conformance
from reconciler.sdk.testing.room import Bench
from simulators.email import PASSWORD, USER, MailServer
from tests.servers.smtp import MailWithTokens

FIELDS = {"to": "ada@example.com", "subject": "Disk full", "text": "on db-1\n"}
SEND = Email.channels[0]


class EmailCase(Case):
    connector = Email

    def simulator(self, now: Callable[[], datetime]) -> MailWithTokens:
        secret = f"{CANARY}-client"
        users = {USER: f"{CANARY}-password"}
        return MailWithTokens(secret, users=users, tokens={f"{CANARY}-token"}, requires_auth=False)

    def config(self, sim: MailWithTokens) -> Mapping[str, Any]:
        return {"host": sim.host, "port": sim.port, "sender": "noreply@example.org"}

    def reach(self, sim: MailWithTokens) -> Mapping[str, Any]:
        return {"ca_file": str(sim.ca_file)}

    def auth(self, sim: MailWithTokens) -> Mapping[str, Any]:
        return {"type": "password", "username": USER, "password": f"{CANARY}-password"}

    def auths(self, sim: MailWithTokens) -> Sequence[Mapping[str, Any]]:
        client = {"client_id": "app", "client_secret": f"{CANARY}-client", "token_url": "http://127.0.0.1/token"}
        if sim.port:
            client["token_url"] = f"{sim.issuer.url}/token"
        return (
            self.auth(sim),
            {"type": "xoauth2", "username": USER, "access_token": f"{CANARY}-token"},
            {"type": "oauth2", "username": USER, **client},
            {"type": "none"},
        )

    def wrong_auth(self, sim: MailWithTokens) -> Mapping[str, Any]:
        return {"type": "password", "username": USER, "password": f"{CANARY}-wrong"}

    def dispatch(self, sim: MailWithTokens, channel: Channel) -> Dispatch:
        return Dispatch(fields=FIELDS, arrived=lambda s: len(s.received))


class TestEmailConformance(Conformance):
    case = EmailCase()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MailServer]:
    with MailServer(folder=tmp_path / "mail") as running:
        yield running


@asynccontextmanager
async def email(
    server: MailServer, *, auth: Mapping[str, Any] | None = None, ca_file: str | None = None, **config: Any
) -> AsyncIterator[Connector[Any, Any]]:
    given = auth or {"type": "password", "username": USER, "password": PASSWORD}
    settings = {"host": server.host, "port": server.port, "sender": "noreply@example.org", **config}
    async with Bench(ca_file=str(server.ca_file) if ca_file is None else ca_file) as bench:
        yield bench.connector(Email, settings, given)


def mail(delivery: str = "dlv-1", /, progress: Mapping[str, Any] | None = None, **fields: Any) -> Message:
    return Message(delivery, "evt-9", "incident.created", {**FIELDS, **fields}, progress=progress or {})


async def test_a_mail_arrives_with_all_its_headers(server: MailServer) -> None:
    async with email(server, sender_name="Ops (prod)", reply_to="desk@example.org", subject_prefix="[it]") as connector:
        receipt = await connector.deliver(
            SEND,
            mail(
                to="Ada <ada@example.com>, bob@example.com", cc=["cy@example.com"], bcc="dee@example.com",
                subject="Grüße\n", text="ä\n.\n..dots\n", html="<p>ä</p>", in_reply_to="<first@example.org>",
                headers={"x-team": "desk", "List-Id": "<ops.example.org>"},
            ),
        )  # fmt: skip
    assert [r.recipients for r in server.received] == [(f"{n}@example.com",) for n in ("ada", "bob", "cy", "dee")]
    assert len({r.content for r in server.received}) == 1
    first = server.received[0]
    assert (first.sender, first.user, first.is_encrypted) == ("noreply@example.org", USER, True)
    got = first.message
    assert got["From"].addresses[0].display_name == "Ops (prod)"
    assert (got["To"], got["Cc"], got["Bcc"]) == ("ada@example.com, bob@example.com", "cy@example.com", None)
    assert (got["Subject"], got["Reply-To"]) == ("[it] Grüße", "desk@example.org")
    assert got["Message-ID"] == receipt.remote_id == "<dlv-1@example.org>"
    assert got["In-Reply-To"] == got["References"] == "<first@example.org>"
    assert (got["Auto-Submitted"], got["X-Reconciler-Event-Id"]) == ("auto-generated", "evt-9")
    assert (got["X-Team"], got["List-Id"]) == ("desk", "<ops.example.org>")
    bodies = {
        part.get_content_type(): part.get_content().replace("\r\n", "\n")
        for part in got.walk()
        if not part.is_multipart()
    }
    assert bodies == {"text/plain": "ä\n.\n..dots\n", "text/html": "<p>ä</p>\n"}
    assert set(receipt.detail["sent"]) == {f"{n}@example.com" for n in ("ada", "bob", "cy", "dee")}
    assert "queued as" in receipt.detail["sent"]["ada@example.com"]


async def test_every_attempt_of_a_delivery_is_the_same_mail(server: MailServer) -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    async with email(server) as connector:
        for number in (1, 2):
            again = replace(mail(html="<p>x</p>"), first_attempt_at=at, is_repeat=number == 2)
            await connector.deliver(SEND, again)
    assert server.received[0].content == server.received[1].content
    assert server.received[0].message["Date"].datetime == at


async def test_the_sign_in_comes_after_encryption_and_only_once(server: MailServer) -> None:
    async with email(server, hostname="recon.example.org") as connector:
        await connector.deliver(SEND, mail())
    assert server.commands[:4] == [
        "EHLO recon.example.org",
        "EHLO recon.example.org",
        "AUTH PLAIN",
        "MAIL noreply@example.org",
    ]


async def test_login_where_there_is_nothing_else(server: MailServer) -> None:
    server.mechanisms = ("LOGIN",)
    async with email(server) as connector:
        await connector.deliver(SEND, mail())
    assert "AUTH LOGIN" in server.commands
    server.mechanisms = ()
    async with email(server) as connector:
        with pytest.raises(RejectedError, match="offers no AUTH PLAIN, LOGIN"):
            await connector.deliver(SEND, mail())


async def test_a_password_stays_secret_on_the_way_where_it_can(tmp_path: Path) -> None:
    every = ("PLAIN", "LOGIN", "CRAM-MD5")
    with MailServer(folder=tmp_path / "mail", security="none", mechanisms=every) as server:
        async with email(server, security="none", allow_plaintext=True) as connector:
            await connector.deliver(SEND, mail())
        wrong = {"type": "password", "username": USER, "password": "wrong-pass"}
        async with email(server, security="none", allow_plaintext=True, auth=wrong) as connector:
            with pytest.raises(UnauthorizedError, match=r"535 5\.7\.8"):
                await connector.deliver(SEND, mail())
    assert [c for c in server.commands if c.startswith("AUTH")] == ["AUTH CRAM-MD5"] * 2
    assert [r.user for r in server.received] == [USER]


async def test_a_server_that_does_not_say_goodbye_holds_nobody_up(server: MailServer) -> None:
    server.says_goodbye = False
    async with email(server, timeout_seconds=600) as connector, asyncio.timeout(120):
        await connector.deliver(SEND, mail())
    assert len(server.received) == 1


async def test_a_wrong_password_is_tried_once(server: MailServer) -> None:
    async with email(server, auth={"type": "basic", "username": USER, "password": "wrong-pass"}) as connector:
        with pytest.raises(UnauthorizedError, match=r"535 5\.7\.8") as caught:
            await connector.deliver(SEND, mail())
    assert [c for c in server.commands if c.startswith("AUTH")] == ["AUTH PLAIN"]
    assert "wrong-pass" not in repr(caught.value)


@pytest.mark.parametrize("security", ["starttls", "tls"])
async def test_an_unknown_certificate_is_refused(tmp_path: Path, security: Any) -> None:
    with MailServer(folder=tmp_path / "mail", security=security) as server:
        async with email(server, security=security, ca_file="") as connector:
            with pytest.raises(RejectedError, match="certificate") as caught:
                await connector.probe()
    assert caught.value.why is Reason.TLS_FAILED
    assert not any(c.startswith("AUTH") for c in server.commands)


async def test_implicit_tls(tmp_path: Path) -> None:
    with MailServer(folder=tmp_path / "mail", security="tls") as server:
        async with email(server, security="tls") as connector:
            await connector.deliver(SEND, mail())
    assert server.received[0].is_encrypted


async def test_tls_at_a_starttls_port_is_said(server: MailServer) -> None:
    async with email(server, security="tls") as connector:
        with pytest.raises(RejectedError, match="begins in clear") as caught:
            await connector.probe()
    assert caught.value.why is Reason.TLS_FAILED


async def test_stripped_starttls_never_goes_on_in_clear(tmp_path: Path) -> None:
    with MailServer(folder=tmp_path / "mail", security="stripped") as server:
        async with email(server) as connector:
            with pytest.raises(RejectedError, match="no STARTTLS") as caught:
                await connector.deliver(SEND, mail())
    assert caught.value.why is Reason.TLS_FAILED
    assert [c.split()[0] for c in server.commands] == ["EHLO"]


async def test_plain_text_only_when_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="allow_plaintext"):
        Config(host="mx", sender="a@example.org", security="none")
    with MailServer(folder=tmp_path / "mail", security="none", requires_auth=False) as server:
        async with email(server, security="none", allow_plaintext=True, auth={"type": "none"}) as connector:
            await connector.deliver(SEND, mail())
            assert (await connector.probe()).warnings == ("the connection is not encrypted",)
    assert not server.received[0].is_encrypted


async def test_one_refused_recipient_is_in_the_receipt(server: MailServer) -> None:
    async with email(server) as connector:
        receipt = await connector.deliver(SEND, mail(to="bad@example.com, ada@example.com"))
    assert [r.recipients for r in server.received] == [("ada@example.com",)]
    assert "5.1.1" in receipt.detail["refused"]["bad@example.com"]


async def test_all_refused_is_rejected(server: MailServer) -> None:
    async with email(server) as connector:
        with pytest.raises(RejectedError, match="every recipient was refused") as caught:
            await connector.deliver(SEND, mail(to="bad@example.com, bad2@example.com"))
    assert set(caught.value.detail["refused"]) == {"bad@example.com", "bad2@example.com"}


async def test_a_greylisted_recipient_gets_it_later_and_the_others_only_once(server: MailServer) -> None:
    async with email(server) as connector:
        with pytest.raises(PartialDeliveryError, match=r"4\.7\.1") as caught:
            await connector.deliver(SEND, mail(to="ada@example.com, grey@example.com, bad@example.com"))
        assert [r.recipients for r in server.received] == [("ada@example.com",)]
        again = mail(to="ada@example.com, grey@example.com, bad@example.com", progress=caught.value.progress)
        receipt = await connector.deliver(SEND, again)
    assert [r.recipients for r in server.received] == [("ada@example.com",), ("grey@example.com",)]
    assert set(receipt.detail["sent"]) == {"ada@example.com", "grey@example.com"}
    assert set(receipt.detail["refused"]) == {"bad@example.com"}


async def test_nobody_served_yet_is_plainly_transient(server: MailServer) -> None:
    async with email(server) as connector:
        with pytest.raises(TransientError) as caught:
            await connector.deliver(SEND, mail(to="full@example.com"))
    assert not isinstance(caught.value, PartialDeliveryError)
    assert not server.received


@pytest.mark.parametrize("after", ["lose", "hang"])
async def test_silence_after_the_text_is_ambiguous(server: MailServer, after: str) -> None:
    server.after_data = after
    async with email(server, answer_timeout_seconds=2) as connector:
        with pytest.raises(AmbiguousError, match=r"ada@example\.com") as caught:
            await connector.deliver(SEND, mail())
    assert len(server.received) == 1
    assert set(caught.value.detail["unconfirmed"]) == {"ada@example.com"}
    assert SEND.repeat is Repeat.UNSAFE


async def test_a_refusal_after_the_text_is_no_doubt(server: MailServer) -> None:
    server.after_data = "554 5.7.1 Looks like spam"
    async with email(server) as connector:
        with pytest.raises(RejectedError, match="spam"):
            await connector.deliver(SEND, mail())
        server.after_data = "451 4.3.0 Try later"
        with pytest.raises(TransientError, match="Try later") as caught:
            await connector.deliver(SEND, mail())
    assert not isinstance(caught.value, AmbiguousError)


async def test_too_large_is_said_before_it_is_sent(tmp_path: Path) -> None:
    with MailServer(folder=tmp_path / "mail", size_limit=2000) as server:
        async with email(server) as connector:
            with pytest.raises(RejectedError, match="takes 2000"):
                await connector.deliver(SEND, mail(text="x" * 4000))
    assert not any(c.startswith("MAIL") for c in server.commands)


async def test_probe_sends_nothing_and_knows_the_sender(server: MailServer) -> None:
    async with email(server) as connector:
        probe = await connector.probe()
        assert (probe.identity, probe.missing) == (USER, ())
        assert "1000000 bytes" in probe.account
        assert {"NOOP", "MAIL noreply@example.org", "RSET"} <= set(server.commands)
        server.mail_reply = "550 5.7.60 not yours"
        assert (await connector.probe()).missing == ("send as noreply@example.org",)
    assert not server.received


async def test_a_server_that_is_down_is_transient(server: MailServer) -> None:
    async with email(server, port=1) as connector:
        with pytest.raises(TransientError, match="cannot be reached"):
            await connector.probe()


async def test_a_busy_server_is_transient(server: MailServer) -> None:
    server.mail_reply = "421 4.3.2 Too many connections"
    async with email(server) as connector:
        with pytest.raises(TransientError, match="Too many connections"):
            await connector.deliver(SEND, mail(to="ada@example.com, bob@example.com"))


async def test_a_server_that_says_nothing_times_out() -> None:
    over = asyncio.Event()

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with Bench() as bench:
        settings = {"host": "127.0.0.1", "port": port, "sender": "a@example.org", "timeout_seconds": 0.1}
        connector = bench.connector(Email, settings, {"type": "none"})
        with pytest.raises(TransientError, match="in time"):
            await connector.probe()
    over.set()
    silent.close()


async def test_a_refused_oauth_token_is_renewed_once() -> None:
    with MailWithTokens(f"{CANARY}-client") as server:
        auth = {
            "type": "oauth2",
            "username": "box@example.org",
            "client_id": "app",
            "client_secret": f"{CANARY}-client",
        }
        async with email(server, auth={**auth, "token_url": f"{server.issuer.url}/token"}) as connector:
            await connector.deliver(SEND, mail())
            server.tokens.clear()
            await connector.deliver(SEND, mail("dlv-2"))
        assert len(server.issuer.requests) == 2
        assert [r.user for r in server.received] == ["box@example.org"] * 2
        assert not server.violations
        server.issuer.prefix = "never-taken"
        async with email(server, auth={"type": "xoauth2", "username": "b", "access_token": "no-such"}) as connector:
            with pytest.raises(UnauthorizedError):
                await connector.deliver(SEND, mail("dlv-3"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", "a\0b"),
        ("subject", "\r\n"),
        ("to", "ada@example.com\nBcc: eve@example.com"),
        ("to", "ada@example.com>\r\nRCPT TO:<eve@example.com"),
        ("to", "no address"),
        ("to", []),
        ("to", "ädä@example.com"),
        ("headers", {"X-A": "b\nBcc: eve@example.com"}),
        ("headers", {"X-A\nBcc": "eve@example.com"}),
        ("headers", {"From": "eve@example.com"}),
        ("headers", {"X-Reconciler-Event-Id": "other"}),
        ("in_reply_to", "<a@b>\nBcc: eve@example.com"),
    ],
)
async def test_what_could_be_an_injection_is_refused(server: MailServer, field: str, value: Any) -> None:
    async with email(server) as connector:
        with pytest.raises(RejectedError, match=f"cannot be built: {field}"):
            await connector.deliver(SEND, mail(**{field: value}))
    assert not server.commands


@pytest.mark.parametrize(
    ("subject", "shown"),
    [("a\nBcc: eve@example.com", "a Bcc: eve@example.com"), ("a\r\n\r\nbody", "a body"), (" a \t b\u2028c ", "a b c")],
)
async def test_a_subject_is_one_line_whatever_a_record_holds(server: MailServer, subject: str, shown: str) -> None:
    async with email(server) as connector:
        await connector.deliver(SEND, mail(subject=subject))
    got = server.received[0].message
    assert (got["Subject"], got["Bcc"], got.get_content().strip()) == (shown, None, "on db-1")


async def test_mail_goes_only_to_permitted_domains(server: MailServer) -> None:
    async with email(server, allowed_recipient_domains=["Example.COM"]) as connector:
        with pytest.raises(RejectedError, match=r"eve@elsewhere\.net is outside"):
            await connector.deliver(SEND, mail(cc="eve@elsewhere.net"))
        assert not server.commands
        await connector.deliver(SEND, mail())
    assert len(server.received) == 1


async def test_a_bounce_names_its_delivery(server: MailServer) -> None:
    async with email(server, bounce_domain="bounce.example.org") as connector:
        await connector.deliver(SEND, mail("dlv:7/ä"))
    assert server.received[0].sender == "bounce+dlv-7--@bounce.example.org"
    assert envelope_sender(Config(host="h", sender="a@example.org"), "x") == "a@example.org"


def test_recipients_are_each_served_once_and_international_domains_in_ascii() -> None:
    made = Mail.model_validate({**FIELDS, "to": "a@bücher.example, b@x.example", "cc": "b@x.example"})
    assert made.recipients == ("a@xn--bcher-kva.example", "b@x.example")


@pytest.mark.parametrize(
    ("code", "said", "kind"),
    [
        (550, "5.1.1 User unknown", RejectedError),
        (550, "4.2.2 Mailbox full", TransientError),
        (450, "5.7.1 Never", RejectedError),
        (421, "5.3.2 Closing", TransientError),
        (421, "Too many connections", TransientError),
        (432, "4.3.2 Concurrent connections limit exceeded", RateLimitedError),
        (550, "5.4.5 Daily user sending limit exceeded", RateLimitedError),
        (454, "4.7.0 Temporary authentication failure", TransientError),
        (535, "5.7.8 Bad credentials", UnauthorizedError),
        (530, "5.7.0 Authentication required", UnauthorizedError),
        (554, "No", RejectedError),
        (-1, "Malformed SMTP response line", TransientError),
    ],
)
def test_replies_mean(code: int, said: str, kind: type[ConnectorError]) -> None:
    found = refusal(code, said, "mx.example.org")
    assert type(found) is kind
    assert said in found.message
    assert not isinstance(found, RateLimitedError) or code == 432 or found.retry_after == timedelta(hours=1)
