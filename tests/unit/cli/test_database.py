"""`reconciler database` and `migrate` on files: what they say of keys, versions and who works there."""

import base64
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.app.vault import KEY_BYTES, key_id
from reconciler.cli.main import main
from reconciler.store.migrations import apply, migrations
from reconciler.store.sqlite import Sqlite
from reconciler.store.state_directory import StateDirectory

OWN, OTHER = b"o" * KEY_BYTES, b"x" * KEY_BYTES
LATEST = migrations()[-1].number
Run = Callable[..., str]


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A command; gives what it says: on stderr where it fails, and it may only where `fails`."""
    for name in ("RECONCILER_MASTER_KEY", "RECONCILER_MASTER_KEY_FILE", "RECONCILER_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def call(*words: str | Path, fails: bool = False) -> str:
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        assert code == fails, said
        return said.err if fails else said.out

    return call


def installation(folder: Path, known: int = LATEST) -> Path:
    """A state directory, with a credential that `OWN` opens."""
    store = Sqlite(folder / "reconciler.db")
    with (
        StateDirectory(folder),
        closing(store.connect(is_reader=False)) as session,
        session.transaction("write") as tx,
    ):
        apply(tx, migrations()[:known], "here")
        tx.execute(
            "INSERT INTO integration (id, public_id, workspace, name, type, created_at, updated_at)"
            " VALUES (1, 'int_1', 'it-ops', 'sn', 'servicenow', '', '')"
        )
        tx.execute(
            "INSERT INTO credential (integration_id, name, ciphertext, key_id, updated_at) VALUES (1, 'oauth', ?, ?, '')",
            (b"sealed", key_id(OWN)),
        )
    return folder


def keep_key(folder: Path, key: bytes) -> None:
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    (folder / "keys" / "master.key").write_text(text_of(key))


def test_a_backup_says_what_is_not_in_it(tmp_path: Path, run: Run) -> None:
    here = installation(tmp_path / "state")
    said = run("database", "backup", tmp_path / "b.db", "--state-dir", here)
    assert f"Not in it: the master key {here}/keys/master.key: it opens the 1 credential obtained at run time" in said


@pytest.mark.parametrize("key", [OWN, OTHER, None])
def test_a_restore_says_whether_the_key_is_the_right_one(tmp_path: Path, run: Run, key: bytes | None) -> None:
    run("database", "backup", tmp_path / "b.db", "--state-dir", installation(tmp_path / "state"))
    there = tmp_path / "there"
    if key is not None:
        keep_key(there, key)
    said = run("database", "restore", tmp_path / "b.db", "--state-dir", there)
    expected = {
        OWN: "",
        OTHER: f"The master key given here ({key_id(OTHER)}) is another one. Before a daemon starts, put that of this",
        None: f"There is no master key at {there}/keys/master.key. Before a daemon starts, put that of this installation there.",
    }[key]
    assert expected in said
    lost = f"Without it (key {key_id(OWN)}) the 1 credential obtained at run time must be obtained again."
    assert (lost in said) == (key != OWN)


def test_a_copy_is_not_begun_with_another_key(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sealed decides, not the file that lies there."""
    here = installation(tmp_path / "state")
    keep_key(here, OTHER)
    monkeypatch.setenv("RECONCILER_MASTER_KEY", text_of(OTHER))
    said = run("database", "copy", here, "postgresql://ada:secret@localhost:1/x", fails=True)
    assert f"given here is {key_id(OTHER)}, that of {here} is {key_id(OWN)}; give its own" in said
    monkeypatch.setenv("RECONCILER_MASTER_KEY", text_of(OWN))
    said = run("database", "copy", here, "postgresql://ada:secret@localhost:1/x", fails=True)
    assert "postgresql://localhost:1/x cannot be used" in said
    assert "secret" not in said


def test_migrate_says_from_which_version_to_which(tmp_path: Path, run: Run) -> None:
    here = installation(tmp_path / "state", known=6)
    assert "start the daemon once, or: reconciler migrate" in run("status", "--state-dir", here, fails=True)
    file = here / "reconciler.db"
    assert run("migrate", "--state-dir", here) == f"{file}: brought from version 6 to schema version {LATEST}\n"
    assert run("migrate", "--state-dir", here) == f"{file}: schema version {LATEST}, nothing to do\n"
    made = run("migrate", "--state-dir", tmp_path / "new")
    assert made.endswith(f": brought from no tables to schema version {LATEST}\n")


def test_migrate_of_a_newer_database(tmp_path: Path, run: Run) -> None:
    here = installation(tmp_path / "state")
    for requires, fails, said in (
        (7, False, "which may work on it; nothing to do"),
        (9_999, True, "run the newer release"),
    ):
        with closing(Sqlite(here / "reconciler.db").connect(is_reader=False)) as session:
            sql = "INSERT OR REPLACE INTO schema_version (number, name, requires) VALUES (9999, 'later', ?)"
            with session.transaction("write") as tx:
                tx.execute(sql, (requires,))
        assert said in run("migrate", "--state-dir", here, fails=fails)


def test_migrate_leaves_a_daemon_alone(tmp_path: Path, run: Run) -> None:
    here = installation(tmp_path / "state", known=6)
    with StateDirectory(here):
        assert "stop that daemon first" in run("migrate", "--state-dir", here, fails=True)
    run("migrate", "--state-dir", here)
    with StateDirectory(here):
        assert "nothing to do" in run("migrate", "--state-dir", here)
