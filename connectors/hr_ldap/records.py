"""Entries of a directory as records, and what one entity is asked for. Pure.

In: entries as bytes, and the ids of the entries that their DNs stand for. Out: pages. Called by the connector.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from connectors.hr_ldap.flavours import Flavour, as_bytes, as_text
from reconciler.model.clock import from_rfc3339, rfc3339
from reconciler.model.record import Page, ReadRequest, Reject, Scope
from reconciler.sdk.errors import ForbiddenError, RejectedError
from reconciler.sdk.ldap import Entry, Values

_TIME = re.compile(r"\d{14}(?:[.,]\d+)?(Z|[+-]\d{4})")
BINARY = frozenset(
    {"objectsid", "jpegphoto", "thumbnailphoto", "photo", "audio", "usercertificate;binary", "objectguid"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How one entity is asked for and turned into records. `single`, `binary` and `link` are in lower case.

    `link` is the attribute of DNs whose ids stand in the record, empty for none: `manager` or `member`.
    """

    flavour: Flavour
    base_dn: str
    filter: str
    attributes: tuple[str, ...]
    single: frozenset[str]
    binary: frozenset[str]
    link: str = ""

    @property
    def wire_names(self) -> list[str]:
        """What the server is asked for: the record's attributes, its identity and its change time."""
        return list({n.lower(): n for n in (*self.attributes, self.flavour.key, self.flavour.changed)}.values())

    def since(self, request: ReadRequest, overlap: timedelta) -> str:
        """The filter with its closed lower bound; without one for a full read."""
        stored = request.since.get("")
        if stored is None or request.scope is Scope.FULL:
            return self.filter
        bound = (from_rfc3339(stored) - overlap).strftime(self.flavour.time_format)
        return f"(&{self.filter}({self.flavour.changed}>={bound}))"

    def linked(self, entries: Iterable[Entry]) -> set[str]:
        """The DNs whose ids `page` will want."""
        found = (values for e in entries for name, values in e.values.items() if name.lower() == self.link)
        return {as_text(dn) for dns in found for dn in dns}

    def page(self, entries: Iterable[Entry], ids: Mapping[str, str | None], position: Mapping[str, Any] | None) -> Page:
        """Raises ForbiddenError where no entry shows its identity: without it a full read would find everybody gone."""
        keys: list[str] = []
        payloads: list[bytes] = []
        rejects: list[Reject] = []
        times: list[datetime] = []
        asked = {name.lower() for name in self.wire_names}
        names = [(name, name.lower()) for name in self.attributes]
        for entry in entries:
            values = _by_lower_name(entry.values, asked)
            key = self.flavour.id_of(values)
            record = {"id": key, "dn": entry.dn, **self._record(names, values), **self._ids(values, ids)}
            payload = msgspec.json.encode(record, order="sorted")
            if key is None:
                rejects.append(Reject(payload, (f"no {self.flavour.key}: the account may not read it",)))
                continue
            keys.append(key)
            payloads.append(payload)
            times.extend(t for t in map(time_of, values.get(self.flavour.changed.lower(), ())) if t)
        if rejects and not keys:
            raise ForbiddenError(f"the account may read entries of {self.base_dn} but not their {self.flavour.key}")
        watermark = rfc3339(max(times)) if times else None
        return Page(tuple(keys), tuple(payloads), rejects=tuple(rejects), watermark=watermark, position=position)

    def keys(self, entries: Sequence[Entry], position: Mapping[str, Any] | None) -> Page:
        """A page of a listing of keys. Raises ForbiddenError where an entry hides its identity: nobody could tell who is gone."""
        page = self.page(entries, {}, position)
        if page.rejects:
            message = f"{len(page.rejects)} entries of {self.base_dn} do not show their {self.flavour.key}"
            raise ForbiddenError(f"{message}, so nobody can tell who is gone: let the account read it")
        asked = {name.lower() for name in self.wire_names}
        shown = (_by_lower_name(e.values, asked).get(self.flavour.changed.lower(), ()) for e in entries)
        times = (next(filter(None, map(time_of, values)), None) for values in shown)
        return replace(page, watermark=None, changed_at=tuple(rfc3339(at) if at else "" for at in times))

    def _record(self, names: Iterable[tuple[str, str]], lower: Values) -> dict[str, Any]:
        """By the names of the manifest, whatever case the server prefers."""
        return {name: self._value(low, lower[low]) for name, low in names if low in lower}

    def _ids(self, lower: Values, ids: Mapping[str, str | None]) -> dict[str, Any]:
        """Of several managers the one with the smallest id: the order of their DNs would change with a rename."""
        found = sorted({key for dn in lower.get(self.link, ()) if (key := ids.get(as_text(dn)))})
        match self.link:
            case "manager":
                return {"manager_id": found[0] if found else None}
            case "member":
                return {"member_ids": found}
            case _:
                return {}

    def _value(self, name: str, values: Sequence[bytes | str]) -> Any:
        shown = sorted(base64.b64encode(as_bytes(v)).decode() if name in self.binary else as_text(v) for v in values)
        return shown[0] if name in self.single or name == self.flavour.changed.lower() else shown


def _by_lower_name(values: Values, asked: AbstractSet[str]) -> Values:
    """Names with options (`cn;lang-de`) come along uninvited and are left out.

    Another name means that an alias was asked for: leaving it out would silently lose an attribute.
    """
    lower = {name.lower(): found for name, found in values.items() if found}
    if lower.keys() <= asked:
        return lower
    uninvited = sorted(name for name in values if name.lower() not in asked and ";" not in name)
    if uninvited:
        raise RejectedError(
            f"the directory answered with {', '.join(uninvited)}, not asked for by that name; "
            f"write {uninvited[0]} in `attributes` in place of its alias or OID"
        )
    return lower


def time_of(value: bytes | str) -> datetime | None:
    """GeneralizedTime with seconds; None for anything else."""
    text = as_text(value)
    found = _TIME.fullmatch(text)
    if not found:
        return None
    try:
        at = datetime.fromisoformat(f"{text[:8]}T{text[8:14]}{found[1]}")
    except ValueError:
        return None
    return at.astimezone(UTC)
