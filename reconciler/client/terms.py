"""With whom a client talks, and as whom: address, token, certificates.

The token is in no repr, message or log: it is asked for when a request is made, and is checked first, since the HTTP library
would show a header that cannot be sent.
"""

import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from reconciler import __version__
from reconciler.client.conversation import Patience
from reconciler.client.errors import SettingError
from reconciler.model.secret import Secret

URL_ENV = "RECONCILER_URL"
TOKEN_ENV = "RECONCILER_TOKEN"
TOKEN_FILE_ENV = "RECONCILER_TOKEN_FILE"
CA_FILE_ENV = "RECONCILER_CA_FILE"
CERT_FILE_ENV = "RECONCILER_CLIENT_CERT_FILE"
KEY_FILE_ENV = "RECONCILER_CLIENT_KEY_FILE"
USER_AGENT = f"reconciler/{__version__}"
_VISIBLE = re.compile("[!-~]+")
Token = str | Secret | Callable[[], str]
"""A function is asked before each request: for tokens that change."""


@dataclass(frozen=True, slots=True)
class Terms:
    url: str
    token: Token | None = field(repr=False)
    patience: Patience
    verify: ssl.SSLContext = field(repr=False)
    user_agent: str = USER_AGENT
    trust_env: bool = True

    def headers(self) -> dict[str, str]:
        """Raises SettingError."""
        token = _clear(self.token)
        if token is not None and not _VISIBLE.fullmatch(token):
            raise SettingError("the token is not one: it is empty, or has spaces or other characters that no token has")
        return {"user-agent": self.user_agent, **({"authorization": f"Bearer {token}"} if token else {})}


def _clear(token: Token | None) -> str | None:
    if isinstance(token, Secret):
        return token.reveal()
    return token() if callable(token) else token


def make_terms(
    url: str,
    token: Token | None,
    *,
    patience: Patience | None = None,
    ca_file: str | Path | None = None,
    certificate: tuple[str | Path, str | Path] | None = None,
    user_agent: str = "",
    trust_env: bool = True,
) -> Terms:
    """`certificate`: files of the client's own certificate and its key. Raises SettingError."""
    agent = f"{user_agent} {USER_AGENT}" if user_agent else USER_AGENT
    address = _checked(url)
    context = _context(ca_file, certificate, is_needed=not address.startswith("http:"))
    made = Terms(address, token, patience or Patience(), context, agent, trust_env)
    if not callable(token):
        made.headers()
    return made


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise SettingError(
            "the address of the server is none: expected such as https://reconciler.example.org"
        ) from None
    if parts.username is not None or parts.password is not None:
        raise SettingError("the address of the server must not hold a password; give a token instead")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise SettingError(f"the address {url} is none of a server: expected such as https://reconciler.example.org")
    return url.rstrip("/")


def _context(
    ca_file: str | Path | None, certificate: tuple[str | Path, str | Path] | None, *, is_needed: bool
) -> ssl.SSLContext:
    """What the system trusts, and the named authority beside it. Reading the system's takes its time."""
    if not is_needed:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
        if certificate:
            context.load_cert_chain(*certificate)
    except OSError as error:  # ssl.SSLError is one, too
        which = f"{ca_file or ''} {' '.join(map(str, certificate or ()))}".strip()
        raise SettingError(f"a certificate cannot be used: {which}: {error.strerror or error}") from None
    return context


def named_by(env: Mapping[str, str], url: str | None = None) -> dict[str, Any]:
    """The arguments of a client, as the environment names them; `url` counts more. Raises SettingError."""
    address = url or env.get(URL_ENV)
    if not address:
        raise SettingError(f"which server? Set {URL_ENV}")
    cert, key = env.get(CERT_FILE_ENV), env.get(KEY_FILE_ENV)
    certificate = (cert, key or cert) if cert else None
    return {"url": address, "token": _token_of(env), "ca_file": env.get(CA_FILE_ENV), "certificate": certificate}


def _token_of(env: Mapping[str, str]) -> Token:
    """A file is read for each request: whoever renews a token writes it anew."""
    token, file = env.get(TOKEN_ENV), env.get(TOKEN_FILE_ENV)
    if token and file:
        raise SettingError(f"{TOKEN_ENV} and {TOKEN_FILE_ENV} are both set: which one counts?")
    if token:
        return Secret(token)
    if not file:
        raise SettingError(f"no token: set {TOKEN_ENV} or {TOKEN_FILE_ENV}; make one: reconciler token create")
    path = Path(file)

    def read() -> str:
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(f"{TOKEN_FILE_ENV}: {path} cannot be read: {error}") from None

    read()
    return read
