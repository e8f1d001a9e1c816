"""SMTP submission for connectors: a secured connection, sign-in, one transaction, and what replies mean.

In: a `Relay` and the room's network. Out: what the server said, or errors of `reconciler.sdk.errors`. Called by
connectors that send mail. aiosmtplib is imported on first use. Its conveniences are left aside where they are too kind:
its own STARTTLS goes on in clear where the offer was stripped on the way, and its login tries every method one after the
other, which locks accounts. Deliberately not done: pipelining, SMTPUTF8, chunking.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, cast

from reconciler.model.condition import Reason
from reconciler.model.secret import Secret
from reconciler.sdk.contract import Network
from reconciler.sdk.errors import (
    AmbiguousError,
    ConnectorError,
    RateLimitedError,
    RejectedError,
    TransientError,
    UnauthorizedError,
)
from reconciler.sdk.network import tls_refusal

if TYPE_CHECKING:
    from aiosmtplib import SMTP

_PORTS = {"starttls": 587, "tls": 465, "none": 25}
_QUOTAS = {"4.7.28": None, "5.4.5": timedelta(hours=1)}
_SIGN_IN = (530, 534, 535, 538)
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """The server we submit to. `port` 0 is the usual one of `security`; `hostname` is how we greet (EHLO).

    `answer_timeout` is how long the answer to a whole mail may take: servers scan it then, and giving up leaves doubt.
    """

    host: str
    port: int = 0
    security: Literal["starttls", "tls", "none"] = "starttls"
    hostname: str | None = None
    timeout: timedelta = timedelta(seconds=30)
    answer_timeout: timedelta = timedelta(minutes=5)

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port or _PORTS[self.security]


class Line:
    """An open connection to a relay."""

    def __init__(self, smtp: "SMTP", relay: Relay) -> None:
        self._smtp = smtp
        self._host = relay.host
        self._is_encrypted = relay.security != "none"
        self._answer_timeout = relay.answer_timeout.total_seconds()

    @property
    def extensions(self) -> dict[str, str]:
        """What the server offered in its answer to EHLO, names in lower case."""
        return dict(self._smtp.esmtp_extensions)

    @property
    def size_limit(self) -> int | None:
        """The largest mail in bytes, where the server says one."""
        said = self._smtp.esmtp_extensions.get("size", "")
        return int(said) if said.isdigit() and int(said) else None

    async def sign_in(self, user: str, password: Secret) -> None:
        """AUTH by the first method that is offered, one try. In clear, the one that does not show the password goes first."""
        ways = {
            "plain": self._smtp.auth_plain,
            "login": self._smtp.auth_login,
            "cram-md5": self._smtp.auth_crammd5,
        }
        method = self._method(*(ways if self._is_encrypted else reversed(ways)))
        await ways[method](user.encode(), password.reveal().encode())

    async def sign_in_with_token(self, user: str, token: Secret) -> None:
        """AUTH XOAUTH2. Raises UnauthorizedError; the connection stays usable for another token."""
        from aiosmtplib import SMTPAuthenticationError

        self._method("xoauth2")
        try:
            await self._smtp.auth_xoauth2(user, token.reveal())
        except SMTPAuthenticationError as error:
            raise refusal(error.code, error.message, self._host) from None

    def _method(self, *wanted: str) -> str:
        offered = self._smtp.server_auth_methods
        for method in wanted:
            if method in offered:
                return method
        raise RejectedError(
            f"{self._host} offers no AUTH {', '.join(m.upper() for m in wanted)} here, only {', '.join(offered) or 'nothing'}",
            reason=Reason.PROTOCOL_ERROR,
        )

    async def check_sender(self, sender: str) -> str:
        """Why the server would refuse mail from `sender`, empty where it would not. Nothing is sent."""
        from aiosmtplib import SMTPSenderRefused

        await self._smtp.noop()
        try:
            await self._smtp.mail(sender)
        except SMTPSenderRefused as error:
            return f"{error.code} {error.message}"
        await self._smtp.rset()
        return ""

    async def submit(self, sender: str, recipient: str, content: bytes) -> str:
        """One mail for one recipient; returns what the server said, usually its queue id.

        Raises AmbiguousError where the text was begun and no answer came. After other errors the line may be used on.
        """
        from aiosmtplib import SMTPException, SMTPResponseException

        if self.size_limit and len(content) > self.size_limit:
            raise RejectedError(f"the mail has {len(content)} bytes, {self._host} takes {self.size_limit}")
        try:
            await self._smtp.mail(sender)
            await self._smtp.rcpt(recipient)
        except (SMTPException, OSError) as error:
            await self._reset()
            raise failure_of(error, self._host) from None
        try:
            return (await self._smtp.data(content, timeout=self._answer_timeout)).message
        except SMTPResponseException as error:
            await self._reset()
            raise failure_of(error, self._host) from None
        except (SMTPException, OSError) as error:
            raise AmbiguousError(f"{self._host}: no answer after the text of the mail: {error}") from None

    async def _reset(self) -> None:
        from aiosmtplib import SMTPException

        with suppress(SMTPException, OSError):
            await self._smtp.rset()


@asynccontextmanager
async def connection(relay: Relay, network: Network) -> AsyncIterator[Line]:
    """A greeted and secured connection; whatever goes wrong with it is raised as a ConnectorError."""
    from aiosmtplib import SMTPException

    await network.permit(*relay.address)
    smtp = _client(relay, network)
    try:
        await _open(smtp, relay)
        yield Line(smtp, relay)
        with suppress(SMTPException, OSError):
            await smtp.quit(timeout=_FAREWELL_SECONDS)  # all is said: a mail that was taken stays taken
    except (SMTPException, OSError) as error:
        raise failure_of(error, relay.host) from None
    finally:
        smtp.close()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn


def _client(relay: Relay, network: Network) -> "SMTP":
    from aiosmtplib import SMTP

    class Abrupt(SMTP):
        """Ends at once: the library's close is a polite end of TLS, which keeps the socket until the server answers."""

        def close(self) -> None:
            if self.transport is not None:
                cast("asyncio.Transport", self.transport).abort()
            super().close()

    host, port = relay.address
    return Abrupt(
        hostname=host,
        port=port,
        use_tls=relay.security == "tls",
        start_tls=False,  # the library's own upgrade would go on in clear where STARTTLS was stripped
        tls_context=None if relay.security == "none" else network.tls(),
        local_hostname=relay.hostname,
        timeout=relay.timeout.total_seconds(),
    )


async def _open(smtp: "SMTP", relay: Relay) -> None:
    await smtp.connect()
    await smtp.ehlo()
    if relay.security != "starttls":
        return
    if not smtp.supports_extension("starttls"):
        raise RejectedError(
            f"{relay.host} offers no STARTTLS; nothing is sent in clear. Use security: tls, or look who is in between",
            reason=Reason.TLS_FAILED,
        )
    await smtp.starttls()
    await smtp.ehlo()


def failure_of(error: Exception, host: str) -> ConnectorError:
    """What aiosmtplib or the socket raised, by what happens next; never for what goes wrong after the text was sent."""
    from aiosmtplib import SMTPException, SMTPResponseException

    tls = next((e for e in (error, error.__cause__) if isinstance(e, ssl.SSLError)), None)
    if tls and (refused := tls_refusal(tls, host)):
        return refused
    if isinstance(error, SMTPResponseException):
        return refusal(error.code, error.message, host)
    if isinstance(error, TimeoutError):
        return TransientError(f"{host}: no answer in time", reason=Reason.TIMED_OUT)
    if isinstance(error, SMTPException) and not isinstance(error, OSError):
        return RejectedError(f"{host}: {error}", reason=Reason.PROTOCOL_ERROR)
    return TransientError(f"{host} cannot be reached, or closed the connection: {error}")


def refusal(code: int, said: str, host: str) -> ConnectorError:
    """A reply code and its text. The enhanced status code (RFC 3463) counts for more than the reply's first digit."""
    text = f"{host} said {code} {said}"
    enhanced = re.match(r"([245])\.\d{1,3}\.\d{1,3}\b", said)
    if code == 432 or (enhanced and enhanced[0] in _QUOTAS):
        return RateLimitedError(text, retry_after=_QUOTAS.get(enhanced[0]) if enhanced else None, status=code)
    kind = int(enhanced[1]) if enhanced else code // 100
    if kind == 4 or code == 421:
        return TransientError(text, status=code)
    if kind != 5:
        return TransientError(f"{host} gave no SMTP answer: {code} {said}", reason=Reason.PROTOCOL_ERROR)
    if code in _SIGN_IN or (enhanced and enhanced[0] in {"5.7.8", "5.7.9"}):
        return UnauthorizedError(text, status=code)
    return RejectedError(text, status=code)
