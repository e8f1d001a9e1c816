"""`reconciler keys`: what a person reads of it. What it does is in tests/integration/app/test_rekeying.py."""

import json
from pathlib import Path

import pytest

from reconciler.app.vault import KEY_BYTES, Vault, key_id, written
from reconciler.cli.main import main
from reconciler.model.secret import Secret
from reconciler.store.inventory import Sealed, put_credential
from reconciler.store.location import write_once
from tests.desk import desired, embedded

OLD, LOST = b"o" * KEY_BYTES, b"l" * KEY_BYTES


@pytest.fixture
async def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory with one credential of its own key, and one of another."""
    for name in ("RECONCILER_MASTER_KEY", "RECONCILER_MASTER_KEY_FILE", "RECONCILER_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    async with embedded(tmp_path) as world:
        await world.wish(desired("desk"))
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "master.key").write_bytes(written(OLD))
    for name, key in (("bot", OLD), ("stray", LOST)):
        sealed = Sealed(Vault(key).seal(Secret("token"), f"1/{name}"), key_id(key), None)
        write_once(tmp_path / "reconciler.db", lambda tx, n=name, s=sealed: put_credential(tx, 1, n, s, ""))  # type: ignore[misc]
    return tmp_path


def test_listed_rotated_and_forgotten(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--state-dir", str(state))
    assert main(["keys", "list", *where]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "KEY       STATE            CREDENTIALS",
        f"{key_id(OLD)}  seals and opens  1",
        f"{key_id(LOST)}  not given here   1",
    ]
    assert main(["keys", "rotate", *where]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 credential sealed anew; everything that could be opened is sealed with ")
    assert f"retired-{key_id(OLD)}.key: backups made until now need it" in said.out
    assert f"1 credential can be opened by {key_id(LOST)} only, which is not given here" in said.err
    assert main(["keys", "rotate", "--forget", key_id(LOST), *where]) == 0
    assert "start the daemons anew" in capsys.readouterr().out
    assert main(["keys", "rotate", "--forget", key_id(LOST), *where]) == 1
    assert "nothing that would be lost is sealed with" in capsys.readouterr().err
    assert main(["keys", "list", *where, "--output", "json"]) == 0
    (key,) = json.loads(capsys.readouterr().out)["keys"]
    assert (key["is_given"], key["seals"], key["credentials"]) == (True, True, 1)
    assert written(OLD).decode().strip() not in said.out + said.err
