"""`reconciler token` beside a running daemon: made, used, listed, revoked; and those that Git declares."""

import json
from collections.abc import Iterator
from getpass import getuser

import httpx
import pytest

from reconciler.model.access import hash_of
from tests.e2e.stage import PATIENCE
from tests.e2e.town import Town, town

DECLARED = "rct_declared_by_a_team"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with town(tmp_path_factory.mktemp("token")) as made:
        yield made


def asked(here: Town, clear: str) -> int:
    sent = {"authorization": f"Bearer {clear}"}
    return httpx.get(f"{here.address}/v1/integrations", headers=sent, timeout=PATIENCE, trust_env=False).status_code


def test_from_its_making_to_its_end(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("token", "create", "ci", "--workspace", "it-ops", "--expires", "90d") == 0
    said = capsys.readouterr()
    clear = said.out.strip()
    assert "is shown only now" in said.err
    assert asked(here, clear) == httpx.codes.OK
    assert asked(here, f"{clear}x") == httpx.codes.UNAUTHORIZED

    assert here.run("token", "list", "--output", "json") == 0
    listed = capsys.readouterr().out
    (token,) = json.loads(listed)["tokens"]
    assert (token["name"], token["workspace"], token["state"]) == ("ci", "it-ops", "active")
    assert token["permissions"] == ["integration.view"]
    assert clear not in listed
    assert clear.startswith(f"{token['id']}_")
    here.until("its use is noted", lambda: _last_used(here, capsys))

    assert here.run("token", "create", "ci", "--workspace", "it-ops") == 1
    assert "there is a token ci already" in capsys.readouterr().err
    assert here.run("token", "revoke", "ci") == 0
    assert "opens nothing any more" in capsys.readouterr().out
    here.until("it opens nothing", lambda: asked(here, clear) == httpx.codes.UNAUTHORIZED)
    assert here.run("token", "revoke", "ci") == 1
    assert "revoked already" in capsys.readouterr().err

    assert here.run("audit", "--workspace", "it-ops", "--output", "json") == 0
    acts = json.loads(capsys.readouterr().out)["audit"]
    assert [one["action"] for one in acts] == ["reconciler token revoke", "reconciler token create"]
    assert {(one["target"], one["caller"], one["detail"]["name"]) for one in acts} == {(token["id"], getuser(), "ci")}


def test_a_whole_token_may_be_revoked_and_is_never_repeated(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.run("token", "create", "leaked", "--workspace", "it-ops") == 0
    clear = capsys.readouterr().out.strip()
    assert [here.run("token", "revoke", clear) for _ in range(2)] == [0, 1]
    assert here.run("token", "revoke", "rct_unknown_and-its-secret") == 1
    said = capsys.readouterr()
    assert "there is no token rct_unknown; see" in said.err
    assert "secret" not in said.out + said.err
    assert clear not in said.out + said.err


def _last_used(here: Town, capsys: pytest.CaptureFixture[str]) -> bool:
    here.run("token", "list")
    return "ago" in capsys.readouterr().out


def test_those_that_git_declares(here: Town, capsys: pytest.CaptureFixture[str]) -> None:
    token = {"name": "team", "sha256": hash_of(DECLARED), "permissions": ["integration.view"]}
    here.stage.workspace("it-ops", tokens=[token])
    here.stage.commit()
    here.until("it opens", lambda: asked(here, DECLARED) == httpx.codes.OK)
    assert here.run("token", "revoke", "team") == 1
    assert "stands in the manifest of workspace it-ops; take it out there" in capsys.readouterr().err
    here.stage.workspace("it-ops")
    here.stage.commit()
    here.until("it opens nothing", lambda: asked(here, DECLARED) == httpx.codes.UNAUTHORIZED)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "Big", "--workspace", "it-ops"), "NAME Big: expected small letters"),
        (("create", "x", "--workspace", "it ops"), "--workspace it ops: expected small letters"),
        (("create", "x", "--workspace", "w", "--allow", "integration.veiw"), "did you mean integration.view?"),
        (("create", "x", "--workspace", "w", "--expires", "2001-01-01T00:00:00Z"), "this is in the past"),
        (("revoke", "nobody"), "there is no token nobody; see: reconciler token list"),
    ],
)
def test_what_is_refused(here: Town, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str) -> None:
    assert here.run("token", *words) == 1
    assert said in capsys.readouterr().err
