"""A secret that Git breaks: the integration works on with its last good spec, says why, and takes the mended one at once."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.cli.main import main
from reconciler.model.condition import Reason, Truth
from reconciler.model.plan import Action
from reconciler.store import deliveries, journal
from tests.e2e.broken import (
    OTHER,
    UP,
    Watch,
    Write,
    apart,
    at_work,
    change,
    for_others,
    is_shown,
    mended,
    plan,
    planned,
    sealed,
    staged,
    synced,
    tampered,
    truncated,
    until_ready,
    until_said,
    with_file_for_others,
    with_variable_not_set,
    without_file,
    works_on,
)
from tests.e2e.keys import Keys
from tests.e2e.stage import CANARY, SLACK_CANARY, Stage, git

BROKEN = [
    (sealed, for_others, Reason.KEY_MISSING),
    (sealed, tampered, Reason.MAC_MISMATCH),
    (sealed, truncated, Reason.DECRYPTION_FAILED),
    (sealed, with_variable_not_set, Reason.SECRET_MISSING),
    (apart, without_file, Reason.SECRET_MISSING),
    (apart, with_file_for_others, Reason.KEY_MISSING),
]
cases = pytest.mark.parametrize(("good", "bad", "reason"), BROKEN, ids=[b.__name__ for _, b, _ in BROKEN])


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with staged(tmp_path) as made:
        yield made


@cases
async def test_work_goes_on_with_the_last_good_secret_until_a_good_one_comes(
    stage: Stage, keys: Keys, good: Write, bad: Write, reason: Reason
) -> None:
    async with at_work(stage, keys, good) as running:
        bad(stage, keys)
        stage.commit("bad")
        await works_on(stage, running, 1, reason)
        assert planned(stage) <= {Action.RECONNECT}
        stage.servicenow.users["recon"] = OTHER
        good(stage, keys, OTHER)
        stage.commit("mended")
        await mended(stage, running, 1)


@cases
async def test_after_a_restart_the_last_good_secret_is_read_from_git_again(
    stage: Stage, keys: Keys, good: Write, bad: Write, reason: Reason
) -> None:
    async with at_work(stage, keys, good):
        pass
    bad(stage, keys)
    stage.commit("bad")
    for _ in range(2):
        async with stage.daemon(env=keys.env) as running:
            await works_on(stage, running, 1, reason)
    assert not [p for p, content in stage.kept().items() if CANARY.encode() in content]
    async with stage.daemon(env=keys.env) as running:
        stage.servicenow.users["recon"] = OTHER
        good(stage, keys, OTHER)
        stage.commit("mended")
        await mended(stage, running, 1)


@pytest.mark.parametrize("bad", [for_others, lambda stage, _: change(stage.repo / "sn.yaml", "config:", "confic:")])
async def test_the_commit_before_the_bad_one_is_enough(stage: Stage, keys: Keys, bad: Write) -> None:
    """The one it was applied from may be long gone from the mirror."""
    async with at_work(stage, keys) as running:
        first = (await running.view("sn")).row.applied_revision
        stage.manifest("chat", **stage.slack_spec(display_name="Chat"))
        before = stage.commit("something else")
        await running.until("it is taken", lambda: is_shown(running, "chat", display_name="Chat"))
        bad(stage, keys)
        stage.commit("bad")
        await running.until("the last good one is noted", lambda: is_shown(running, "sn", applied_revision=before))
        await synced(running)
        await running.order("reconcile", "sn")
        assert first != before
    (mirror,) = stage.state.glob("git/*/tip.git")
    git(mirror, "update-ref", "refs/test/before", before)
    git(mirror, "gc", "--quiet", "--prune=now")
    with pytest.raises(subprocess.CalledProcessError):
        git(mirror, "cat-file", "-e", first)
    async with stage.daemon(env=keys.env) as running:
        await running.leading.taken.wait()
        watch = Watch(stage)
        view = await synced(running)
        assert (watch.passwords, view.status in UP, view.row.applied_revision) == ({CANARY}, True, before)


async def test_scheduled_syncs_and_deliveries_go_on(stage: Stage, keys: Keys) -> None:
    often = {"entities": ["incidents"], "every": "1s", "jitter": "0s"}
    token = {"type": "bot_token", "token": SLACK_CANARY}

    def good(stage: Stage, keys: Keys) -> None:
        sealed(stage, keys, sync=often)
        stage.manifest("chat", **stage.slack_spec(auth=token))
        keys.encrypt(stage.repo / "chat.yaml")

    async with at_work(stage, keys, good) as running:
        for name in ("sn", "chat"):
            change(stage.repo / f"{name}.yaml", r"(AES256_GCM,data:)\S{4}", r"\1AAAA")
        stage.commit("both broken")
        for name in ("sn", "chat"):
            await until_said(running, Truth.FALSE, name=name)
        stage.servicenow.put("incident", {"short_description": "Mail is down", "priority": "1"})

        async def delivered() -> bool:
            return [d.status for d in await running.read(deliveries.listing)] == ["delivered"]

        await running.until("the incident is read by schedule and delivered", delivered)
        assert {v.status in UP for v in (await running.views()).values()} == {True}


async def test_another_bad_one_and_back_to_the_old_one_raise_no_generation(stage: Stage, keys: Keys) -> None:
    async with at_work(stage, keys) as running:
        good = (stage.repo / "sn.yaml").read_text()
        for bad, reason in ((truncated, Reason.DECRYPTION_FAILED), (for_others, Reason.KEY_MISSING)):
            bad(stage, keys)
            stage.commit("bad")
            await works_on(stage, running, 1, reason)
        (stage.repo / "sn.yaml").write_text(good)
        stage.commit("back")
        view = await until_said(running, Truth.TRUE)
        await synced(running)
        assert (view.row.generation, (await until_ready(running)).row.generation) == (1, 1)


async def test_the_log_of_the_integration_tells_both_turns_once(stage: Stage, keys: Keys) -> None:
    async with at_work(stage, keys) as running:
        for_others(stage, keys)
        stage.commit("bad")
        await works_on(stage, running, 1, Reason.KEY_MISSING)
        await running.order("reconcile")
        sealed(stage, keys, OTHER)
        stage.servicenow.users["recon"] = OTHER
        stage.commit("mended")
        await mended(stage, running, 1)
        row = (await running.view("sn")).row

        async def turns() -> list[str]:
            lines = await running.read(lambda tx: journal.logs(tx, row.id))
            return [x.detail["reason"] for x in lines if "secrets" in x.message or "last good" in x.message]

        async def is_told() -> bool:
            return "Succeeded" in await turns()

        await running.until("both turns are in the log", is_told)
        assert await turns() == ["KeyMissing", "Succeeded"]


async def test_a_file_that_cannot_be_parsed_is_planned_as_no_removal(stage: Stage, keys: Keys) -> None:
    async with at_work(stage, keys):
        pass
    change(stage.repo / "sn.yaml", "spec:", "spec: [")
    stage.commit("no YAML")
    assert planned(stage) == set()
    (stage.repo / "sn.yaml").write_text("spec: [\n")
    (stage.repo / "chat.yaml").unlink()
    stage.commit("nobody can say what this was about")
    assert [block.code for block in plan(stage).blocks] == ["incomplete"]


async def test_plan_and_status_say_why(stage: Stage, keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    async with at_work(stage, keys):
        pass
    for_others(stage, keys)
    stage.commit("bad")
    async with stage.daemon(env=keys.env) as running:
        await until_said(running, Truth.FALSE)

        async def is_planned() -> bool:
            return "as far as it can be read" in running.leading.plan_summary

        await running.until("that is planned", is_planned)
        capsys.readouterr()
        assert main(["status", "sn", "--state-dir", str(stage.state)]) == 0
        shown = capsys.readouterr().out
        assert re.search(
            r"it-ops +sn +servicenow +connected +degraded .* KeyMissing: sn\.yaml:\d+:\d+: sops-key", shown
        )
        assert re.search(r"SecretsDecrypted +False +KeyMissing .* stays in force", shown)
