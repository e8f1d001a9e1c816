"""Where people come back to, and what of that address counts."""

import pytest

from reconciler.app.authorizations import Returned, callback_url, returned_by


@pytest.mark.parametrize(
    ("public_url", "listen", "expected"),
    [
        ("https://r.example.org", "127.0.0.1:8750", "https://r.example.org/v1/oauth/callback"),
        ("https://r.example.org/sub/", "", "https://r.example.org/sub/v1/oauth/callback"),
        ("", "127.0.0.1:8750", "http://127.0.0.1:8750/v1/oauth/callback"),
        ("", "0.0.0.0:80", "http://127.0.0.1:80/v1/oauth/callback"),
        ("", "[::]:80", "http://127.0.0.1:80/v1/oauth/callback"),
        ("", "127.0.0.1:0", ""),
        ("", "", ""),
    ],
)
def test_where_people_come_back_to(public_url: str, listen: str, expected: str) -> None:
    assert callback_url(public_url, listen) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://r/v1/oauth/callback?code=a%2Fb&state=s", Returned("s", "a/b")),
        ("https://r/cb?error=access_denied&error_description=No+way&state=s", Returned("s", "", "access_denied", "No way")),
        ("?state=s&code=c&iss=https://remote#_", Returned("s", "c")),
        ("nothing", Returned("")),
        ("", Returned("")),
    ],
)  # fmt: skip
def test_what_of_the_address_counts(address: str, expected: Returned) -> None:
    assert returned_by(address) == expected


def test_state_and_code_do_not_show_in_a_traceback() -> None:
    assert "canary" not in repr(Returned("canary-state", "canary-code"))
