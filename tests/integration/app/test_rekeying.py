"""Another master key in the place of the one in use: both databases, interrupted, repeated, beside daemons, a key lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from reconciler.app import rekeying
from reconciler.app.keeping import StoreTokens
from reconciler.app.lasting import open_vault
from reconciler.app.rekeying import forget, keys_at, rotate
from reconciler.app.vault import KEY_BYTES, Vault, key_id, load_keys, own_key_file, read_keys, seal_for, written
from reconciler.model.secret import Secret
from reconciler.sdk.redact import Redactor
from reconciler.sdk.testing.room import VirtualClock
from reconciler.settings import Settings, SettingsError
from reconciler.store import inventory, sealed_keys
from reconciler.store.database import Backend, Database
from reconciler.store.errors import StateLockedError
from reconciler.store.location import Location
from reconciler.store.migrations import migrate
from reconciler.store.state_directory import StateDirectory
from tests.desk import World, desired

OLD, NEW, LOST = b"o" * KEY_BYTES, b"n" * KEY_BYTES, b"l" * KEY_BYTES
COUNT = 250


class Killed(BaseException):
    """The command ends here."""


def given(*keys: bytes) -> Mapping[str, str]:
    return {"RECONCILER_MASTER_KEY": written(*keys).decode()}


class Place:
    """A database with tokens of one integration, and the settings of whoever works there."""

    def __init__(self, world: World, location: Location, folder: Path) -> None:
        self.world = world
        self.location = location
        self.settings = Settings(state_dir=folder)

    async def vault(self, *keys: bytes) -> Vault:
        return await open_vault(self.world.db, *keys)

    async def tokens(self, *keys: bytes) -> StoreTokens:
        row = await self.world.row()
        return StoreTokens(self.world.db, await self.vault(*keys), Redactor(), self.world.clock, row.id)

    async def rotate(self, *keys: bytes) -> rekeying.Rotated:
        return await asyncio.to_thread(rotate, self.location, self.settings, given(*keys) if keys else {})

    async def sealed(self) -> Mapping[str, int]:
        return await self.world.read(inventory.sealed_with)


@pytest_asyncio.fixture
async def place(backend: Backend, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    database = Database(backend)
    await migrate(database)
    world = World(database, VirtualClock())
    await world.wish(desired("desk"))
    is_file = "postgresql" not in backend.where
    yield Place(world, tmp_path / "reconciler.db" if is_file else request.getfixturevalue("postgres_url"), tmp_path)
    database.close()


async def fill(place: Place, count: int = COUNT) -> None:
    tokens = await place.tokens(OLD)
    for number in range(count):
        await tokens.put(f"bot-{number}", Secret(f"token {number}"), None)


async def holds(tokens: StoreTokens, count: int = COUNT) -> bool:
    found = [await tokens.get(f"bot-{number}") for number in range(count)]
    return [f[0].reveal() if f else "" for f in found] == [f"token {number}" for number in range(count)]


async def test_everything_is_sealed_anew_and_opens_with_the_new_key_alone(place: Place) -> None:
    await fill(place)
    before = await place.vault(OLD)
    done = await place.rotate(NEW, OLD)
    assert (done.key_id, done.count, done.keys.unknown) == (key_id(NEW), COUNT, ())
    assert await place.sealed() == {key_id(NEW): COUNT}
    assert await holds(await place.tokens(NEW))
    after = await place.vault(NEW)
    assert after.fingerprint_key == before.fingerprint_key, "else every integration would look changed"
    assert (await place.rotate(NEW, OLD)).count == 0


async def test_what_was_sealed_for_the_installation_opens_after_it(place: Place) -> None:
    await place.vault(OLD)
    public = await place.world.read(lambda tx: sealed_keys.public_of(tx, "transit"))
    assert public is not None
    sealed = seal_for(public, Secret("a code"), "here")
    await place.rotate(NEW, OLD)
    assert (await place.vault(NEW)).open_transit(sealed, "here").reveal() == "a code"


async def test_interrupted_it_is_repeated(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(place)
    anew, calls = inventory.seal_anew, []

    def killed(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 130:
            raise Killed
        anew(*args)

    with monkeypatch.context() as patch:
        patch.setattr(inventory, "seal_anew", killed)
        with suppress(Killed):
            await place.rotate(NEW, OLD)
    assert await place.sealed() == {key_id(NEW): 100, key_id(OLD): COUNT - 100}
    assert await holds(await place.tokens(NEW, OLD)), "meanwhile both keys are known, and all is well"
    assert (await place.rotate(NEW, OLD)).count == COUNT - 100
    assert await holds(await place.tokens(NEW))


async def test_a_token_renewed_meanwhile_stays_the_newer_one(place: Place) -> None:
    """By daemons that know both keys, some of which do not seal with the new one yet."""
    await fill(place, 200)
    writers = [await place.tokens(OLD, NEW), await place.tokens(NEW, OLD)]

    async def renew(tokens: StoreTokens, first: int) -> None:
        for number in range(first, 200, 2):
            await tokens.put(f"bot-{number}", Secret(f"renewed {number}"), None)

    await asyncio.gather(renew(writers[0], 0), renew(writers[1], 1), place.rotate(NEW, OLD))
    await place.rotate(NEW, OLD)
    last = await place.tokens(NEW)
    found = [await last.get(f"bot-{number}") for number in range(200)]
    assert [f[0].reveal() if f else "" for f in found] == [f"renewed {number}" for number in range(200)]


async def test_what_cannot_be_opened_is_left_and_told(place: Place) -> None:
    await fill(place, 3)
    stray = await place.tokens(LOST)
    await stray.put("stray", Secret("token"), None)
    done = await place.rotate(NEW, OLD)
    assert (done.count, done.keys.unknown) == (3, (key_id(LOST),))
    assert await place.sealed() == {key_id(NEW): 3, key_id(LOST): 1}
    with pytest.raises(SettingsError, match="nothing that would be lost is sealed with"):
        forget(place.location, place.settings, given(NEW), key_id(NEW))
    assert forget(place.location, place.settings, given(NEW), key_id(LOST)) == 1
    assert keys_at(place.location, place.settings, given(NEW)).unknown == ()


async def test_after_a_lost_key_is_forgotten_a_daemon_makes_what_outlives_it_anew(place: Place) -> None:
    await fill(place, 2)
    without = await place.vault(NEW)
    with pytest.raises(Exception, match="its master key is not known"):
        without.open_transit(b"", "here")
    assert forget(place.location, place.settings, given(NEW), key_id(OLD)) == 2
    await place.vault(NEW)
    assert keys_at(place.location, place.settings, given(NEW)).lasting == frozenset({key_id(NEW)})


async def test_a_database_of_an_older_release_keeps_its_fingerprints(place: Place) -> None:
    """Its first start with this one may already have the new key: what was hashed before was hashed with the old one."""
    assert (await place.vault(NEW, OLD)).fingerprint_key == Vault(OLD).fingerprint_key


async def test_two_processes_that_start_at_once_agree(place: Place) -> None:
    found = await asyncio.gather(*(place.vault(OLD) for _ in range(4)))
    public = await place.world.read(lambda tx: sealed_keys.public_of(tx, "transit"))
    assert public is not None
    sealed = seal_for(public, Secret("x"), "here")
    assert {vault.open_transit(sealed, "here").reveal() for vault in found} == {"x"}


async def test_on_postgresql_the_keys_must_be_given(place: Place) -> None:
    if isinstance(place.location, Path):
        pytest.skip("a state directory has a key of its own")
    with pytest.raises(SettingsError, match="give the keys that the daemons have, the new one first"):
        await place.rotate()


async def embedded(place: Place) -> Path:
    """The key file of a state directory whose daemon made it."""
    if not isinstance(place.location, Path):
        pytest.skip("only a state directory has a key of its own")
    file = own_key_file(place.location.parent / "keys")
    file.parent.mkdir(mode=0o700)
    file.write_bytes(written(OLD))
    await fill(place, 150)
    return file


async def test_a_state_directory_gets_a_new_key(place: Place) -> None:
    file = await embedded(place)
    done = await place.rotate()
    (new,) = read_keys(file)
    assert new != OLD
    assert file.stat().st_mode & 0o777 == 0o600
    assert [read_keys(path) for path in done.retired] == [(OLD,)]
    assert done.retired[0].stat().st_mode & 0o777 == 0o600
    assert load_keys(place.settings, {}, file.parent) == (new,)
    assert await holds(await place.tokens(new), 150)


async def test_an_interrupted_one_is_brought_to_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = await embedded(place)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(rekeying, "_reseal_credentials", killed)
        with suppress(Killed):
            await place.rotate()
    between = read_keys(file)
    assert between[1:] == (OLD,)
    assert await holds(await place.tokens(*between), 150), "a daemon can be started in between"
    await place.rotate()
    assert read_keys(file) == between[:1]
    assert await holds(await place.tokens(between[0]), 150)


async def test_a_daemon_that_works_there_holds_it_up(place: Place) -> None:
    file = await embedded(place)
    with StateDirectory(file.parent.parent), pytest.raises(StateLockedError):
        await place.rotate()
    assert read_keys(file) == (OLD,)


@pytest.mark.parametrize("joint", ["\n", ",", " ", "\n\n"])
def test_several_keys_in_one_setting(joint: str) -> None:
    text = joint.join(written(key).decode().strip() for key in (NEW, OLD))
    found = load_keys(Settings(state_dir=Path("/nowhere")), {"RECONCILER_MASTER_KEY": text}, Path("/nowhere"))
    assert found == (NEW, OLD)


def test_a_wrong_one_among_them_is_refused_without_being_shown() -> None:
    wrong = {"RECONCILER_MASTER_KEY": f"{written(NEW).decode()} dG9vIHNob3J0"}
    with pytest.raises(SettingsError, match="RECONCILER_MASTER_KEY: expected 32 bytes") as caught:
        load_keys(Settings(state_dir=Path("/nowhere")), wrong, Path("/nowhere"))
    assert "dG9v" not in str(caught.value)


async def test_expiry_and_scopes_stay_as_they_are(place: Place) -> None:
    from reconciler.sdk.contract import KeptToken

    until = place.world.clock.now() + timedelta(hours=1)
    await (await place.tokens(OLD)).put_all(KeptToken("oauth-1", Secret("t"), until, ("a", "b")))
    row = await place.world.row()
    before = await place.world.read(lambda tx: inventory.credential(tx, row.id, "oauth-1"))
    await place.rotate(NEW, OLD)
    after = await place.world.read(lambda tx: inventory.credential(tx, row.id, "oauth-1"))
    assert before is not None
    assert after is not None
    assert (after.expires_at, after.scopes, after.fingerprint) == (before.expires_at, ("a", "b"), before.fingerprint)
