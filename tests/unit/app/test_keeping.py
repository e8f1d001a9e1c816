"""What rooms are handed to keep things with: lines when the store does not take them, tokens that come and go."""

from pathlib import Path

import pytest

from reconciler.app import keeping
from reconciler.app.keeping import StoreJournal, StoreTokens
from reconciler.app.vault import KEY_BYTES, Vault
from reconciler.model.record import LogLevel
from reconciler.model.secret import Secret
from reconciler.sdk.redact import Redactor
from reconciler.store import journal
from reconciler.store.errors import StoreFullError
from tests.desk import World, desired, embedded

VAULT = Vault(b"k" * KEY_BYTES)


async def test_lines_wait_for_room_and_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MOST_WAITING", 3)
    async with embedded(tmp_path) as world:
        await world.wish(desired("desk"))
        said, row = StoreJournal(world.db, world.clock, Redactor()), await world.row()
        for number in (1, 2, 3):
            said(row.id, LogLevel.INFO, f"line {number}")
        await _fails(world, said, monkeypatch)
        said(row.id, LogLevel.INFO, "line 4")
        await _fails(world, said, monkeypatch)
        await said.flush()
        lines = await world.read(lambda tx: journal.logs(tx, row.id))
    assert [line.message for line in lines] == ["line 2", "line 3", "line 4"]


async def _fails(world: World, said: StoreJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(_: object) -> None:
        raise StoreFullError("no room left")

    with monkeypatch.context() as patched:
        patched.setattr(world.db, "write", full)
        with pytest.raises(StoreFullError):
            await said.flush()


async def test_a_token_and_the_one_before_it_are_hidden_and_older_ones_do_not_add_up(tmp_path: Path) -> None:
    redactor = Redactor()
    async with embedded(tmp_path) as world:
        await world.wish(desired("desk"))
        tokens = StoreTokens(world.db, VAULT, redactor, world.clock, (await world.row()).id)
        for number in range(4):
            await tokens.put("bot", Secret(f"canary-token-{number}"), None)
        restarted = Redactor()
        again = StoreTokens(world.db, VAULT, restarted, world.clock, (await world.row()).id)
        found = await again.get("bot")
    assert found is not None
    assert found[0].reveal() == "canary-token-3"
    assert restarted.text("canary-token-3") == "********"
    shown = [redactor.text(f"canary-token-{number}") for number in range(4)]
    assert shown == ["canary-token-0", "canary-token-1", "********", "********"]
