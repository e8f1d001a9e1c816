"""Pull requests and merge requests: opened once, found again, also after a lost answer; nothing that the vendors do not know."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired.writing.forge import GitHub, GitLab, Proposal, RestForge
from reconciler.desired.writing.rules import Mode
from reconciler.desired.writing.terms import Patch, WriteError, WriteFault
from reconciler.sdk.testing.faults import lost_answer, status
from reconciler.sdk.testing.room import Bench
from tests.integration.write_remote import Served, change
from tests.servers.forges import GitHubForge, GitLabForge
from tests.unit.desired.manifest_kit import Desk, desk
from tests.unit.desired.write_kit import A

OFF = Patch(A, {"spec": {"enabled": False}})
PROPOSAL = Proposal("reconciler/m1", "main", "Change things", "text")
GOOD = "good"
Made = tuple[Any, Callable[[str], RestForge], Callable[[], list[Any]]]


@pytest.fixture(params=["github", "gitlab"])
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Made]:
    """The server, a client with a token, and what was made at the server."""
    sim: Any = GitHubForge() if request.param == "github" else GitLabForge()
    sim.start()
    async with Bench() as bench:
        http = bench.room(Desk).http

        def client(token: str) -> RestForge:
            if request.param == "github":
                return RestForge(GitHub(sim.url, "acme/shop", lambda: token), http)
            return RestForge(GitLab(f"{sim.url}/api/v4", "acme/tools/shop", lambda: token), http)

        def opened() -> list[Any]:
            return list(sim.repos["acme/shop"].pulls.values()) if request.param == "github" else sim.requests_to_merge

        yield sim, client, opened
    sim.stop()
    assert sim.violations == []


async def test_a_request_is_opened_once_and_found_after_that(made: Made) -> None:
    sim, client, opened = made
    sim.branches.add("reconciler/m1")
    url = await client(GOOD).open(PROPOSAL)
    assert url.startswith("http")
    assert await client(GOOD).open(PROPOSAL) == url
    opened()[0]["state"] = "closed"
    assert await client(GOOD).open(PROPOSAL) == url
    assert len(opened()) == 1


async def test_a_lost_answer_is_looked_up(made: Made) -> None:
    sim, client, opened = made
    sim.branches.add("reconciler/m1")
    fault = sim.faults.add(lost_answer(), method="POST", times=1)
    assert await client(GOOD).open(PROPOSAL)
    assert (fault.struck, len(opened())) == (1, 1)


async def test_refusals_say_what_to_do(made: Made) -> None:
    sim, client, opened = made
    for token, said in ((GOOD, "refuses"), ("canary-token", "the token of write_back.forge")):
        with pytest.raises(WriteError, match=said) as caught:
            await client(token).open(PROPOSAL)
        assert caught.value.fault is WriteFault.FORGE
        assert "canary" not in str(caught.value)
    sim.branches.add("reconciler/m1")
    sim.faults.add(status(503), method="POST")
    with pytest.raises(WriteError, match="repeat the request"):
        await client(GOOD).open(PROPOSAL)
    assert opened() == []


async def test_a_change_becomes_a_branch_and_a_request(made: Made, tmp_path: Path) -> None:
    sim, client, opened = made
    served = Served.make(tmp_path)
    sim.branches.add("reconciler/m1")
    writing = served.writing(Mode.PULL_REQUEST, client(GOOD))
    written = await writing.change(change(OFF))
    assert (written.branch, served.commits(), served.commits("reconciler/m1")) == ("reconciler/m1", 1, 2)
    assert "enabled: false" in served.show("x.yaml", "reconciler/m1")
    (request,) = opened()
    assert written.pull_request_url in (request.get("html_url"), request.get("web_url"))
    assert "Reconciler-Change: m1" in (request.get("body") or request.get("description"))
    # Another process, which never heard the answer, while the branch it aims at goes on.
    served.push("theirs", {"y.yaml": desk("b")})
    again = await served.writing(Mode.PULL_REQUEST, client(GOOD)).change(change(OFF))
    assert (again.commit, again.pull_request_url, again.is_repeat) == (written.commit, written.pull_request_url, True)
    assert again.diff == written.diff
    # Merged, and the branch deleted.
    served.git("update-ref", "refs/heads/main", written.commit)
    served.git("update-ref", "-d", "refs/heads/reconciler/m1")
    request["state"] = "closed"
    merged = await served.writing(Mode.PULL_REQUEST, client(GOOD)).change(change(OFF))
    assert (merged.commit, merged.pull_request_url, len(opened())) == (written.commit, written.pull_request_url, 1)


async def test_a_forge_that_fails_leaves_the_branch_for_the_next_try(made: Made, tmp_path: Path) -> None:
    sim, client, opened = made
    served = Served.make(tmp_path)
    sim.branches.add("reconciler/m1")
    aimed = sim.faults.add(status(503), times=None)
    with pytest.raises(WriteError) as caught:
        await served.writing(Mode.PULL_REQUEST, client(GOOD)).change(change(OFF))
    assert caught.value.fault is WriteFault.FORGE
    sim.faults.armed.remove(aimed)
    written = await served.writing(Mode.PULL_REQUEST, client(GOOD)).change(change(OFF))
    assert (served.commits("reconciler/m1"), len(opened()), written.is_repeat) == (2, 1, True)
