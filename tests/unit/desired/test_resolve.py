"""Clear values: from ciphertext, SOPS files, environment and files, within what a workspace may read, and never half."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.desired.resolve import Resolution, Resolver
from reconciler.desired.sops.cache import DecryptionCache
from reconciler.desired.sops.encrypt import Sealing, encrypt
from reconciler.desired.sops.keys import Keyring, keyring_from_env
from reconciler.desired.sops.rules import Rules
from reconciler.desired.validate import Inputs, validate
from reconciler.model.ids import Ref
from reconciler.model.secret import Secret
from tests.unit.desired.manifest_kit import TinyRegistry, desk, snapshot

CANARY = "canary-4f1d-secret"
IDENTITY = pyrage.x25519.Identity.generate()
KEYRING = keyring_from_env({"SOPS_AGE_KEY": str(IDENTITY)})


def sealed(text: str, regex: str = "^(key|password|auth)$") -> bytes:
    sealing = Sealing((str(IDENTITY.to_public()),), Rules("encrypted_regex", regex), datetime(2024, 1, 1, tzinfo=UTC))
    return encrypt(text.encode(), "yaml", sealing)


def sealed_json(values: Mapping[str, object]) -> bytes:
    sealing = Sealing((str(IDENTITY.to_public()),), Rules("encrypted_regex", ".*"), datetime(2024, 1, 1, tzinfo=UTC))
    return encrypt(json.dumps(values).encode(), "json", sealing)


def resolver(
    rule: WorkspaceRule | None = None, keyring: Keyring = KEYRING, env: Mapping[str, str] | None = None
) -> Resolver:
    return Resolver(
        keyring=keyring,
        env={"APP_KEY": CANARY, "PATH": "/bin"} if env is None else env,
        policy=TenantPolicy((rule or WorkspaceRule(env_prefix="APP_"),)),
        hash_key=b"k" * 32,
        registry=TinyRegistry(),
        cache=DecryptionCache(),
    )


def resolve(files: Mapping[str, str | bytes], using: Resolver | None = None) -> Resolution:
    shot = snapshot(files)
    checked = validate(shot, Inputs(source="test", registry=TinyRegistry()))
    assert not checked.state.findings
    return (using or resolver()).resolve(checked.state.integrations[Ref("default", "a")], shot)


def only_finding(resolution: Resolution) -> str:
    assert resolution.spec is None
    (finding,) = resolution.findings
    assert CANARY not in str(finding)
    return str(finding)


def test_ciphertext_becomes_a_secret() -> None:
    spec = resolve({"m.yaml": sealed(desk(auth=f"{{type: key, key: {CANARY}}}"), "^key$")}).spec
    assert spec is not None
    assert spec.auth == {"type": "key", "key": Secret(CANARY)}
    assert spec.config == {"url": "https://desk.test"}
    assert spec.fingerprints.keys() == {"auth.key"}
    assert CANARY not in repr(spec)


def test_a_wholly_encrypted_block_gets_its_types_back() -> None:
    text = desk(
        auth=f"{{type: basic_auth, username: u, password: {CANARY}}}", config="{url: 'https://desk.test', retries: 7}"
    )
    spec = resolve({"m.yaml": sealed(text, "^(auth|config)$")}).spec
    assert spec is not None
    assert spec.auth == {"type": "basic", "username": "u", "password": Secret(CANARY)}
    assert spec.config == {"url": "https://desk.test", "retries": 7}


def test_the_right_document_of_several_is_opened() -> None:
    other = desk("other", auth="{type: key, key: not-this-one}")
    mine = desk("a", auth=f"{{type: key, key: {CANARY}}}")
    spec = resolve({"m.yaml": sealed(f"{other}---\n{mine}", "^key$")}).spec
    assert spec is not None
    assert spec.auth["key"] == Secret(CANARY)


@pytest.mark.parametrize("key", ["a.b", "list.1", "number"])
def test_a_value_of_a_sops_file(key: str) -> None:
    secrets = sealed(f"a: {{b: {CANARY}}}\nlist: [x, {CANARY}]\nnumber: 12345\n", ".*")
    manifest = desk(auth=f"{{type: key, key: {{from_sops: {{file: ../s/x.yaml, key: {key}}}}}}}")
    spec = resolve({"teams/m.yaml": manifest, "s/x.yaml": secrets}).spec
    assert spec is not None
    assert spec.auth["key"] == Secret("12345" if key == "number" else CANARY)


@pytest.mark.parametrize(("number", "text"), [("12345", "12345"), ("1.50", "1.5"), ("0.0000001", "0.0000001")])
def test_a_number_of_a_json_file_is_spelled_as_it_was_encrypted(number: str, text: str) -> None:
    """SOPS holds every number of JSON as a float."""
    sealing = Sealing((str(IDENTITY.to_public()),), Rules(), datetime(2024, 1, 1, tzinfo=UTC))
    secrets = encrypt(f'{{"pin": {number}}}'.encode(), "json", sealing)
    manifest = desk(auth="{type: key, key: {from_sops: {file: s.json, key: pin}}}")
    spec = resolve({"m.yaml": manifest, "s.json": secrets}).spec
    assert spec is not None
    assert spec.auth["key"] == Secret(text)


def test_environment_and_files(tmp_path: Path) -> None:
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "backup").write_text("from-a-file\n")
    auth = "{type: key, key: {from_env: APP_KEY}, backup_key: {from_file: desk/backup}}"
    spec = resolve({"m.yaml": desk(auth=auth)}, resolver(WorkspaceRule(env_prefix="APP_", secret_folder=tmp_path))).spec
    assert spec is not None
    assert spec.auth == {"type": "key", "key": Secret(CANARY), "backup_key": Secret("from-a-file")}


@pytest.mark.parametrize("retries", ["{from_env: APP_RETRIES}", "{from_sops: {file: s.json, key: retries}}"])
def test_a_number_may_come_from_where_all_is_text(retries: str) -> None:
    """Variables are text, and SOPS gives the numbers of JSON back as floats."""
    manifest = desk(
        auth="{type: basic, username: {from_env: APP_USER}, password: {from_env: APP_KEY}}",
        config=f"{{url: 'https://desk.test', retries: {retries}}}",
    )
    env = {"APP_RETRIES": "7", "APP_USER": "7", "APP_KEY": CANARY}
    spec = resolve({"m.yaml": manifest, "s.json": sealed_json({"retries": 7})}, resolver(env=env)).spec
    assert spec is not None
    assert spec.config == {"url": "https://desk.test", "retries": 7}
    assert type(spec.config["retries"]) is int
    assert spec.auth["username"] == "7"


def test_the_effective_hash_follows_clear_values_only() -> None:
    def hash_of(*args: str, **env: str) -> str:
        spec = resolve(
            {"m.yaml": desk(*args)}, resolver(env={"DESK_KEY": "one"} | env, rule=WorkspaceRule(env_prefix="DESK"))
        ).spec
        assert spec is not None
        return spec.effective_hash

    assert hash_of() == hash_of()
    assert hash_of() != hash_of(DESK_KEY="two")
    first, second = (resolve({"m.yaml": sealed(desk(auth="{type: key, key: x}"), "^key$")}).spec for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.effective_hash == second.effective_hash


class TestRefusals:
    def test_a_missing_variable(self) -> None:
        line = only_finding(resolve({"m.yaml": desk(auth="{type: key, key: {from_env: APP_OTHER}}")}))
        assert line.startswith(
            "m.yaml:6:26: secret-missing: spec.auth.key: the environment variable APP_OTHER is not set"
        )

    @pytest.mark.parametrize("name", ["PATH", "APP", "OTHER_KEY"])
    def test_a_variable_of_somebody_else(self, name: str) -> None:
        assert "not-permitted" in only_finding(
            resolve({"m.yaml": desk(auth=f"{{type: key, key: {{from_env: {name}}}}}")})
        )

    @pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "link", "a/../../outside", "folder-link/outside"])
    def test_a_file_outside_the_folder(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        (tmp_path / "outside").write_text(CANARY)
        (folder / "link").symlink_to(tmp_path / "outside")
        (folder / "folder-link").symlink_to(tmp_path)
        found = resolve(
            {"m.yaml": desk(auth=f"{{type: key, key: {{from_file: {name}}}}}")},
            resolver(WorkspaceRule(secret_folder=folder)),
        )
        assert "not-permitted" in only_finding(found)

    @pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"x" * 300_000])
    def test_a_file_that_holds_no_secret(self, content: bytes | None, tmp_path: Path) -> None:
        if content is not None:
            (tmp_path / "key").write_bytes(content)
        found = resolve(
            {"m.yaml": desk(auth="{type: key, key: {from_file: key}}")}, resolver(WorkspaceRule(secret_folder=tmp_path))
        )
        assert "secret-missing" in only_finding(found)

    def test_no_key_opens_the_file(self) -> None:
        sealed_file = sealed(desk(auth=f"{{type: key, key: {CANARY}}}"), "^key$")
        found = resolve({"m.yaml": sealed_file}, resolver(keyring=Keyring()))
        assert "sops-key-missing: spec.auth.key: no identity opens the data key" in only_finding(found)

    def test_a_file_is_tried_once_however_many_values_it_holds(self, tmp_path: Path) -> None:
        program = tmp_path / "sops"
        program.write_text(f"#!/bin/sh\necho tried >> {tmp_path}/tries\nexit 128\n")
        program.chmod(0o755)
        text = desk(auth=f"{{type: basic, username: u, password: {CANARY}}}")
        block = b"sops:\n    pgp: [{fp: F, enc: x, created_at: '2024-01-01T00:00:00Z'}]\n"
        foreign = re.sub(rb"sops:\n    age:\n(        .*\n)+", block, sealed(text, "^auth$"))
        found = resolve({"m.yaml": foreign}, resolver(keyring=Keyring(program=str(program))))
        assert {str(one.code) for one in found.findings} == {"sops-key-missing"}
        assert len(found.findings) == 3
        assert (tmp_path / "tries").read_text() == "tried\n"

    def test_a_changed_clear_value_breaks_the_whole_manifest(self) -> None:
        changed = sealed(desk(auth=f"{{type: key, key: {CANARY}}}"), "^key$").replace(b"desk.test", b"evil.test")
        assert "sops-mac-mismatch" in only_finding(resolve({"m.yaml": changed}))

    def test_a_key_that_is_not_in_the_sops_file(self) -> None:
        manifest = desk(auth="{type: key, key: {from_sops: {file: s.yaml, key: a.c}}}")
        assert "s.yaml has no value at the key a.c" in only_finding(
            resolve({"m.yaml": manifest, "s.yaml": sealed("a: {b: x}\n", ".*")})
        )

    def test_a_sops_file_in_clear(self) -> None:
        manifest = desk(auth="{type: key, key: {from_sops: {file: s.yaml, key: a}}}")
        assert "sops-malformed" in only_finding(resolve({"m.yaml": manifest, "s.yaml": f"a: {CANARY}\n"}))

    def test_a_decrypted_value_that_the_connector_does_not_take(self) -> None:
        text = desk(auth="{type: key, key: x}", config="{url: 'https://desk.test', retries: 99}")
        line = only_finding(resolve({"m.yaml": sealed(text, "^(key|retries)$")}))
        assert "invalid-value: spec.config.retries must be less than or equal to 10" in line
        assert "99" not in line

    @pytest.mark.parametrize("value", ["yes", "07.5", "many"])
    def test_a_variable_that_is_no_number(self, value: str) -> None:
        config = "{url: 'https://desk.test', retries: {from_env: APP_RETRIES}}"
        manifest = desk(auth="{type: key, key: {from_env: APP_KEY}}", config=config)
        env = {"APP_KEY": CANARY, "APP_RETRIES": value}
        line = only_finding(resolve({"m.yaml": manifest}, resolver(env=env)))
        assert line.startswith("m.yaml:7:47: invalid-value: spec.config.retries must be a whole number, not ")
        assert value not in line

    def test_a_file_that_changed_since_is_not_taken_for_the_old_one(self) -> None:
        shot = snapshot({"m.yaml": sealed(desk(auth="{type: key, key: one}"), "^key$")})
        held = validate(shot, Inputs(source="test", registry=TinyRegistry())).state.integrations[Ref("default", "a")]
        newer = snapshot({"m.yaml": sealed(desk(auth="{type: key, key: two}"), "^key$")})
        found = resolver().resolve(held, newer)
        assert "source-unavailable: spec.auth.key: the file no longer holds this value" in only_finding(found)
        gone = resolver().resolve(replace(held, ref=Ref("default", "a")), snapshot({}))
        assert "source-unavailable" in only_finding(gone)


def test_a_host_hidden_from_the_rule_is_refused_when_it_is_clear() -> None:
    rule = WorkspaceRule(env_prefix="DESK_", hosts=("ok.example.org",))
    hidden = {"m.yaml": desk(config="{url: {from_env: DESK_URL}}")}
    env = {"DESK_KEY": CANARY, "DESK_URL": "https://evil.example.org"}
    said = only_finding(resolve(hidden, resolver(rule, env=env)))
    assert "not-permitted: spec.config.url: the workspace default may not connect to the host that it names" in said
    assert "evil" not in said
    env["DESK_URL"] = "https://ok.example.org"
    assert resolve(hidden, resolver(rule, env=env)).spec is not None
