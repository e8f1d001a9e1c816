"""Files for age keys, between us and the real sops program: what one writes the other opens, with types and comments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyrage
import pytest
import yaml

from reconciler.cli.main import main
from reconciler.desired.sops.clear_text import clear_text
from reconciler.desired.sops.document import decrypt, open_file
from reconciler.desired.sops.emit import json_for_yaml
from reconciler.desired.sops.formats import Format, format_of, read
from reconciler.desired.sops.keys import Keyring, keyring_from_env, parse_identities
from reconciler.desired.sops.tree import revealed
from reconciler.desired.sops.yaml_events import read_documents
from tests.servers.sops import Sops

pytestmark = pytest.mark.needs("sops")
IDENTITY = pyrage.x25519.Identity.generate()
ME = str(IDENTITY.to_public())
KEYRING = Keyring(tuple(parse_identities(str(IDENTITY), "test")))
Run = Callable[..., str]

TEXTS = [
    *(
        "",
        " ",
        "\n",
        "\ta\nb",
        " \n x",
        "\n\n x",
        "a\n",
        "a\n\n",
        "x\n  y\n z\n",
        "a\r\nb",
        "a\rb",
        "x ",
        " x",
        "ü😀\u2028\x85",
    ),
    *("~", "null", "yes", "on", "true", "0777", "0o7", "0x1F", "1_000", "0b1", "+1", "1e3", ".5", "1.", "1:20", ".inf"),
    *(
        "2024-01-01",
        "2024-01-01T00:00:00Z",
        "#c",
        "a #b",
        "- a",
        "a: b",
        "'",
        '"',
        "|",
        "[",
        "{",
        "*a",
        "&b",
        "%",
        "@",
        "`",
    ),
    *("?", "a:", "-", "---", "...", "\\n", "\\", "ENC[x]", "!!str", "=", "\x7f", "<&>"),
]
NUMBERS = [0, -7, 2**53 + 1, 2**63 - 1, -(2**63), 1.5, 0.1, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, 123456789.125]
VALUES = {"texts": TEXTS, "numbers": NUMBERS, "others": [True, False, None, [], {}, [[["deep"]]], {"a:b": {"ü": "x"}}]}
TREE = {"sealed": VALUES, "open_unencrypted": VALUES}


@pytest.fixture(scope="module")
def sops(tmp_path_factory: pytest.TempPathFactory) -> Sops:
    return Sops.on_path(tmp_path_factory.mktemp("home"), SOPS_AGE_KEY=str(IDENTITY))


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`reconciler secrets` on a file, as a person with the key runs it; gives back the file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOPS_AGE_KEY", str(IDENTITY))

    def run(command: str, path: Path, *words: str) -> str:
        assert main(["secrets", command, "-i", str(path), *words]) == 0
        return path.read_text()

    return run


def same(wanted: Any, found: Any) -> bool:
    """Numbers by their value as SOPS holds it: JSON writes 1.0 as 1, and 2**53 + 1 as a float."""
    if isinstance(wanted, dict):
        return list(wanted) == list(found) and all(same(wanted[key], found[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(same, wanted, found))
    if isinstance(wanted, int | float) and not isinstance(wanted, bool):
        return type(found) in (int, float) and float(wanted) == float(found)
    return type(wanted) is type(found) and bool(wanted == found)


def in_quotes(tree: dict[str, Any]) -> bytes:
    """A line for each key, JSON behind it."""
    return b"".join(key.encode() + b": " + json_for_yaml(value) + b"\n" for key, value in tree.items())


def test_every_value_that_we_write_in_yaml(sops: Sops, secrets: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(in_quotes(TREE))
    for command in (("encrypt", "--age", ME), ("rotate",)):
        sealed = secrets(command[0], path, *command[1:])
        opened = json.loads(sops.decrypt(sealed.encode(), "yaml", "json"))
        assert same(TREE, opened)
        assert opened["sealed"]["numbers"][2:5] == NUMBERS[2:5]


def test_every_value_that_sops_writes_in_yaml(sops: Sops) -> None:
    # In clear it writes two of them so that it cannot read them itself.
    kept = [text for text in TEXTS if text not in ("\ta\nb", "\n\n x")]
    tree = {"sealed": VALUES, "open_unencrypted": {**VALUES, "texts": kept}}
    sealed = sops.encrypt(in_quotes(tree), "yaml", "--age", ME)
    opened = revealed(decrypt(sealed, "yaml", KEYRING).tree)
    assert same(tree, opened)
    assert opened["sealed"]["numbers"][2:5] == NUMBERS[2:5]
    assert same([tree], read_documents(clear_text(sealed, "yaml", KEYRING).decode()))


def test_every_value_in_json_both_ways(sops: Sops, secrets: Run, tmp_path: Path) -> None:
    tree = {**TREE, "zero_unencrypted": -0.0}
    content = json.dumps(tree, ensure_ascii=False)
    path = tmp_path / "a.json"
    path.write_text(content)
    for command in (("encrypt", "--age", ME), ("rotate",)):
        assert same(tree, json.loads(sops.decrypt(secrets(command[0], path, *command[1:]).encode(), "json")))
    theirs = sops.encrypt(content.encode(), "json", "--age", ME)
    assert same(tree, revealed(decrypt(theirs, "json", KEYRING).tree))
    assert same(tree, json.loads(clear_text(theirs, "json", KEYRING)))


SCALARS = """\
oct: 0777
under: 1_000
binary: 0b11
huge: 123456789012345678901234567890
date: 2024-01-01
time: 2024-01-01T10:11:12Z
spaced: 2024-1-1 10:11:12
zone: 2024-01-01T10:11:12.5+02:00
limits: [.inf, -.inf]
yes: no
"""


@pytest.mark.parametrize("rule", ["_unencrypted", "s"])
def test_scalars_that_only_go_reads_so(rule: str, sops: Sops) -> None:
    """Encrypted, and in clear under the MAC; the last key is not encrypted in both cases."""
    suffixed = "".join(f"k{number}_{line}\n" for number, line in enumerate(SCALARS.splitlines()))
    sealed = sops.encrypt(f"secret: x\n{suffixed}".encode(), "yaml", "--age", ME, f"--unencrypted-suffix={rule}")
    opened = list(revealed(decrypt(sealed, "yaml", KEYRING).tree).values())[1:]
    assert opened[:3] == [511, 1000, 3]
    assert opened[3] == 1.2345678901234568e29
    assert opened[4:7] == ["2024-01-01T00:00:00Z", "2024-01-01T10:11:12Z", "2024-01-01T10:11:12Z"]
    assert opened[7:] == ["2024-01-01T10:11:12.5+02:00", [float("inf"), float("-inf")], "no"]


FLAT: dict[str, bytes] = {
    ".env": b'# c\nA=x\nEMPTY=\nSPACES= a b \nQ="x y"\nEQ=a=b=c\nNL=one\\ntwo\nU=\xc3\xbc\xf0\x9f\x98\x80\nB_unencrypted=clear\n',
    "key.pem": b"-----BEGIN X-----\nAA==\n-----END X-----\n",
    "blob": bytes(range(256)) * 5,
    "nothing": b"",
}


@pytest.mark.parametrize("name", FLAT)
def test_env_and_binary_files_both_ways(name: str, sops: Sops, secrets: Run, tmp_path: Path) -> None:
    path, fmt, content = tmp_path / name, format_of(Path(name)), FLAT[name]
    path.write_bytes(content)
    for command in (("encrypt", "--age", ME), ("rotate",)):
        assert sops.decrypt(secrets(command[0], path, *command[1:]).encode(), fmt) == content
    assert clear_text(sops.encrypt(content, fmt, "--age", ME), fmt, KEYRING) == content


def test_ini_files_are_read(sops: Sops) -> None:
    sealed = sops.encrypt(b"top = 1\n\n; c\n[sec]\na = x\nb = \nk = a b=c\n", "ini", "--age", ME)
    tree = {"DEFAULT": {"top": "1"}, "sec": {"a": "x", "b": "", "k": "a b=c"}}
    assert revealed(decrypt(sealed, "ini", KEYRING).tree) == tree


def test_documents_both_ways(sops: Sops, secrets: Run, tmp_path: Path) -> None:
    text = "# one\na: 1\n---\nb: x\nl:\n    - 1\n    # in\n    - 2\n---\nc: z\n"
    (tmp_path / "a.yaml").write_text(text)
    assert sops.decrypt(secrets("encrypt", tmp_path / "a.yaml", "--age", ME).encode(), "yaml") == text.encode()
    sealed = sops.encrypt(text.encode(), "yaml", "--age", ME)
    assert revealed(list(open_file(sealed, "yaml", KEYRING).trees)) == [{"a": 1}, {"b": "x", "l": [1, 2]}, {"c": "z"}]
    assert clear_text(sealed, "yaml", KEYRING).decode() == text


RULES = {
    "": "",
    "encrypted_regex": "^(auth|a)$",
    "unencrypted_regex": "^(name|list)$",
    "encrypted_suffix": "_enc",
    "unencrypted_suffix": "_plain",
}
RULED = "name: x\nauth:\n    a: 1\n    b_plain: w\nk_enc:\n    - p\n    - c: 1.5\nlist:\n    - a: q\n    - r\nt: true\n"


@pytest.mark.parametrize("mac_only", [False, True], ids=["whole MAC", "mac_only_encrypted"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_of_the_configuration(rule: str, mac_only: bool, sops: Sops, secrets: Run, tmp_path: Path) -> None:
    """The same `.sops.yaml` for both: the same values are encrypted, and both open both."""
    fields = {"age": ME, **({rule: RULES[rule]} if rule else {}), **({"mac_only_encrypted": True} if mac_only else {})}
    config = tmp_path / ".sops.yaml"
    config.write_text(yaml.safe_dump({"creation_rules": [{"path_regex": "never"}, fields]}))
    path = tmp_path / "a.yaml"
    path.write_text(RULED)
    ours = secrets("encrypt", path)
    theirs = sops.run("--config", str(config), "--encrypt", str(_copy(path, RULED))).decode()
    assert _sealed_lines(ours) == _sealed_lines(theirs) != []
    assert sops.decrypt(ours.encode(), "yaml").decode() == RULED
    assert sops.decrypt(secrets("rotate", path).encode(), "yaml").decode() == RULED
    assert clear_text(theirs.encode(), "yaml", KEYRING).decode() == RULED
    other = theirs.replace("name: x\n", "name: y\n")
    if mac_only and other != theirs:
        assert revealed(decrypt(other.encode(), "yaml", KEYRING).tree)["name"] == "y"


def _copy(path: Path, text: str) -> Path:
    other = path.with_name("theirs.yaml")
    other.write_text(text)
    return other


def _sealed_lines(text: str) -> list[str]:
    return [line.split("ENC[")[0] for line in text.split("sops:", maxsplit=1)[0].splitlines() if "ENC[" in line]


COMMENTED = """\
# top

# second
a: x # behind a value
auth: # behind a key
    # within
    token: t
    # old: last of the block
config:
    flow: {a: x, "b": [1, 'two']} # behind a flow
    url: y

    # after a space

    # and another
list:
    # first
    - p # behind an item
    # between
    - k: v
      # within an item
      m: w
      # last of the item
    - {a: b}
    # last of the list
nested:
    inner:
        z: 1
        # last of inner
    # last of nested
# bottom
"""


def test_comments_both_ways(sops: Sops, secrets: Run, tmp_path: Path) -> None:
    """SOPS authenticates a comment with the place it gives it; one it cannot open stays encrypted in what it prints."""
    words = sorted(line.partition("# ")[2] for line in COMMENTED.splitlines() if "# " in line)
    path = tmp_path / "a.yaml"
    path.write_text(COMMENTED)
    ours, theirs = secrets("encrypt", path, "--age", ME), sops.encrypt(COMMENTED.encode(), "yaml", "--age", ME).decode()
    for sealed in (ours, theirs):
        assert "# " not in sealed.split("\nsops:")[0]
        for clear in (
            sops.decrypt(sealed.encode(), "yaml").decode(),
            clear_text(sealed.encode(), "yaml", KEYRING).decode(),
        ):
            assert sorted(line.partition("# ")[2] for line in clear.splitlines() if "# " in line) == words
            assert read_documents(clear) == read_documents(COMMENTED)


def test_key_groups(sops: Sops, secrets: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One group is like none. Shares are opened by the program, and not written."""
    other = pyrage.x25519.Identity.generate()
    groups = f"[{{age: [{ME}]}}, {{age: [{other.to_public()}]}}]"
    config, path = tmp_path / ".sops.yaml", tmp_path / "a.yaml"
    path.write_text("a: x\n")
    config.write_text(f"creation_rules: [{{shamir_threshold: 2, key_groups: {groups}}}]\n")
    assert main(["secrets", "encrypt", "-i", str(path)]) == 1
    assert "2 key groups: shares need the sops program" in capsys.readouterr().err
    theirs = sops.run("--config", str(config), "--encrypt", str(path))
    ring = keyring_from_env({**sops.env, "SOPS_AGE_KEY": f"{IDENTITY}\n{other}"})
    assert revealed(decrypt(theirs, "yaml", ring).tree) == {"a": "x"}
    config.write_text(f"creation_rules: [{{key_groups: [{{age: [{ME}]}}]}}]\n")
    theirs = sops.run("--config", str(config), "--encrypt", str(path))
    assert revealed(decrypt(theirs, "yaml", KEYRING).tree) == {"a": "x"}
    assert sops.decrypt(secrets("encrypt", path).encode(), "yaml") == b"a: x\n"


@pytest.mark.parametrize(("fmt", "content"), [("yaml", "a: x\nb: 1\n"), ("json", '{"a": "x"}'), ("env", "A=x\n")])
def test_each_rotates_what_the_other_wrote(fmt: Format, content: str, sops: Sops, secrets: Run, tmp_path: Path) -> None:
    path = tmp_path / f"a.{fmt}"
    path.write_text(content)
    secrets("encrypt", path, "--age", ME)
    sops.run("rotate", "--in-place", str(path))
    wanted = sops.decrypt(path.read_bytes(), fmt)
    secrets("rotate", path)
    assert sops.decrypt(path.read_bytes(), fmt) == wanted
    assert same(read(wanted, fmt).documents[0], revealed(decrypt(path.read_bytes(), fmt, KEYRING).tree))
