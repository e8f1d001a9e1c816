"""A mail server that keeps what it gets: STARTTLS or TLS with a self-made certificate, AUTH, and the bad days of SMTP.

In: SMTP on a loopback port. Out: `received`, every mail with its envelope, and `commands`, what clients asked for.
Recipients decide about themselves, as at a real server: `bad...` is refused (550 5.1.1), `grey...` is put off once
(451 4.7.1), `full...` always (452 4.2.2). Other faults are attributes that may be set while it runs. Used by the demo and
by tests of the `email` connector. Nothing is ever sent on.

    python -m simulators.email --port 2525 --folder /tmp/mail
"""

import argparse
import asyncio
import hmac
import secrets
import signal
import sys
import tempfile
import threading
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any, Literal, Self, cast

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session, auth_mechanism

USER = "reconciler"
PASSWORD = "correct-horse-battery"


@dataclass(frozen=True, slots=True)
class Received:
    """One mail as it was taken. `is_encrypted`: over TLS; `user`: who signed in."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    is_encrypted: bool
    user: str = ""

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.content, policy=default_policy)


@dataclass(kw_only=True)
class MailServer:
    """`with MailServer(folder) as server:` listens in a thread of its own.

    `security` is what is offered; `stripped` is STARTTLS as it looks behind somebody who removes the offer. `after_data`:
    `lose` takes the mail and drops the line, `hang` takes it and never answers, other text is the reply. `mail_reply` is
    said to MAIL FROM. Without `says_goodbye` nobody answers QUIT.
    """

    folder: Path
    port: int = 0
    security: Literal["starttls", "tls", "none", "stripped"] = "starttls"
    requires_auth: bool = True
    users: dict[str, str] = field(default_factory=lambda: {USER: PASSWORD})
    tokens: set[str] = field(default_factory=set)
    size_limit: int = 1_000_000
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    after_data: str = ""
    mail_reply: str = ""
    says_goodbye: bool = True
    received: list[Received] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    put_off: set[str] = field(default_factory=set)

    host = "127.0.0.1"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def __enter__(self) -> Self:
        self._context = self._certificates()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        if not ready.wait(120):
            raise TimeoutError("the mail server does not start")
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self.over.set)
        self._thread.join(60)

    def _certificates(self) -> SSLContext:
        self.folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        context = SSLContext(PROTOCOL_TLS_SERVER)
        authority.issue_cert(self.host, "localhost").configure_cert(context)
        return context

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        self.lines: set[asyncio.BaseTransport] = set()
        implicit = self._context if self.security == "tls" else None
        server = await self._loop.create_server(self._session, self.host, self.port, ssl=implicit)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self.over.wait()
        server.close()
        for line in self.lines:
            with suppress(AttributeError):  # a TLS line that is over already has lost its protocol
                cast("asyncio.Transport", line).abort()
        await asyncio.sleep(0)

    def _session(self) -> SMTP:
        excluded = {"PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2"} - set(self.mechanisms)
        return SMTP(
            _Rules(self),
            hostname="mail.example.org",
            ident="ESMTP",
            data_size_limit=self.size_limit,
            tls_context=self._context if self.security == "starttls" else None,
            require_starttls=self.security == "starttls",
            auth_require_tls=self.security == "starttls",
            auth_exclude_mechanism=excluded,
            authenticator=self._judge,
            loop=self._loop,
        )

    def _judge(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: Any) -> AuthResult:
        self.commands.append(f"AUTH {mechanism}")
        is_known = False
        if isinstance(given, LoginPassword):
            wanted = self.users.get(given.login.decode(), "")
            is_known = bool(wanted) and secrets.compare_digest(wanted.encode(), given.password)
        message = None if is_known else "535 5.7.8 Authentication credentials invalid"
        return AuthResult(success=is_known, handled=False, message=message, auth_data=given)


class _Rules:
    """The hooks that aiosmtpd calls, one object per connection."""

    def __init__(self, server: MailServer) -> None:
        self._of = server

    async def handle_EHLO(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, replies: list[str]
    ) -> list[str]:
        self._of.commands.append(f"EHLO {hostname}")
        self._of.lines.add(cast("asyncio.BaseTransport", server.transport))
        session.host_name = hostname
        return replies

    @auth_mechanism("XOAUTH2")
    async def auth_XOAUTH2(self, server: SMTP, arguments: list[str]) -> AuthResult:  # noqa: N802
        self._of.commands.append("AUTH XOAUTH2")
        user, _, rest = b64decode(arguments[1]).decode().partition("\x01")
        token = rest.removeprefix("auth=Bearer ").rstrip("\x01")
        if token in self._of.tokens:
            return AuthResult(success=True, auth_data=LoginPassword(user.removeprefix("user=").encode(), b""))
        await server.challenge_auth("eyJzdGF0dXMiOiI0MDEifQ==", encode_to_b64=False)
        return AuthResult(success=False, handled=False, message="535 5.7.3 Authentication unsuccessful")

    @auth_mechanism("CRAM-MD5")
    async def auth_CRAM_MD5(self, server: SMTP, arguments: list[str]) -> AuthResult:  # noqa: N802
        self._of.commands.append("AUTH CRAM-MD5")
        challenge = f"<{secrets.token_hex(8)}@mail.example.org>".encode()
        user, _, digest = cast("bytes", await server.challenge_auth(challenge)).decode().rpartition(" ")
        wanted = hmac.new(self._of.users.get(user, secrets.token_hex()).encode(), challenge, "md5").hexdigest()
        if hmac.compare_digest(wanted, digest):
            return AuthResult(success=True, auth_data=LoginPassword(user.encode(), b""))
        return AuthResult(success=False, handled=False, message="535 5.7.8 Authentication credentials invalid")

    async def handle_QUIT(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if not self._of.says_goodbye:
            await self._of.over.wait()
        return "221 2.0.0 Bye"

    async def handle_NOOP(self, server: SMTP, session: Session, envelope: Envelope, text: str) -> str:  # noqa: N802
        self._of.commands.append("NOOP")
        return "250 2.0.0 OK"

    async def handle_RSET(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self._of.commands.append("RSET")
        return "250 2.0.0 OK"

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self._of.commands.append(f"MAIL {address}")
        if self._of.requires_auth and not session.authenticated:
            return "530 5.7.0 Authentication required"
        if self._of.mail_reply:
            return self._of.mail_reply
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self._of.commands.append(f"RCPT {address}")
        if address.startswith("bad"):
            return "550 5.1.1 User unknown"
        if address.startswith("full"):
            return "452 4.2.2 Mailbox full"
        if address.startswith("grey") and address not in self._of.put_off:
            self._of.put_off.add(address)
            return "451 4.7.1 Greylisted, come again"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        after = self._of.after_data
        if after in {"", "lose", "hang"}:
            self._keep(session, envelope)
        if after == "lose":
            cast("asyncio.Transport", server.transport).abort()
        if after == "hang":
            await self._of.over.wait()
        return after or f"250 2.0.0 Ok: queued as {len(self._of.received):06X}"

    def _keep(self, session: Session, envelope: Envelope) -> None:
        signed_in = session.auth_data
        user = signed_in.login.decode() if isinstance(signed_in, LoginPassword) else ""
        is_encrypted = session.ssl is not None or self._of.security == "tls"
        content = cast("bytes", envelope.content)
        self._of.received.append(
            Received(envelope.mail_from or "", tuple(envelope.rcpt_tos), content, is_encrypted, user)
        )
        name = f"{len(self._of.received):04}.eml"
        (self._of.folder / name).write_bytes(content)


def main() -> None:
    """Run until interrupted; every mail becomes a file."""
    parser = argparse.ArgumentParser(description="a mail server that keeps what it gets")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, default=None, help="where mails are kept; default: a new temporary folder"
    )
    given = parser.parse_args()
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    folder = given.folder or Path(tempfile.mkdtemp(prefix="mail-"))
    with MailServer(folder=folder, port=given.port) as server:
        sys.stdout.write(
            f"host: {server.host}\nport: {server.port}\nsecurity: {server.security}\nca_file: {server.ca_file}\n"
            f"username: {USER}\npassword: {PASSWORD}\nmails: {folder}\n"
        )
        sys.stdout.flush()
        over.wait()


if __name__ == "__main__":
    main()
