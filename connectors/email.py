"""Mail over SMTP submission: one channel, `send_mail`, nothing to read.

In: rendered fields of an event. Out: one SMTP transaction per recipient over one connection, so that a recipient who got
the mail is never sent it again while another one is still greylisted. Message-ID, Date and body stay the same over all
attempts of one delivery. SMTP drops no repeats, and whether a mailbox recognises the Message-ID is its own affair, so the
channel is declared UNSAFE: where the connection dies between the end of the text and the server's answer, or the process
does, the delivery ends as `unknown` for a person to decide; what that person sends again is a mail of its own. Everything
refused before that point is tried again by itself. Not done: reading bounces, attachments.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import getaddresses
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from reconciler.model.event import Message, Receipt
from reconciler.model.secret import Secret
from reconciler.sdk.auth import Grant, Granted, oauth_token
from reconciler.sdk.contract import AuthSettings, Channel, Connector, NoAuth, Probe, Repeat, Right, Room, Settings
from reconciler.sdk.errors import (
    AmbiguousError,
    PartialDeliveryError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.smtp import Line, Relay, connection

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FREE_HEADERS = re.compile(
    r"(?i)x-(?!reconciler-)[a-z0-9-]+|list-(id|unsubscribe(-post)?)|importance|priority|references"
)
_ADDRESS = re.compile(r"[^\s<>@,;:\"()\[\]\\]+@[^\s<>@,;:\"()\[\]\\]+")


def address_of(text: str) -> str:
    """One bare address, its domain in ASCII; raises ValueError for anything that could become two, or a header."""
    user, _, domain = text.rpartition("@")
    try:
        plain = f"{user}@{domain.encode('idna').decode()}"
    except UnicodeError:
        plain = ""
    if not _ADDRESS.fullmatch(plain) or not plain.isascii():
        raise ValueError(f"{text[:80]!r} is not one mail address (before the @ only ASCII)")
    return plain


def _addresses(given: Any) -> Any:
    """A list, or text as people write it: `Ada <ada@example.com>, bob@example.com`."""
    if not isinstance(given, str | list | tuple | None):
        return given
    parts = [given] if isinstance(given, str) else list(given or ())
    if any(_CONTROL.search(str(p).strip()) for p in parts):
        raise ValueError("a recipient contains a line break or control character")
    found = [a for _, a in getaddresses([str(p).strip() for p in parts if str(p).strip()])]
    return tuple(dict.fromkeys(map(address_of, found)))


def _one_line(given: Any) -> Any:
    """Templates end in a line break easily; one inside would be another header."""
    text = given.strip() if isinstance(given, str) else given
    if isinstance(text, str) and _CONTROL.search(text):
        raise ValueError("contains a line break or control character, which a mail header cannot hold")
    return text


def _joined(given: Any) -> Any:
    """Titles of records hold line breaks and tabs: to people they are spaces."""
    return _one_line(" ".join(given.split())) if isinstance(given, str) else given


Addresses = Annotated[
    tuple[str, ...],
    BeforeValidator(_addresses),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}, {"type": "null"}]}),
]
OneLine = Annotated[str, BeforeValidator(_one_line)]
Joined = Annotated[str, BeforeValidator(_joined)]


class Mail(Settings):
    """What `map` may set."""

    to: Addresses = Field(min_length=1, description="a list, or addresses separated by commas")
    cc: Addresses = ()
    bcc: Addresses = ()
    subject: Joined = Field(min_length=1, max_length=500)
    text: str = Field(description="the mail as plain text; what `template` fills")
    html: str = Field(
        "", description="the same as HTML, shown instead by most mail programs; what templates put in is escaped"
    )
    headers: dict[OneLine, OneLine] = Field(
        {}, description="X-..., List-Id, List-Unsubscribe, Importance, Priority, References"
    )
    in_reply_to: OneLine = Field(
        "", pattern=r"^(<[^<>\s]+@[^<>\s]+>)?$", description="Message-ID of the mail it follows"
    )

    @field_validator("headers")
    @classmethod
    def _permitted(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _FREE_HEADERS.fullmatch(name):
                raise ValueError(f"the header {name} cannot be set")
        return headers

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.to, *self.cc, *self.bcc)))


class Config(Settings):
    host: str = Field(min_length=1)
    port: int = Field(0, ge=0, le=65535, description="default: 587 with starttls, 465 with tls, 25 with none")
    security: Literal["starttls", "tls", "none"] = "starttls"
    allow_plaintext: bool = Field(False, description="permit security: none, where everybody on the way can read along")
    sender: str = Field(description="address in From and, without bounce_domain, of the envelope")
    sender_name: OneLine = ""
    hostname: str | None = Field(
        None, pattern=r"^[A-Za-z0-9.:\[\]-]+$", description="how we greet (EHLO); default: our own"
    )
    allowed_recipient_domains: tuple[str, ...] = Field((), description="where set, mail goes nowhere else")
    reply_to: Addresses = ()
    subject_prefix: OneLine = ""
    bounce_domain: str = Field("", description="bounces go to bounce+<delivery>@ here instead of to the sender")
    timeout_seconds: float = Field(30, gt=0, le=600)
    answer_timeout_seconds: float = Field(
        300,
        gt=0,
        le=1800,
        description="for the answer to a whole mail; giving up earlier leaves more deliveries in doubt",
    )

    @field_validator("sender")
    @classmethod
    def _is_address(cls, sender: str) -> str:
        return address_of(sender)

    @model_validator(mode="after")
    def _no_clear_text(self) -> Self:
        if self.security == "none" and not self.allow_plaintext:
            raise ValueError("security: none sends password and mail in clear; set allow_plaintext to permit it")
        return self

    def permits(self, recipient: str) -> bool:
        domain = recipient.rpartition("@")[2].lower()
        return not self.allowed_recipient_domains or domain in {d.lower() for d in self.allowed_recipient_domains}


class PasswordAuth(AuthSettings):
    """AUTH PLAIN, or LOGIN where the server offers nothing else."""

    type: Literal["password"] = "password"
    aliases: ClassVar[tuple[str, ...]] = ("basic", "basic_auth", "login")
    username: str = Field(min_length=1)
    password: Secret


class XOAuth2(AuthSettings):
    """AUTH XOAUTH2 with a token that something else keeps fresh."""

    type: Literal["xoauth2"] = "xoauth2"
    username: str = Field(min_length=1)
    access_token: Secret


class OAuth2(AuthSettings):
    """AUTH XOAUTH2 with a token that we fetch with client credentials (RFC 6749 section 4.4), as Microsoft 365 wants."""

    type: Literal["oauth2"] = "oauth2"
    aliases: ClassVar[tuple[str, ...]] = ("client_credentials",)
    username: str = Field(min_length=1, description="the mailbox to send as")
    token_url: str = Field(pattern="^https?://")
    client_id: str
    client_secret: Secret
    scope: str = ""


class AnonymousAuth(NoAuth):
    """A relay that knows us by our address."""

    type: Literal["none"] = "none"


@dataclass(slots=True)
class _Outcomes:
    """What became of each recipient. `sent` and `refused` survive in the progress of the delivery."""

    sent: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, TransientError] = field(default_factory=dict)
    unconfirmed: dict[str, str] = field(default_factory=dict)

    def is_settled(self, recipient: str) -> bool:
        return recipient in self.sent or recipient in self.refused

    def report(self) -> dict[str, dict[str, str]]:
        waiting = {r: e.message for r, e in self.waiting.items()}
        said = {"sent": self.sent, "refused": self.refused, "waiting": waiting, "unconfirmed": self.unconfirmed}
        return {name: dict(found) for name, found in said.items() if found}


class Email(Connector[Config, PasswordAuth | XOAuth2 | OAuth2 | AnonymousAuth]):
    type = "email"
    title = "Email (SMTP)"
    docs_url = "https://www.rfc-editor.org/rfc/rfc6409"
    Config = Config
    auth_types = (PasswordAuth, XOAuth2, OAuth2, AnonymousAuth)
    channels = (
        Channel(
            name="send_mail", title="Send a mail", fields=Mail, text_field="text", html_fields=("html",),
            repeat=Repeat.UNSAFE, rights=("send as the configured sender",), deadline=timedelta(minutes=10),
        ),
    )  # fmt: skip

    async def probe(self) -> Probe:
        async with self._line() as line:
            sender = self.config.sender
            refused = await line.check_sender(sender)
            size = f", mails up to {line.size_limit} bytes" if line.size_limit else ""
            return Probe(
                getattr(self.auth, "username", sender),
                account=self.config.host + size,
                rights=(Right(f"send as {sender}", not refused, refused),),
                version=" ".join(sorted(line.extensions)),
                warnings=("the connection is not encrypted",) if self.config.security == "none" else (),
            )

    @cached_property
    def _granted(self) -> Granted:
        return Granted("smtp", self._fetch)

    @asynccontextmanager
    async def _line(self) -> AsyncIterator[Line]:
        config = self.config
        relay = Relay(
            host=config.host,
            port=config.port,
            security=config.security,
            hostname=config.hostname,
            timeout=timedelta(seconds=config.timeout_seconds),
            answer_timeout=timedelta(seconds=config.answer_timeout_seconds),
        )
        async with connection(relay, self.room.network) as line:
            await self._sign_in(line)
            yield line

    async def _sign_in(self, line: Line) -> None:
        auth = self.auth
        if isinstance(auth, PasswordAuth):
            await line.sign_in(auth.username, auth.password)
        elif isinstance(auth, XOAuth2):
            await line.sign_in_with_token(auth.username, auth.access_token)
        elif isinstance(auth, OAuth2):
            try:
                await line.sign_in_with_token(auth.username, await self._token(renew=False))
            except UnauthorizedError:
                await line.sign_in_with_token(auth.username, await self._token(renew=True))

    async def deliver(self, channel: Channel, message: Message) -> Receipt:
        mail = self._checked(message)
        built = build(mail, message, self.config, message.first_attempt_at or self.room.clock.now())
        outcomes = _Outcomes(dict(message.progress.get("sent", {})), dict(message.progress.get("refused", {})))
        due = [r for r in mail.recipients if not outcomes.is_settled(r)]
        if due:
            async with self._line() as line:
                await self._send_to(line, due, built, message.delivery_id, outcomes)
        return _concluded(outcomes, str(built["Message-ID"]))

    def _checked(self, message: Message) -> Mail:
        try:
            mail = Mail.model_validate(dict(message.fields))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise RejectedError(f"the mail cannot be built: {where}: {first['msg']}") from None
        outside = [r for r in mail.recipients if not self.config.permits(r)]
        if outside:
            raise RejectedError(f"nothing sent: {', '.join(outside)} is outside allowed_recipient_domains")
        return mail

    async def _send_to(
        self, line: Line, due: Sequence[str], built: EmailMessage, delivery_id: str, outcomes: _Outcomes
    ) -> None:
        content = built.as_bytes(policy=SMTP_POLICY)
        envelope = envelope_sender(self.config, delivery_id)
        for recipient in due:
            try:
                outcomes.sent[recipient] = await line.submit(envelope, recipient, content)
            except AmbiguousError as error:
                outcomes.unconfirmed[recipient] = error.message
            except TransientError as error:
                outcomes.waiting[recipient] = error
            except UnauthorizedError:
                if not outcomes.sent:
                    raise
                outcomes.waiting[recipient] = TransientError("the server no longer takes our sign-in")
            except RejectedError as error:
                outcomes.refused[recipient] = error.message

    async def _token(self, *, renew: bool) -> Secret:
        signed = await self._granted.headers(self.room, renew=renew)
        return Secret(signed["Authorization"].removeprefix("Bearer "))

    async def _fetch(self, room: Room) -> Grant:
        auth = cast("OAuth2", self.auth)
        form = {
            "grant_type": "client_credentials",
            "client_id": auth.client_id,
            "client_secret": auth.client_secret.reveal(),
            **({"scope": auth.scope} if auth.scope else {}),
        }
        grant, _ = await oauth_token(room, auth.token_url, form)
        return grant


def _token_of(delivery_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", delivery_id)[:48]


def envelope_sender(config: Config, delivery_id: str) -> str:
    """With `bounce_domain` an address of this delivery alone (VERP), so that a bounce says what bounced."""
    return f"bounce+{_token_of(delivery_id)}@{config.bounce_domain}" if config.bounce_domain else config.sender


def build(mail: Mail, message: Message, config: Config, at: datetime) -> EmailMessage:
    """The mail, the same to the byte for every attempt of a delivery."""
    user, _, domain = config.sender.rpartition("@")
    built = EmailMessage(policy=SMTP_POLICY)
    built["From"] = Address(config.sender_name, user, domain)
    built["To"] = ", ".join(mail.to)
    built["Subject"] = f"{config.subject_prefix} {mail.subject}".strip()
    built["Date"] = at
    built["Message-ID"] = f"<{_token_of(message.delivery_id)}@{domain}>"
    built["Auto-Submitted"] = "auto-generated"
    built["X-Reconciler-Event-Id"] = message.event_id
    optional = {
        "Cc": ", ".join(mail.cc),
        "Reply-To": ", ".join(config.reply_to),
        "In-Reply-To": mail.in_reply_to,
        "References": mail.in_reply_to,
        **{name.title(): value for name, value in mail.headers.items()},
    }
    for name, value in optional.items():
        if value:
            built[name] = value
    built.set_content(mail.text, cte="quoted-printable")
    if mail.html:
        built.add_alternative(mail.html, subtype="html", cte="quoted-printable")
        built.set_boundary(f"=_{_token_of(message.delivery_id)}")
    return built


def _concluded(outcomes: _Outcomes, message_id: str) -> Receipt:
    """All recipients taken together: in doubt, partly, refused, or sent."""
    report = outcomes.report()
    if outcomes.unconfirmed:
        who = ", ".join(outcomes.unconfirmed)
        raise AmbiguousError(f"nobody knows whether the mail to {who} was taken", detail=report)
    if outcomes.waiting:
        first = next(iter(outcomes.waiting.values()))
        if not outcomes.sent and not outcomes.refused:
            raise first
        raise PartialDeliveryError(
            f"not yet taken for {', '.join(outcomes.waiting)}: {first.message}",
            progress={"sent": outcomes.sent, "refused": outcomes.refused},
            retry_after=first.retry_after,
            detail=report,
        )
    if not outcomes.sent:
        said = "; ".join(f"{r}: {why}" for r, why in outcomes.refused.items())
        raise RejectedError(f"every recipient was refused: {said}", detail=report)
    return Receipt(message_id, detail=report)
