"""Pagers: how a remote continues a listing. Small frozen objects, tested without a server.

A pager turns a position (JSON, stored with every page) into a request and the answer into the next position. It ends on
the remote's own "no more" or on an empty page, never because a page was shorter than asked.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urljoin

import msgspec

from reconciler.sdk.contract import Answer

Position = Mapping[str, Any]
_LINK = re.compile(r"""<([^>]*)>\s*((?:;\s*[^,;="]+(?:=\s*(?:"(?:[^"\\]|\\.)*"|[^,;"]*))?)*)""")
_REL = re.compile(r""";\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,"]*))""", re.IGNORECASE)
_TOTAL_HEADERS = ("x-total-count", "x-total")


class Pager(Protocol):
    """`envelope` names fields of the answer (dotted) that `after` wants decoded; it finds them nested in `meta`."""

    @property
    def envelope(self) -> tuple[str, ...]: ...

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        """The URL to ask instead of the entity's path (None: the path) and the parameters to add."""
        ...

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        """Where the next page is; None at the end. `count` is how many records this page had."""
        ...


@runtime_checkable
class Computable(Protocol):
    """A pager that can tell places which nobody has been to. The remote's answer decides in the end."""

    def ahead(self, position: Position | None, size: int) -> Position | None:
        """Where the page after a full one is; None where only its answer can tell."""
        ...

    def resized(self, position: Position | None, size: int, smaller: int) -> Position | None:
        """The same place, or a little before it, in smaller pages."""
        ...


@dataclass(frozen=True, slots=True)
class SinglePage:
    """The remote answers everything at once."""

    envelope: tuple[str, ...] = ()

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        return None, {}

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        return None


@dataclass(frozen=True, slots=True)
class PageNumber:
    """`page=N` from `first`; ends on an empty page."""

    page: str = "page"
    size: str = "per_page"
    first: int = 1
    envelope: tuple[str, ...] = ()

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        number = position["page"] if position else self.first
        return None, {self.page: number, self.size: size}

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        number = position["page"] if position else self.first
        return {"page": number + 1} if count else None

    def ahead(self, position: Position | None, size: int) -> Position | None:
        return {"page": (position["page"] if position else self.first) + 1}

    def resized(self, position: Position | None, size: int, smaller: int) -> Position | None:
        passed = (position.get("page", self.first) - self.first) * size if position else 0
        return {**position, "page": self.first + passed // smaller} if position else None


@dataclass(frozen=True, slots=True)
class Offset:
    """`offset=N`, advanced by what came, not by what was asked; ends on an empty page."""

    offset: str = "offset"
    size: str = "limit"
    envelope: tuple[str, ...] = ()

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        return None, {self.offset: position["offset"] if position else 0, self.size: size}

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        return {"offset": (position["offset"] if position else 0) + count} if count else None

    def ahead(self, position: Position | None, size: int) -> Position | None:
        return {"offset": (position["offset"] if position else 0) + size}

    def resized(self, position: Position | None, size: int, smaller: int) -> Position | None:
        return position


@dataclass(frozen=True, slots=True)
class NextToken:
    """A token inside the answer at `path` (dotted); missing, null or empty means the end, an empty page does not."""

    path: str
    param: str = "cursor"
    size: str = "limit"

    @property
    def envelope(self) -> tuple[str, ...]:
        return (self.path,)

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        params: dict[str, Any] = {self.size: size}
        if position:
            params[self.param] = position["token"]
        return None, params

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        token = dig(meta, self.path)
        return {"token": token} if token else None

    def ahead(self, position: Position | None, size: int) -> Position | None:
        return None

    def resized(self, position: Position | None, size: int, smaller: int) -> Position | None:
        return position


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """RFC 8288 `Link: <url>; rel="next"`: the URL is followed, never built. No next link means the end."""

    size: str = "per_page"
    envelope: tuple[str, ...] = ()

    def request(self, position: Position | None, size: int) -> tuple[str | None, dict[str, Any]]:
        return (position["url"], {}) if position else (None, {self.size: size})

    def after(self, position: Position | None, answer: Answer, meta: Mapping[str, Any], count: int) -> Position | None:
        url = next_link(answer.headers.get("link", ""))
        return {"url": urljoin(answer.url, url)} if url else None


def next_link(header: str) -> str | None:
    """The target of `rel="next"` in a Link header (RFC 8288)."""
    for target, parameters in _LINK.findall(header):
        rel = _REL.search(parameters)
        if rel and "next" in (rel[1] or rel[2] or "").lower().split():
            return str(target)
    return None


def total_of(headers: Mapping[str, str]) -> int | None:
    """The remote's own count of the listing, where a header says it."""
    for name in _TOTAL_HEADERS:
        text = headers.get(name, "")
        if text.isdigit():
            return int(text)
    return None


def dig(value: Any, path: str) -> Any:
    """The value at a dotted path; None where a step is missing."""
    for step in path.split(".") if path else ():
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


class Cut:
    """Cuts records out of an answer as raw bytes, decoding only key, cursor and `also` of each.

    The answer is scanned twice by compiled decoders, so there is no per-record Python beyond the result lists.
    """

    def __init__(self, records: str, envelope: tuple[str, ...], heads: tuple[str, ...]) -> None:
        self._steps = tuple(records.split(".")) if records else ()
        self._beside = _siblings(self._steps, envelope)
        head: Any = _head_type(heads)
        self._raws = msgspec.json.Decoder(self._nest(list[msgspec.Raw], self._beside))
        self._read = msgspec.json.Decoder(self._nest(list.__class_getitem__(head), [()] * len(self._steps)))

    def _nest(self, leaf: Any, beside: Sequence[tuple[str, ...]]) -> Any:
        """The type of the answer: one struct per step to the records, with the fields beside that step."""
        kind = leaf
        for step, names in reversed(list(zip(self._steps, beside, strict=True))):
            fields: list[Any] = [("records", kind), *((f"m{i}", Any, None) for i in range(len(names)))]
            rename = {"records": step, **{f"m{i}": name for i, name in enumerate(names)}}
            kind = msgspec.defstruct("Envelope", fields, rename=rename, kw_only=True, gc=False)
        return kind

    def __call__(self, body: bytes) -> tuple[list[bytes], list[Any], dict[str, Any]]:
        """(payloads, heads, envelope fields); raises msgspec.DecodeError for anything that is not this shape."""
        try:
            raws = self._raws.decode(body)
            heads = self._read.decode(body)
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(f"the answer is not UTF-8: {error.reason} at byte {error.start}") from None
        except RecursionError:
            raise msgspec.DecodeError("the answer is nested too deeply") from None
        meta: dict[str, Any] = {}
        at = meta
        for step, names in zip(self._steps, self._beside, strict=True):
            at.update({name: getattr(raws, f"m{i}") for i, name in enumerate(names)})
            raws, heads, at[step] = raws.records, heads.records, {}
            at = at[step]
        return [bytes(r) for r in raws], heads, meta


def _siblings(steps: tuple[str, ...], envelope: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Per step to the records, the names beside it that the envelope needs; what is below them is decoded whole."""
    beside: list[dict[str, None]] = [{} for _ in steps]
    for path in envelope:
        parts = path.split(".")
        depth = next((i for i, (a, b) in enumerate(zip(parts, steps, strict=False)) if a != b), None)
        if depth is None:
            place = ".".join(steps) or "the top of the answer"
            raise ValueError(f"envelope field {path} is not beside the records at {place}: name the field itself")
        beside[depth][parts[depth]] = None
    return [tuple(names) for names in beside]


def _head_type(heads: tuple[str, ...]) -> Any:
    """A struct with attributes `t0`, `t1`, ... for the top-level names of `heads`; what is nested is decoded whole.

    What was decoded holds no cycles, so the collector is spared thousands of objects a page.
    """
    tops = dict.fromkeys(h.split(".", 1)[0] for h in heads)
    names = {f"t{i}": top for i, top in enumerate(tops)}
    return msgspec.defstruct("Head", [(attr, Any, None) for attr in names], rename=names, kw_only=True, gc=False)


def head_getter(heads: tuple[str, ...], field: str) -> Any:
    """A function from a head of `Cut` to the value of dotted `field`."""
    tops = list(dict.fromkeys(h.split(".", 1)[0] for h in heads))
    top, _, rest = field.partition(".")
    whole = attrgetter(f"t{tops.index(top)}")
    return (lambda head: dig(whole(head), rest)) if rest else whole
