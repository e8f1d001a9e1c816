"""Other programs open what we write: the npm package sops-age, and age itself for keys and wrapped data keys."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest

from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.encrypt import Sealing, encrypt, rotate
from reconciler.desired.sops.formats import Format, read
from reconciler.desired.sops.keys import Keyring, keyring_from_env, parse_identities, unwrap
from reconciler.desired.sops.metadata import parse_metadata
from reconciler.desired.sops.rules import Rules

VERSION = "4.0.2"
AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
SCRIPT = """
import { decryptSops } from "sops-age";
const [fileType, secretKey] = process.argv.slice(2);
let content = "";
for await (const chunk of process.stdin) content += chunk;
process.stdout.write(JSON.stringify(await decryptSops(content, { fileType, secretKey })));
"""
Opens = Callable[[bytes, str, str], Any]


@pytest.fixture(scope="session")
def sops_age() -> Opens:
    """The package, installed once for this machine; whole before another process can see it."""
    folder = Path(tempfile.gettempdir()) / f"reconciler-tests-{os.getuid()}-sops-age-{VERSION}"
    if not (folder / "open.mjs").is_file():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            fresh = Path(made) / "whole"
            fresh.mkdir()
            command = [
                "npm",
                "install",
                "--silent",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
                str(fresh),
            ]
            installed = subprocess.run([*command, f"sops-age@{VERSION}"], capture_output=True, check=False, timeout=240)
            if installed.returncode and not os.environ.get("CI"):
                pytest.skip("npm cannot install sops-age: is its registry reachable?")
            installed.check_returncode()
            (fresh / "open.mjs").write_text(SCRIPT)
            try:
                fresh.rename(folder)
            except OSError:
                if not (folder / "open.mjs").is_file():  # else another process of this run was faster
                    raise

    def opened(content: bytes, fmt: str, key: str) -> Any:
        command = ["node", str(folder / "open.mjs"), fmt, key]
        done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=180)
        if done.returncode:
            raise ValueError(done.stderr.decode()[-500:])
        return json.loads(done.stdout)

    return opened


CLEAR: dict[Format, bytes] = {
    "yaml": b"# c\nname: x # eol\nauth: {token: t, pin: 5, rate: 1.5, on: true, empty: '', none: null}\n"
    b"list:\n  # within\n  - a\n  - |\n    two\n    lines\n  - k_unencrypted: clear\numl\xc3\xa4ut: \xf0\x9f\x98\x80\n",
    "json": b'{"name": "x", "n": {"i": 7, "f": 1.5, "b": [true, false, null, ""], "c_unencrypted": "clear"}}',
    "env": b"TOKEN=a b=c\nCLEAR_unencrypted=d\n",
}
EXPECTED: dict[Format, Any] = {
    "yaml": {
        "name": "x",
        "auth": {"token": "t", "pin": 5, "rate": 1.5, "on": True, "empty": "", "none": None},
        "list": ["a", "two\nlines\n", {"k_unencrypted": "clear"}],
        "umläut": "😀",
    },
    "json": {"name": "x", "n": {"i": 7, "f": 1.5, "b": [True, False, None, ""], "c_unencrypted": "clear"}},
    "env": {"TOKEN": "a b=c", "CLEAR_unencrypted": "d"},
}


@pytest.mark.needs("npm")
@pytest.mark.parametrize("rules", [Rules(), Rules("encrypted_regex", "^(auth|n|TOKEN)$")], ids=["suffix", "regex"])
@pytest.mark.parametrize("fmt", ["yaml", "json", "env"])
def test_sops_age_opens_what_we_write(fmt: Format, rules: Rules, sops_age: Opens) -> None:
    identity = pyrage.x25519.Identity.generate()
    sealed = encrypt(CLEAR[fmt], fmt, Sealing((str(identity.to_public()),), rules, AT))
    assert sops_age(sealed, fmt, str(identity)) == EXPECTED[fmt]
    ring = Keyring(tuple(parse_identities(str(identity), "test")))
    turned = rotate(sealed, fmt, ring, (), Sealing((), Rules(), AT))
    assert turned != sealed
    assert sops_age(turned, fmt, str(identity)) == EXPECTED[fmt]


@pytest.mark.needs("npm")
def test_sops_age_authenticates_what_we_write(sops_age: Opens) -> None:
    """It checks every value against its path, as we do. The MAC it does not look at, so it is no witness of ours."""
    identity = pyrage.x25519.Identity.generate()
    sealed = encrypt(CLEAR["yaml"], "yaml", Sealing((str(identity.to_public()),), Rules(), AT))
    text = sealed.decode().splitlines()
    name, other = (next(line for line in text if line.startswith(key)) for key in ("name: ENC", "uml"))
    moved = sealed.replace(name.split()[1].encode(), other.split()[1].encode())
    assert moved != sealed
    with pytest.raises(ValueError, match=r"\S"):
        sops_age(moved, "yaml", str(identity))


@pytest.mark.needs("age")
def test_keys_of_age_itself(tmp_path: Path) -> None:
    """age-keygen's file is our keyring; age opens our data key, and we open the one it wraps."""
    keys = tmp_path / "keys.txt"
    subprocess.run(["age-keygen", "-o", str(keys)], check=True, capture_output=True)
    ring = keyring_from_env({"SOPS_AGE_KEY_FILE": str(keys), "HOME": str(tmp_path)})
    sealed = encrypt(b"a: x\n", "yaml", Sealing(ring.recipients, Rules(), AT))
    metadata = parse_metadata(read(sealed, "yaml").block)
    enc = metadata.age[0].enc.encode()
    data_key = subprocess.run(["age", "-d", "-i", str(keys)], input=enc, check=True, capture_output=True).stdout
    assert data_key == unwrap(metadata, ring)
    wrapped = subprocess.run(
        ["age", "-a", "-r", ring.recipients[0]], input=data_key, check=True, capture_output=True
    ).stdout
    lines = [" " * 12 + line for line in wrapped.decode().splitlines()]
    ours = [" " * 12 + line for line in enc.decode().splitlines()]
    theirs = sealed.replace("\n".join(ours).encode(), "\n".join(lines).encode())
    assert theirs != sealed
    assert clear_text(theirs, "yaml", ring) == b"a: x\n"
