"""A secret that cannot be read, where no last good spec is at hand or none is asked for: nothing is removed, all is told."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from reconciler.model.condition import ConditionType, Reason, Status, Truth
from reconciler.model.plan import Action
from tests.e2e.broken import (
    DECRYPTED,
    OTHER,
    STALLED,
    UP,
    Watch,
    at_work,
    change,
    for_others,
    mended,
    planned,
    put,
    sealed,
    staged,
    synced,
    until_in_force,
    until_ready,
    until_said,
    works_on,
    write,
)
from tests.e2e.keys import Keys
from tests.e2e.stage import CANARY, ENV, PUBLIC_URL, HurriedClock, Stage


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as made:
        yield made


async def test_a_key_that_is_gone_prunes_nothing_and_is_taken_when_it_is_back(stage: Stage, keys: Keys) -> None:
    key_file = stage.root / "age.txt"
    key_file.write_text(f"{keys.identity}\n")
    sealed(stage, keys, sync={"entities": ["incidents"], "every": "1h", "jitter": "0s"})
    stage.commit("good")
    async with stage.daemon(age_key_file=str(key_file)) as running:
        await running.until_synced("sn", "chat")
    is_due = "UPDATE integration SET next_sync_at = created_at WHERE name = 'sn'"
    with closing(sqlite3.connect(stage.state / "reconciler.db", isolation_level=None)) as opened:
        opened.execute(is_due)
    key_file.rename(stage.root / "away")
    async with stage.daemon(age_key_file=str(key_file), clock=HurriedClock()) as running:
        view = await until_said(running, Truth.FALSE, Reason.KEY_MISSING)

        async def stalled() -> bool:
            return STALLED in (await running.view("sn")).conditions

        await running.until("it is said that nothing goes on", stalled)
        view = await running.view("sn")
        assert (view.row.is_connected, view.row.generation, view.status) == (True, 1, Status.ERROR)
        assert (
            f"the key file {key_file} (SOPS_AGE_KEY_FILE) cannot be read: No such file"
            in view.conditions[DECRYPTED].message
        )
        assert (await synced(running, "chat")).status in UP
        assert (planned(stage), view.row.failed_syncs) == (set(), 0)
        (stage.root / "away").rename(key_file)
        await until_said(running, Truth.TRUE)
        await synced(running)
        view = await until_ready(running)
        assert (view.row.generation, STALLED in view.conditions) == (1, False)


async def test_without_the_key_a_bad_commit_disconnects_nothing_either(stage: Stage, keys: Keys) -> None:
    async with at_work(stage, keys):
        pass
    for_others(stage, keys)
    stage.commit("bad")
    async with stage.daemon() as running:
        view = await until_said(running, Truth.FALSE, Reason.KEY_MISSING)
        assert (view.row.is_connected, view.row.generation, planned(stage)) == (True, 1, {Action.RECONNECT})
        assert "no age identity at all" in view.conditions[DECRYPTED].message
    async with stage.daemon(env=keys.env) as running:
        await works_on(stage, running, 1, Reason.KEY_MISSING)


async def test_a_variable_that_is_gone_disconnects_nothing(stage: Stage, keys: Keys) -> None:
    async with at_work(stage, keys, lambda stage, _: write(stage, {"from_env": "ITOPS_SN"})):
        pass
    without = {name: value for name, value in keys.env.items() if name != "ITOPS_SN"}
    async with stage.daemon(env=without) as running:
        view = await until_said(running, Truth.FALSE, Reason.SECRET_MISSING)
        assert (view.row.is_connected, planned(stage)) == (True, set())
        assert "ITOPS_SN is not set (set it for the daemon)" in view.conditions[DECRYPTED].message
    async with stage.daemon(env=keys.env) as running:
        await until_said(running, Truth.TRUE)
        await synced(running)
        assert (await until_ready(running)).row.generation == 1


async def test_a_file_that_goes_away_under_the_daemon_is_told_and_its_new_content_taken(
    stage: Stage, keys: Keys
) -> None:
    folder = stage.root / "mounted"
    folder.mkdir()
    (folder / "sn").write_text(CANARY)
    tenants = ({"env_prefix": "ITOPS_", "secret_folder": str(folder)},)
    write(stage, {"from_file": "sn"})
    stage.commit("good")
    async with stage.daemon(clock=HurriedClock(), tenants=tenants) as running:
        await running.until_synced("sn")
        (folder / "sn").unlink()
        watch = Watch(stage)
        await synced(running)
        view = await until_said(running, Truth.FALSE, Reason.SECRET_MISSING)
        assert (watch.passwords, view.status in UP, view.row.generation) == ({CANARY}, True, 1)
        stage.servicenow.users["recon"] = OTHER
        put(folder / "sn", OTHER)
        await mended(stage, running, 1)


async def test_what_was_never_good_is_not_connected(stage: Stage, keys: Keys) -> None:
    for_others(stage, keys)
    stage.commit("bad from the beginning")
    async with stage.daemon(env=keys.env) as running:
        view = await until_said(running, Truth.FALSE, Reason.KEY_MISSING)
        assert (view.row.is_connected, "last good" in view.conditions[DECRYPTED].message) == (False, False)


async def test_disabling_needs_no_secret_and_leaves_with_the_last_good_one(stage: Stage, keys: Keys) -> None:
    def hub(**more: Any) -> None:
        spec = stage.github_spec()
        config = spec["config"] | {"webhook": {"secret": "canary-hook-secret", "events": ["issues"]}}
        auth = {"type": "token", "token": ENV["ITOPS_GITHUB"]}
        stage.manifest("hub", **(spec | {"auth": auth, "config": config} | more))

    def good(stage: Stage, keys: Keys) -> None:
        sealed(stage, keys)
        hub()
        keys.encrypt(stage.repo / "hub.yaml", only="^(token|secret)$")

    with stage.github:
        async with at_work(stage, keys, good, public_url=PUBLIC_URL) as running:
            await running.until_synced("hub")
            assert len(stage.github.repos["acme/app"].hooks) == 1
            hub(enabled=False)
            Keys().encrypt(stage.repo / "hub.yaml", only="^(token|secret)$")
            stage.commit("off, and unreadable")

            async def off() -> bool:
                return not (await running.view("hub")).row.is_connected

            await running.until("hub is off", off)
            assert len(stage.github.repos["acme/app"].hooks) == 0
            hub()
            Keys().encrypt(stage.repo / "hub.yaml", only="^(token|secret)$")
            stage.commit("on, and still unreadable")

            async def stalled() -> bool:
                return STALLED in (await running.view("hub")).conditions

            await running.until("what was revoked is not used again", stalled)
            assert not (await running.view("hub")).row.is_connected


# A folder in place of a repository.


def in_place(stage: Stage) -> dict[str, Any]:
    return {"source.ref": None, "source.interval": "1s", "clock": HurriedClock()}


async def test_a_folder_keeps_the_last_good_spec_while_the_daemon_lives(stage: Stage, keys: Keys) -> None:
    folder = stage.root / "plain"
    stage.repo.rename(folder)
    stage.repo = folder
    (folder / ".git").rename(stage.root / "no-git")
    sealed(stage, keys)
    async with stage.daemon(env=keys.env, **in_place(stage)) as running:
        await running.until_synced("sn", "chat")
        for_others(stage, keys)
        await until_said(running, Truth.FALSE, Reason.KEY_MISSING)
        watch = Watch(stage)
        view = await synced(running)
        assert (watch.passwords, view.status in UP, view.row.generation) == ({CANARY}, True, 1)
    async with stage.daemon(env=keys.env, **in_place(stage)) as running:
        view = await until_said(running, Truth.FALSE, Reason.KEY_MISSING)
        assert view.row.is_connected
        stage.servicenow.users["recon"] = OTHER
        sealed(stage, keys, OTHER)
        view = await until_said(running, Truth.TRUE)
        await until_in_force(running, view.row.generation)
        await synced(running)
        await until_ready(running)


async def test_a_broken_manifest_in_a_working_tree_reads_its_secrets_from_the_commit(stage: Stage, keys: Keys) -> None:
    """One that also reads a file outside of Git, so that it is read again each time."""
    folder = stage.root / "mounted"
    folder.mkdir()
    (folder / "user").write_text("recon")
    tenants = ({"env_prefix": "ITOPS_", "secret_folder": str(folder)},)
    write(stage, CANARY)
    change(stage.repo / "sn.yaml", "username: recon", "username: {from_file: user}")
    keys.encrypt(stage.repo / "sn.yaml")
    stage.commit("good")
    async with stage.daemon(env=keys.env, tenants=tenants, **in_place(stage)) as running:
        await running.until_synced("sn")
        change(stage.repo / "sn.yaml", "entities:", "entitys:")

        async def held() -> bool:
            return (await running.view("sn")).conditions[ConditionType.VALID].truth is Truth.FALSE

        await running.until("the manifest is held", held)
        stage.servicenow.users["renamed"] = stage.servicenow.users.pop("recon")
        put(folder / "user", "renamed")
        await running.order("reconcile", "sn")
        await synced(running)
        view = await running.until_view(
            "sn", "works under its new name", lambda v: v.status in UP and v.row.identity == "renamed"
        )
        assert view.conditions[DECRYPTED].truth is Truth.TRUE
