"""Everything a SOPS reader must refuse is refused, with a code, a reason and never a value."""

import re
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

import pyrage
import pytest

from reconciler.desired.sops.cipher import ValueCipher
from reconciler.desired.sops.document import decrypt, decrypt_documents, decrypt_tree
from reconciler.desired.sops.encrypt import Sealing, encrypt
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import read
from reconciler.desired.sops.keys import Keyring, parse_identities
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.finding import Code
from reconciler.model.secret import Secret

CANARY = "canary-7f3a9b"
IDENTITY = pyrage.x25519.Identity.generate()
KEYRING = Keyring(tuple(parse_identities(str(IDENTITY), "test")))
AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
CLEAR = f"""\
name: servicenow
auth:
  user: svc
  token: {CANARY}-token
  other: {CANARY}-other
  pin: 4711
  active: true
  empty: ""
  nothing: null
notes: [clear, words]
""".encode()
SEALING = Sealing((str(IDENTITY.to_public()),), Rules("encrypted_regex", "^auth$"), AT)
SEALED = encrypt(CLEAR, "yaml", SEALING).decode()


def refusal(content: str | bytes, fmt: str = "yaml", keyring: Keyring = KEYRING) -> SopsError:
    raw = content if isinstance(content, bytes) else content.encode()
    with pytest.raises(SopsError) as caught:
        decrypt(raw, fmt, keyring)  # type: ignore[arg-type]
    assert_silent(caught.value)
    return caught.value


def assert_silent(error: BaseException) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert CANARY not in f"{seen!r} {seen} {seen.args}"
        seen = seen.__cause__ or seen.__context__
    assert CANARY not in "".join(traceback.format_exception(error))


def value_of(key: str, text: str = SEALED) -> str:
    found = re.search(rf"^ *{key}: (\S+)$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def resealed(value: str, aad: str, kind: str) -> str:
    """A file whose `auth.token` was sealed by a foreign writer under the right key."""
    data_key = pyrage.decrypt(read(SEALED.encode(), "yaml").block["age"][0]["enc"].encode(), [IDENTITY])
    return SEALED.replace(value_of("token"), ValueCipher(data_key).seal(value, aad, kind=kind))


def test_the_untouched_file_opens() -> None:
    tree = decrypt(SEALED.encode(), "yaml", KEYRING).tree
    assert tree["auth"]["token"] == Secret(f"{CANARY}-token")
    assert tree["auth"]["user"] == Secret("svc")
    assert (tree["auth"]["pin"], tree["auth"]["active"]) == (4711, True)
    assert (tree["auth"]["empty"], tree["auth"]["nothing"], tree["notes"]) == ("", None, ["clear", "words"])
    assert CANARY not in repr(decrypt(SEALED.encode(), "yaml", KEYRING))


@pytest.mark.parametrize("prefix", ["", "\ufeff"])
def test_crlf_and_a_byte_order_mark_are_accepted(prefix: str) -> None:
    text = prefix + SEALED.replace("\n", "\r\n")
    assert decrypt(text.encode(), "yaml", KEYRING).tree["auth"]["pin"] == 4711


CHANGES: dict[str, tuple[Callable[[str], str], Code]] = {
    "clear value changed": (lambda text: text.replace("servicenow", "elsewhere"), Code.SOPS_MAC_MISMATCH),
    "clear value removed": (lambda text: text.replace("name: servicenow\n", ""), Code.SOPS_MAC_MISMATCH),
    "clear value added": (lambda text: "more: x\n" + text, Code.SOPS_MAC_MISMATCH),
    "encrypted value removed": (lambda text: re.sub(r"  token: .*\n", "", text), Code.SOPS_MAC_MISMATCH),
    "encrypted value emptied": (lambda text: text.replace(value_of("token"), '""'), Code.SOPS_MAC_MISMATCH),
    "order changed": (lambda text: text.replace("[clear, words]", "[words, clear]"), Code.SOPS_MAC_MISMATCH),
    "mac removed": (lambda text: re.sub(r"    mac: .*\n", "", text), Code.SOPS_MAC_MISSING),
    "mac emptied": (lambda text: re.sub(r"    mac: .*\n", '    mac: ""\n', text), Code.SOPS_MAC_MISSING),
    "mac not a value": (lambda text: re.sub(r"    mac: .*\n", "    mac: abc\n", text), Code.SOPS_MALFORMED),
    "lastmodified changed": (lambda text: text.replace("2026-05-01T12", "2026-05-01T13"), Code.SOPS_MAC_MISMATCH),
    "lastmodified not a time": (lambda text: text.replace("2026-05-01T12", "soon"), Code.SOPS_MALFORMED),
    "moved to another key": (lambda text: text.replace(value_of("token"), value_of("other")), Code.SOPS_MAC_MISMATCH),
    "moved out of the rules": (lambda text: text.replace("servicenow", value_of("token")), Code.SOPS_MALFORMED),
    "clear where encryption is asked": (lambda text: text.replace(value_of("token"), CANARY), Code.SOPS_CLEAR_VALUE),
    "clear number there": (lambda text: text.replace(value_of("pin"), "4711"), Code.SOPS_CLEAR_VALUE),
    "bad base64": (lambda text: text.replace("data:", "data:*", 1), Code.SOPS_MALFORMED),
    "short nonce": (lambda text: re.sub(r"iv:[^,]+", "iv:AAAAAAAAAAAAAAAA", text, count=1), Code.SOPS_MALFORMED),
    "short tag": (lambda text: re.sub(r"tag:[^,]+", "tag:AAAA", text, count=1), Code.SOPS_MALFORMED),
    "two sops blocks": (lambda text: text + text[text.index("\nsops:") + 1 :], Code.YAML_DUPLICATE_KEY),
    "no sops block": (lambda text: text[: text.index("\nsops:") + 1], Code.SOPS_MALFORMED),
    "two rules": (lambda text: text + "    encrypted_suffix: x\n", Code.SOPS_MALFORMED),
    "unsafe rule": (lambda text: text.replace('"^auth$"', '"(a+)+$"'), Code.SOPS_MALFORMED),
    "recipient without its key": (lambda text: re.sub(r"          enc: \|\n( {12}.*\n)+", "", text), Code.SOPS_MALFORMED),
    "document repeated": (lambda text: f"{text}---\n{text}", Code.SOPS_MAC_MISMATCH),
    "other blocks": (lambda text: f"{text}---\na: 1\n", Code.SOPS_MALFORMED),
    "not a mapping": (lambda _: "- a\n", Code.SOPS_MALFORMED),
    "not YAML": (lambda _: f"a: [{CANARY}\nb: }}", Code.YAML_SYNTAX),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_file_is_refused(name: str) -> None:
    change, code = CHANGES[name]
    changed = change(SEALED)
    assert changed != SEALED
    error = refusal(changed)
    assert error.code is code, str(error)
    assert error.message


@pytest.mark.parametrize("key", ["token", "pin", "mac"])
def test_every_changed_character_of_a_ciphertext_is_refused(key: str) -> None:
    sealed = value_of(key)
    for place in range(len(sealed)):
        other = "A" if sealed[place] != "A" else "B"
        error = refusal(SEALED.replace(sealed, sealed[:place] + other + sealed[place + 1 :]))
        assert error.code in (Code.SOPS_MAC_MISMATCH, Code.SOPS_MALFORMED, Code.SOPS_CLEAR_VALUE)


@pytest.mark.parametrize("kind", ["integer", "comment", "STR", "int", "bool", "float"])
def test_a_value_that_is_not_of_its_type_is_refused(kind: str) -> None:
    error = refusal(resealed(CANARY, "auth:token:", kind))
    assert error.code is Code.SOPS_MALFORMED
    assert "auth.token" in error.message


def test_a_text_that_is_not_utf8_is_refused_silently() -> None:
    data_key = pyrage.decrypt(read(SEALED.encode(), "yaml").block["age"][0]["enc"].encode(), [IDENTITY])
    sealed = ValueCipher(data_key).seal(CANARY.encode() + b"\xff", "auth:token:", kind="str")
    assert refusal(SEALED.replace(value_of("token"), sealed)).code is Code.SOPS_MALFORMED


def test_a_data_key_that_no_identity_opens() -> None:
    stranger = Keyring(tuple(parse_identities(str(pyrage.x25519.Identity.generate()), "test")))
    for keyring in (stranger, Keyring()):
        error = refusal(SEALED, keyring=keyring)
        assert error.code is Code.SOPS_KEY_MISSING
        assert str(IDENTITY.to_public()) in error.message
        assert "SOPS_AGE_KEY_FILE" in error.remedy


def test_a_parsed_manifest_is_refused_like_a_file() -> None:
    tree = read_documents(SEALED)[0]
    assert decrypt_tree(tree, KEYRING)["auth"]["token"] == Secret(f"{CANARY}-token")
    tree["name"] = "changed"
    with pytest.raises(SopsError) as caught:
        decrypt_tree(tree, KEYRING)
    assert caught.value.code is Code.SOPS_MAC_MISMATCH
    assert_silent(caught.value)


def test_ciphertext_without_a_block_is_refused_and_clear_documents_pass() -> None:
    clear = {"name": "x", "list": [1, {"a": None}]}
    assert decrypt_documents([clear, read_documents(SEALED)[0]], Keyring(KEYRING.identities))[0] == clear
    with pytest.raises(SopsError, match="no sops block"):
        decrypt_tree({"list": [{"token": value_of("token")}]}, KEYRING)


def test_documents_under_one_mac_stand_or_fall_together() -> None:
    both = encrypt(b"auth: {a: one}\nx: 1\n---\nauth: {a: two}\n", "yaml", SEALING).decode()
    assert "2 documents" in refusal(both).message
    trees = read_documents(both)
    assert [tree["auth"]["a"] for tree in decrypt_documents(trees, KEYRING)] == [Secret("one"), Secret("two")]
    with pytest.raises(SopsError) as caught:
        decrypt_documents(trees[:1], KEYRING)
    assert caught.value.code is Code.SOPS_MAC_MISMATCH


@pytest.mark.parametrize("nested", [{"a": 1}, [1], "text", None])
def test_keys_that_are_not_text_and_strange_blocks_are_refused(nested: object) -> None:
    with pytest.raises(SopsError):
        decrypt_tree({"a": "x", "sops": nested or "text"}, KEYRING)
    tree = {**read_documents(SEALED)[0], 5: nested}
    with pytest.raises(SopsError, match="not text"):
        decrypt_tree(tree, KEYRING)


def test_mac_only_encrypted_leaves_clear_values_free_and_is_no_other_mac() -> None:
    rules = Rules("encrypted_regex", "^auth$", mac_only_encrypted=True)
    sealed = encrypt(CLEAR, "yaml", Sealing(SEALING.recipients, rules, AT)).decode()
    assert decrypt(sealed.replace("servicenow", "other").encode(), "yaml", KEYRING).tree["name"] == "other"
    assert refusal(sealed.replace("    mac_only_encrypted: true\n", "")).code is Code.SOPS_MAC_MISMATCH
    assert refusal(SEALED + "    mac_only_encrypted: true\n").code is Code.SOPS_MAC_MISMATCH
