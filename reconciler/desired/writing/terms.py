"""What a change of manifests is, and what becomes of it: frozen values, and the one error of this room.

In: nothing; the words that `writing.Writing` and its callers share. Trees are plain JSON values. A text that is exactly the
mask (`model.secret.MASK`) stands for the value that is in the file; a merge patch is RFC 7396.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from reconciler.desired.validate import Validated
from reconciler.model.finding import Finding
from reconciler.model.ids import Ref


@dataclass(frozen=True, slots=True)
class Put:
    """The manifest as a whole: `metadata` and `spec`. Annotations that it does not name stay.

    `expected` is the tag (`standing.Standing.tag`) of what is replaced, empty where it does not matter; with `is_new` the
    manifest must not be there yet.
    """

    ref: Ref
    manifest: Mapping[str, Any]
    expected: str = ""
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """A merge patch of `metadata` and `spec`."""

    ref: Ref
    patch: Mapping[str, Any]
    expected: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    ref: Ref
    expected: str = ""


Edit = Put | Patch | Remove


@dataclass(frozen=True, slots=True)
class Author:
    """Who asked for it. `name` and `email` become the author of the commit."""

    name: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One commit. `marker` is unique and was stored before the first try, at `marked_at`; a second try with the same marker
    finds what the first one did. `request` is the id of the caller's request."""

    edits: Sequence[Edit]
    author: Author
    subject: str
    marker: str
    marked_at: datetime
    request: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a change would come to: the difference of the files, secrets encrypted, and the checked result for a plan."""

    diff: str
    files: tuple[str, ...]
    validated: Validated = field(repr=False)


@dataclass(frozen=True, slots=True)
class Written:
    """A change that is pushed. `commit` is empty where nothing was to be done; `is_repeat` where an earlier try had done it."""

    commit: str
    branch: str
    files: tuple[str, ...]
    diff: str
    validated: Validated = field(repr=False)
    pull_request_url: str | None = None
    is_repeat: bool = False


class WriteFault(StrEnum):
    NOT_FOUND = "not-found"
    EXISTS = "exists"
    CONFLICT = "conflict"
    AMBIGUOUS = "ambiguous"
    INVALID = "invalid"
    NOT_PERMITTED = "not-permitted"
    UNSEALED = "unsealed"
    LAYOUT = "layout"
    READ_ONLY = "read-only"
    NOT_A_BRANCH = "not-a-branch"
    REFUSED = "refused"
    FORBIDDEN = "forbidden"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    UNSIGNED = "unsigned"
    FORGE = "forge"


@dataclass(frozen=True, slots=True)
class Pointed:
    """What is wrong with one value of what was handed in; `pointer` is a JSON pointer into the manifest."""

    pointer: str
    code: str
    detail: str


class WriteError(Exception):
    """Why nothing was pushed (but for FORGE: the branch is there then, its pull request is not) and how to mend it.

    `findings` are those of the files as they would be, `pointed` the same by their place in the manifest where that is known.
    `preview` comes with READ_ONLY.
    """

    def __init__(
        self,
        fault: WriteFault,
        message: str,
        remedy: str = "",
        *,
        findings: Sequence[Finding] = (),
        pointed: Sequence[Pointed] = (),
        preview: Preview | None = None,
    ) -> None:
        super().__init__(f"{message} ({remedy})" if remedy else message)
        self.fault = fault
        self.message = message
        self.remedy = remedy
        self.findings = tuple(findings)
        self.pointed = tuple(pointed)
        self.preview = preview
