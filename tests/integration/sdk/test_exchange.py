"""What is kept of the last request and its answer: enough to see what went wrong, and no secret."""

import json

from hypothesis import given
from hypothesis import strategies as st

from reconciler.sdk.exchange import EXCERPT, Trail
from reconciler.sdk.redact import Redactor

CANARY = "canary-exchange-8Qx2Lw0v"


def kept(body: bytes, answer: bytes = b"", url: str = "https://api.example/things") -> str:
    redactor, trail = Redactor(), Trail()
    redactor.register("x", [CANARY])
    trail.asked("POST", url, body, redactor)
    trail.answered(422, answer)
    return json.dumps(trail.exchange)


def test_what_is_asked_and_answered_is_kept_in_short() -> None:
    trail = Trail()
    assert Trail().exchange is None
    trail.asked("POST", "https://u:p@api.example:8443/a/b?token=x#f", b'{"text": "hello"}', Redactor())
    assert trail.exchange == {
        "method": "POST",
        "url": "https://api.example:8443/a/b",
        "status": None,
        "request": '{"text": "hello"}',
        "response": None,
    }
    trail.answered(500, b"x" * 5000)
    assert trail.exchange is not None
    assert len(trail.exchange["response"]) == EXCERPT + 1


def test_secrets_are_masked_by_name_and_by_value() -> None:
    by_name = [
        b'{"password": "short1", "a": [{"api_key": "short2"}]}',
        b"client_secret=short3&grant_type=password",
        b'{"token": "short4"',
    ]
    for body in by_name:
        assert "short" not in kept(body, body)
    by_value = [CANARY.encode(), json.dumps({"text": f"x {CANARY} y"}).encode(), f"text={CANARY}".encode()]
    for body in by_value:
        assert CANARY not in kept(body, body, f"https://hooks.example/{CANARY}/x?{CANARY}")


@given(st.binary(max_size=3 * EXCERPT), st.integers(0, 3 * EXCERPT))
def test_no_cut_shows_a_part_of_a_secret(noise: bytes, place: int) -> None:
    body = noise[:place] + CANARY.encode() + noise[place:]
    assert CANARY[:8] not in kept(body, body)
