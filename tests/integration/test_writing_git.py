"""Changes pushed to real Git servers: over a path, HTTPS and SSH, alone and many at once, refused and interrupted."""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired.folder import scan_folder
from reconciler.desired.source import GitSource
from reconciler.desired.writing.rules import Mode
from reconciler.desired.writing.signing import Signing, SigningFormat
from reconciler.desired.writing.terms import Author, Patch, Put, Remove, WriteError, WriteFault
from reconciler.model.ids import Ref
from reconciler.model.secret import Secret
from reconciler.sdk.testing.room import VirtualClock
from tests.conftest import find_program
from tests.integration.git_remote import GitHttps, Repo, Sshd, https_server, ssh_server
from tests.integration.write_remote import Served, change, run, ssh_key
from tests.servers.sops import pgp_key
from tests.unit.desired.manifest_kit import check, desk
from tests.unit.desired.write_kit import A, spec

NEW = Put(Ref("it", "new"), {"spec": spec()})
OFF = Patch(A, {"spec": {"enabled": False}})


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served.make(tmp_path)


async def refused(work: Any) -> WriteError:
    with pytest.raises(WriteError) as caught:
        await work
    return caught.value


async def test_a_change_is_a_commit_of_who_asked_for_it(served: Served) -> None:
    written = await served.writing(rules={"committer": Author("bot", "bot@example.test")}).change(change(OFF, NEW))
    assert (written.branch, written.files, written.is_repeat) == ("main", ("x.yaml", "it/new.yaml"), False)
    assert written.commit == served.head()
    told = served.git("log", "-1", "--format=%an <%ae>|%cn <%ce>|%s|%(trailers:unfold,separator=%x2C)")
    trailers = "Reconciler-Change: m1,Reconciler-Request: req_1"
    assert told == f"Ada L <ada@example.test>|bot <bot@example.test>|Change things|{trailers}"
    assert served.show("x.yaml") == desk() + "  enabled: false\n"
    assert written.validated.state.revision == written.commit
    assert not written.validated.state.integrations[A].manifest.spec.enabled
    assert "+  enabled: false\n" in written.diff
    assert served.git("fsck", "--strict") == ""


async def test_only_the_folder_of_the_source_is_written_to(tmp_path: Path) -> None:
    served = Served.make(tmp_path, {"clusters/b.yaml": desk("b"), "clusters/run.sh": "x\n"})
    served.repo.git("update-index", "--chmod=+x", "clusters/run.sh")
    served.repo.git("commit", "-qm", "x")
    served.repo.git("push", "-q", "origin", "main")
    written = await served.writing(path="clusters").change(change(NEW, Remove(Ref("default", "b"))))
    assert set(written.files) == {"clusters/it/new.yaml", "clusters/b.yaml"}
    assert served.files() == ["clusters/it/new.yaml", "clusters/run.sh", "x.yaml"]
    assert served.git("ls-tree", "main", "clusters/run.sh").startswith("100755 ")
    assert (
        await refused(served.writing(path="clusters").change(change(OFF, marker="m2")))
    ).fault is WriteFault.NOT_FOUND


async def test_the_difference_applies_to_what_was_there(served: Served) -> None:
    before = served.head()
    preview = await served.writing().preview(change(OFF, NEW))
    assert served.head() == before
    run("git", "apply", "--index", cwd=served.repo.root, input=preview.diff.encode())
    served.repo.git("commit", "-qm", "by hand")
    await served.writing().change(change(OFF, NEW))
    assert served.repo.git("rev-parse", "HEAD^{tree}") == served.git("rev-parse", "main^{tree}")


async def test_nothing_to_do_is_no_commit(served: Served) -> None:
    written = await served.writing().change(change(Patch(A, {"spec": {"type": "desk"}})))
    assert (written.commit, written.diff, served.commits()) == ("", "", 1)


@pytest.fixture
def https(served: Served, tmp_path: Path) -> Iterator[GitHttps]:
    with https_server(tmp_path / "served", tmp_path) as server:
        yield server


async def test_over_https_with_a_token_that_nobody_sees(served: Served, https: GitHttps) -> None:
    https.expected = https.basic("canary-token-of-nobody")
    web: dict[str, Any] = {"url": f"{https.url}/r.git", "ca_file": https.ca_file}
    await served.writing(token=Secret("canary-token-of-nobody"), **web).change(change(OFF))
    assert "enabled: false" in served.show("x.yaml")
    served.git("config", "http.receivepack", "false")
    error = await refused(
        served.writing(token=Secret("canary-token-of-nobody"), **web).change(change(NEW, marker="m2"))
    )
    assert (error.fault, "write" in error.remedy) == (WriteFault.FORBIDDEN, True)
    error = await refused(served.writing(token=Secret("canary-wrong"), **web).change(change(NEW, marker="m2")))
    assert (error.fault, "canary" in str(error)) == (WriteFault.FORBIDDEN, False)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with ssh_server(find_program("sshd") or "sshd", tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.mark.needs("sshd")
async def test_over_ssh(served: Served, sshd: Sshd) -> None:
    url = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{served.bare}"
    far: dict[str, Any] = {"url": url, "key_file": sshd.key_file, "known_hosts_file": sshd.known_hosts_file}
    await served.writing(**far).change(change(OFF))
    assert "enabled: false" in served.show("x.yaml")
    error = await refused(served.writing(**{**far, "url": url + "x"}).change(change(OFF)))
    assert error.fault is WriteFault.UNAVAILABLE


# Many at once.


@pytest.mark.parametrize("writers", [2, 10])
async def test_writers_at_once_lose_nothing(served: Served, https: GitHttps, writers: int) -> None:
    """Each with a cache of its own, as in processes of their own; all of them change the same file."""
    web: dict[str, Any] = {"url": f"{https.url}/r.git", "ca_file": https.ca_file}
    names = [f"n{number}" for number in range(writers)]
    changes = [
        change(
            Put(Ref("it", name), {"spec": spec()}),
            Patch(A, {"metadata": {"labels": {name: "1"}}}),
            marker=name,
        )
        for name in names
    ]
    made = [served.writing(**web, clock=_Hurried()) for _ in names]
    written = await asyncio.gather(*(one.change(two) for one, two in zip(made, changes, strict=True)))
    assert served.commits() == writers + 1
    assert len({one.commit for one in written}) == writers
    labels = served.show("x.yaml")
    assert all(f'{name}: "1"' in labels and f"it/{name}.yaml" in served.files() for name in names)


class _Hurried(VirtualClock):
    """Waits as long as it is told to, which is short: the others need the time."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def test_callers_of_one_writer_take_turns(served: Served) -> None:
    writing = served.writing()
    names = [f"n{number}" for number in range(5)]
    await asyncio.gather(*(writing.change(change(Put(Ref("it", n), {"spec": spec()}), marker=n)) for n in names))
    assert served.files() == [*(f"it/{name}.yaml" for name in names), "x.yaml"]


def moving(served: Served, writing: Any, *pushes: Any) -> None:
    """Somebody pushes between the writer's fetch and its push, once for each of `pushes`."""
    repository, waiting = writing._repository, list(pushes)
    push = repository.push

    async def late(commit: str, branch: str) -> Any:
        if waiting:
            await asyncio.to_thread(served.push, *waiting.pop(0))
        return await push(commit, branch)

    repository.push = late


async def test_a_branch_that_moves_is_followed_and_the_edit_made_again(served: Served) -> None:
    writing = served.writing()
    moved = {"x.yaml": "# noted\n" + desk(display_name="Theirs")}, {"y.yaml": desk("b")}
    moving(served, writing, *(("theirs", files) for files in moved))
    written = await writing.change(change(OFF))
    assert served.show("x.yaml") == "# noted\n" + desk(display_name="Theirs") + "  enabled: false\n"
    assert (served.commits(), written.commit, written.is_repeat) == (4, served.head(), False)
    assert Ref("default", "b") in written.validated.state.integrations


async def test_a_condition_that_no_longer_holds_is_a_conflict(served: Served) -> None:
    from reconciler.desired.writing.standing import find_standing

    standing = find_standing(check({"x.yaml": desk()}), A)
    assert standing is not None
    for marker, files in (("m1", {"x.yaml": desk(display_name="Theirs")}), ("m2", {"x.yaml": desk("other")})):
        writing = served.writing()
        moving(served, writing, ("theirs", files))
        now = find_standing(check({"x.yaml": served.show("x.yaml")}), A)
        assert now is not None
        error = await refused(writing.change(change(replace(OFF, expected=now.tag), marker=marker)))
        assert error.fault is WriteFault.CONFLICT
    assert served.commits() == 3


async def test_what_is_wrong_after_a_move_is_not_pushed(served: Served) -> None:
    writing = served.writing()
    moving(served, writing, ("theirs", {"y.yaml": desk("new", workspace="it")}))
    error = await refused(writing.change(change(replace(NEW, is_new=True))))
    assert (error.fault, served.commits()) == (WriteFault.EXISTS, 2)


async def test_a_branch_that_never_rests_is_given_up(served: Served) -> None:
    served.hook("update", "exit 0")
    writing = served.writing()
    moving(served, writing, *(("theirs", {"y.txt": str(number)}) for number in range(20)))
    error = await refused(writing.change(change(OFF)))
    assert (error.fault, served.commits()) == (WriteFault.BUSY, 11)


# Interrupted.


async def test_a_change_whose_answer_was_lost_is_found(served: Served) -> None:
    """Killed between push and answer: another process tries again, also after others went on."""
    first = await served.writing().change(change(OFF))
    served.push("theirs", {"x.yaml": desk(display_name="On again"), "y.txt": "y"})
    again = await served.writing().change(change(OFF))
    assert (again.commit, again.is_repeat, served.commits()) == (first.commit, True, 3)
    assert (again.files, again.diff) == (first.files, first.diff)
    assert "display_name: On again" in served.show("x.yaml")
    other = await served.writing().change(change(OFF, marker="m2"))
    assert (other.is_repeat, served.commits()) == (False, 4)


async def test_the_search_goes_back_to_when_the_marker_was_made(served: Served) -> None:
    """A new clone holds the newest commits only; what came since the marker is fetched."""
    clock = VirtualClock()
    first = await served.writing(clock=clock).change(change(OFF))
    served.repo.seconds = int(clock.now().timestamp())
    served.repo.git("pull", "--quiet", "--ff-only", "origin", "main")
    for number in range(80):
        served.repo.commit("theirs", {"y.txt": str(number)})
    served.push("theirs", {"y.txt": "last"})
    again = await served.writing(clock=clock).change(change(OFF))
    assert (again.commit, again.is_repeat) == (first.commit, True)


async def test_a_push_whose_answer_never_comes_is_not_made_twice(served: Served, https: GitHttps) -> None:
    from reconciler.desired.source_error import Fault, SourceError

    writing = served.writing(url=f"{https.url}/r.git", ca_file=https.ca_file)
    repository: Any = writing._repository
    push = repository.push

    async def lost(commit: str, branch: str) -> Any:
        repository.push = push
        await push(commit, branch)
        raise SourceError(Fault.UNREACHABLE, "the connection broke")

    repository.push = lost
    written = await writing.change(change(OFF))
    assert (served.commits(), written.commit, written.is_repeat) == (2, served.head(), False)


async def test_a_writer_that_is_killed_leaves_nothing_half_done(served: Served) -> None:
    """kill -9 while the server has taken the commit and not answered yet; the next process has the same cache."""
    taken, go = served.folder / "taken", served.folder / "go"
    served.hook("post-receive", f"touch '{taken}'; while [ ! -e '{go}' ]; do sleep 0.02; done")
    process = get_context("spawn").Process(target=write_once, args=(served.folder, served.bare))
    process.start()
    while not taken.exists():
        assert process.is_alive()
        await asyncio.sleep(0.02)
    process.kill()
    process.join()
    go.touch()
    again = await served.writing().change(change(OFF))
    assert (again.commit, again.is_repeat, served.commits()) == (served.head(), True, 2)


def write_once(folder: Path, bare: Path) -> None:
    served = Served(Repo(folder / "work"), bare, folder)
    asyncio.run(served.writing().change(change(OFF)))


async def test_what_a_killed_fetch_leaves_is_cleared_away(served: Served) -> None:
    await served.writing().change(change(OFF))
    cache = served.writing(number=0)._repository._path
    (cache / "shallow.lock").touch()
    served.push("theirs", {"y.txt": "y"})
    assert (await served.writing(number=0).change(change(NEW, marker="m2"))).commit == served.head()


# Refused.


async def test_a_hook_that_refuses_is_told_in_its_own_words(served: Served) -> None:
    served.hook("pre-receive", "echo 'main is protected: ask the owners, do not fetch first' >&2; exit 1")
    error = await refused(served.writing().change(change(OFF)))
    assert (error.fault, served.commits()) == (WriteFault.REFUSED, 1)
    assert "main is protected: ask the owners" in error.message
    assert "pull-request" in error.remedy


async def test_what_is_no_branch_is_told(served: Served) -> None:
    served.git("tag", "v1", "main")
    error = await refused(served.writing(ref="v1").change(change(OFF)))
    assert (error.fault, "set ref to a branch" in str(error)) == (WriteFault.NOT_A_BRANCH, True)
    error = await refused(served.writing(ref="gone").change(change(OFF)))
    assert error.fault is WriteFault.UNAVAILABLE
    with pytest.raises(ValueError, match="pinned to a commit"):
        served.writing(ref=served.head())
    with pytest.raises(ValueError, match="as they lie there"):
        served.writing(url=str(served.repo.root), ref="")
    checked_out = await refused(served.writing(url=str(served.repo.root)).change(change(OFF)))
    assert (checked_out.fault, "bare" in checked_out.remedy) == (WriteFault.REFUSED, True)
    head = await served.writing(ref="").change(change(OFF))
    assert head.branch == "main"


async def test_findings_refuse_before_anything_is_pushed(served: Served) -> None:
    error = await refused(served.writing().change(change(Patch(A, {"spec": {"config": {"url": "nowhere"}}}))))
    assert (error.fault, served.commits()) == (WriteFault.INVALID, 1)
    assert str(error.findings[0]).startswith("x.yaml:7:17: invalid-value: ")


@pytest.mark.parametrize("field", ["marker", "subject", "request", "author"])
def test_texts_that_would_add_lines_to_a_commit(served: Served, field: str) -> None:
    wrong = {"author": Author("Ada\nx", "a@b")}.get(field, "a\nReconciler-Change: m9")
    with pytest.raises(ValueError, match=r"printable|a marker is"):
        asyncio.run(served.writing().change(replace(change(OFF), **{field: wrong})))  # type: ignore[arg-type]


# Off.


async def test_in_mode_off_the_caller_gets_what_to_commit(served: Served, tmp_path: Path) -> None:
    source = GitSource(served.writing()._means.source, tmp_path / "cache", VirtualClock())
    from reconciler.desired.validate import Inputs, validate
    from tests.unit.desired.manifest_kit import TinyRegistry

    known = validate(await source.fetch(), Inputs(source="main", registry=TinyRegistry()))
    error = await refused(served.writing(Mode.OFF, known=known).change(change(OFF)))
    assert (error.fault, served.commits()) == (WriteFault.READ_ONLY, 1)
    assert error.preview is not None
    assert "+  enabled: false" in error.preview.diff
    assert (await refused(served.writing(Mode.OFF).change(change(OFF)))).fault is WriteFault.UNAVAILABLE


async def test_a_folder_that_is_read_as_it_lies_there_shows_what_to_write(served: Served) -> None:
    from reconciler.desired.validate import Inputs, validate
    from tests.unit.desired.manifest_kit import TinyRegistry

    root = served.repo.root
    (root / "it").mkdir()
    (root / "it" / ".sops.yaml").write_text("creation_rules: []")
    inputs = Inputs(source="main", registry=TinyRegistry())
    known = validate(scan_folder(root), inputs)
    writing = served.writing(Mode.OFF, known=known, url=str(root), ref="")
    preview = await writing.preview(change(OFF, NEW))
    assert preview.files == ("x.yaml", "it/new.yaml")
    secret = Put(Ref("it", "new"), {"spec": spec(auth={"type": "key", "key": "hunter22"})})
    error = await refused(writing.preview(change(secret)))
    assert (error.fault, "hunter22" in str(error)) == (WriteFault.UNSEALED, False)


# Signed.


@pytest.mark.needs("ssh-keygen")
async def test_a_commit_signed_with_an_ssh_key(served: Served, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    key = ssh_key(tmp_path / "it's a key", allowed)
    written = await served.writing(rules={"signing": Signing(key)}).change(change(OFF))
    served.git("-c", f"gpg.ssh.allowedSignersFile={allowed}", "verify-commit", written.commit)
    error = await refused(
        served.writing(rules={"signing": Signing(tmp_path / "none")}).change(change(NEW, marker="m2"))
    )
    assert (error.fault, served.commits()) == (WriteFault.UNSIGNED, 2)


@pytest.mark.needs("gpg")
async def test_a_commit_signed_with_an_openpgp_key(served: Served, tmp_path: Path) -> None:
    with pgp_key() as pgp:
        exported = tmp_path / "key.asc"
        run("gpg", "--armor", "--output", exported, "--export-secret-keys", pgp.fingerprint, home=pgp.home)
        signing = Signing(exported, SigningFormat.OPENPGP)
        written = await served.writing(rules={"signing": signing}).change(change(OFF))
        said = run("git", "--git-dir", served.bare, "verify-commit", "--raw", written.commit, home=pgp.home).stderr
    assert b"GOODSIG" in said
    assert left_behind() == []


def left_behind() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("rec-gpg-*"))
