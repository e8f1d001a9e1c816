"""Who is forgotten, and who is not."""

from types import SimpleNamespace
from typing import Any

from reconciler.app.following import Following
from reconciler.model.ids import Ref

GONE = Ref("it-ops", "gone")


class Book:
    """Counts whom it was told to forget."""

    def __init__(self) -> None:
        self.departed = frozenset({GONE})
        self.forgotten: list[Ref] = []
        self.unread: dict[Ref, object] = {}
        self.forget = self.forgotten.append

    async def is_turned(self) -> bool:
        return False


async def look(book: Book, *, returns: bool) -> None:
    async def read(_: object) -> list[object]:
        if returns:
            book.departed = frozenset()
        return []

    ports: Any = SimpleNamespace(read=read)
    unused: Any = None
    following = Following({}, book, ports, unused, unused, unused, unused)  # type: ignore[arg-type]
    await following.look_for_secrets()


async def test_who_was_let_go_is_forgotten() -> None:
    book = Book()
    await look(book, returns=False)
    assert book.forgotten == [GONE]


async def test_whom_git_names_again_meanwhile_is_not_forgotten() -> None:
    """Its secrets are in use."""
    book = Book()
    await look(book, returns=True)
    assert book.forgotten == []
