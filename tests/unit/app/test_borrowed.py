"""Tokens of a daemon, borrowed for one probe."""

from datetime import UTC, datetime

import pytest

from reconciler.app.borrowed import BorrowedTokens
from reconciler.app.vault import KEY_BYTES, Vault
from reconciler.model.clock import rfc3339
from reconciler.model.secret import Secret
from reconciler.sdk.errors import UnsupportedError
from reconciler.sdk.redact import Redactor
from reconciler.store.inventory import Sealed

EXPIRES = datetime(2030, 1, 31, 12, tzinfo=UTC)
VAULT = Vault(b"k" * KEY_BYTES)


def _borrowed(redactor: Redactor | None = None) -> BorrowedTokens:
    sealed = {
        name: Sealed(VAULT.seal(Secret(value), f"7/{name}"), VAULT.key_id, expires)
        for name, value, expires in (
            ("bot", "canary-access-token", rfc3339(EXPIRES)),
            ("refresh-ab12", "canary-refresh-token", None),
        )
    }
    foreign = Sealed(b"whatever", "another-key", None)
    return BorrowedTokens(sealed | {"foreign": foreign}, 7, VAULT, redactor or Redactor())


async def test_a_stored_token_is_used_and_redacted() -> None:
    redactor = Redactor()
    found = await _borrowed(redactor).get("bot")
    assert found is not None
    assert (found[0].reveal(), found[1]) == ("canary-access-token", EXPIRES)
    assert "canary-access-token" not in redactor.text("Bearer canary-access-token")


async def test_a_token_for_one_use_is_left_to_the_daemon() -> None:
    tokens = _borrowed()
    for name in ("refresh-ab12", "refresh-never-seen"):
        with pytest.raises(UnsupportedError, match="only a daemon may do it"):
            await tokens.get(name)


async def test_new_tokens_last_as_long_as_the_probe() -> None:
    tokens = _borrowed()
    await tokens.put("bot", Secret("canary-newer-token"), None)
    found = await tokens.get("bot")
    assert found is not None
    assert found[0].reveal() == "canary-newer-token"
    await tokens.drop("bot")
    kept = await tokens.get("bot")
    assert kept is not None
    assert kept[0].reveal() == "canary-access-token"


async def test_what_another_key_sealed_counts_as_absent() -> None:
    assert await _borrowed().get("foreign") is None
    assert await _borrowed().get("unknown") is None
