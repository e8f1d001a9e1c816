"""Which values of a document are encrypted: the `*_suffix` and `*_regex` fields of a `sops` block.

In: those fields. Out: a frozen `Rules` that the tree walk asks once per key; whatever lies below a matching key matches
too, so a walk carries one flag instead of looking at whole paths again.

Patterns are written for Go's RE2 and come from whoever may write to the repository. Those that Python would read
differently, or that could run for ever, are refused. Not done: rules by comment (`*_comment_regex`) for writing; when
reading, a value's own form tells whether it is encrypted and the MAC covers the rest.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.marks import looks_encrypted
from reconciler.model.finding import Code

Kind = Literal["unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex", "comment_regex"]
KINDS: tuple[Kind, ...] = ("unencrypted_suffix", "encrypted_suffix", "unencrypted_regex", "encrypted_regex")
COMMENT_KINDS = ("unencrypted_comment_regex", "encrypted_comment_regex")
DEFAULT_SUFFIX = "_unencrypted"
_LONGEST_KEY = 256
_MOST_REPEATS = 3
# One token of a pattern: an escape, a character class, or a single character.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_ONLY_PYTHON = re.compile(r"\(\?(?:[=!#(>]|<[=!]|P=|[a-zA-Z]*[LuxaL])|\[\[:|[*+?}]\+")


@dataclass(frozen=True, slots=True)
class Rules:
    """`kind` and `text` as they stand in the file; `mac_only_encrypted` leaves clear values out of the MAC."""

    kind: Kind = "unencrypted_suffix"
    text: str = DEFAULT_SUFFIX
    mac_only_encrypted: bool = False

    def matcher(self) -> Callable[[str], bool]:
        """A predicate on one key. Raises `SopsError` for a pattern that is not safe to run."""
        if self.kind == "comment_regex":
            return lambda _: False
        if self.kind.endswith("_suffix"):
            suffix = self.text
            return lambda key: key.endswith(suffix)
        return _searcher(compile_pattern(self.text))

    def encrypts(self, *, matched: bool, value: Any) -> bool:
        """Whether a value is to be encrypted, given whether one of the keys on its path matched."""
        if self.kind == "comment_regex":
            return looks_encrypted(value)
        return matched is self.kind.startswith("encrypted")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A Go pattern as Python's, when both mean the same and its running time is bounded."""
    tokens = _TOKEN.findall(pattern)
    if _ONLY_PYTHON.search(pattern) or any(_differs(token) for token in tokens):
        raise _refusal(pattern, "uses syntax that Go's regexp and Python's read differently")
    if _may_run_long(tokens):
        raise _refusal(pattern, "repeats too much to be safe: no repeated groups, at most three of * + {}")
    translated = "".join({r"\z": r"\Z", "$": r"\Z"}.get(token, token) for token in tokens)
    try:
        return re.compile(translated)
    except re.error as cause:
        raise _refusal(pattern, f"is not a regular expression: {cause.msg}") from None


def _searcher(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    def search(key: str) -> bool:
        if len(key) > _LONGEST_KEY:
            raise SopsError(Code.SOPS_MALFORMED, f"a key is longer than {_LONGEST_KEY} characters")
        return pattern.search(key) is not None

    return search


def _differs(token: str) -> bool:
    return len(token) == 2 and token[0] == "\\" and (token[1].isdigit() or token[1] in "pPQECZG")


def _may_run_long(tokens: list[str]) -> bool:
    repeats = [place for place, token in enumerate(tokens) if token in {"*", "+", "{"}]
    return len(repeats) > _MOST_REPEATS or any(place and tokens[place - 1] == ")" for place in repeats)


def _refusal(pattern: str, reason: str) -> SopsError:
    return SopsError(Code.SOPS_MALFORMED, f"the pattern {pattern!r} {reason}", "write it like ^(password|token)$")
