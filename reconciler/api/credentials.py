"""Answers about credentials: what an integration signs in with, never a value."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from reconciler.api.integrations import Shown


class Credential(Shown):
    kind: Literal["manifest", "access_token", "refresh_token"]
    name: str = Field(description="The field of the manifest, or how the connector calls it.")
    fingerprint: str = Field(description="The same for the same value; empty where nobody knows.")
    expires_at: datetime | None
    scopes: list[str] | None = Field(description="Null where nobody said.")
    updated_at: datetime | None


class Credentials(Shown):
    data: list[Credential]


class AuthorizationBegun(Shown):
    """`url` is for the person who allows it, alone, and is shown only now."""

    id: str
    url: str | None = Field(
        description="Where a person goes to allow it. Null when the same request is answered again."
    )
    redirect_uri: str
    expires_at: datetime


class AuthorizationState(Shown):
    id: str
    status: Literal["waiting", "authorized", "denied", "failed"]
    message: str


class Rotation(Shown):
    status: Literal["begun"]
    renewed: list[str] = Field(description="Names of the credentials that are obtained anew.")
