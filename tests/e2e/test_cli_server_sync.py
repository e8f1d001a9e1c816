"""`reconciler sync --wait` over the API: what it tells while a sync goes on, through its stream."""

import signal

import pytest

from tests.e2e.test_cli_server import Far, Typist, far, typed
from tests.e2e.town import beside

__all__ = ["far", "typed"]


def test_waiting_for_a_sync(far: Far, typed: Typist) -> None:
    done = typed("sync", "chat", "--wait")
    first, *told, last = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert first.startswith("run_")
    assert "users: 1 record stored" in told
    assert last == f"{first} success: 0 added, 0 updated, 1 unchanged, 0 deleted"


def test_a_sync_that_fails_or_cannot_begin(far: Far, typed: Typist) -> None:
    far.town.stage.slack.tokens.clear()
    failed = typed("sync", "chat", "--wait")
    assert failed.code == 1
    assert " was failed: " in failed.err
    assert typed("sync", "nothing", "--wait").err.startswith("reconciler: no integration")
    assert typed("sync", "cancel", "run_none").err.startswith("reconciler: there is no sync")


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_the_run_alone(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.e2e.stage import held_back

    with (
        held_back(far.town.stage.slack, "/api/users.list") as answer,
        beside("sync", "chat", "--wait") as (process, out),
    ):
        run = out.readline().strip()
        assert run.startswith("run_")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert f"{run} goes on in the daemon" in err
        answer()
