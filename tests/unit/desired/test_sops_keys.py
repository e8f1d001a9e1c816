"""Keyrings, recipients, the sops program, policies, manifests and the cache."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest

from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.document import decrypt, decrypt_tree
from reconciler.desired.sops.encrypt import Sealing, encrypt, rotate
from reconciler.desired.sops.envelope import MANIFEST_RULES, check_manifests, is_manifest
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import read
from reconciler.desired.sops.keys import (
    Keyring,
    default_key_file,
    keyring_from_env,
    keys_at_hand,
    parse_identities,
)
from reconciler.desired.sops.policy import Policy, find_config, load_policy
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.waits import Waits
from reconciler.model.finding import Code
from reconciler.model.secret import Secret

AT = datetime(2026, 5, 1, tzinfo=UTC)
IDENTITY = pyrage.x25519.Identity.generate()
ME = str(IDENTITY.to_public())
SEALED = encrypt(b"a: x\nn: 5\nc_unencrypted: y\n", "yaml", Sealing((ME,), Rules(), AT))


def opens(keyring: Keyring, content: bytes = SEALED) -> bool:
    return bool(decrypt(content, "yaml", keyring).tree["a"] == Secret("x"))


def test_identities_from_every_place(tmp_path: Path) -> None:
    default = default_key_file({"XDG_CONFIG_HOME": str(tmp_path)})
    assert default == tmp_path / "sops/age/keys.txt"
    assert default_key_file({"HOME": "/home/u"}) == Path("/home/u/.config/sops/age/keys.txt")
    default.parent.mkdir(parents=True)
    default.write_text(f"# comment\n\n{pyrage.x25519.Identity.generate()}\n{IDENTITY}\n")
    assert opens(keyring_from_env({"XDG_CONFIG_HOME": str(tmp_path)}))
    assert opens(keyring_from_env({"SOPS_AGE_KEY_FILE": str(default), "HOME": "/nonexistent"}))
    assert opens(keyring_from_env({"SOPS_AGE_KEY": f"{IDENTITY}\r\n", "HOME": "/nonexistent"}))
    empty = keyring_from_env({"HOME": "/nonexistent", "PATH": "/nonexistent"})
    assert empty == Keyring()


def test_a_keyring_shows_no_key_and_changes_its_fingerprint() -> None:
    mine = keyring_from_env({"SOPS_AGE_KEY": str(IDENTITY), "HOME": "/nonexistent", "PATH": ""})
    assert "AGE-SECRET-KEY" not in repr(mine)
    assert mine.recipients == (ME,)
    others = [
        Keyring(),
        Keyring(mine.identities, "/bin/sops"),
        Keyring(mine.identities, None, frozenset({"https://v"})),
    ]
    assert len({one.fingerprint for one in (mine, *others)}) == 4


@pytest.mark.parametrize(
    "text",
    ["canary-key", "AGE-SECRET-KEY-1CANARY", "-----BEGIN X-----\ncanary\n-----END X-----", "-----BEGIN X-----\n"],
)
def test_what_is_no_identity_is_refused_silently(text: str, tmp_path: Path) -> None:
    with pytest.raises(SopsError) as caught:
        keyring_from_env({"SOPS_AGE_KEY": text, "HOME": str(tmp_path)})
    assert caught.value.code is Code.SOPS_KEY_MISSING
    assert "canary" not in str(caught.value).lower()
    with pytest.raises(SopsError, match="SOPS_AGE_KEY_FILE"):
        keyring_from_env({"SOPS_AGE_KEY_FILE": str(tmp_path / "none"), "HOME": str(tmp_path)})


def test_a_daemon_works_with_the_keys_there_are_and_says_which_are_not(tmp_path: Path) -> None:
    env = {"SOPS_AGE_KEY_FILE": str(tmp_path / "none"), "HOME": str(tmp_path), "PATH": ""}
    assert opens(keys_at_hand({**env, "SOPS_AGE_KEY": str(IDENTITY)}))
    there = keys_at_hand({**env, "SOPS_AGE_KEY": "AGE-SECRET-KEY-1CANARY"})
    assert (there.identities, len(there.faults)) == ((), 2)
    assert "CANARY" not in str(there.faults)
    with pytest.raises(SopsError) as caught:
        opens(there)
    missing = f"the key file {tmp_path / 'none'} (SOPS_AGE_KEY_FILE) cannot be read: No such file or directory"
    assert missing in str(caught.value)


@pytest.mark.needs("ssh-keygen")
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_recipients(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True, capture_output=True)
    public = path.with_suffix(".pub").read_text().strip()
    sealed = encrypt(b"a: x\n", "yaml", Sealing((public,), Rules(), AT))
    keyring = keyring_from_env({"SOPS_AGE_SSH_PRIVATE_KEY_FILE": str(path), "HOME": str(tmp_path)})
    assert opens(keyring, sealed)
    assert decrypt(sealed, "yaml", keyring).recipients == (public,)


def with_sources(sources: dict[str, Any], *, age: bool = False) -> bytes:
    source = read(SEALED, "yaml")
    block = {key: value for key, value in source.block.items() if age or key != "age"}
    return json.dumps({**source.documents[0], "sops": {**block, **sources}}).encode()


PGP = {"pgp": [{"fp": "F", "enc": "x", "created_at": "2026-05-01T00:00:00Z"}]}


@pytest.fixture
def sops(tmp_path: Path) -> Any:
    """A stand-in for the program: checks what it is called with, then does as told."""

    def made(script: str) -> Keyring:
        path = tmp_path / "sops"
        wanted = "--config /dev/null --decrypt --input-type yaml --output-type json /dev/stdin"
        path.write_text(f'#!/bin/sh\n[ "$*" = "{wanted}" ] || exit 9\ncat >/dev/null\n{script}\n')
        path.chmod(0o755)
        return Keyring(program=str(path))

    return made


def test_the_program_opens_other_recipients(sops: Any) -> None:
    keyring = sops("""echo '{"a": "x", "n": 5, "c_unencrypted": "y"}'""")
    assert decrypt(with_sources(PGP), "json", keyring).tree == {"a": Secret("x"), "n": 5, "c_unencrypted": "y"}
    assert decrypt_tree(json.loads(with_sources(PGP)), keyring)["a"] == Secret("x")
    group = {"age": [], "pgp": PGP["pgp"]}
    assert decrypt(with_sources({"key_groups": [group, group]}), "json", keyring).tree["n"] == 5


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("echo canary >&2; exit 51", Code.SOPS_MAC_MISMATCH),
        ("exit 52", Code.SOPS_MAC_MISSING),
        ("exit 25", Code.SOPS_MAC_MISMATCH),
        ("exit 4", Code.SOPS_MALFORMED),
        ("echo canary >&2; exit 128", Code.SOPS_KEY_MISSING),
        ("echo canary >&2; exit 1", Code.SOPS_KEY_MISSING),
        ("kill -9 $$", Code.SOPS_KEY_MISSING),
        ("echo canary", Code.SOPS_MALFORMED),
        ("""echo '{"a": "x"}'""", Code.SOPS_MALFORMED),
        ("""echo '{"a": ["x"], "n": 5, "c_unencrypted": "y"}'""", Code.SOPS_MALFORMED),
    ],
)
def test_what_the_program_says_of_a_failure(script: str, code: Code, sops: Any) -> None:
    with pytest.raises(SopsError) as caught:
        decrypt(with_sources(PGP), "json", sops(script))
    assert caught.value.code is code
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("last", ["wait", "exit 0"], ids=["waits", "leaves a child"])
def test_the_program_that_hangs_is_stopped_with_its_children(
    last: str, sops: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe ends when the last process that holds it has ended."""
    monkeypatch.setattr("reconciler.desired.sops.program.DEADLINE_SECONDS", 0.5)
    os.mkfifo(tmp_path / "held")
    with os.fdopen(os.open(tmp_path / "held", os.O_RDONLY | os.O_NONBLOCK)) as held:
        with pytest.raises(SopsError, match="did not end within"):
            decrypt(with_sources(PGP), "json", sops(f"exec 3>{tmp_path}/held; echo started >&3; sleep 60 &\n{last}"))
        os.set_blocking(held.fileno(), True)
        assert held.read() == "started\n"


def test_keys_that_kept_us_waiting_are_asked_again_after_a_while() -> None:
    now, runs = [100.0], []

    def work(seconds: float, code: Code = Code.SOPS_KEY_MISSING) -> Any:
        def run() -> bytes:
            runs.append(seconds)
            now[0] += seconds
            raise SopsError(code, "why", "how")

        return run

    def refused(keys: str, *wanted: Any) -> int:
        with pytest.raises(SopsError, match="why"):
            waits.run(keys, work(*wanted))
        return len(runs)

    waits = Waits(lambda: now[0])
    assert refused("kms a", 0.5) == 1
    assert refused("kms a", 30.0, Code.SOPS_MAC_MISMATCH) == 2
    assert refused("kms a", 30.0) == 3
    assert refused("kms a", 30.0) == 3
    assert refused("kms b", 0.5) == 4
    now[0] += 60.0
    assert waits.run("kms a", lambda: b"clear") == b"clear"


def test_what_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "sops").write_text("no program")
    with pytest.raises(SopsError, match="could not be started") as caught:
        decrypt(with_sources(PGP), "json", Keyring(program=str(tmp_path / "sops")))
    assert caught.value.code is Code.SOPS_PROGRAM_MISSING


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (with_sources(PGP), Code.SOPS_PROGRAM_MISSING, "pgp recipients need the sops program"),
        (with_sources({"key_groups": [{"age": []}, PGP]}), Code.SOPS_PROGRAM_MISSING, "shares"),
        (with_sources(PGP, age=True), Code.SOPS_KEY_MISSING, "no identity"),
        (with_sources({}), Code.SOPS_KEY_MISSING, "recipients of the file: none"),
        (with_sources({**PGP, "plugins": [{"binary_name": "evil"}]}), Code.SOPS_KEY_MISSING, "plugins"),
        (
            with_sources({"hc_vault": [{"vault_address": "https://evil.example"}]}),
            Code.NOT_PERMITTED,
            "https://evil.example",
        ),
    ],
)
def test_without_the_program_the_finding_says_what_to_do(content: bytes, code: Code, reason: str) -> None:
    with pytest.raises(SopsError, match=reason) as caught:
        decrypt(content, "json", Keyring())
    assert caught.value.code is code
    assert caught.value.remedy


TRANSIT = {"vault_address": "https://vault.example/", "engine_path": "transit", "key_name": "k", "enc": "x"}


def test_the_vault_server_of_the_environment_is_permitted(sops: Any) -> None:
    program = sops("exit 128").program
    vault = with_sources({"hc_vault": [TRANSIT]})
    for keyring, code in (
        (Keyring(program=program), Code.NOT_PERMITTED),
        (Keyring(program=program, vault_addresses=frozenset({"https://vault.example"})), Code.SOPS_KEY_MISSING),
    ):
        with pytest.raises(SopsError) as caught:
            decrypt(vault, "json", keyring)
        assert caught.value.code is code
    env = {"VAULT_ADDR": "https://vault.example/", "HOME": "/nonexistent"}
    assert keyring_from_env(env).vault_addresses == {"https://vault.example"}


ARN = "arn:aws:kms:eu-central-1:123456789012:key/1"


@pytest.mark.parametrize(
    ("source", "fields", "is_permitted"),
    [
        ("hc_vault", TRANSIT, True),
        ("hc_vault", TRANSIT | {"engine_path": "teams/transit"}, True),
        ("hc_vault", TRANSIT | {"engine_path": "auth/token/revoke-self/x", "key_name": "../.."}, False),
        ("hc_vault", TRANSIT | {"engine_path": "../sys"}, False),
        ("hc_vault", TRANSIT | {"engine_path": ""}, False),
        ("azure_kv", {"vault_url": "https://mine.vault.azure.net", "name": "k"}, True),
        ("azure_kv", {"vault_url": "https://mine.managedhsm.azure.net/", "name": "k"}, True),
        ("azure_kv", {"vault_url": "https://evil.example", "name": "k"}, False),
        ("azure_kv", {"vault_url": "https://evil.example/mine.vault.azure.net", "name": "k"}, False),
        ("azure_kv", {"vault_url": "http://mine.vault.azure.net", "name": "k"}, False),
        ("kms", {"arn": ARN}, True),
        ("kms", {"arn": ARN.replace("aws:", "aws-us-gov:", 1).replace("key/1", "alias/a")}, True),
        ("kms", {"arn": ARN.replace("eu-central-1", "x@evil.example/")}, False),
        ("kms", {}, False),
    ],
)
def test_a_file_sends_nobody_where_it_likes(source: str, fields: dict[str, str], is_permitted: bool, sops: Any) -> None:
    keyring = Keyring(program=sops("exit 128").program, vault_addresses=frozenset({"https://vault.example"}))
    with pytest.raises(SopsError) as caught:
        decrypt(with_sources({source: [fields]}), "json", keyring)
    assert caught.value.code is (Code.SOPS_KEY_MISSING if is_permitted else Code.NOT_PERMITTED)


@pytest.mark.parametrize(
    "block",
    [{"PGP": PGP["pgp"]}, {"pgp": "x"}, {"pgp": ["x"]}, {"hc_vault": [TRANSIT], "hc_vauLt": [TRANSIT]}],
)
def test_what_other_readers_might_take_for_a_key_is_refused(block: dict[str, Any], sops: Any) -> None:
    """Go's JSON takes field names in any case: what we did not check must not reach the program."""
    with pytest.raises(SopsError, match=r"not known|not a list of mappings|no identity"):
        decrypt(with_sources(block), "json", sops("exit 9"))


def test_the_program_gets_the_environment_without_a_way_to_ask(tmp_path: Path) -> None:
    own = {"GNUPGHOME": "/keys", "VAULT_TOKEN": "t", "SOPS_AGE_KEY_FILE": str(tmp_path / "keys.txt"), "PATH": "/bin"}
    Path(own["SOPS_AGE_KEY_FILE"]).write_text(f"{IDENTITY}\n")
    kept_back = {"GPG_TTY": "/dev/tty", "DISPLAY": ":0", "WAYLAND_DISPLAY": "w", "RECONCILER_MASTER_KEY": "canary"}
    keyring = keyring_from_env(own | kept_back)
    assert keyring.environment == own
    assert "VAULT_TOKEN" not in repr(keyring)


def test_rotate_keeps_foreign_recipients_from_being_lost() -> None:
    ring = Keyring(tuple(parse_identities(str(IDENTITY), "test")))
    with pytest.raises(SopsError, match="would be lost"):
        rotate(with_sources(PGP, age=True), "json", ring, (), Sealing((), Rules(), AT))
    assert opens(ring, rotate(SEALED, "yaml", ring, (ME,), Sealing((), Rules(), AT)))


CONFIG = f"""
creation_rules:
  - path_regex: ^secrets/.*\\.yaml$
    encrypted_regex: ^(data)$
    age: {ME}, age1b
  - path_regex: groups
    mac_only_encrypted: true
    key_groups: [{{age: ["{ME}", "age1b,age1c"]}}]
  - path_regex: pgp
    pgp: ABC
  - age: [age1z]
"""


def test_policies(tmp_path: Path) -> None:
    (tmp_path / ".sops.yaml").write_text(CONFIG)
    origin = str(tmp_path / ".sops.yaml")
    expected = {
        "secrets/a.yaml": Policy((ME, "age1b"), Rules("encrypted_regex", "^(data)$"), (), origin),
        "x/groups.json": Policy((ME, "age1b", "age1c"), Rules(mac_only_encrypted=True), (), origin),
        "pgp.yaml": Policy((), None, ("pgp",), origin),
        "other.yaml": Policy(("age1z",), None, (), origin),
    }
    assert {name: load_policy(tmp_path / name) for name in expected} == expected
    assert find_config(tmp_path / "a/b/c") == tmp_path / ".sops.yaml"


@pytest.mark.parametrize(
    "rules",
    [
        *("[5]", "[{path_regex: 5}]", "[{path_regex: (}]", "[{age: 5}]", "[{encrypted_regex: a, encrypted_suffix: b}]"),
        *("[{encrypted_comment_regex: a}]", "[{key_groups: [{age: [a]}, {age: [b]}]}]", "[{key_groups: 5}]"),
    ],
)
def test_malformed_policies_name_the_file(rules: str, tmp_path: Path) -> None:
    (tmp_path / ".sops.yaml").write_text(f"creation_rules: {rules}\n")
    with pytest.raises(SopsError, match=r"\.sops\.yaml"):
        load_policy(tmp_path / "a.yaml")


def test_no_rule_no_policy(tmp_path: Path) -> None:
    (tmp_path / ".sops.yaml").write_text("creation_rules: [{path_regex: ^b, age: x}]\n")
    assert load_policy(tmp_path / "a.yaml").recipients == ()


MANIFEST = {
    "apiVersion": "reconciler.dev/v1",
    "kind": "Integration",
    "metadata": {"name": "a", "labels": {"team": "x"}},
    "spec": {
        "type": "jira",
        "auth": {"type": "basic", "username": "u", "api_token": "t", "routing_key": "r"},
        "config": {"project_key": "ENG"},
    },
}


def test_manifest_rules_cover_credentials_and_leave_the_rest() -> None:
    check_manifests([MANIFEST], MANIFEST_RULES)
    check_manifests([MANIFEST], Rules("encrypted_regex", "^auth$"))
    assert is_manifest(MANIFEST)
    assert not is_manifest({"kind": "Integration"})
    matches = MANIFEST_RULES.matcher()
    secret = ("token", "password", "client_secret", "api_key", "app_key", "routing_key", "private_key", "refresh_token")
    public = (
        "auth",
        "key",
        "tokens",
        "token_url",
        "client_id",
        "project_key",
        "client_key_file",
        "public_key",
        "secrets_folder",
    )
    assert all(map(matches, secret))
    assert not any(map(matches, public))


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules("encrypted_regex", "type|team"),
        Rules("encrypted_regex", "^spec$"),
        Rules("unencrypted_regex", "^spec$"),
    ],
)
def test_the_envelope_is_never_encrypted(rules: Rules) -> None:
    with pytest.raises(SopsError, match="stay in clear") as caught:
        check_manifests([{"any": 1}, MANIFEST], rules)
    assert caught.value.code is Code.ENCRYPTED_ENVELOPE
    assert "encrypted_regex" in caught.value.remedy


def test_references_are_never_encrypted() -> None:
    manifest = {**MANIFEST, "spec": {"type": "jira", "auth": {"token": {"from_env": "NAME"}}}}
    with pytest.raises(SopsError, match=r"reference at spec\.auth\.token\.from_env"):
        check_manifests([manifest], MANIFEST_RULES)


def test_the_cache_decrypts_once_and_forgets_the_oldest() -> None:
    cache: DecryptionCache[int] = DecryptionCache(2)
    calls: list[str] = []

    def made(name: str) -> int:
        calls.append(name)
        return len(calls)

    ring, other = Keyring(), Keyring(program="/bin/sops")
    assert [cache.get("a", "yaml", ring, lambda: made("a")) for _ in range(3)] == [1, 1, 1]
    assert cache.get("a", "yaml", other, lambda: made("other")) == 2
    assert cache.get("b", "yaml", ring, lambda: made("b")) == 3
    assert cache.get("a", "yaml", ring, lambda: made("again")) == 4
    assert len(cache) == 2


@pytest.mark.parametrize(
    ("code", "calls"), [(Code.SOPS_MAC_MISMATCH, 1), (Code.SOPS_KEY_MISSING, 3), (Code.SOPS_PROGRAM_MISSING, 3)]
)
def test_the_cache_keeps_only_lasting_errors(code: Code, calls: int) -> None:
    cache: DecryptionCache[int] = DecryptionCache()
    made: list[int] = []

    def refuse() -> int:
        made.append(1)
        raise SopsError(code, "why", "how")

    for _ in range(3):
        with pytest.raises(SopsError, match="why") as caught:
            cache.get("a", "yaml", Keyring(), refuse)
        assert (caught.value.code, caught.value.remedy) == (code, "how")
    assert len(made) == calls
