"""How kinds of directories name things: which attribute is the identity, which the change time, what to ask for.

In: the word `flavour` of the manifest. Out: names, default filters and attributes, and the id in an entry's values. Pure.
"""

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from reconciler.sdk.ldap import Values


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """How one kind of directory names things. `filters` and `attributes` are by entity."""

    key: str
    changed: str
    time_format: str
    filters: Mapping[str, str]
    attributes: Mapping[str, tuple[str, ...]]
    ignores_referrals: bool

    def id_of(self, lower: Values) -> str | None:
        """The identity among values by lower-case name; None where the account may not read it."""
        values = lower.get(self.key.lower())
        if not values:
            return None
        if self.key == "objectGUID":
            return str(uuid.UUID(bytes_le=as_bytes(values[0])))
        return as_text(values[0]).lower()


_SHARED = ("cn", "sn", "givenName", "displayName", "mail", "title", "telephoneNumber", "mobile", "manager", "l")
_HR = ("employeeNumber", "employeeType")
FLAVOURS: Mapping[str, Flavour] = {
    "openldap": Flavour(
        key="entryUUID",
        changed="modifyTimestamp",
        time_format="%Y%m%d%H%M%SZ",
        filters={"people": "(objectClass=inetOrgPerson)", "groups": "(objectClass=groupOfNames)"},
        attributes={
            "people": (*_SHARED, *_HR, "uid", "departmentNumber", "ou", "modifyTimestamp"),
            "groups": ("cn", "description", "member", "owner", "modifyTimestamp"),
        },
        ignores_referrals=False,
    ),
    # whenChanged is every domain controller's own time: as a value it would change with the controller that answers.
    "active_directory": Flavour(
        key="objectGUID",
        changed="whenChanged",
        time_format="%Y%m%d%H%M%S.0Z",
        filters={"people": "(&(objectCategory=person)(objectClass=user))", "groups": "(objectClass=group)"},
        attributes={
            "people": (
                *(*_SHARED, *_HR, "employeeID", "sAMAccountName", "userPrincipalName", "department", "company"),
                *("physicalDeliveryOfficeName", "userAccountControl", "whenCreated"),
            ),
            "groups": ("cn", "sAMAccountName", "description", "mail", "member", "managedBy", "groupType"),
        },
        ignores_referrals=True,
    ),
}


def as_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def as_text(value: bytes | str) -> str:
    """UTF-8 as LDAP prescribes; what is not is bytes and becomes base64."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
