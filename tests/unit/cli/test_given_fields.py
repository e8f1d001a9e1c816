"""Fields as they are typed: what they become, and that no secret is taken from the line."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli.given_fields import add_fields, fields_of, labels_of
from reconciler.cli.server_access import explained
from reconciler.cli.store_access import CommandError
from reconciler.client import ConflictError

SECRET = "xoxb-canary-of-a-line"


def _given(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_fields(parser)
    return parser.parse_args(words)


def test_values_are_as_in_a_manifest() -> None:
    wanted: dict[str, Any] = {
        "url": "https://x.example.org/?a=b",
        "size": 50,
        "text": "50",
        "no": "no",
        "is": True,
        "none": None,
        "title": "Sales: EU # 1",
        "many": ["a", 2],
        "map": {"a": "b"},
    }
    texts = [
        "url=https://x.example.org/?a=b",
        "size=50",
        'text="50"',
        "no=no",
        "is=true",
        "none=",
        "title=Sales: EU # 1",
    ]
    texts += ["many=[a, 2]", "map={a: b}"]
    words = [word for text in texts for word in ("--set", f"config.{text}")]
    assert fields_of(_given(*words, "--set", "type=slack")) == {"config": wanted, "type": "slack"}
    assert labels_of(_given("--label", "team=chat", "--label", "a=b=c")) == {"team": "chat", "a": "b=c"}


def test_secrets_come_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setenv("A_TOKEN", SECRET)
    for source in (f"@{tmp_path}/token", "env:A_TOKEN"):
        assert fields_of(_given("--secret", f"auth.token={source}")) == {"auth": {"token": SECRET}}
    reference = fields_of(_given("--set", "auth.token={from_env: ITOPS_SLACK}"))
    assert reference == {"auth": {"token": {"from_env": "ITOPS_SLACK"}}}


@pytest.mark.parametrize(
    "words",
    [
        ("--set", f"auth.token={SECRET}"),
        ("--set", f"auth={{token: {SECRET}}}"),
        ("--set", f"config.webhook.secret={SECRET}"),
        ("--set", SECRET),
        ("--secret", SECRET),
        ("--secret", f"auth.token={SECRET}"),
        ("--secret", "auth.token=@/no/such/file"),
        ("--secret", "auth.token=env:NOT_SET_ANYWHERE"),
        ("--secret", "auth.token=-", "--secret", "auth.other=-"),
        ("--set", "a=1", "--set", "a.b=2"),
        ("--set", "a=1", "--set", "a=2"),
        ("--set", "a..b=1"),
        ("--set", "a=[1"),
        ("--set", "a=99999999999999999999"),
    ],
)
def test_what_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError) as refused:
        fields_of(_given(*words))
    assert SECRET not in str(refused.value)


def test_a_refusal_says_what_to_do() -> None:
    candidates = [{"ref": "it-ops.sn", "type": "servicenow", "id": "int_1"}]
    several = ConflictError(409, "ambiguous", "several", more={"candidates": candidates})
    assert "it-ops.sn (servicenow, int_1)" in explained(several)
    off = ConflictError(409, "git-off", "write_back is off", more={"diff": "+enabled: true"})
    assert explained(off).endswith("commit this yourself:\n+enabled: true")
