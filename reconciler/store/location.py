"""Which database: a file of the state directory, or a PostgreSQL URL. The only place that tells the two apart."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from reconciler.model.clock import Clock
from reconciler.model.secret import Secret
from reconciler.store.database import Backend, Tx
from reconciler.store.sqlite import Sqlite

T = TypeVar("T")
Location = Path | Secret  # a URL holds a password


def backend(location: Location, clock: Clock | None = None) -> Backend:
    """`clock` decides what time it is for a file; on PostgreSQL the server's clock does."""
    if isinstance(location, Path):
        return Sqlite(location, clock)
    from reconciler.store.postgres import Postgres  # `plan` beside a file does without the driver

    return Postgres(location)


@contextmanager
def open_readonly(location: Location, clock: Clock | None = None) -> Iterator[Tx]:
    """One snapshot for a command; works while daemons write, and never creates or changes anything. Raises StoreError."""
    with (
        closing(backend(location, clock).visit(is_reader=True)) as session,
        session.transaction("read") as tx,
    ):
        yield tx


def write_once(location: Location, query: Callable[[Tx], T], clock: Clock | None = None) -> T:
    """One write transaction of a command, beside running daemons. Raises StoreError."""
    with closing(backend(location, clock).visit(is_reader=False)) as session:
        return session.run(query, "write")
