"""What is pushed to us, read strictly: JSON without doubt about its meaning, events and records of the right shape. Pure.

Refused: NaN and infinities, a key that stands twice in one object, text that is no Unicode, nesting without end. Errors say where
and which rule, never a value: it may be secret.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from reconciler.model.clock import from_rfc3339
from reconciler.model.event import Lifecycle
from reconciler.sdk.inbound import EVENT_BYTES, Told

MOST_EVENTS = 500
MOST_RECORDS = 1000
AHEAD = timedelta(minutes=10)
ENTITY = re.compile(r"[a-z][a-z0-9_]{0,62}")
RECORD_ID = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_EVENT_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_EVENT_ID = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_EVENT = frozenset({"id", "type", "occurred_at", "subject", "data"})
_RECORD = frozenset({"id", "version", "updated_at", "data"})
_OURS = frozenset(one.partition(".")[0] for one in Lifecycle)
Check = Callable[[str, Mapping[str, Any]], str]


class NotUnderstoodError(Exception):
    """`code` is stable, `detail` for people."""

    def __init__(self, detail: str, code: str = "schema") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Pushed:
    """One record as pushed; `payload` None deletes it."""

    key: str
    payload: bytes | None
    version: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Events:
    """Those that are good, with their places in the request, and what is wrong with the others."""

    events: Sequence[Told]
    places: Sequence[int]
    rejected: Sequence[Mapping[str, Any]]


def strict(body: bytes) -> Any:
    """Raises NotUnderstoodError."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        if b"\\u" in body:  # only so can half a character come in
            json.dumps(value, ensure_ascii=False).encode()
    except NotUnderstoodError:
        raise
    except (ValueError, RecursionError):
        raise NotUnderstoodError("not JSON in UTF-8", "invalid-json") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotUnderstoodError("a key stands twice in one object", "invalid-json")
    return found


def _constant(name: str) -> Any:
    raise NotUnderstoodError(f"{name} is no JSON", "invalid-json")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NotUnderstoodError("a number is too large", "invalid-json")
    return value


def encoded(data: Mapping[str, Any]) -> bytes:
    """As it is stored: the same value gives the same bytes, whatever its spaces were."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def read_events(value: Any, now: datetime, check: Check) -> Events:
    """One event or `{"events": [...]}`; raises NotUnderstoodError where it is neither."""
    if not isinstance(value, dict):
        raise NotUnderstoodError("expected an event, or an object with events")
    every = value["events"] if set(value) == {"events"} else [value]
    if not isinstance(every, list) or not 1 <= len(every) <= MOST_EVENTS:
        raise NotUnderstoodError(f"events: expected a list of 1 to {MOST_EVENTS}")
    good, places, rejected = [], [], []
    for place, one in enumerate(every):
        try:
            good.append(_event(one, now, check))
            places.append(place)
        except NotUnderstoodError as error:
            rejected.append(refusal(place, one, _EVENT_ID, error))
    return Events(good, places, rejected)


def refusal(place: int, one: Any, ids: re.Pattern[str], error: NotUnderstoodError) -> Mapping[str, Any]:
    """What a receipt says of one that is not taken: with its id, where it has one."""
    name = one.get("id") if isinstance(one, dict) else None
    named = {"id": name} if isinstance(name, str) and ids.fullmatch(name) else {}
    return {"index": place, **named, "code": error.code, "detail": error.detail}


def _event(one: Any, now: datetime, check: Check) -> Told:
    _shape(one, _EVENT, ("id", "type", "occurred_at", "data"))
    name, kind, subject, data = one["id"], one["type"], one.get("subject", ""), one["data"]
    if not isinstance(name, str) or not _EVENT_ID.fullmatch(name):
        raise NotUnderstoodError("id: expected a text of 1 to 128 characters")
    if not isinstance(kind, str) or len(kind) > 200 or not _EVENT_TYPE.fullmatch(kind):
        raise NotUnderstoodError("type: expected words of a-z, 0-9 and _ with dots between them")
    if kind.partition(".")[0] in _OURS:
        raise NotUnderstoodError(f"type: {', '.join(sorted(_OURS))} are first words of events of the daemon itself")
    if not isinstance(subject, str) or len(subject) > 255:
        raise NotUnderstoodError("subject: expected a text of at most 255 characters")
    at = _time(one["occurred_at"], "occurred_at")
    if at > now + AHEAD:
        raise NotUnderstoodError("occurred_at: more than ten minutes in the future")
    if len(encoded(_object_of(data))) > EVENT_BYTES:
        raise NotUnderstoodError(f"data: more than {EVENT_BYTES} bytes", "too-large")
    if said := check(kind, data):
        raise NotUnderstoodError(said)
    return Told(id=name, type=kind, at=at, subject=subject, data=data)


def _shape(one: Any, known: frozenset[str], needed: Sequence[str]) -> None:
    if not isinstance(one, dict):
        raise NotUnderstoodError("expected an object")
    if missing := [name for name in needed if name not in one]:
        raise NotUnderstoodError(f"{missing[0]}: is missing")
    if not known.issuperset(one):
        raise NotUnderstoodError(f"only {', '.join(sorted(known))} are known")


def _object_of(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise NotUnderstoodError("data: expected an object")
    return data


def _time(text: Any, name: str) -> datetime:
    """RFC 3339, which is stricter than what else reads like a time."""
    if not isinstance(text, str) or not re.fullmatch(
        r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", text
    ):
        raise NotUnderstoodError(f"{name}: not RFC 3339 with an offset")
    try:
        return from_rfc3339(text.upper())
    except (ValueError, OverflowError):
        raise NotUnderstoodError(f"{name}: no such time") from None


def read_record(one: Any, entity: str, check: Check, key: str | None = None) -> Pushed:
    """A record with its data; `key` where it does not stand in the record itself. Raises NotUnderstoodError."""
    _shape(one, _RECORD if key is None else _RECORD - {"id"}, ("data",) if key is not None else ("id", "data"))
    name = one["id"] if key is None else key
    if not isinstance(name, str) or not RECORD_ID.fullmatch(name):
        raise NotUnderstoodError("id: expected a text of 1 to 255 characters")
    at = one.get("updated_at")
    if said := check(entity, _object_of(one["data"])):
        raise NotUnderstoodError(said)
    moment = None if at is None else _time(at, "updated_at")
    return Pushed(name, encoded(one["data"]), read_version(one.get("version", "")), moment)


def read_version(version: Any) -> str:
    if not isinstance(version, str) or len(version) > 255 or not version.isprintable():
        raise NotUnderstoodError("version: expected a text of at most 255 characters")
    return version


def is_older(new: Pushed, version: str, updated_at: datetime | None) -> bool:
    """Than what is known: by version where both are numbers, else by their times; where neither tells, it is newer."""
    if _is_number(new.version) and _is_number(version):
        return int(new.version) < int(version)
    return new.updated_at is not None and updated_at is not None and new.updated_at < updated_at


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
