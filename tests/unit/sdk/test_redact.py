"""Masking: every spelling of a registered value, the patterns of credentials nobody registered, and nothing else."""

import base64
import json
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.secret import MASK, Secret
from reconciler.sdk.redact import Redactor

VALUE = 'canary-"7f3a/ü 9c+51'


def redactor(*values: str) -> Redactor:
    made = Redactor()
    made.register("it-ops/servicenow", [Secret(v) for v in values])
    return made


@pytest.mark.parametrize(
    "spelling",
    [
        str,
        quote,
        quote_plus,
        lambda v: quote(v, safe=""),
        lambda v: quote(v, safe="").lower(),
        lambda v: json.dumps(v)[1:-1],
        lambda v: json.dumps(v, ensure_ascii=False)[1:-1],
        lambda v: json.dumps(v)[1:-1].replace("/", "\\/"),
        repr,
    ],
)
def test_every_spelling_of_a_value_is_masked(spelling: Callable[[str], str]) -> None:
    assert redactor(VALUE).text(f"remote said <{spelling(VALUE)}> at 12:00").count(MASK) == 1
    assert "7f3a" not in redactor(VALUE).text(f"remote said <{spelling(VALUE)}> at 12:00")


@pytest.mark.parametrize("before", ["", "u", "us", "use", "user:"])
@pytest.mark.parametrize("after", ["", "x", "xy"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_value_inside_base64_is_masked(before: str, after: str, encode: Callable[[bytes], bytes]) -> None:
    text = encode(f"{before}{VALUE}{after}".encode()).decode()
    masked = redactor(VALUE).text(f"got {text}")
    assert MASK in masked
    kept = masked.replace("got ", "").replace(MASK, "")
    assert len(kept) <= 4 + len(before) * 2 + len(after) * 2


@given(st.text(min_size=8, max_size=40).filter(lambda v: not v.isspace()), st.text(max_size=60), st.text(max_size=60))
def test_no_registered_value_survives_anywhere(value: str, before: str, after: str) -> None:
    assert value not in redactor(value).text(before + value + after).replace(MASK, "")


def test_values_that_overlap_or_repeat_leave_nothing() -> None:
    masked = redactor("abcdefgh12", "gh12345678").text("abcdefgh12345678 and abcdefgh12abcdefgh12")
    assert masked == f"{MASK} and {MASK}{MASK}"


def test_short_values_are_not_masked_in_prose() -> None:
    assert redactor("prod").text("production of prod") == "production of prod"


def test_every_line_of_a_key_is_masked() -> None:
    masked = redactor("line-one-11111\nline-two-22222").text("failed at line-two-22222")
    assert masked == f"failed at {MASK}"


def test_an_owner_that_changes_or_leaves_frees_its_values() -> None:
    made = redactor("first-value-1", "second-value-2")
    made.register("other", ["second-value-2"])
    made.register("it-ops/servicenow", ["third-value-3"])
    assert made.text("first-value-1 second-value-2 third-value-3") == f"first-value-1 {MASK} {MASK}"
    made.forget("it-ops/servicenow")
    made.forget("other")
    made.forget("unknown")
    assert made.text("second-value-2 third-value-3") == "second-value-2 third-value-3"
    assert repr(made) == "Redactor(0 spellings of 0 owners)"


def test_a_token_obtained_later_is_masked_too() -> None:
    made = redactor("first-value-1")
    made.add("it-ops/servicenow", Secret("token-of-today"))
    made.add("it-ops/servicenow", "token-of-today")
    assert made.text("first-value-1 token-of-today") == f"{MASK} {MASK}"
    made.forget("it-ops/servicenow")
    assert made.text("first-value-1 token-of-today") == "first-value-1 token-of-today"


def test_of_tokens_that_come_and_go_the_ones_in_use_stay_known() -> None:
    made, gone = redactor("first-value-1"), [f"token-of-hour-{hour:04}" for hour in range(100)]
    for token in gone:
        made.add("it-ops/servicenow", token)
        made.add("it-ops/servicenow", "refresh-token-of-always")
    said = made.text(f"first-value-1 refresh-token-of-always {gone[-1]} {gone[-2]} {gone[0]}")
    assert said == f"{MASK} {MASK} {MASK} {MASK} {gone[0]}"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("{'Authorization': 'Bearer abc.def-123'}", "abc.def-123"),
        ("proxy-authorization: Digest username=x, response=6629fae4", "6629fae4"),
        ("X-Auth-Token: abcdef", "abcdef"),
        ("x-hub-signature=sha256", "sha256"),
        ("sent Bearer eyabc123def456", "eyabc123def456"),
        ("token xoxb-1234567890-abcdef", "xoxb-1234567890-abcdef"),
        ("xoxp-1234567890-abcdef", "xoxp-1234567890-abcdef"),
        ("ghp_0123456789abcdef", "ghp_0123456789abcdef"),
        ("ghs_0123456789abcdef", "ghs_0123456789abcdef"),
        ("glpat-0123456789abcdef", "glpat-0123456789abcdef"),
        ("key AGE-SECRET-KEY-1QQPQZRFR7ZZ2WCV", "1QQPQZRFR7ZZ2WCV"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "MIIE"),
        ("cut: -----BEGIN PRIVATE KEY-----\nMIIE", "MIIE"),
        ("https://admin:hunter2@proxy.example:3128/", "hunter2"),
        ("GET /x?access_token=abc123&page=2", "abc123"),
        ("client_secret=s3cr3t&grant_type=x", "s3cr3t"),
        ('{"password": "pa\\"ss word", "user": "bob"}', "ss word"),
        ("{'api_key': 'k-1-2-3'}", "k-1-2-3"),
        ("https://hooks.slack.com/services/T000/B000/XXXX", "B000"),
        ("jwt eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxMjM0In0.c2lnbmF0dXJl", "eyJpc3MiOiIxMjM0In0"),
    ],
)
def test_patterns_of_credentials_are_masked(text: str, secret: str) -> None:
    masked = Redactor().text(text)
    assert secret not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "the token endpoint refused: invalid_client",
        "Basic authentication is disabled for this account",
        "Bearer authentication required",
        "https://company.service-now.com/api/now/table/incident?sysparm_limit=100",
        "https://example.com/@user/page:1",
        "passwords are rotated monthly",
        "record INC0010023 of 2026-05-04T12:00:00Z",
    ],
)
def test_prose_stays_as_it_is(text: str) -> None:
    assert Redactor().text(text) == text


def test_the_rest_of_a_line_survives() -> None:
    assert Redactor().text("GET /x?access_token=abc&page=2") == f"GET /x?access_token={MASK}&page=2"
    assert Redactor().text("http://bob:hunter2@h/x") == f"http://bob:{MASK}@h/x"


def test_detail_is_masked_at_every_depth() -> None:
    detail = {
        "headers": {"Authorization": "anything", "x-api-key": "k", "accept": "json"},
        "tries": 3,
        "list": ["first-value-1", ("a", None, True)],
        "raw": b"first-value-1",
        "secret": Secret("never shown"),
        "client_secret": "",
        "first-value-1": 1,
    }
    assert redactor("first-value-1").value(detail) == {
        "headers": {"Authorization": MASK, "x-api-key": MASK, "accept": "json"},
        "tries": 3,
        "list": [MASK, ["a", None, True]],
        "raw": MASK,
        "secret": MASK,
        "client_secret": "",
        MASK: 1,
    }


@pytest.mark.parametrize(
    "piece", ["a-", "x:", "http://", "authorization ", 'password="', "eyJaaaaaaaaa.", "Bearer a", "x-key"]
)
def test_hostile_text_costs_no_more_than_its_length(piece: str) -> None:
    text = piece * (60_000 // len(piece)) + "://"
    started = time.process_time()
    Redactor().text(text)
    assert time.process_time() - started < 1


def test_thousands_of_values_cost_no_more_than_a_few() -> None:
    line = "sync of it-ops/servicenow-prod committed page 17 with 1000 records, 3 changed, in 0.034 s " * 3

    def seconds(count: int) -> float:
        made = redactor(*(f"{i:05d}-canary-{i * 7919:09d}" for i in range(count)))
        best = []
        for _ in range(5):
            started = time.process_time()
            for _ in range(100):
                made.text(line)
            best.append(time.process_time() - started)
        return min(best)

    assert seconds(5_000) < 4 * seconds(10) + 0.01
