"""Files that only the sops program opens: written by the real one for PGP keys, AWS KMS, Vault and shares, read by us."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrage
import pytest

from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.document import decrypt, decrypt_documents
from reconciler.desired.sops.encrypt import Sealing, rotate
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import Format
from reconciler.desired.sops.keys import Keyring, keyring_from_env, parse_identities
from reconciler.desired.sops.rules import Rules
from reconciler.desired.sops.tree import revealed
from reconciler.desired.sops.yaml_events import read_documents
from reconciler.model.clock import SystemClock
from reconciler.model.finding import Code
from reconciler.model.secret import Secret
from tests.servers.key_services import CloudKeys, TransitEngine
from tests.servers.sops import Pgp, Sops, pgp_key

pytestmark = pytest.mark.needs("sops")
CANARY = "canary-77f0"
ACCESS_KEY = "AKIAEXAMPLE"
ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"
YAML = f"""\
# who
name: x  # not secret
auth:
    token: {CANARY}
    pin: 12345
    rate: 1.5
    on: true
    empty: ""
    nothing: null
    date: 2024-01-31
    lines: "\\ta\\nb"
    list:
        - a
        # within
        - [1, {{k: "ü😀"}}]
id: 9007199254740993
"""
TREE: dict[str, Any] = {
    "name": "x",
    "auth": {
        "token": CANARY,
        "pin": 12345,
        "rate": 1.5,
        "on": True,
        "empty": "",
        "nothing": None,
        "date": "2024-01-31T00:00:00Z",
        "lines": "\ta\nb",
        "list": ["a", [1, {"k": "ü😀"}]],
    },
    "id": 9007199254740993,
}
FILES: dict[Format, tuple[bytes, Any]] = {
    "yaml": (YAML.encode(), TREE),
    "json": (
        b'{"a": "x", "n": {"pin": 12345, "f": 1.5, "b": [true, null, ""]}}',
        {"a": "x", "n": {"pin": 12345, "f": 1.5, "b": [True, None, ""]}},
    ),
    "env": (
        b"# c\nTOKEN=a=b\\nc\nEMPTY=\nX_unencrypted=clear\n",
        {"TOKEN": "a=b\nc", "EMPTY": "", "X_unencrypted": "clear"},
    ),
    "ini": (b"top = 1\n\n[sec]\na = x\n", {"DEFAULT": {"top": "1"}, "sec": {"a": "x"}}),
    "binary": ("text\nü".encode(), {"data": "text\nü"}),
}


@dataclass(frozen=True)
class Bench:
    """The program with one PGP key, and what a daemon beside it holds."""

    sops: Sops
    pgp: Pgp

    @property
    def keyring(self) -> Keyring:
        return keyring_from_env(self.sops.env)

    def encrypt(self, content: bytes, fmt: Format, *words: str) -> bytes:
        return self.sops.encrypt(content, fmt, "--pgp", self.pgp.fingerprint, *words)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with pgp_key() as pgp:
        yield Bench(Sops.on_path(tmp_path_factory.mktemp("home"), GNUPGHOME=str(pgp.home)), pgp)


@pytest.fixture
def alone(tmp_path: Path) -> Sops:
    """The program without any key; what does not answer is not asked again."""
    return Sops.on_path(tmp_path, GNUPGHOME=str(tmp_path), VAULT_MAX_RETRIES="0", AWS_MAX_ATTEMPTS="1")


def refusal(content: bytes, keyring: Keyring, fmt: Format = "yaml") -> SopsError:
    with pytest.raises(SopsError) as caught:
        decrypt(content, fmt, keyring)
    assert CANARY not in str(caught.value)
    assert caught.value.remedy
    return caught.value


@pytest.mark.needs("gpg")
@pytest.mark.parametrize("fmt", FILES)
def test_pgp_files_of_every_format(fmt: Format, bench: Bench) -> None:
    content, tree = FILES[fmt]
    sealed = bench.encrypt(content, fmt)
    assert refusal(sealed, Keyring(), fmt).code is Code.SOPS_PROGRAM_MISSING
    opened = decrypt(sealed, fmt, bench.keyring).tree
    assert repr(revealed(opened)) == repr(tree)
    if fmt == "yaml":
        assert opened["auth"]["token"] == Secret(CANARY)


@pytest.mark.needs("gpg")
@pytest.mark.parametrize(
    "words",
    [
        ("--encrypted-regex", "^(auth)$"),
        ("--encrypted-regex", "^(auth)$", "--mac-only-encrypted"),
        ("--unencrypted-regex", "^name$"),
        ("--encrypted-suffix", "h"),
        ("--encrypted-comment-regex", "secret"),
    ],
    ids=lambda words: words[0] if len(words) < 3 else words[2],
)
def test_pgp_files_under_rules(words: tuple[str, ...], bench: Bench) -> None:
    # The program writes this text as null where it stays in clear.
    plain, tree = YAML.replace("\\ta", "a"), {**TREE, "auth": {**TREE["auth"], "lines": "a\nb"}}
    opened = decrypt(bench.encrypt(plain.encode(), "yaml", *words), "yaml", bench.keyring).tree
    assert repr(revealed(opened)) == repr(tree)
    assert isinstance(opened["name"], Secret) is (words[0] == "--encrypted-comment-regex")


@pytest.mark.needs("gpg")
def test_clear_files_as_the_program_writes_them(bench: Bench) -> None:
    plain = YAML.replace("\\ta\\nb", "a\\n\\tb").encode()
    sealed = bench.encrypt(plain, "yaml")
    clear = clear_text(sealed, "yaml", bench.keyring)
    assert clear == bench.sops.decrypt(sealed, "yaml")
    assert b"# within" in clear
    content = bytes(range(256)) * 9
    assert clear_text(bench.encrypt(content, "binary"), "binary", bench.keyring) == content
    # A text that begins with a tab and has a second line is null in the program's own YAML: better none than that.
    with pytest.raises(SopsError, match="without changing its layout"):
        clear_text(bench.encrypt(YAML.encode(), "yaml"), "yaml", bench.keyring)


@pytest.mark.needs("gpg")
def test_from_pgp_to_age(bench: Bench) -> None:
    identity = pyrage.x25519.Identity.generate()
    sealing = Sealing((), Rules(), SystemClock().now())
    turned = rotate(bench.encrypt(FILES["env"][0], "env"), "env", bench.keyring, (str(identity.to_public()),), sealing)
    own = Keyring(tuple(parse_identities(str(identity), "test")))
    assert revealed(decrypt(turned, "env", own).tree) == FILES["env"][1]


@pytest.mark.needs("gpg", "ssh-keygen")
def test_age_and_pgp_in_one_file(bench: Bench, tmp_path: Path) -> None:
    """Whoever holds the age identity needs no program; one that does not fit is no hindrance for the PGP key."""
    mine, stranger = (pyrage.x25519.Identity.generate() for _ in range(2))
    sealed = bench.encrypt(YAML.encode(), "yaml", "--age", str(mine.to_public()))
    by_age = Keyring(tuple(parse_identities(str(mine), "test")), program="/nonexistent/sops")
    assert revealed(decrypt(sealed, "yaml", by_age).tree) == TREE
    for text in (str(stranger), _ssh_key(tmp_path)):
        ring = keyring_from_env({**bench.sops.env, "SOPS_AGE_KEY": text})
        assert revealed(decrypt(sealed, "yaml", ring).tree) == TREE
    said = refusal(sealed, keyring_from_env({**bench.sops.env, "PATH": "/nonexistent"}))
    assert (said.code, str(mine.to_public()) in said.message) == (Code.SOPS_KEY_MISSING, True)


def _ssh_key(folder: Path) -> str:
    import subprocess

    path = folder / "id"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path), check=True, capture_output=True)
    return path.read_text()


@pytest.mark.needs("gpg")
def test_shares_need_every_group(bench: Bench, tmp_path: Path) -> None:
    identity = pyrage.x25519.Identity.generate()
    groups = f"[{{age: [{identity.to_public()}]}}, {{pgp: [{bench.pgp.fingerprint}]}}]"
    config = tmp_path / "config.yaml"
    config.write_text(f"creation_rules: [{{shamir_threshold: 2, key_groups: {groups}}}]\n")
    for fmt in ("yaml", "env"):
        content, tree = FILES[fmt]
        sealed = bench.sops.run("--config", str(config), "--encrypt", *_types(fmt), "/dev/stdin", content=content)
        assert refusal(sealed, Keyring(), fmt).message.startswith("key groups with shares (pgp) need the sops program")
        assert "for pgp " in refusal(sealed, bench.keyring, fmt).message
        ring = keyring_from_env({**bench.sops.env, "SOPS_AGE_KEY": str(identity)})
        assert revealed(decrypt(sealed, fmt, ring).tree) == tree


def _types(fmt: Format) -> tuple[str, ...]:
    name = {"env": "dotenv"}.get(fmt, fmt)
    return "--filename-override", f"x.{fmt}", "--input-type", name, "--output-type", name


@pytest.mark.needs("gpg")
def test_a_file_that_was_changed(bench: Bench) -> None:
    sealed = bench.encrypt(YAML.encode(), "yaml", "--encrypted-regex", "^auth$").decode()
    token, pin = (
        next(line.split(": ")[1] for line in sealed.splitlines() if f" {key}: ENC" in line) for key in ("token", "pin")
    )
    for changed in (
        sealed.replace("name: x", "name: y"),
        sealed.replace(token, "@").replace(pin, token).replace("@", pin),
        sealed.replace(token, '""'),
    ):
        assert changed != sealed
        assert refusal(changed.encode(), bench.keyring).code is Code.SOPS_MAC_MISMATCH
    assert refusal(sealed.replace("auth:\n", "more: .nan\nauth:\n").encode(), bench.keyring).code in {
        Code.SOPS_MAC_MISMATCH,
        Code.SOPS_MALFORMED,
    }


@pytest.mark.needs("gpg")
def test_a_configuration_nearby_and_temporary_files_play_no_part(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".sops.yaml").write_text("creation_rules: [\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    ring = keyring_from_env({**bench.sops.env, "TMPDIR": str(tmp_path / "tmp")})
    assert revealed(decrypt(bench.encrypt(YAML.encode(), "yaml"), "yaml", ring).tree) == TREE
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.needs("gpg")
def test_documents_of_a_manifest_file(bench: Bench) -> None:
    sealed = bench.encrypt(f"{YAML}---\nb: x\n".encode(), "yaml", "--encrypted-regex", "^auth$")
    with pytest.raises(SopsError, match="need an age recipient") as caught:
        decrypt_documents(read_documents(sealed.decode()), bench.keyring)
    assert "a file of its own" in caught.value.remedy
    sealed = bench.encrypt(YAML.encode(), "yaml", "--encrypted-comment-regex", "secret")
    with pytest.raises(SopsError, match="encrypted by its comments") as caught:
        decrypt_documents(read_documents(sealed.decode()), bench.keyring)
    assert "encrypted_regex" in caught.value.remedy
    sealed = bench.encrypt(YAML.encode(), "yaml", "--encrypted-regex", "^auth$")
    (tree,) = decrypt_documents(read_documents(sealed.decode()), bench.keyring)
    assert repr(revealed(tree)) == repr(TREE)


@pytest.mark.needs("gpg")
def test_a_key_that_is_missing(bench: Bench, alone: Sops) -> None:
    sealed = bench.encrypt(YAML.encode(), "yaml")
    said = refusal(sealed, keyring_from_env(alone.env))
    assert said.code is Code.SOPS_KEY_MISSING
    assert said.message.endswith(f"the data key for pgp {bench.pgp.fingerprint}: gpg holds none of the secret keys")
    program = bench.keyring.program
    no_gpg = keyring_from_env({**alone.env, "PATH": str(Path(program or "").parent)})
    assert refusal(sealed, no_gpg).message.endswith(": gpg is not installed")


@pytest.mark.needs("gpg")
def test_a_key_under_a_passphrase_asks_nobody(alone: Sops) -> None:
    with pgp_key(passphrase="canary of a passphrase") as pgp:
        sops = alone.with_env(GNUPGHOME=str(pgp.home), GPG_TTY="/dev/tty", DISPLAY=":9")
        sealed = sops.encrypt(YAML.encode(), "yaml", "--pgp", pgp.fingerprint)
        # Whoever makes a key is remembered by the agent for a while.
        import subprocess

        subprocess.run(("gpgconf", "--homedir", pgp.home, "--kill", "gpg-agent"), check=True)
        started = time.monotonic()
        said = refusal(sealed, keyring_from_env(sops.env))
        assert said.message.endswith(": the PGP key is under a passphrase, and there is nobody to ask for it")
        assert time.monotonic() - started < 20


def test_aws_kms(alone: Sops) -> None:
    with CloudKeys(ACCESS_KEY) as cloud:
        aws = {"AWS_ENDPOINT_URL_KMS": cloud.url, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": CANARY}
        sops = alone.with_env(**aws)
        sealed = sops.encrypt(YAML.encode(), "yaml", "--kms", ARN, "--encryption-context", "env:prod")
        assert revealed(decrypt(sealed, "yaml", keyring_from_env(sops.env)).tree) == TREE
        other = refusal(sealed, keyring_from_env({**sops.env, "AWS_ACCESS_KEY_ID": "AKIAOTHER"}))
        assert other.message.endswith(f"for kms {ARN}: the key service refuses these credentials")
        elsewhere = refusal(sealed.replace(b"env: prod", b"env: test"), keyring_from_env(sops.env))
        assert elsewhere.code is Code.SOPS_KEY_MISSING
        asked = len(cloud.requests)
        foreign = refusal(sealed.replace(b"eu-central-1", b"x@evil.example/"), keyring_from_env(sops.env))
        assert (foreign.code, len(cloud.requests)) == (Code.NOT_PERMITTED, asked)
    assert refusal(sealed, keyring_from_env(sops.env)).message.endswith(": the key service cannot be reached")


def test_vault_transit(alone: Sops) -> None:
    with TransitEngine("token") as vault, TransitEngine("token") as other:
        sops = alone.with_env(VAULT_TOKEN="token", VAULT_ADDR=vault.url)
        content, tree = FILES["json"]
        sealed = sops.encrypt(content, "json", "--hc-vault-transit", vault.key("dev"))
        assert revealed(decrypt(sealed, "json", keyring_from_env(sops.env)).tree) == tree
        said = refusal(sealed, keyring_from_env({**sops.env, "VAULT_TOKEN": "another"}), "json")
        assert said.message.endswith(f"for hc_vault {vault.url}/transit/dev: the key service refuses these credentials")
        asked = len(vault.requests)
        there = f'"vault_address": "{vault.url}"'.encode()
        for changed in (
            sealed.replace(vault.url.encode(), other.url.encode()),
            sealed.replace(b'"dev"', b'"../.."').replace(b'"transit"', b'"auth/token/revoke-self/x"'),
        ):
            assert changed != sealed
            assert refusal(changed, keyring_from_env(sops.env), "json").code is Code.NOT_PERMITTED
        assert len(vault.requests) == asked
        # Go's JSON takes the names of fields in any case, the last one counts; we check what the program then gets.
        disguised = sealed.replace(there, there + f', "VAULT_ADDRESS": "{other.url}"'.encode())
        assert disguised != sealed
        assert revealed(decrypt(disguised, "json", keyring_from_env(sops.env)).tree) == tree
        assert other.requests == []
    assert refusal(sealed, keyring_from_env(sops.env), "json").message.endswith(": the key service cannot be reached")
