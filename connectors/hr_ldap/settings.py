"""What a manifest may say of a directory: where it is, what to read, and as whom.

In: `spec.config` and `spec.auth`. Out: frozen models, from which schema and reference come. No I/O.
"""

import re
from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from reconciler.model.secret import Secret
from reconciler.sdk.contract import AuthSettings, NoAuth, Settings

MAX_PAGE = 1000  # Active Directory gives no more, whatever is asked for
_PASSWORDS = {"userpassword", "unicodepwd", "dbcspwd", "ntpwdhistory", "lmpwdhistory", "sambantpassword"}


class Source(Settings):
    """Where one entity is: every field has a default from `base_dn` and `flavour`."""

    base_dn: str = Field("", description="subtree to read; default: the base_dn of the connection")
    filter: str = Field("", pattern=r"^(\(.*\))?$", description="LDAP filter (RFC 4515) in parentheses")
    attributes: tuple[str, ...] = Field((), description="attributes to read, by the names the schema gives them")

    @field_validator("attributes")
    @classmethod
    def _names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9;-]*|\d+(\.\d+)+", name):
                raise ValueError(f"{name} is no attribute name; * and + are not taken, name what you need")
            if name.lower() in _PASSWORDS:
                raise ValueError(f"{name} holds passwords and is never read")
        return names


class Config(Settings):
    url: str = Field(description="ldap://host:389 (upgraded with StartTLS) or ldaps://host:636")
    fallback_urls: tuple[str, ...] = Field((), description="tried in this order when url is unreachable")
    start_tls: bool = Field(True, description="upgrade ldap:// connections before the bind")
    allow_plaintext: bool = Field(False, description="permit ldap:// without StartTLS: password and records in clear")
    base_dn: str = Field(min_length=1)
    flavour: Literal["openldap", "active_directory"] = "openldap"
    people: Source = Source()
    groups: Source = Source()
    single_valued: tuple[str, ...] = Field((), description="attributes given as one value instead of a list")
    binary: tuple[str, ...] = Field((), description="further attributes that hold bytes; given as base64")
    member_ids: bool = Field(
        False, description="give groups member_ids, the ids of their members; costs one look-up for each of them"
    )
    ignore_referrals: bool | None = Field(
        None, description="true: parts of the tree on other servers are left out; default only on active_directory"
    )
    page_size: int = Field(500, ge=1, le=MAX_PAGE)
    timeout_seconds: float = Field(30, gt=0, le=600)

    @field_validator("url", "fallback_urls")
    @classmethod
    def _addresses(cls, given: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (given,) if isinstance(given, str) else given:
            parts = urlsplit(url)
            if parts.scheme not in {"ldap", "ldaps"} or not parts.hostname or parts.path.strip("/") or parts.query:
                raise ValueError(f"{url} must be ldap://host[:port] or ldaps://host[:port] and nothing more")
        return given

    @model_validator(mode="after")
    def _no_clear_text(self) -> Self:
        clear = [u for u in (self.url, *self.fallback_urls) if u.startswith("ldap://")]
        if clear and not self.start_tls and not self.allow_plaintext:
            raise ValueError(
                f"{clear[0]} without start_tls sends the password in clear; set allow_plaintext to permit it"
            )
        return self


class SimpleAuth(AuthSettings):
    """A DN and its password; Active Directory also takes `user@domain`."""

    type: Literal["simple"] = "simple"
    aliases: ClassVar[tuple[str, ...]] = ("basic", "basic_auth", "password")
    bind_dn: str = Field(min_length=1)
    password: Secret


class CertificateAuth(AuthSettings):
    """SASL EXTERNAL: a client certificate says who we are; the directory maps its subject to an account."""

    type: Literal["client_certificate"] = "client_certificate"
    certificate: str = Field(description="PEM, with intermediates if any; it is public and may stand in clear")
    private_key: Secret = Field(description="PEM without a password")


class ExternalAuth(NoAuth):
    """The same with the certificate of spec.network: client_cert_file and client_key_file."""

    type: Literal["external"] = "external"
