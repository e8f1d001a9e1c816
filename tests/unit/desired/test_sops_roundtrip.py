"""What is encrypted opens again as the same values, in every format, with its layout, and under a new data key."""

import json
from datetime import UTC, datetime
from typing import Any

import pyrage
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.document import decrypt, open_file
from reconciler.desired.sops.encrypt import Sealing, encrypt, rotate
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import Format, read
from reconciler.desired.sops.keys import Keyring, parse_identities
from reconciler.desired.sops.rules import KINDS, Rules
from reconciler.desired.sops.tree import revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.finding import Code
from reconciler.model.secret import Secret

IDENTITY = pyrage.x25519.Identity.generate()
KEYRING = Keyring(tuple(parse_identities(str(IDENTITY), "test")))
ME = (str(IDENTITY.to_public()),)
AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
WHOLE = Sealing(ME, Rules(), AT)

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
KEYS = st.one_of(st.sampled_from(["a", "token", "b_unencrypted", "x_enc", "a:b", "list"]), TEXTS.filter(bool)).filter(
    lambda key: key not in ("sops", "<<")
)
SCALARS = st.one_of(
    *(TEXTS, st.text("ab \n\t#:-'\"|>é", max_size=20), st.booleans(), st.none(), st.integers(-(2**63), 2**63 - 1)),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
TREES = st.dictionaries(KEYS, VALUES, min_size=1, max_size=5)
RULES = st.builds(
    Rules,
    st.sampled_from(KINDS).map(lambda kind: kind),
    st.sampled_from(["token", "_unencrypted", "_enc", "a"]),
    st.booleans(),
)


def sealed_or_skipped(content: bytes, fmt: Format, rules: Rules) -> bytes:
    try:
        return encrypt(content, fmt, Sealing(ME, rules, AT))
    except SopsError as refusal:
        assume(refusal.code not in (Code.SOPS_CLEAR_VALUE, Code.INVALID_VALUE, Code.YAML_SYNTAX))
        raise


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(TREES, RULES)
def test_yaml(tree: dict[str, Any], rules: Rules) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    try:
        wanted = read_documents(text)
    except SopsError:
        assume(False)
    sealed = sealed_or_skipped(text.encode(), "yaml", rules)
    opened = open_file(sealed, "yaml", KEYRING)
    assert repr(revealed(list(opened.trees))) == repr(wanted)
    clear = clear_text(sealed, "yaml", KEYRING)
    assert repr(read_documents(clear.decode())) == repr(wanted)
    again = rotate(sealed, "yaml", KEYRING, (), WHOLE)
    assert repr(revealed(list(open_file(again, "yaml", KEYRING).trees))) == repr(wanted)


@settings(max_examples=100, deadline=None)
@given(TREES, RULES)
def test_json(tree: dict[str, Any], rules: Rules) -> None:
    content = json.dumps(tree, ensure_ascii=False).encode()
    sealed = sealed_or_skipped(content, "json", rules)
    wanted = read(content, "json").documents[0]
    assert revealed(decrypt(sealed, "json", KEYRING).tree) == wanted
    assert json.loads(clear_text(rotate(sealed, "json", KEYRING, (), WHOLE), "json", KEYRING)) == wanted


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_binary(content: bytes) -> None:
    sealed = encrypt(content, "binary", WHOLE)
    assert clear_text(sealed, "binary", KEYRING) == content
    assert clear_text(rotate(sealed, "binary", KEYRING, (), WHOLE), "binary", KEYRING) == content
    changed = json.loads(sealed) | {"more": "x"}
    with pytest.raises(SopsError):
        clear_text(json.dumps(changed).encode(), "binary", KEYRING)


def test_env_keeps_lines_and_comments() -> None:
    content = b"# a comment\nTOKEN=ab=c\\nd\nEMPTY=\nHOST_unencrypted=h\n"
    sealed = encrypt(content, "env", WHOLE)
    assert b"a comment" not in sealed
    assert b"HOST_unencrypted=h\n" in sealed
    assert clear_text(sealed, "env", KEYRING) == content
    assert decrypt(sealed, "env", KEYRING).tree["TOKEN"] == Secret("ab=c\nd")
    assert clear_text(rotate(sealed, "env", KEYRING, (), WHOLE), "env", KEYRING) == content


LAYOUT = """\
# who may call us
name:   servicenow   # the instance
auth:      # credentials
    # rotated in May
    token: "quoted"   # until 2027
    'key':    |
        line one
        line two
    flow: {a: x, "b": [1, 'two']}
    empty: ""
    nothing:
    folded: >-
        several
        words

# after
list:
  - plain
  # within
  - {token: 1}
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_yaml_keeps_everything_that_is_not_encrypted(newline: str) -> None:
    text = LAYOUT.replace("\n", newline)
    sealed = encrypt(text.encode(), "yaml", Sealing(ME, Rules("encrypted_regex", "^(auth|token)$"), AT)).decode()
    before, after = (part.split(newline) for part in (text, sealed))
    for number in (0, 1, 2, 15, 16, 17, 18):
        assert before[number] in after
    assert "rotated" not in sealed
    assert "until" not in sealed
    assert f"{newline}sops:{newline}" in sealed
    clear = clear_text(sealed.encode(), "yaml", KEYRING).decode()
    assert "# rotated in May" in clear
    assert "# until 2027" in clear
    assert clear.startswith(newline.join(before[:4]))
    assert read_documents(clear) == read_documents(text)
    once_more = encrypt(clear.encode(), "yaml", Sealing(ME, Rules("encrypted_regex", "^(auth|token)$"), AT))
    assert clear_text(once_more, "yaml", KEYRING).decode() == clear


def test_documents_of_one_file() -> None:
    text = "# one\na: 1\n---\n# two\nb: x # eol\n...\n---\nc: why\n"
    sealed = encrypt(text.encode(), "yaml", WHOLE)
    assert sealed.count(b"\nsops:") == 3
    assert clear_text(sealed, "yaml", KEYRING).decode() == text


def test_encrypted_comments_as_items_of_lists() -> None:
    """So SOPS writes them: what stands there is no value, and comes back as the comment it was."""
    text = "l:\n    # one\n    - a\n    # two\n    - {k: b}\n"
    ours = encrypt(text.encode(), "yaml", WHOLE)
    theirs = ours.replace(b"    #ENC[", b"    - ENC[")
    assert theirs.count(b"- ENC[") == 3
    assert revealed(decrypt(theirs, "yaml", KEYRING).tree) == {"l": ["a", {"k": "b"}]}
    assert clear_text(theirs, "yaml", KEYRING).decode() == text
    assert clear_text(rotate(theirs, "yaml", KEYRING, (), WHOLE), "yaml", KEYRING).decode() == text
    stray = theirs[: theirs.index(b"    - {k")]
    with pytest.raises(SopsError, match="encrypted already"):
        encrypt(b"l:\n    - clear\n" + b"\n".join(stray.splitlines()[1:2]) + b"\n", "yaml", WHOLE)


def test_rotate_replaces_key_and_recipients_and_nothing_else() -> None:
    other = pyrage.x25519.Identity.generate()
    sealed = encrypt(b"a: x # c\nb_unencrypted: y\n", "yaml", WHOLE)
    turned = rotate(sealed, "yaml", KEYRING, (str(other.to_public()),), WHOLE)
    theirs = Keyring(tuple(parse_identities(str(other), "test")))
    assert clear_text(turned, "yaml", theirs) == b"a: x # c\nb_unencrypted: y\n"
    assert open_file(turned, "yaml", theirs).data_key != open_file(sealed, "yaml", KEYRING).data_key
    with pytest.raises(SopsError) as caught:
        open_file(turned, "yaml", KEYRING)
    assert caught.value.code is Code.SOPS_KEY_MISSING


@pytest.mark.parametrize(
    ("content", "fmt", "reason"),
    [
        (encrypt(b"a: x\n", "yaml", WHOLE), "yaml", "encrypted already"),
        (encrypt(b'{"a": "x"}', "json", WHOLE), "json", "encrypted already"),
        (encrypt(b"A=x\n", "env", WHOLE), "env", "encrypted already"),
        (encrypt(b"x", "binary", WHOLE), "binary", "encrypted already"),
        (b"a: ENC[AES256_GCM,data:AA==,iv:AA==,tag:AA==,type:str]\n", "yaml", "encrypted already"),
        (b"a: 0777\n", "yaml", "line 1: .* differently"),
        (b"a: &x y\nb: *x\n", "yaml", "line 2: an alias"),
        (b"{a: b}\n", "yaml", "braces"),
        (b"- a\n", "yaml", "not a mapping"),
        (b"", "yaml", "not a mapping"),
        (b"a_unencrypted: x\n", "yaml", "nothing would be encrypted"),
        (b"\xff\xfe", "yaml", "not UTF-8"),
        (b"[a]\nb=c\n", "ini", "read, not written"),
    ],
)
def test_what_cannot_be_encrypted_is_refused(content: bytes, fmt: Format, reason: str) -> None:
    with pytest.raises(SopsError, match=reason) as caught:
        encrypt(content, fmt, WHOLE)
    assert caught.value.remedy or caught.value.code is Code.SOPS_MALFORMED


def test_recipients_are_needed_and_must_be_age() -> None:
    for recipients in ((), ("age1nonsense",), ("ssh-dss AAAA",), ("FBC7B9E2A4F9289AC0C1D4843D16CEE4A27381B4",)):
        with pytest.raises(SopsError) as caught:
            encrypt(b"a: x\n", "yaml", Sealing(recipients, Rules(), AT))
        assert caught.value.code is Code.SOPS_KEY_MISSING
