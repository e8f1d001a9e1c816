"""What the book says is untouched is as it was, and resolving only what is touched gives what resolving all gives.

Two folders are sources; manifests come, change, break and go, two may claim one name; secrets stand in the environment and
in files that are changed, emptied or missing. A twin on the same folders knows of nothing what it was before.
"""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.app.book import SourceBook
from reconciler.app.opened import SpecUnusableError
from reconciler.app.trail import Trail
from reconciler.control.book import Resolution
from reconciler.desired import outside
from reconciler.desired.folder import scan_folder
from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.resolve import Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.keys import Keyring
from reconciler.desired.validate import Inputs
from reconciler.model.ids import Ref
from reconciler.model.state import DesiredState
from reconciler.sdk.redact import Redactor
from tests.unit.desired.manifest_kit import TinyRegistry, desk

SOURCES = ("one", "two")
NAMES = ("a", "b", "c", "d")
FORMS: tuple[Mapping[str, str] | str | None, ...] = (
    None,
    {},
    {"auth": "{type: key, key: {from_env: APP_KEY}}"},
    {"auth": "{type: key, key: {from_env: APP_OTHER}}"},
    {"auth": "{type: key, key: {from_file: first}}"},
    {"auth": "{type: key, key: {from_file: second}}", "display_name": "x"},
    {"auth": "{type: key, key: {from_file: first}}", "enabled": "false"},
    {"auth": "{type: basic, username: u}"},
    {"auth": "{type: key, key: {from_env: APP_OTHER}}", "depends_on": "[b]"},
    "kind: [\n",
    "apiVersion: reconciler.dev/v1\nkind: Workspace\nmetadata: {name: default}\nspec: {defaults: {sync: {every: 5m}}}\n",
)
VALUES = (None, "", "first-value", "other-value")
Step = tuple[str, str, str, int]
_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("file"),
            st.sampled_from(SOURCES),
            st.sampled_from(NAMES),
            st.integers(0, len(FORMS) * len(NAMES) - 1),
        ),
        st.tuples(
            st.just("env"), st.sampled_from(["", "asked"]), st.sampled_from(["APP_KEY", "APP_OTHER"]), st.integers(0, 3)
        ),
        st.tuples(
            st.just("secret"), st.sampled_from(["", "asked"]), st.sampled_from(["first", "second"]), st.integers(0, 3)
        ),
        st.tuples(st.just("again"), st.just(""), st.just(""), st.just(0)),
    ),
    max_size=20,
)


class Forgetful(SourceBook):
    """Resolves everything each time."""

    async def resolve(self, desired: DesiredState) -> Resolution:
        self._trail = Trail()
        self._outside_of_all()
        return await super().resolve(desired)

    def _outside_of_all(self) -> None:
        for ref, opened in self._outside.items():
            self._outside[ref] = type(opened).make(opened.desired, opened.spec, opened.outside, None)


class Place:
    """The folders, and both books."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"DESK_KEY": "desk-value", "APP_KEY": "first-value", "APP_OTHER": "other-value"}
        for name in (*SOURCES, "secrets"):
            (folder / name).mkdir()
        self.books = [self._book(SourceBook), self._book(Forgetful)]
        self.before: Resolution | None = None
        self.written = 0

    def _book(self, kind: type[SourceBook]) -> SourceBook:
        policy = TenantPolicy((WorkspaceRule(secret_folder=self.folder / "secrets", env_prefix="APP_"),))
        resolver = Resolver(
            keyring=Keyring(()), env=self.env, policy=policy, hash_key=bytes(32), registry=TinyRegistry(),
            cache=DecryptionCache(),
        )  # fmt: skip
        inputs = {name: Inputs(source=name, registry=TinyRegistry(), policy=policy, is_alone=False) for name in SOURCES}
        return kind(inputs, resolver, Redactor())

    async def do(self, step: Step) -> None:
        kind, source, name, number = step
        if kind == "file":
            self._write(source, name, number)
            await self._take(source)
        elif kind == "env":
            self.env[name] = VALUES[number] or ""
        elif kind == "secret":
            self._secret(name, VALUES[number])
        if source == "asked":  # by jobs, before it is resolved
            for book in self.books:
                for asked in NAMES:
                    await _ask(book, Ref("default", asked))
        await self._resolve()

    def _write(self, source: str, name: str, number: int) -> None:
        """A file of this name, which may hold the manifest of another."""
        form, about = FORMS[number % len(FORMS)], NAMES[number // len(FORMS)] if number % 3 == 0 else name
        path = self.folder / source / f"{name}.yaml"
        if form is None:
            path.unlink(missing_ok=True)
        else:
            path.write_text(form if isinstance(form, str) else desk(about, **form))

    def _secret(self, name: str, value: str | None) -> None:
        """Each time with another stamp."""
        path = self.folder / "secrets" / name
        path.unlink(missing_ok=True)
        if value is not None:
            path.write_text(value)
            self.written += 1
            os.utime(path, (1_700_000_000, 1_700_000_000 + self.written))

    async def _take(self, source: str) -> None:
        snapshot = scan_folder(self.folder / source)
        for book in self.books:
            await book.take(source, snapshot)

    async def start(self) -> None:
        for name in ("first", "second"):
            self._secret(name, f"{name}-value")
        for source, name, form in (("one", "a", 2), ("one", "b", 4), ("two", "c", 5), ("one", "d", 8)):
            self._write(source, name, form + len(FORMS) * NAMES.index(name))
        for source in SOURCES:
            await self._take(source)
        await self._resolve()

    async def _resolve(self) -> None:
        found, expected = [await book.resolve(book.wished) for book in self.books if book.wished]
        assert _in_words(found) == _in_words(expected)
        if self.before is not None and found.touched is not None:
            _check(self.before, found, found.touched)
        assert found.number == (self.before.number + 1 if self.before else 1)
        self.before = found


async def _ask(book: SourceBook, ref: Ref) -> None:
    """As a job does: what stands outside of Git is read for it."""
    with contextlib.suppress(SpecUnusableError):  # the resolution tells of it
        await book.opened(ref)


def _in_words(found: Resolution) -> Any:
    state = found.state
    return (
        dict(state.integrations), state.held, state.findings, state.is_complete, dict(found.resolved), dict(found.unread)
    )  # fmt: skip


def _check(before: Resolution, now: Resolution, touched: frozenset[Ref]) -> None:
    for ref in {*before.state.integrations, *now.state.integrations} - touched:
        was, is_ = before.state.integrations.get(ref), now.state.integrations.get(ref)
        assert was == is_, ref
        assert before.resolved.get(ref) == now.resolved.get(ref), ref
    for was_in, is_in in ((before.state.held, now.state.held), (before.unread.keys(), now.unread.keys())):
        assert {*was_in} ^ {*is_in} <= touched


@settings(max_examples=60)
@example([("secret", "", "first", 3), ("env", "", "APP_KEY", 3)])  # another value, nothing else
@example([("env", "asked", "APP_KEY", 3), ("secret", "asked", "first", 3), ("again", "", "", 0)])
@example([("secret", "", "first", 0), ("again", "", "", 0), ("secret", "", "first", 3)])  # away for a while
@example([("file", "two", "d", 1), ("file", "one", "a", 2), ("file", "two", "d", 0)])  # claimed twice
@example([("file", "one", "b", 9), ("file", "two", "c", 1), ("file", "one", "b", 1)])  # broken and mended
@example([("file", "one", "b", 0), ("file", "one", "b", 1)])  # what another depends on goes
@given(_STEPS)
def test_what_is_untouched_is_as_it_was(steps: list[Step]) -> None:
    async def run(folder: Path) -> None:
        place = Place(folder)
        await place.start()
        try:
            for step in steps:
                await place.do(step)
        finally:
            for book in place.books:
                book.close()

    # what was changed just now is read again in any case; here stamps shall be relied on
    with tempfile.TemporaryDirectory() as name, mock.patch.object(outside, "_RACY_NS", 0):
        asyncio.run(run(Path(name)))


async def test_where_nothing_changed_nothing_is_looked_at(tmp_path: Path) -> None:
    """Also not what jobs have read outside of Git meanwhile."""
    with mock.patch.object(outside, "_RACY_NS", 0):
        place = Place(tmp_path)
        await place.start()
        await place.do(("again", "asked", "", 0))
    assert place.before is not None
    assert (place.before.unread, place.before.touched) == ({}, frozenset())
    for book in place.books:
        book.close()
