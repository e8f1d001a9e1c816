"""The credentials of an integration as they may be shown: kind, fingerprint, end and scopes, never a value.

In: rows. Out: `CredentialView`s of what its manifest holds (as it was applied) and of what was obtained at run time. Called by
the HTTP API, `reconciler credentials` and the order that renews them.
"""

from dataclasses import dataclass
from typing import Literal

from reconciler.sdk.authorize import ACCESS, REFRESH
from reconciler.store import integrations, inventory
from reconciler.store.database import Tx

Kind = Literal["manifest", "access_token", "refresh_token"]


@dataclass(frozen=True, slots=True)
class CredentialView:
    """`name`: the field of the manifest, or how the connector calls it. `scopes`: None where nobody said."""

    kind: Kind
    name: str
    fingerprint: str
    expires_at: str | None = None
    scopes: tuple[str, ...] | None = None
    updated_at: str | None = None


def credentials(tx: Tx, integration_id: int) -> list[CredentialView]:
    """Those of the manifest first."""
    written = integrations.applied_fingerprints(tx, integration_id)
    row = integrations.get(tx, integration_id)
    applied_at = row.applied_at if row else None
    found = [CredentialView("manifest", path, mark, updated_at=applied_at) for path, mark in sorted(written.items())]
    return found + [
        CredentialView(_kind(name), name, one.fingerprint, one.expires_at, one.scopes, one.updated_at)
        for name, one in inventory.credentials(tx, integration_id).items()
    ]


def renewable(tx: Tx, integration_id: int) -> list[str]:
    """Names of access tokens that can be obtained again: by a refresh token, or with what the manifest holds."""
    names = inventory.credentials(tx, integration_id).keys()
    return [n for n in names if _kind(n) == "access_token" and (not _is_allowed(n) or _refresh_of(n) in names)]


def _kind(name: str) -> Kind:
    return "refresh_token" if name.startswith("refresh") else "access_token"


def _is_allowed(name: str) -> bool:
    return name.startswith(f"{ACCESS}-")


def _refresh_of(name: str) -> str:
    return f"{REFRESH}-{name.removeprefix(f'{ACCESS}-')}"
