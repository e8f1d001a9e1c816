"""Manifests whose secrets are good or bad, and what is seen of either: for tests of the last good spec.

Real SOPS files for age keys, a ServiceNow that knows which passwords it was sent.
"""

import base64
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from reconciler.app.offline import Offline, applied_state
from reconciler.control.view import IntegrationView
from reconciler.model.condition import ConditionType, Health, Reason, Status, Truth
from reconciler.model.plan import Action, Plan
from reconciler.store import journal
from tests.e2e.keys import Keys
from tests.e2e.stage import CANARY, Running, Stage

DECRYPTED, STALLED = ConditionType.SECRETS_DECRYPTED, ConditionType.STALLED
OTHER = "canary-other-sn-password"
UP = {Status.CONNECTED, Status.SYNCING}
Write = Callable[..., None]


@contextmanager
def staged(root: Path) -> Iterator[Stage]:
    """With a `chat` that needs no key; `sn` is for the test to write."""
    made = Stage(root)
    with made.servicenow, made.slack:
        made.servicenow.put("incident", {"short_description": "Old", "priority": "3"})
        made.manifest("chat", **made.slack_spec())
        yield made


# What may stand in Git, good and bad.


def write(stage: Stage, password: object = CANARY, **more: Any) -> None:
    auth = {"type": "basic", "username": "recon", "password": password}
    stage.manifest("sn", **stage.servicenow_spec(auth=auth, **more))


def sealed(stage: Stage, keys: Keys, password: str = CANARY, **more: Any) -> None:
    """The manifest with its password inside, encrypted before a daemon that watches the folder can see it."""
    repo, stage.repo = stage.repo, stage.root / "draft"
    stage.repo.mkdir(exist_ok=True)
    try:
        write(stage, password, **more)
    finally:
        draft, stage.repo = stage.repo, repo
    keys.encrypt(draft / "sn.yaml")
    (draft / "sn.yaml").replace(repo / "sn.yaml")


def apart(stage: Stage, keys: Keys, password: str = CANARY) -> None:
    """The manifest, and its password in an encrypted file beside it."""
    write(stage, {"from_sops": {"file": "secrets/sn.yaml", "key": "password"}})
    file = stage.repo / "secrets" / "sn.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"password: {password}\n")
    keys.encrypt(file)


def change(file: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, file.read_text())
    assert count
    put(file, text)


def put(file: Path, text: str) -> None:
    """Whole at once: a daemon may read it at any time."""
    fresh = file.with_name(f".{file.name}.fresh")
    fresh.write_text(text)
    fresh.replace(file)


def tampered(stage: Stage, _: Keys) -> None:
    change(stage.repo / "sn.yaml", "username: recon", "username: somebody")


def truncated(stage: Stage, _: Keys) -> None:
    change(stage.repo / "sn.yaml", r"(password: ENC\[AES256_GCM,data:)\S+.*", r"\1abc")


def for_others(stage: Stage, _: Keys) -> None:
    sealed(stage, Keys(), OTHER)


def without_file(stage: Stage, _: Keys) -> None:
    (stage.repo / "secrets" / "sn.yaml").unlink()


def with_file_for_others(stage: Stage, _: Keys) -> None:
    apart(stage, Keys(), OTHER)


def with_variable_not_set(stage: Stage, _: Keys) -> None:
    write(stage, {"from_env": "ITOPS_NOWHERE"})


# What is seen of it.


class Watch:
    """The passwords that the ServiceNow was sent since a moment."""

    def __init__(self, stage: Stage) -> None:
        self._requests = stage.servicenow.requests
        self._start = len(self._requests)

    @property
    def passwords(self) -> set[str]:
        sent = (r.headers.get("authorization", "") for r in self._requests[self._start :])
        return {base64.b64decode(s.removeprefix("Basic ")).decode().partition(":")[2] for s in sent}


async def until_said(running: Running, truth: Truth, reason: Reason | None = None, name: str = "sn") -> IntegrationView:
    async def said() -> bool:
        view = (await running.views()).get(name)
        found = view.conditions.get(DECRYPTED) if view else None
        return found is not None and found.truth is truth and reason in (None, found.reason)

    await running.until(f"{name} says SecretsDecrypted {truth} {reason or ''}", said)
    return await running.view(name)


async def until_in_force(running: Running, generation: int) -> None:
    async def holds() -> bool:
        row = (await running.view("sn")).row
        return row.observed_generation == row.generation == generation

    await running.until(f"generation {generation} is in force", holds)


async def synced(running: Running, name: str = "sn") -> IntegrationView:
    """One more sync, and a good one. While the integration is stalled, as an earlier daemon may have left it, none is taken."""
    view = await running.until_view(name, "is not stalled", lambda v: STALLED not in v.conditions)
    before = view.row.total_syncs
    await running.order("sync", name)

    async def done() -> bool:
        view = await running.view(name)
        return view.row.total_syncs > before and view.running is None

    await running.until("one more sync is done", done)
    view = await running.view(name)
    assert (view.row.failed_syncs, view.row.last_sync_result) == (0, "success")
    return view


async def until_ready(running: Running, name: str = "sn") -> IntegrationView:
    """Also reconciled: a sync that somebody asks for may come first."""
    return await running.until_view(name, "is ready", lambda v: v.ready.truth is Truth.TRUE)


async def works_on(stage: Stage, running: Running, generation: int, reason: Reason) -> None:
    """Connected with the old password, and saying what is wrong with the new one."""
    await running.leading.taken.wait()  # until then an earlier daemon speaks
    await until_said(running, Truth.FALSE, reason)
    watch = Watch(stage)
    await running.order("reconcile", "sn")
    await synced(running)
    assert watch.passwords == {CANARY}
    view = await running.until_view(
        "sn", "works on, degraded", lambda v: v.status in UP and v.health is Health.DEGRADED
    )
    assert (view.ready.truth, STALLED in view.conditions) == (Truth.FALSE, False)
    assert (view.row.generation, view.row.observed_generation) == (generation,) * 2
    said = view.conditions[DECRYPTED]
    place = r"^sn\.yaml:\d+:\d+: .* \(.*\); its last good spec, of [0-9a-f]{12}, stays in force$"
    assert (said.reason, bool(re.search(place, said.message))) == (reason, True), said.message
    assert any(str(f) in said.message for f in await running.read(journal.findings))


def plan(stage: Stage) -> Plan:
    """What `reconciler plan` shows beside the daemon."""
    applied = applied_state(stage.state / "reconciler.db")
    assert applied is not None
    return Offline(stage.repo).plan_against(applied, "main")


def planned(stage: Stage) -> set[Action]:
    return {a.action for a in plan(stage).actions}


async def mended(stage: Stage, running: Running, generation: int) -> None:
    """The new password takes over, with a new generation."""
    await until_in_force(running, generation + 1)
    watch = Watch(stage)
    await synced(running)
    assert watch.passwords == {OTHER}
    view = await running.until_view(
        "sn", "is mended", lambda v: v.ready.truth is Truth.TRUE and v.health is Health.HEALTHY
    )
    assert view.conditions[DECRYPTED].truth is Truth.TRUE
    assert await running.read(journal.findings) == []


async def is_shown(running: Running, name: str, **columns: Any) -> bool:
    row = (await running.view(name)).row
    return all(getattr(row, column) == value for column, value in columns.items())


@asynccontextmanager
async def at_work(stage: Stage, keys: Keys, good: Write = sealed, **more: Any) -> AsyncIterator[Running]:
    good(stage, keys)
    stage.commit("good")
    async with stage.daemon(env=keys.env, **more) as running:
        await running.until_synced("sn", "chat")
        yield running
