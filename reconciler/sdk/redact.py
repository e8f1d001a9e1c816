"""Masking of secrets in free text: text or JSON-like detail in, the same without secrets out.

Two nets: every registered value of 8 characters and more, in the spellings in which remotes echo it, and patterns of
well-known credentials for what nobody registered. Used as the last processor of logging and before vendor text is
stored or raised. A value is looked up by 6-character pieces at every third place of the text, so the cost depends on
the text's length and not on how many thousand values are known. Not done: shorter values (they would mask prose).
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from reconciler.model.secret import MASK, Secret

SHORTEST = 8
# A token that lives an hour must not stay for the life of the process, but the one before is still in answers on the way.
MOST_ADDED = 8
_GRAM = 6
_STEP = SHORTEST - _GRAM + 1

_NAMES = (
    "access_token|refresh_token|id_token|auth_token|api_token|token|client_secret|client_assertion|secret|password|passwd|"
    "pwd|api_key|apikey|api-key|private_key|signature|assertion|authorization|proxy-authorization|x-api-key|cookie|set-cookie"
)
_SECRET_NAME = re.compile(rf"(?:.*[_.-])?(?:{_NAMES})", re.IGNORECASE)
# What a text must hold (in lower case) for a pattern to be tried, and the pattern; group 1 is kept.
_PATTERNS = tuple(
    (markers.split(), re.compile(pattern))
    for markers, pattern in (
        ("private", r"()-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*?-----END [A-Z ]*PRIVATE KEY-----|[\s\S]*)"),
        ("age-secret-key-", r"()\bAGE-SECRET-KEY-[A-Z0-9-]{8,}"),
        ("xox xapp-", r"()\b(?:xox[a-z](?:\.xox[a-z])?|xapp)-[A-Za-z0-9-]{8,}"),
        ("gho_ ghp_ ghs_ ghu_ ghr_ github_pat_", r"()\b(?:gh[opsur]|github_pat)_[A-Za-z0-9_]{8,}"),
        ("glpat-", r"()\bglpat-[A-Za-z0-9_.-]{8,}"),
        ("atatt lin_api_ whsec_ sk_live_", r"()\b(?:ATATT|lin_api_|whsec_|sk_live_)[A-Za-z0-9_+/=-]{8,}"),
        ("eyj", r"()\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
        (
            "bearer basic token negotiate",
            r"(\b(?:[Bb]earer|[Bb]asic|[Tt]oken|[Nn]egotiate)\s+)(?=[^\s\"',;]{0,200}[0-9=])[A-Za-z0-9+/=._~-]{8,}",
        ),
        ("://", r"(\b[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@\"'?#]{0,200}:)[^\s/@\"']{1,500}(?=@)"),
        ("hooks.slack.com/", r"(\bhooks\.slack\.com/(?:services|workflows|triggers)/)[A-Za-z0-9/_-]+"),
        (
            "authorization x- cookie",
            r"(\b(?i:proxy-authorization|authorization|set-cookie|cookie|x-[a-z-]{0,40}(?:token|key|secret|signature))\b[\"']?\s*[:=]\s*[\"']?)[^\r\n\"']+",
        ),
        (
            "token secret assertion passw pwd key signature authorization cookie",
            rf"(\b(?i:{_NAMES})[\"']?\s*(?:=|[\"']\s*:)\s*)(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\s&,;\"'}}]+)",
        ),
    )
)


def spellings(value: str) -> frozenset[str]:
    """Every way in which a value of a request may come back in text, longest useful pieces only."""
    if len(value) < SHORTEST:
        return frozenset()
    whole = {value, *(line.strip() for line in value.splitlines())}
    found = set(whole)
    for text in whole:
        for escaped in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], repr(text)[1:-1]):
            found |= {escaped, escaped.replace("/", r"\/")}
        for quoted in (quote(text, safe=""), quote(text), quote_plus(text)):
            found |= {quoted, re.sub("%..", lambda m: m[0].lower(), quoted)}
        found |= _in_base64(text.encode())
    return frozenset(text for text in found if len(text) >= SHORTEST)


def _in_base64(value: bytes) -> set[str]:
    """The characters that stand for `value` wherever it begins inside a longer text, as in Basic `user:password`."""
    found = set()
    for before in range(3):
        text = base64.b64encode(b"\0" * before + value).decode()
        first = -(-before * 8 // 6)
        core = text[first : (before + len(value)) * 8 // 6]
        found |= {core, core.replace("+", "-").replace("/", "_")}
    return found


class Redactor:
    """Knows the secrets of this process, by owner; safe to read from any thread while values come and go."""

    def __init__(self) -> None:
        self._owned: dict[str, frozenset[str]] = {}
        self._added: dict[str, dict[str, frozenset[str]]] = {}
        self._count: Counter[str] = Counter()
        self._grams: dict[str, tuple[tuple[int, str], ...]] = {}

    def __repr__(self) -> str:
        return f"Redactor({len(self._count)} spellings of {len(self._owned.keys() | self._added.keys())} owners)"

    def register(self, owner: str, values: Iterable[Secret | str]) -> None:
        """What `owner` (an integration, the daemon) holds now; values it held before are forgotten."""
        before = self._owned.get(owner, frozenset())
        texts = (v.reveal() if isinstance(v, Secret) else v for v in values)
        after = frozenset(spelling for text in texts for spelling in spellings(text))
        self._owned[owner] = after
        self._move(before - after, after - before)
        self._forget_added(owner)

    def add(self, owner: str, value: Secret | str) -> None:
        """One more value of `owner`, such as a token that was obtained just now; the last few used ones are known."""
        text = value.reveal() if isinstance(value, Secret) else value
        added = self._added.setdefault(owner, {})
        known = added.pop(text, None)
        added[text] = spellings(text) if known is None else known
        if known is None:
            self._move((), added[text])
        while len(added) > MOST_ADDED:
            self._move(added.pop(next(iter(added))), ())

    def forget(self, owner: str) -> None:
        self._move(self._owned.pop(owner, frozenset()), ())
        self._forget_added(owner)

    def _forget_added(self, owner: str) -> None:
        for gone in self._added.pop(owner, {}).values():
            self._move(gone, ())

    def _move(self, gone: Iterable[str], come: Iterable[str]) -> None:
        for text in gone:
            self._count[text] -= 1
            if not self._count[text]:
                del self._count[text]
                self._unindex(text)
        for text in come:
            self._count[text] += 1
            if self._count[text] == 1:
                self._index(text)

    def _index(self, text: str) -> None:
        for offset in range(_STEP):
            gram = text[offset : offset + _GRAM]
            self._grams[gram] = (*self._grams.get(gram, ()), (offset, text))

    def _unindex(self, text: str) -> None:
        for offset in range(_STEP):
            gram = text[offset : offset + _GRAM]
            left = tuple(entry for entry in self._grams[gram] if entry != (offset, text))
            if left:
                self._grams[gram] = left
            else:
                del self._grams[gram]

    def text(self, text: str) -> str:
        """`text` with every known secret replaced by the mask."""
        masked = self._without_values(text)
        lower = masked.lower()
        for markers, pattern in _PATTERNS:
            if any(marker in lower for marker in markers):
                masked = pattern.sub(rf"\g<1>{MASK}", masked)
        return masked

    def value(self, value: Any) -> Any:
        """The same for JSON-like detail: keys, values and nested parts; strings under telling names are masked whole."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Secret):
            return MASK
        if isinstance(value, bytes | bytearray):
            return self.text(bytes(value).decode(errors="replace"))
        if isinstance(value, Mapping):
            return {self.value(k): self._field(k, v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.value(item) for item in value]
        return value

    def _field(self, name: Any, value: Any) -> Any:
        if isinstance(name, str) and isinstance(value, str) and value and _SECRET_NAME.fullmatch(name):
            return MASK
        return self.value(value)

    def _without_values(self, text: str) -> str:
        spans = self._spans(text)
        if not spans:
            return text
        pieces, at = [], 0
        for start, end in sorted(spans):
            if start >= at:
                pieces += [text[at:start], MASK]
            at = max(at, end)
        return "".join([*pieces, text[at:]])

    def _spans(self, text: str) -> set[tuple[int, int]]:
        grams, spans = self._grams, set()
        for at in range(0, len(text) - _GRAM + 1, _STEP):
            for offset, known in grams.get(text[at : at + _GRAM], ()):
                start = at - offset
                if start >= 0 and text.startswith(known, start):
                    spans.add((start, start + len(known)))
        return spans
