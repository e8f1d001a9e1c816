"""What `status` adds below its table: nobody works on the store, or only observes, or there is no room left."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from reconciler.cli.caveats import caveats
from reconciler.store import shown
from reconciler.store.database import Database
from reconciler.store.location import open_readonly
from reconciler.store.migrations import migrate
from reconciler.store.sqlite import Sqlite
from reconciler.store.state_directory import StateDirectory


async def _store(state: StateDirectory, *, is_observing: bool) -> None:
    database = Database(Sqlite(state.database))
    await migrate(database)
    await database.write(lambda tx: shown.note_observing(tx, is_observing=is_observing))
    database.close()


def _said(state: StateDirectory) -> list[str]:
    with open_readonly(state.database) as tx:
        return caveats(state.database, tx)


async def test_a_daemon_at_work_needs_no_word_and_one_that_observes_or_is_gone_does(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.acquire()
    await _store(state, is_observing=False)
    assert _said(state) == []
    await _store(state, is_observing=True)
    (only,) = _said(state)
    assert "only observes" in only
    state.release()
    (gone,) = _said(state)
    assert f"no daemon works on {state.path}" in gone


async def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDirectory(tmp_path / "state") as state:
        await _store(state, is_observing=False)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12 * 1024))
        assert _said(state) == [
            f"{state.path} has 12 kB of room left: what happens cannot be recorded until there is more"
        ]
