"""Secrets that come in with an edit are sealed, those that stay keep their ciphertext, and the real sops program agrees."""

import json
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.desired.sops.document import open_file
from reconciler.desired.sops.tree import revealed
from reconciler.desired.writing.standing import find_standing, shown_manifest
from reconciler.desired.writing.terms import Edit, Patch, Put, Remove, WriteFault
from reconciler.model.ids import Ref
from reconciler.model.secret import MASK
from tests.servers.sops import Sops
from tests.unit.desired.manifest_kit import TinyRegistry, check, desk
from tests.unit.desired.write_kit import A, Bench, spec

pytestmark = pytest.mark.needs("sops")
CIPHERTEXT = re.compile(r"ENC\[AES256_GCM[^\]]*type:\w+\]")
B = Ref("default", "b")


@pytest.fixture
def bench() -> Bench:
    made = Bench({})
    made.files = {".sops.yaml": f"creation_rules:\n  - age: {made.recipient}\n"}
    return made


@pytest.fixture
def sops(bench: Bench, tmp_path: Path) -> Sops:
    return Sops.on_path(tmp_path, SOPS_AGE_KEY=str(bench.identity))


def clear(sops: Sops, text: str) -> Any:
    return json.loads(sops.decrypt(text.encode(), "yaml", "json"))


def sealed(sops: Sops, bench: Bench, text: str, *words: str) -> str:
    """As the program itself writes it."""
    words = words or ("--encrypted-regex", "^(key|backup_key|password)$")
    return sops.encrypt(text.encode(), "yaml", "--age", bench.recipient, *words).decode()


CLEAR = """\
# the desk
apiVersion: reconciler.dev/v1
kind: Integration
metadata:
    name: a
spec:
    type: desk
    # asked for in May
    auth:
        type: key
        key: first secret
        backup_key: second secret
    config:
        url: 'https://desk.test' # where
"""


def test_a_new_manifest_is_encrypted_for_the_repository(bench: Bench, sops: Sops) -> None:
    """The rule of the repository names no fields: then the connector's secrets are what is encrypted."""
    text = bench.only(Put(A, {"spec": spec(auth={"type": "key", "key": "a secret", "backup_key": "another"})}))
    assert "a secret" not in text
    assert "another" not in text
    assert len(CIPHERTEXT.findall(text)) == 3
    assert "url: https://d.test" in text
    assert clear(sops, text)["spec"]["auth"] == {"type": "key", "key": "a secret", "backup_key": "another"}
    referred = {"type": "key", "key": "a secret", "backup_key": {"from_env": "DESK_KEY"}}
    assert clear(sops, bench.only(Put(A, {"spec": spec(auth=referred)})))["spec"]["auth"] == referred
    basic = {"type": "basic", "username": "u", "password": "p w"}
    assert clear(sops, bench.only(Put(A, {"spec": spec(auth=basic)})))["spec"]["auth"] == basic


def test_the_nearest_rules_of_the_revision_count(bench: Bench, sops: Sops) -> None:
    other = Bench({})
    inner = f"creation_rules:\n  - path_regex: ^a\\.yaml$\n    age: {other.recipient}\n    encrypted_regex: ^(auth|config)$\n"
    bench.files = {**bench.files, "default/.sops.yaml": inner}
    text = bench.only(Put(A, {"spec": spec(auth={"type": "key", "key": "s"})}))
    assert (other.recipient in text, bench.recipient in text, "d.test" in text) == (True, False, False)
    bench.files = {".sops.yaml": inner.replace("auth|config", "password")}
    error = bench.refused(Put(A, {"spec": spec(auth={"type": "key", "key": "hunter22"})}))
    assert error.fault is WriteFault.UNSEALED  # no rule for default/a.yaml there
    bench.files = {".sops.yaml": inner.replace("auth|config", "password").replace("^a", "default/a")}
    error = bench.refused(Put(A, {"spec": spec(auth={"type": "key", "key": "hunter22"})}))
    assert (error.fault, "spec.auth.key" in str(error), "hunter22" in str(error)) == (WriteFault.UNSEALED, True, False)


def test_nobody_to_encrypt_to_is_an_error_and_references_need_nobody(bench: Bench) -> None:
    bench.files = {}
    error = bench.refused(Put(A, {"spec": spec(auth={"type": "key", "key": "hunter22"})}))
    assert (error.fault, ".sops.yaml" in str(error), "hunter22" in str(error)) == (WriteFault.UNSEALED, True, False)
    assert bench.only(Put(A, {"spec": spec()}))
    bench.files = {".sops.yaml": "creation_rules:\n  - pgp: ABCD\n"}
    assert "keys other than age" in str(bench.refused(Put(A, {"spec": spec(auth={"type": "key", "key": "hunter22"})})))


def test_rules_that_cannot_be_followed_stop_only_what_they_are_about(bench: Bench) -> None:
    for rule in ("encrypted_comment_regex: x", "pgp: ABCD\n    encrypted_regex: ^config$"):
        bench.files = {".sops.yaml": f"creation_rules:\n  - {rule}\n", "a.yaml": desk()}
        assert "sops:" not in bench.only(Patch(A, {"spec": {"enabled": False}}))
        assert bench.refused(Patch(A, {"spec": {"config": {"retries": 7}}})).fault is WriteFault.UNSEALED


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mac_only", [False, True])
def test_a_clear_field_of_an_encrypted_file(bench: Bench, sops: Sops, newline: str, *, mac_only: bool) -> None:
    words = ("--encrypted-regex", "^(key|backup_key)$", *(["--mac-only-encrypted"] if mac_only else []))
    text = sealed(sops, bench, CLEAR, *words).replace("\n", newline)
    bench.files = {"a.yaml": text}
    bench.has_key = not mac_only
    after = bench.only(Patch(A, {"spec": {"config": {"retries": 5}, "enabled": False, "display_name": "1_000"}}))
    changed = set(after.splitlines()) - set(text.splitlines())
    extra = set() if mac_only else {line for line in changed if re.match(r"\s+(mac|lastmodified): ", line)}
    assert changed - extra == {"        retries: 5", "    enabled: false", '    display_name: "1_000"'}
    assert len(extra) == (0 if mac_only else 2)
    assert ("\r\n" in after) == (newline == "\r\n")
    assert clear(sops, after)["spec"]["display_name"] == "1_000"
    assert clear(sops, after)["spec"]["auth"] == {"type": "key", "key": "first secret", "backup_key": "second secret"}


def test_a_new_secret_in_an_encrypted_file_leaves_the_others(bench: Bench, sops: Sops) -> None:
    text = sealed(sops, bench, CLEAR)
    bench.files = {"a.yaml": text}
    sent = {"type": "key", "key": MASK, "backup_key": "third secret"}
    put = Put(A, {"spec": {"type": "desk", "auth": sent, "config": {"url": "https://desk.test"}}})
    after = bench.only(put)
    first, second, _ = CIPHERTEXT.findall(text)
    assert first in after
    assert second not in after
    assert "# asked for in May" in after
    assert "# where" in after
    assert clear(sops, after)["spec"]["auth"] == {"type": "key", "key": "first secret", "backup_key": "third secret"}
    same = Patch(A, {"spec": {"auth": {"key": "first secret", "backup_key": "second secret"}}})
    assert CIPHERTEXT.findall(bench.only(same))[:2] == [first, second]
    dropped = bench.only(Patch(A, {"spec": {"auth": {"backup_key": None}}}))
    assert clear(sops, dropped)["spec"]["auth"] == {"type": "key", "key": "first secret"}
    referred = bench.only(Patch(A, {"spec": {"auth": {"backup_key": "x"}, "config": {"webhook": None}}}))
    assert clear(sops, referred)["spec"]["auth"]["backup_key"] == "x"


def test_without_the_data_key_nothing_is_changed_and_that_is_said(bench: Bench, sops: Sops) -> None:
    bench.files = {"a.yaml": sealed(sops, bench, CLEAR)}
    bench.has_key = False
    for patch in ({"spec": {"enabled": False}}, {"spec": {"auth": {"key": "hunter22"}}}):
        error = bench.refused(Patch(A, patch))
        assert (error.fault, "no identity opens" in str(error), "SOPS_AGE_KEY_FILE" in str(error)) == (
            WriteFault.UNSEALED,
            True,
            True,
        )
    assert bench.after(Remove(A)) == {"a.yaml": None}


def test_tampering_is_not_signed(bench: Bench, sops: Sops) -> None:
    text = sealed(sops, bench, CLEAR).replace("type: desk", "type: bell")
    bench.files = {"a.yaml": text}
    error = bench.refused(Patch(A, {"spec": {"enabled": False}}))
    assert (error.fault, "MAC" in str(error)) == (WriteFault.UNSEALED, True)


def test_a_secret_that_the_files_rule_leaves_in_clear_is_refused(bench: Bench, sops: Sops) -> None:
    bench.files = {
        "a.yaml": sealed(
            sops, bench, CLEAR.replace("        backup_key: second secret\n", ""), "--encrypted-regex", "^key$"
        )
    }
    error = bench.refused(Patch(A, {"spec": {"auth": {"backup_key": "hunter22"}}}))
    assert (error.fault, "^key$" in str(error), "hunter22" in str(error)) == (WriteFault.UNSEALED, True, False)
    error = bench.refused(Patch(A, {"spec": {"auth": {"key": {"from_env": "X"}}}}))
    assert "reference" in str(error)


def test_a_clear_manifest_gets_its_first_secret(bench: Bench, sops: Sops) -> None:
    bench.files = {**bench.files, "x.yaml": "# mine\n" + desk() + "  enabled: true # on\n"}
    text = bench.only(Patch(A, {"spec": {"auth": {"key": "a secret"}}}))
    assert text.startswith("# mine\n")
    assert "enabled: true # on" in text
    assert clear(sops, text)["spec"]["auth"]["key"] == "a secret"
    assert bench.only(Patch(A, {"spec": {"enabled": False}})).count("sops:") == 0


def test_documents_under_one_mac(bench: Bench, sops: Sops) -> None:
    two = CLEAR + "---\n" + CLEAR.replace("name: a", "name: b").replace("secret", "other")
    text = sealed(sops, bench, two)
    bench.files = {"x.yaml": text}
    after = bench.only(Patch(B, {"spec": {"auth": {"key": "new"}}}))
    assert CIPHERTEXT.findall(after)[:2] == CIPHERTEXT.findall(text)[:2]
    decrypted = sops.decrypt(after.encode(), "yaml").decode()
    assert "key: new" in decrypted
    assert "key: first secret" in decrypted
    left = bench.only(Remove(A))
    assert clear(sops, left)["spec"]["auth"]["key"] == "first other"
    bench.has_key = False
    assert bench.refused(Remove(A)).fault is WriteFault.UNSEALED


def test_lists_keep_their_secrets_by_name_or_place(bench: Bench, sops: Sops) -> None:
    """The small connector has no list of secrets; the rule of the file makes one."""
    text = CLEAR.replace(
        "        url:", "        webhook:\n            signing_secret: one\n            path: /x\n        url:"
    )
    bench.files = {"a.yaml": sealed(sops, bench, text, "--encrypted-regex", "^(auth|webhook)$")}
    after = bench.only(Patch(A, {"spec": {"config": {"webhook": {"signing_secret": MASK, "path": "/y"}}}}))
    assert clear(sops, after)["spec"]["config"]["webhook"] == {"signing_secret": "one", "path": "/y"}
    assert CIPHERTEXT.findall(after)[0] == CIPHERTEXT.findall(bench.files["a.yaml"])[0]


@pytest.mark.parametrize("is_sealed", [True, False])
def test_what_is_shown_and_sent_back_changes_nothing(bench: Bench, sops: Sops, *, is_sealed: bool) -> None:
    text = CLEAR.replace("        url:", "        webhook: {signing_secret: one, path: /x}\n        url:")
    regex = ("--encrypted-regex", "^(key|backup_key|signing_secret)$")
    bench.files = {"a.yaml": sealed(sops, bench, text, *regex) if is_sealed else text}
    standing = find_standing(check(bench.files), A)
    assert standing is not None
    shown = shown_manifest(standing, TinyRegistry())
    assert shown["spec"]["auth"] == {"type": "key", "key": MASK, "backup_key": MASK}
    assert shown["spec"]["config"]["webhook"] == {"signing_secret": MASK, "path": "/x"}
    assert "sops" not in shown
    assert bench.edited(Put(A, shown, standing.tag)).contents == {}


WORDS = st.text(string.ascii_letters + string.digits + " :#'\"\n-{}*&é", min_size=6, max_size=20)
PATCHES = st.one_of(
    st.builds(lambda word: {"spec": {"auth": {"key": f"hush {word}"}}}, WORDS),
    st.builds(lambda word: {"spec": {"auth": {"backup_key": f"hush {word}"}}}, WORDS),
    st.just({"spec": {"auth": {"backup_key": None}}}),
    st.builds(lambda word: {"spec": {"display_name": word}}, WORDS),
    st.builds(lambda number: {"spec": {"config": {"retries": number}}}, st.integers(0, 10)),
    st.builds(lambda word: {"metadata": {"labels": {"no": word}}}, WORDS),
    st.just({"spec": {"auth": {"key": MASK}, "config": {"retries": None}}}),
)


@settings(max_examples=60)
@given(st.lists(PATCHES, min_size=1, max_size=6), st.booleans())
def test_any_edits_leave_a_file_that_opens_and_says_what_was_asked(patches: list[Any], mac_only: bool) -> None:
    bench = Bench({})
    rule = f"creation_rules:\n  - age: {bench.recipient}\n    mac_only_encrypted: {str(mac_only).lower()}\n"
    bench.files = {".sops.yaml": rule}
    first: Edit = Put(A, {"spec": spec(auth={"type": "key", "key": "hush first"})})
    wanted: dict[str, Any] = {"metadata": {"name": "a"}, "spec": spec(auth={"type": "key", "key": "hush first"})}
    for edit in (first, *(Patch(A, patch) for patch in patches)):
        bench.files = {**bench.files, **{path: text or "" for path, text in bench.after(edit).items()}}
        wanted = merged(wanted, edit.patch) if isinstance(edit, Patch) else wanted
        text = bench.files["default/a.yaml"]
        (opened,) = open_file(text.encode(), "yaml", bench.keyring).trees
        assert {key: revealed(opened[key]) for key in wanted} == wanted
        assert "hush" not in text


def merged(now: Any, patch: Any) -> Any:
    """RFC 7396, once more, and a mask keeps what is there."""
    if not isinstance(patch, dict):
        return now if patch == MASK else patch
    result = dict(now) if isinstance(now, dict) else {}
    for key, value in patch.items():
        result[key] = merged(result.get(key), value)
    return {key: value for key, value in result.items() if value is not None}
