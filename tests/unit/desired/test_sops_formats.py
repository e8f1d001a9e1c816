"""Reading: scalars as SOPS programs read them, limits of YAML, the flat formats."""

import math
from pathlib import PurePath

import pytest

from reconciler.desired.sops.cipher import plain_bytes
from reconciler.desired.sops.errors import SopsError
from reconciler.desired.sops.formats import format_of, read
from reconciler.desired.sops.metadata import parse_metadata
from reconciler.desired.sops.rules import Rules, compile_pattern
from reconciler.desired.sops.scalars import is_ambiguous, resolve
from reconciler.desired.sops.yaml_events import MOST_NODES, read_documents
from reconciler.model.finding import Code


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(
            ("no", "no"),
            ("on", "on"),
            ("yes", "yes"),
            ("y", "y"),
            ("a", "a"),
            ("-", "-"),
            (".", "."),
            ("1.2.3", "1.2.3"),
        ),
        *(
            ("", None),
            ("~", None),
            ("Null", None),
            ("nUll", "nUll"),
            ("TRUE", True),
            ("False", False),
            ("tRue", "tRue"),
        ),
        *(("0", 0), ("-7", -7), ("+7", 7), ("0x1F", 31), ("0o17", 15), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0)),
        *((".inf", math.inf), ("-.INF", -math.inf), ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00Z")),
        *(("0777", 511), ("1_000", 1000), ("0b11", 3), ("-0x10", -16), ("0888", 888.0), ("_1", "_1"), ("1__", 1)),
        *(("2026-5-1", "2026-05-01T00:00:00Z"), ("2026-13-01", "2026-13-01"), ("9223372036854775808", 2.0**63)),
        *(("10.0.0.1", "10.0.0.1"), ("+49 30", "+49 30"), ("12:30", "12:30"), ("nothing", "nothing"), ("-x", "-x")),
    ],
)
def test_plain_scalars(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["0777", "1_000", "0b11", "2026-05-01", "2026-05-01 10:00:00", "9223372036854775808", "08"]
)
def test_spellings_that_programs_read_differently_are_known(text: str) -> None:
    assert is_ambiguous(text)


@pytest.mark.parametrize(
    "text", ["", "0", "12", "-3", "1.5", "1e3", "0x1F", "0o7", "true", "2026-05-01T12:00:00Z", "1.2.3", "a"]
)
def test_other_spellings_are_not(text: str) -> None:
    assert not is_ambiguous(text)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((1.0, b"1"), (0.1, b"0.1"), (1e22, b"10000000000000000000000"), (1e-7, b"0.0000001"), (-0.0, b"-0")),
        *(
            (25.4, b"25.4"),
            (1234568000.0, b"1234568000"),
            (math.inf, b"+Inf"),
            (-math.inf, b"-Inf"),
            (math.nan, b"NaN"),
        ),
        *((True, b"True"), (False, b"False"), (100, b"100"), ("ü", "ü".encode()), (b"\xff", b"\xff")),
    ],
)
def test_bytes_of_the_mac(value: object, written: bytes) -> None:
    assert plain_bytes(value) == written  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: 1\na: 2\n", Code.YAML_DUPLICATE_KEY),
        ("a: {b: 1, b: 2}\n", Code.YAML_DUPLICATE_KEY),
        ("1: a\n", Code.SOPS_MALFORMED),
        ("true: a\n", Code.SOPS_MALFORMED),
        ("? [a]\n: b\n", Code.SOPS_MALFORMED),
        ("a: !!python/name:os.system x\n", Code.YAML_TAG),
        ("a: !vault x\n", Code.YAML_TAG),
        ("a: !!int x\n", Code.YAML_TAG),
        ("a: !!set {b: }\n", Code.YAML_TAG),
        ("a: *b\n", Code.YAML_SYNTAX),
        ("a: [", Code.YAML_SYNTAX),
        ("a: \x01\n", Code.YAML_SYNTAX),
        ("[" * 300_000, Code.YAML_LIMIT),
        ("{a: " * 300_000, Code.YAML_LIMIT),
        ("a: [" + "x, " * (MOST_NODES + 1) + "]", Code.YAML_LIMIT),
        ("a: &a [x, x, x, x, x, x, x, x, x]\n"
         + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
         Code.YAML_LIMIT),
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused(text: str, code: Code) -> None:
    with pytest.raises(SopsError) as caught:
        read_documents(text)
    assert caught.value.code is code


def test_yaml_values_with_tags_quotes_and_aliases() -> None:
    text = 'a: !!str 5\nb: "5"\nc: !!float 5\nd: &x {k: [1, on]}\ne: *x\nf: |\n  t\n---\n- 1\n'
    first, second = read_documents(text)
    assert first == {"a": "5", "b": "5", "c": 5.0, "d": {"k": [1, "on"]}, "e": {"k": [1, "on"]}, "f": "t\n"}
    assert second == [1]


def test_json_keeps_order_and_refuses_what_is_not_json() -> None:
    source = read(b'{"b": 1, "a": {"z": 1e3, "y": 12345678901234567890}, "sops": {"mac": "x"}}', "json")
    assert list(source.documents[0]) == ["b", "a"]
    assert source.documents[0]["a"] == {"z": 1000.0, "y": 1.2345678901234567e19}
    assert source.block == {"mac": "x"}
    for text in (b'{"a": 1, "a": 2}', b"[1]", b"{", b'{"a": NaN}', b'{"a": "\\ud800"}', b"[" * 100_000, b"\xff"):
        with pytest.raises(SopsError):
            read(text, "json")


def test_env_and_ini_blocks_are_unflattened() -> None:
    env = b"# c\nA=x\\ny=z\nsops_age__list_1__map_enc=e\\nf\nsops_age__list_0__map_recipient=r\nsops_mac=m\nE=\n"
    source = read(env, "env")
    assert source.documents == ({"A": "x\ny=z", "E": ""},)
    assert source.block == {"age": [{"recipient": "r"}, {"enc": "e\nf"}], "mac": "m"}
    flat = b"sops_shamir_threshold=2\nsops_mac_only_encrypted=true\nsops_version=3\n"
    assert read(flat, "env").block == {"shamir_threshold": 2, "mac_only_encrypted": True, "version": "3"}
    many = "\n".join(f"sops_age__list_{place}__map_enc={place}" for place in range(12)).encode()
    assert [one["enc"] for one in read(many, "env").block["age"]] == [str(place) for place in range(12)]
    ini = b'top = 1\n; c\n[s]\nk = """a\nb"""\n[sops]\nmac = m\n'
    assert read(ini, "ini").documents == ({"DEFAULT": {"top": "1"}, "s": {"k": "a\nb"}},)
    hostile = (
        b"A=1\nA=2\n",
        b"no equals\n",
        b"sops_a__list_9__map_b=1\n",
        b"sops_a=1\nsops_a__map_b=1\n",
        b"sops_a__list_x=1\n",
    )
    for text in hostile:
        with pytest.raises(SopsError):
            read(text, "env")
    for text in (b"[s]\n[s]\n", b"[s]\nk=1\nk=2\n", b"[s]\nword\n"):
        with pytest.raises(SopsError):
            read(text, "ini")


def test_formats_by_name() -> None:
    names = {
        "a.yaml": "yaml",
        "a.YML": "yaml",
        "a.json": "json",
        ".env": "env",
        "b.env": "env",
        "a.ini": "ini",
        "id_rsa": "binary",
    }
    assert {name: format_of(PurePath(name)) for name in names} == names


BLOCK = {"lastmodified": "2026-05-01T12:00:00Z", "mac": "m", "age": [{"recipient": "r", "enc": "e"}]}


def test_metadata_defaults_and_groups() -> None:
    one = parse_metadata(BLOCK)
    assert (one.rules, one.shares, one.other_sources) == (Rules(), 0, ())
    group = {"age": BLOCK["age"], "pgp": [{"fp": "x"}]}
    bare = {key: value for key, value in BLOCK.items() if key != "age"}
    single = parse_metadata({**bare, "key_groups": [group], "shamir_threshold": 1})
    assert (len(single.age), single.other_sources, single.shares) == (1, ("pgp",), 0)
    assert parse_metadata({**bare, "key_groups": [group, group]}).shares == 2
    assert parse_metadata({**BLOCK, "kms": [], "hc_vault": None, "pgp": []}).other_sources == ()
    assert parse_metadata({**BLOCK, "plugins": [{"name": "x"}]}).unknown_sources == ("plugins",)


@pytest.mark.parametrize(
    ("written", "authenticated"),
    [
        ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00Z"),
        ("2026-05-01T12:00:00+00:00", "2026-05-01T12:00:00Z"),
        ("2026-05-01T12:00:00.25Z", "2026-05-01T12:00:00Z"),
        ("2026-05-01T12:00:00+02:00", "2026-05-01T12:00:00+02:00"),
    ],
)
def test_the_time_is_spelt_as_sops_does(written: str, authenticated: str) -> None:
    assert parse_metadata({**BLOCK, "lastmodified": written}).last_modified == authenticated


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"age": "x"},
            {"age": [1]},
            {"age": [{"recipient": "r"}]},
            {"key_groups": 5, "age": None},
            {"lastmodified": None},
        ),
        *(
            {"lastmodified": "2026-05-01T12:00:00"},
            {"mac": 5},
            {"encrypted_regex": 5},
            {"age": [{"recipient": "r", "enc": "e"}] * 201},
        ),
    ],
)
def test_malformed_metadata(change: dict[str, object]) -> None:
    with pytest.raises(SopsError) as caught:
        parse_metadata({**BLOCK, **change})
    assert caught.value.code is Code.SOPS_MALFORMED


@pytest.mark.parametrize(
    ("kind", "text", "path", "encrypted"),
    [
        ("unencrypted_suffix", "_unencrypted", ["a_unencrypted", "b"], False),
        ("unencrypted_suffix", "_unencrypted", ["a", "b"], True),
        ("encrypted_suffix", "_enc", ["a_enc", "b"], True),
        ("encrypted_suffix", "_enc", ["a", "b"], False),
        ("unencrypted_regex", "^pub", ["public", "x"], False),
        ("encrypted_regex", "token|(?i)PASS", ["a", "my_token_x"], True),
        ("encrypted_regex", "^token$", ["a", "token\n"], False),
    ],
)
def test_rules_match_any_key_of_the_path(kind: str, text: str, path: list[str], encrypted: bool) -> None:
    rules = Rules(kind, text)  # type: ignore[arg-type]
    if "(?i)" in text:
        text = text.replace("(?i)", "")
        rules = Rules(kind, text)  # type: ignore[arg-type]
    matches = rules.matcher()
    assert rules.encrypts(matched=any(map(matches, path)), value="x") is encrypted


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+$", "(a|a)*b", "a*b*c*d*e", r"(a)\1", "(?=a)", "(?<!a)b", r"\pL", "[[:alpha:]]", "(", "a++", "(?P=x)"),
        *(r"\Qa\E", "(x{1,9}){9}", "(?#c)a"),
    ],
)
def test_patterns_that_are_unsafe_or_mean_something_else_are_refused(pattern: str) -> None:
    with pytest.raises(SopsError):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["^(data|stringData)$", "(?i)secret", r".*_key$", r"[a-z)*]+\.yaml$", r"a\)*", "^(.*_)?(x|y)$"]
)
def test_ordinary_patterns_pass(pattern: str) -> None:
    assert compile_pattern(pattern)


def test_a_hostile_key_costs_no_time() -> None:
    with pytest.raises(SopsError, match="longer"):
        Rules("encrypted_regex", ".*a.*b.*c$").matcher()("ab" * 10_000)
