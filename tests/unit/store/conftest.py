"""Fixtures for the tests of `reconciler.store`."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from reconciler.store.database import Backend, Tx
from reconciler.store.migrations import apply, migrations


@pytest.fixture
def tx(backend: Backend) -> Iterator[Tx]:
    with closing(backend.connect(is_reader=False)) as session, session.transaction("guarded") as opened:
        apply(opened, migrations(), backend.where)
        yield opened
